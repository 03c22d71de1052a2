"""Long runs: memory, open files and output, sampled from outside during the run."""

import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from algd.storage.run_folder import run_path
from tests.soak.lives import begin
from tests.support.command import TINY, compose

# With episodes of one step they begin and end as often as possible. The replay wraps every 2000.
LONG = [*TINY, "agent=gaussian", "batch_size=8", "buffer_size=2000", "env=toy", "env.horizon=1", "initial_steps=100",
        "checkpoint.every=2000", "eval.every=5000", "eval.episodes=2", "log_every=500", "snapshots=10"]
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Course:
    """Measurements of a long run, with one entry per sample.

    Attributes:
        episodes: finished episodes.
        memory: resident set, bytes.
        files: open files.
        said: bytes of console output in total.
        folder: bytes in its folder without the tables, at the end.
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


def long_run(episodes: int, updates: int, folder: Path, every: float = 0.25) -> Course:
    """Train for many episodes, and sample the process from outside.

    Args:
        episodes: environment steps, each of which is an episode.
        updates: updates per step.
        folder: new folder, removed at the end.
        every: seconds between samples.
    """
    config = compose(*LONG, f"total_steps={episodes}", f"updates_per_step={updates}", f"runs_dir={folder / 'runs'}")
    table = run_path(config) / "episodes.csv"
    begun = time.monotonic()
    life = begin(config, folder / "life")
    process = Path(f"/proc/{life.process.pid}")
    rows: list[tuple[int, int, int]] = []
    while not life.wait(every):
        try:
            count = table.read_bytes().count(b"\n") - 1
            memory = int((process / "statm").read_text().split()[1]) * PAGE
            rows.append((count, memory, len(list((process / "fd").iterdir()))))
        except (OSError, IndexError):
            continue  # not begun yet, or ended
    assert life.code == 0, life.said
    kept = sum(path.stat().st_size for path in run_path(config).rglob("*") if path.is_file() and path.suffix != ".csv")
    course = Course([n for n, _, _ in rows], [m for _, m, _ in rows], [f for _, _, f in rows], len(life.said), kept,
                    time.monotonic() - begun)
    shutil.rmtree(folder)
    return course
