"""Long runs: memory, open files and output, sampled by a callback within the run, so that the samples depend on its
progress and not on anyone's speed."""

import csv
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from algd.config.trust import trust
from algd.run.callbacks import Callback
from algd.storage.run_folder import run_path
from tests.soak.lives import lived
from tests.support.command import TINY, compose

# With episodes of one step they begin and end as often as possible. The replay wraps every 2000.
LONG = [*TINY, "agent=gaussian", "batch_size=8", "buffer_size=2000", "env=toy", "env.horizon=1", "initial_steps=100",
        "checkpoint.every=2000", "eval.every=5000", "eval.episodes=2", "log_every=500", "snapshots=10"]
PAGE = os.sysconf("SC_PAGE_SIZE")
HERE, SAMPLES = "tests.soak.long", "samples.csv"


@dataclass(frozen=True)
class Course:
    """Measurements of a long run, with one entry per sample.

    Attributes:
        episodes: finished episodes.
        memory: resident set, bytes.
        files: open files.
        said: bytes of console output in total.
        folder: bytes in its folder without tables, at the end.
        seconds: duration.
    """

    episodes: list[int]
    memory: list[int]
    files: list[int]
    said: int
    folder: int
    seconds: float

    def settled(self) -> slice:
        """Return the samples after the first third, when everything has happened once."""
        return slice(next(i for i, n in enumerate(self.episodes) if n >= self.episodes[-1] / 3), None)

    @property
    def open_files(self) -> tuple[int, int]:
        """The most frequent number of open files in the middle third and in the last. (A checkpoint opens one more.)"""
        first, second = (next(i for i, n in enumerate(self.episodes) if n >= self.episodes[-1] * part / 3)
                         for part in (1, 2))
        return statistics.mode(self.files[first:second]), statistics.mode(self.files[second:])

    @property
    def bytes_per_episode(self) -> float:
        """The slope of memory over episodes, by least squares, after the first third."""
        return float(np.polyfit(self.episodes[self.settled()], self.memory[self.settled()], 1)[0])

    @property
    def growth(self) -> int:
        """The largest memory in the last third minus the largest in the middle one, in bytes."""
        middle = [m for n, m in zip(self.episodes, self.memory, strict=True)
                  if self.episodes[-1] / 3 <= n < self.episodes[-1] * 2 / 3]
        last = [m for n, m in zip(self.episodes, self.memory, strict=True) if n >= self.episodes[-1] * 2 / 3]
        return max(last) - max(middle)


class Samples(Callback):
    """Writes the process's memory and open files to samples.csv in the run's folder.

    Args:
        every: episodes between two samples.
    """

    def __init__(self, every: int):
        super().__init__("stop")
        self.every = every

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.path = folder / SAMPLES

    def on_episode(self, row: Mapping[str, Any]) -> None:
        finished = row["episode"] + 1
        if finished % self.every == 0:
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            files = len(os.listdir("/proc/self/fd"))
            with self.path.open("a") as file:
                file.write(f"{finished},{memory},{files}\n")


def long_run(episodes: int, updates: int, folder: Path, samples: int = 200) -> Course:
    """Train for many episodes, and sample the process during the run.

    Args:
        episodes: environment steps, each of which is an episode.
        updates: updates per step.
        folder: new folder, removed at the end.
        samples: number of samples, at equal numbers of episodes.
    """
    trust([HERE])
    config = compose(*LONG, f"total_steps={episodes}", f"updates_per_step={updates}", f"runs_dir={folder / 'runs'}",
                     f"trusted=[{HERE}]", f"callbacks=[{{_target_:{HERE}.Samples,every:{episodes // samples}}}]")
    begun = time.monotonic()
    life = lived(config, folder / "life")
    assert life.code == 0, life.said
    with (run_path(config) / SAMPLES).open(newline="") as file:
        rows = [tuple(map(int, row)) for row in csv.reader(file)]
    kept = sum(path.stat().st_size for path in run_path(config).rglob("*") if path.is_file() and path.suffix != ".csv")
    course = Course([n for n, _, _ in rows], [m for _, m, _ in rows], [f for _, _, f in rows], len(life.said), kept,
                    time.monotonic() - begun)
    shutil.rmtree(folder)
    return course
