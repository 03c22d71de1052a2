"""Measure the environments' speed, and compare the navigation tasks with the package without `accelerate`.

    python -m benchmarks.environments [--episodes 3] [task ...]

Each environment runs in its own process, and the processes take turns episode by episode, so that a busy machine slows
both alike. Actions are random. Numbers are medians over the episodes, after one episode of warm-up. Prints a Markdown
table: milliseconds per reset, environment steps per second without and with resets.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from tests.support.episodes import names, reference, task


@dataclass(frozen=True)
class Timing:
    """Seconds of an episode's reset and of its steps, and the number of steps."""

    reset: float
    stepping: float
    steps: int


class Worker:
    """A process that runs episodes of an environment on request; kind is "task" or "reference"."""

    def __init__(self, kind: str, name: str):
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.environments", "--worker", kind, name],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def episode(self, seed: int) -> Timing:
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        reset, stepping, steps = self._process.stdout.readline().split()
        return Timing(float(reset), float(stepping), int(steps))

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def work(kind: str, name: str) -> None:
    """Serve episodes as a `Worker`'s process."""
    env = {"task": task, "reference": reference}[kind](name)
    generator = np.random.default_rng(0)
    for line in sys.stdin:
        actions = generator.uniform(env.action_space.low, env.action_space.high, (1000, *env.action_space.shape))
        actions = actions.astype(env.action_space.dtype)
        start = time.perf_counter()
        env.reset(seed=int(line))
        ready = time.perf_counter()
        steps = 0
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated:
                break
        print(ready - start, time.perf_counter() - ready, steps, flush=True)


def measure(name: str, episodes: int) -> list[list[Timing]]:
    """Return the timings of the task and, for navigation, of its reference, which take turns."""
    kinds = ["task", "reference"] if "velocity" not in name else ["task"]
    workers = [Worker(kind, name) for kind in kinds]
    try:
        rounds = [[worker.episode(seed) for worker in workers] for seed in range(episodes + 1)]
    finally:
        for worker in workers:
            worker.stop()
    return [list(timings) for timings in zip(*rounds[1:], strict=True)]


def row(name: str, kinds: list[list[Timing]]) -> str:
    """Format a line of the table."""
    def median(values: list[float]) -> float:
        return statistics.median(values)

    resets = [median([timing.reset * 1000 for timing in timings]) for timings in kinds]
    steps = [median([timing.steps / timing.stepping for timing in timings]) for timings in kinds]
    totals = [median([timing.steps / (timing.reset + timing.stepping) for timing in timings]) for timings in kinds]

    def pair(values: list[float], digits: int) -> str:
        return " / ".join(f"{value:.{digits}f}" for value in reversed(values))

    ratio = f"{totals[0] / totals[1]:.1f}" if len(kinds) == 2 else ""
    return f"| {name} | {pair(resets, 1)} | {pair(steps, 0)} | {pair(totals, 0)} | {ratio} |"


def main() -> None:
    every = [name for kind in ("navigation", "velocity") for family in ("paper", "stock")
             for name in names(family, kind)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=3, help="episodes that count, for each task")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "TASK"), help=argparse.SUPPRESS)
    parser.add_argument("tasks", nargs="*", metavar="task", help="tasks to measure, all by default")
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    if unknown := set(arguments.tasks) - set(every):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(every)}")
    print("| task | ms a reset, package / here | steps/s, package / here | with resets, package / here | ratio |\n"
          "|---|---|---|---|---|")
    for name in arguments.tasks or every:
        print(row(name, measure(name, arguments.episodes)), flush=True)


if __name__ == "__main__":
    main()
