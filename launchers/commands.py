"""The commands of `python -m launchers`: status, retry, cancel, logs and sync."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from algd.config.targets import require_trust
from algd.config.trust import trust
from algd.config.values import check_value, leaves
from algd.errors import ExitCode, UsageError
from algd.logging.console import answer
from algd.storage.provenance import is_ours
from algd.storage.run_folder import RunFolder
from algd.storage.sweep_file import SWEEPS
from launchers.launch import SETTINGS, in_wandb, launch
from launchers.processes import LOG, last_lines, tail
from launchers.settings import Settings, checked
from launchers.slurm.queue import Queue, available
from launchers.slurm.status import Elements, Readings, lines_of, named, output_of, submitted_tasks
from launchers.slurm.submission import adopt, submission_lock
from launchers.states import is_held
from launchers.sweeps import Member, Sweep, begin_sweep, load_sweep, named_runs, readable_sweeps
from launchers.table import Line, as_data, as_text, counted, many, say, shown_path

WATCH_SECONDS = 5.0
IMPORTING_SECONDS = 30.0
AGAIN = ("failed", "lost", "interrupted", "cancelled")
ENDED = ("finished", "pruned", *AGAIN)
STARTED = re.compile(r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ process \d+")  # the first line of `launchers.worker`


def runs_dir_of(folder: Path) -> Path:
    """Return the runs_dir of a run's folder.

    Raises:
        UsageError: the folder has no such place.
    """
    if len(folder.parents) < 4:
        raise UsageError(f"{folder} is not where a run's folder is: RUNS_DIR/ENV/AGENT-GUIDANCE/RUN")
    return folder.parents[2]


class Inquiry:
    """A set of runs with their sweeps and what SLURM says about them.

    Args:
        where: run folders, folders above runs, or sweep files.
        settle: whether to wait for a submission in progress; otherwise its arrays without a job id are left out.
    """

    def __init__(self, where: Sequence[Path], settle: bool = False):
        self.folders = named_runs(where)
        self.sweeps = []
        for runs_dir in dict.fromkeys(map(runs_dir_of, self.folders)):
            self.sweeps += settled_sweeps(runs_dir, settle)
        wanted = set(self.folders)
        self.elements: Elements = {folder: element for folder, element in submitted_tasks(self.sweeps).items()
                                   if folder in wanted}
        # The task of a finished run has nothing to add.
        asked = {element for folder, element in self.elements.items()
                 if RunFolder(folder).status().get("state") != "finished"}
        self.queue = Queue(asked if available() else ())
        self.patience = 1

    def lines(self) -> list[Line]:
        """Read the current state of each run."""
        tasks = self.queue.refresh(self.patience)
        self.patience = 3
        return lines_of(self.folders, {folder: element for folder, element in self.elements.items()
                                       if element in tasks}, tasks, Readings(), self.sweeps)

    def newest_sweep(self, folder: Path) -> Sweep | None:
        """Return the newest sweep that contains a run, or None."""
        return next((sweep for sweep in reversed(self.sweeps) if folder in sweep.folders), None)


def settled_sweeps(runs_dir: Path, wait: bool) -> list[Sweep]:
    """Return the sweeps of a runs_dir, oldest first, after adopting arrays whose job ids were never recorded.

    A sweep whose file cannot be read is named and left out: the others' runs are still to be seen and stopped.
    """
    sweeps, unreadable = readable_sweeps(runs_dir)
    for reason in unreadable:
        say(f"warning: left out: {reason}")
    if available() and any(record["job"] is None for sweep in sweeps for record in sweep.submissions):
        # `status` must also work without write permission, and without waiting for a submission.
        with contextlib.suppress(OSError, BlockingIOError), submission_lock(runs_dir / SWEEPS, wait):
            sweeps, _ = readable_sweeps(runs_dir)
            for sweep in sweeps:
                adopt(sweep)
    return sweeps


def status(where: Sequence[Path], watch: bool, as_json: bool) -> int:
    """Print the states of runs. Returns 0."""
    inquiry = Inquiry(where)
    while True:
        lines = inquiry.lines()
        if as_json:
            print(json.dumps([as_data(line) for line in lines], indent=1), flush=True)
        else:
            if watch and sys.stdout.isatty():
                print("\033[H\033[2J", end="")
            print(f"{as_text(lines)}\n{many(len(lines), 'run')}: {counted([line.state for line in lines])}", flush=True)
        if not watch or all(line.state in ENDED for line in lines):
            return 0
        time.sleep(WATCH_SECONDS)


def stored_settings(sweep: Sweep, setup: bool) -> dict[str, Any]:
    """Return the launcher's settings that a sweep's file has, perhaps another user's: plain values, no commands.

    Raises:
        UsageError: a value is looked up elsewhere, or there are lines of the shell and `setup` is False.
    """
    for key, value in leaves(sweep.launcher, "hydra.launcher"):
        check_value(key, value)
    given: dict[str, Any] = dict(sweep.launcher)
    lines = [*(given.get("setup") or ()), *(line for own in (given.get("tasks") or {}).values()
                                            for line in own.get("setup") or ())]
    if lines and not setup:
        raise UsageError(f"{sweep.file}: its setup has lines of the shell, which --setup allows: {'; '.join(lines)}")
    return given


def retry(where: Sequence[Path], trusted: Sequence[str] = (), exclude: Sequence[str] = (), on_end: str | None = None,
          setup: bool = False) -> int:
    """Run again what failed or stopped, with the launcher and the settings of its newest sweep.

    Args:
        where: run folders, folders above runs, or sweep files.
        trusted: modules that the configurations may name; no other code from outside this project is run.
        exclude: SLURM nodes to avoid, in addition to those that the sweep excludes.
        on_end: `hydra.launcher.on_end`, which a sweep's file does not store.
        setup: whether lines of the shell in a sweep's file (`hydra.launcher.setup`) may be run.
    """
    trust(trusted)
    inquiry = Inquiry(where)
    chosen = [line.folder for line in inquiry.lines() if line.state in AGAIN and not line.folder_state.held]
    if not chosen:
        say("nothing failed or was stopped")
        return ExitCode.FINISHED
    groups: dict[tuple[Path, Path | None], list[Path]] = {}
    for folder in chosen:
        sweep = inquiry.newest_sweep(folder)
        groups.setdefault((runs_dir_of(folder), sweep.file if sweep else None), []).append(folder)
    ready: list[tuple[Sweep, list[Member], Settings]] = []
    for (_, file), folders in groups.items():
        earlier = load_sweep(file) if file else None
        given = stored_settings(earlier, setup) if earlier else {}
        kind = given.pop("kind", "local")
        if exclude:
            if kind != "slurm":
                raise UsageError(f"--exclude {exclude[0]}: {shown_path(folders[0])} was not run by SLURM, but here")
            given["exclude"] = list(dict.fromkeys([*given.get("exclude", ()), *exclude]))
        settings = checked(SETTINGS[kind], given | {"retry_failed": True, "dry_run": False, "on_end": on_end})
        members = [Member(folder, RunFolder(folder).config() | {"fresh": False}) for folder in folders]
        for member in members:
            require_trust(member.config, shown_path(member.folder))
        name = f"{earlier.name}-retry" if earlier and not earlier.name.endswith("-retry") else \
            earlier.name if earlier else None
        sweep = begin_sweep(runs_dir_of(folders[0]), name, earlier.experiment if earlier else None, members,
                            {"kind": kind, **settings.kept()})
        ready.append((sweep, members, settings))
    codes: list[int] = []
    for sweep, members, settings in ready:  # once all have been checked
        codes.append(launch(sweep, [in_wandb(member, sweep) for member in members], settings))
        answer(sweep.file)
        if codes[-1] >= ExitCode.HUNG_UP:
            break  # a signal stopped it, and is meant for all
    return max(codes)


def cancel(where: Sequence[Path]) -> int:
    """Stop runs at a checkpoint: SLURM tasks, launchers on this machine, and runs on this machine.

    Returns 1 if SLURM does not answer, or a run cannot be stopped from here.
    """
    inquiry = Inquiry(where, settle=True)
    lines = inquiry.lines()
    unsettled = [sweep.name for sweep in inquiry.sweeps if any(record["job"] is None for record in sweep.submissions)]
    # Includes tasks of unknown state: they may still be queued.
    active = {element for folder, element in inquiry.elements.items()
              if element in inquiry.queue.tasks and inquiry.queue.tasks[element].active}
    refused = 0
    if active:
        names = sorted(map(named, active))
        also = {folder for folder, element in submitted_tasks(inquiry.sweeps).items() if element in active}
        for folder in sorted(also - set(inquiry.folders)):
            say(f"in the same task, and stopped with it: {shown_path(folder)}")
        refused = scancel(names)
        if count := len(names) - refused:
            say(f"cancelled {many(count, 'task')} of SLURM")
    if refused or unsettled:
        what = f"{refused} task{'s were' if refused != 1 else ' was'} not cancelled" if refused else \
            f"what {unsettled[0]} has submitted is not known"
        say(f"error: SLURM does not answer, and {what}; the same command again once it does")
    files, named_folders = {path.resolve() for path in where}, set(inquiry.folders)
    whole = [sweep for sweep in inquiry.sweeps if sweep.file in files
             # A local sweep's runs have no folders before they start.
             or all(folder in named_folders or files & {*folder.parents} for folder in sweep.folders)]
    held = [line.folder for line in lines if line.folder_state.held]
    stopped, beyond_reach = stop_here(whole, held)
    if not active and not stopped and not unsettled and not beyond_reach:
        say("nothing runs or waits")
    return ExitCode.FAILED if refused or unsettled or beyond_reach else ExitCode.FINISHED


def scancel(names: Sequence[str]) -> int:
    """Cancel SLURM tasks. Returns how many SLURM did not accept."""
    refused = 0
    # Thousands of tasks do not fit into one command line.
    for first in range(0, len(names), 500):
        some = names[first:first + 500]
        try:
            done = subprocess.run(["scancel", *some], capture_output=True, text=True, timeout=120)
            refused += len(some) if done.returncode and "Invalid job id" not in done.stderr else 0
        except (OSError, subprocess.TimeoutExpired):
            refused += len(some)
    return refused


def stop_here(sweeps: Iterable[Sweep], held: Iterable[Path]) -> tuple[int, int]:
    """Send SIGTERM to these sweeps' launchers and these runs' processes on this machine.

    Returns:
        How many were asked to stop, and how many runs cannot be asked here.
    """
    count = beyond_reach = 0
    for sweep in sweeps:
        for driver in filter(is_ours, sweep.drivers):
            os.kill(driver["pid"], signal.SIGTERM)
            say(f"asked the launcher of {sweep.name} to stop")
            count += 1
    for folder in held:
        starts = RunFolder(folder).meta().get("starts") or [{}]
        if is_ours(starts[-1]):
            os.kill(starts[-1]["pid"], signal.SIGTERM)
            say(f"asked to stop: {shown_path(folder)}")
            count += 1
        elif not starts[-1].get("slurm_job"):
            host = starts[-1].get("host")
            say((f"runs on {host}, and must be cancelled there" if host else
                 "is only just starting; the same command again stops it") + f": {shown_path(folder)}")
            beyond_reach += 1
    return count, beyond_reach


def logs(folder: Path, follow: bool, lines: int) -> int:
    """Print the end of a run's log, and with `follow` what is appended until the run ends.

    For a run without a log yet, print the output of its SLURM task.
    """
    path = folder / LOG
    if not os.path.lexists(folder):  # unlike exists() it accepts any name
        raise UsageError(f"{path} does not exist: there is no such folder")
    if not path.exists() and (folder / "config.yaml").exists():
        inquiry = Inquiry([folder])
        (line,) = inquiry.lines()
        element = inquiry.elements.get(line.folder)
        output = output_of(element, inquiry.sweeps) if element else None
        if element and output:
            say(f"{shown_path(line.folder)} has not begun; its task {named(element)}: {line.state}"
                + (f", {line.note}" if line.note else ""))
            if not output.exists():
                raise UsageError(f"{output} does not exist: the task has written nothing")
            path = output
    if not path.exists():
        raise UsageError(f"{path} does not exist: this run has not been started by a sweep")
    with path.open("rb") as file:
        for text in last_lines(file, lines):
            print(text)
        # A run holds its lock only once its process has imported what it needs. Until then its state is that of the
        # process before, and its log ends with the process's first line.
        begun, patience = False, time.monotonic() + IMPORTING_SECONDS
        while follow:
            held = is_held(folder)
            begun |= held or (RunFolder(folder).status().get("state") in ENDED
                              and not any(map(STARTED.fullmatch, tail(path, 1))))
            ended = not held and (begun or time.monotonic() > patience)
            if added := file.read():
                sys.stdout.write(added.decode(errors="replace"))
                sys.stdout.flush()
            elif ended:
                break
            else:
                time.sleep(0.5)
    return 0


def sync(where: Sequence[Path]) -> int:
    """Upload the offline W&B data of these runs, oldest first, each once. Returns 1 if an upload failed."""
    client = Path(sys.executable).with_name("wandb")
    failed = 0
    for folder in named_runs(where):
        parts = [part for part in sorted((folder / "wandb").glob("offline-run-*"))
                 if not list(part.glob("*.wandb.synced"))]
        if not parts:
            continue
        if is_held(folder):
            say(f"still running, and left for later: {shown_path(folder)}")
            continue
        result = subprocess.run([client, "sync", *parts], capture_output=True, text=True)
        failed += result.returncode != 0
        say(f"{'not uploaded' if result.returncode else 'uploaded'}: {shown_path(folder)}"
            + (f": {' '.join(result.stderr.split())[:300]}" if result.returncode else ""))
    return 1 if failed else 0
