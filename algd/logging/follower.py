"""The mirroring process: follows a run folder's files and sends new rows to a destination.

It runs beside the training (`algd.logging.mirror` starts it) or later, on the folder of an ended run. It
reads config.yaml, metrics.csv, episodes.csv, evals.csv, videos/ and status.json, and writes only into its own directory
of the folder (wandb/ or tensorboard/). The directory's journal has the environment steps that were sent. A resumed run
cuts rows and writes the same rows again, so a step that was already sent is skipped.
"""

import contextlib
import fcntl
import json
import math
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from algd.budget import budget_of
from algd.errors import ExitCode, UsageError
from algd.logging.sent import JOURNAL, Sent
from algd.logging.tables import EVALUATIONS, SERIES, Table, numbers, read_config, read_json, summary
from algd.storage.run_folder import refuse_links

SETTLED_SECONDS = 2.0
VIDEO_SUFFIXES = (".mp4", ".gif", ".webm")
# Longer curves are averaged: more points show nothing more, and a million episodes would be a million records.
MOST_POINTS = 10_000


class Destination(Protocol):
    """The destination of rows: a W&B run, a TensorBoard event file."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named values at an environment step."""

    def video(self, step: int, path: Path) -> None:
        """A finished video file of an episode at an environment step."""

    def warnings(self, step: int, texts: list[str]) -> None:
        """The warnings of the run as they are now, at an environment step; they replace those before."""

    def flush(self) -> None:
        """Called before the rows so far are recorded as sent."""

    def close(self, state: str, status: Mapping[str, Any]) -> None:
        """The run's end for now: "finished", "interrupted" or "failed", and status.json's content."""


@dataclass(frozen=True)
class Ending:
    """Why following ends: the state that the trainer sent, or "interrupted" if it died."""

    state: str


Pause = Annotated[float, Field(gt=0, le=3600)]  # seconds between two reads
Wait = Callable[[float], Ending | None]
Report = Callable[[str], None]
Open = Callable[[Path, Sent, Report], Destination]


class Follower:
    """Sends a folder's new rows to a destination, each once.

    Args:
        folder: the run's folder; config.yaml must exist.
        sent: what was sent before; updated in place.
        destination: gets the rows.
    """

    def __init__(self, folder: Path, sent: Sent, destination: Destination):
        self.folder, self.sent, self.destination = folder, sent, destination
        config = read_config(folder)
        self.budget = budget_of(config)
        self.episodes = (config.get("eval") or {}).get("episodes")
        self.window = max(1, math.ceil((config.get("total_steps") or 0) / MOST_POINTS))
        self._waiting: dict[str, list[dict[str, str]]] = {name: [] for name in SERIES}
        self._warned: list[str] = []
        self._tables = {name: Table(folder / name) for name in SERIES} | {
            "evals.csv": Table(folder / "evals.csv", EVALUATIONS, texts=("sampler", "source"))}
        self._open: dict[tuple[int, str, str], list[dict[str, str]]] = {}

    def send(self, ending: Ending | None = None) -> bool:
        """Send new rows; with an ending also those still waiting to be averaged. Whether there were any."""
        before = len(self.sent.records)
        for name in SERIES:
            self._send_series(name, over=ending is not None)
        self._send_evaluations(complete=ending is not None and ending.state == "finished")
        self._send_videos(settled=ending is not None)
        self._send_warnings()
        return len(self.sent.records) > before

    def _send_series(self, name: str, over: bool) -> None:
        """Rows as they are, or, in a run too long for that, their means over windows of steps."""
        again, rows = self._tables[name].read()
        waiting = self._waiting[name]
        if again:
            waiting.clear()
        for row in rows:
            if int(row["step"]) <= self.sent.last_step(name):
                continue
            if waiting and self._window_of(row) != self._window_of(waiting[-1]):
                self._send_waiting(name)
            waiting.append(row)
            if self.window == 1:
                self._send_waiting(name)
        if over and waiting:
            self._send_waiting(name)

    def _window_of(self, row: Mapping[str, str]) -> int:
        return int(row["step"]) // self.window

    def _send_waiting(self, name: str) -> None:
        """Send the means of the waiting rows, at the step of the last."""
        prefix, without = SERIES[name]
        columns: dict[str, list[float]] = {}
        for row in self._waiting[name]:
            for label, value in numbers(row, prefix, without).items():
                columns.setdefault(label, []).append(value)
        step = int(self._waiting[name][-1]["step"])
        self.destination.scalars(step, {label: math.fsum(column) / len(column) for label, column in columns.items()})
        self.sent.add(name, step)
        self._waiting[name].clear()

    def _send_warnings(self) -> None:
        status = read_json(self.folder / "status.json")
        texts = [str(text) for text in status.get("warnings") or []]
        if texts and texts != self._warned:
            self._warned = texts
            self.destination.warnings(int(status.get("step") or 0), texts)

    def _send_evaluations(self, complete: bool) -> None:
        again, rows = self._tables["evals.csv"].read()
        if again:
            self._open.clear()
        for row in rows:
            key = (int(row["step"]), row["source"], row["sampler"])
            self._open.setdefault(key, []).append(row)
        newest = next(reversed(self._open), None)
        for key, group in list(self._open.items()):
            step, source, sampler = key
            # Samplers may alternate within one evaluation, so only another evaluation's rows show that it is over.
            full = source == "train" and self.episodes is not None and len(group) >= int(self.episodes)
            if complete or full or (newest is not None and key[:2] != newest[:2]):
                del self._open[key]
                if not self.sent.has("evals.csv", *key):
                    prefix = f"eval/{sampler}" if source == "train" else f"eval/{source}/{sampler}"
                    means = summary(group, self.budget)
                    self.destination.scalars(step, {f"{prefix}/{name}": value for name, value in means.items()})
                    self.sent.add("evals.csv", *key)

    def _send_videos(self, settled: bool) -> None:
        for path in sorted((self.folder / "videos").glob("*")):
            if path.suffix not in VIDEO_SUFFIXES or self.sent.has("videos", path.name):
                continue
            if settled or time.time() - path.stat().st_mtime > SETTLED_SECONDS:
                named = re.search(r"step\D?(\d+)", path.name)
                newest = max(self.sent.last_step(name) for name in SERIES)
                self.destination.video(int(named[1]) if named else int(max(newest, 0)), path)
                self.sent.add("videos", path.name)


def until_parent_ends(parent: int) -> Wait:
    """Waits on standard input for the trainer's last message: a line with the run's state, or the end of file.

    The end of file comes when the trainer dies. A forked child of the trainer may still hold the pipe then, so the
    parent's process id is watched too.
    """
    def wait(seconds: float) -> Ending | None:
        readable, _, _ = select.select([0], [], [], seconds)
        if readable:
            return Ending(os.read(0, 100).decode(errors="replace").strip() or "interrupted")
        return Ending("interrupted") if os.getppid() != parent else None

    return wait


def reports_to(descriptor: int) -> Report:
    """Writes warnings for the trainer as lines of JSON; nothing if the trainer is gone."""
    def report(warning: str) -> None:
        with contextlib.suppress(OSError):
            os.write(descriptor, (json.dumps(warning) + "\n").encode())

    return report


@contextlib.contextmanager
def only_mirror(directory: Path, wait: Wait) -> Iterator[Ending | None]:
    """Hold the directory's lock: a killed run's mirror may still be flushing when the resumed run's mirror starts.

    Yields the ending if it came while waiting for the lock.

    Raises:
        UsageError: the ending came and the lock is still another's.
    """
    ending = None
    with (directory / "mirror.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if ending is not None:
                    raise UsageError(
                        f"{directory} is being written by another mirror process; wait for it to end") from None
                ending = wait(0.5)
                if ending is not None:
                    time.sleep(0.5)
        yield ending


def follow(folder: Path, directory: Path, open_destination: Open, wait: Wait, report: Report,
           seconds_between_reads: float, finish_seconds: float | None) -> None:
    """Mirror a folder until the run ends for now.

    Args:
        folder: the run's folder.
        directory: the destination's directory within it; created if missing.
        open_destination: opens the destination, once config.yaml exists.
        wait: waits for the ending for at most the given number of seconds.
        report: sends a warning to the trainer.
        seconds_between_reads: seconds between two reads of the files.
        finish_seconds: seconds from the ending after which the process exits with `ExitCode.LATE`; None: no bound.

    Raises:
        UsageError: another process mirrors this folder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with only_mirror(directory, wait) as ending:
        while ending is None and not (folder / "config.yaml").exists():
            ending = wait(seconds_between_reads)
        if not (folder / "config.yaml").exists():
            return
        sent = Sent(directory / JOURNAL)
        destination = open_destination(folder, sent, report)
        sent.save()
        follower = Follower(folder, sent, destination)
        while True:
            if ending is not None and finish_seconds is not None:
                deadline = threading.Timer(finish_seconds, os._exit, (ExitCode.LATE,))
                deadline.daemon = True
                deadline.start()
            if follower.send(ending):
                destination.flush()
                sent.save()
            if ending is not None:
                break
            ending = wait(seconds_between_reads)
        destination.close(ending.state, read_json(folder / "status.json"))


def follow_beside(folder: Path, directory: Path, open_destination: Open, seconds_between_reads: float,
                  finish_seconds: float) -> None:
    """`follow` as the trainer's child process: stdin ends with the trainer, stdout carries reports."""
    parent = os.getppid()
    reports = os.dup(1)
    os.dup2(2, 1)  # Output of libraries goes to the log with everything else.
    os.nice(5)     # Training has priority.
    follow(folder, directory, open_destination, until_parent_ends(parent), reports_to(reports), seconds_between_reads,
           finish_seconds)


def follow_later(folder: Path, directory: Path, open_destination: Open) -> None:
    """`follow` over a folder as it is now, from the command line; reports are written to standard error.

    Raises:
        UsageError: the folder is not a run's, has links out of it or is damaged, or another process mirrors it.
    """
    if not (folder / "config.yaml").exists():
        raise UsageError(f"{folder} is not a run's folder: it has no config.yaml")
    refuse_links(folder)
    state = str(read_json(folder / "status.json").get("state", "interrupted"))
    follow(folder, directory, open_destination, lambda _: Ending(state),
           lambda warning: print(warning, file=sys.stderr), 0.0, None)
