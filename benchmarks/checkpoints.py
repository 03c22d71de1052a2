"""Measure the seconds of a checkpoint, and their share of the time between two at the default interval.

    python -m benchmarks.checkpoints [--quick]

The default agent at (76, 2), once with only one interval in the replay and once with a full replay of a million. A
checkpoint writes the transitions since the previous one; the first of a start writes all that the replay holds. The
time between two checkpoints is that of the interval's updates, ten per environment step. Environment and evaluations,
which would make the share smaller, are left out.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from algd.algorithm.rng import RandomGenerator
from algd.execution.step import prepare_agent
from algd.storage.checkpoint import Checkpoints
from benchmarks.setting import default_agent, long_run, random_replay

STATES, ACTIONS = 76, 2


def seconds_of_checkpoints(held: int, interval: int, saved: int) -> tuple[float, float, int]:
    """Return the median seconds of a checkpoint that adds one interval to `held` transitions, the seconds of the first
    one, which writes all of them, and the bytes that one interval adds."""
    agent, _ = default_agent("vesde", "augmented", STATES, ACTIONS)
    capacity = max(held, interval) + 1
    replay = random_replay(capacity, held, STATES, ACTIONS)
    agent.update(replay.sample(256, RandomGenerator(0)), RandomGenerator(0))  # creates the optimisers' moments
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints, seconds, written = Checkpoints(Path(folder) / "checkpoints"), [], 0
        for number in range(saved + 1):
            if number:
                replay.restore(replay.added, replay.rows[:interval].numpy().copy())
            start = time.perf_counter()
            checkpoints.save({"agent": agent.checkpoint()}, replay)
            seconds.append(time.perf_counter() - start)
            newest = max(Path(folder).glob("checkpoints/replay/*"), key=lambda path: path.stat().st_mtime_ns)
            written = newest.stat().st_size
    return statistics.median(seconds[1:]), seconds[0], written


def seconds_of_update(count: int) -> float:
    """Return the seconds of one update of the same agent: the median of five measurements of `count` updates."""
    agent, config = default_agent("vesde", "augmented", STATES, ACTIONS)
    step = prepare_agent(agent, long_run())
    replay, noise = random_replay(10_000, 10_000, STATES, ACTIONS), RandomGenerator(0)
    measured = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(count):
            agent.update(replay.sample(config["batch_size"], noise), noise, step)
        measured.append((time.perf_counter() - start) / count)
    return statistics.median(measured[1:])


def main(full: int, saved: int, count: int) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    _, config = default_agent("vesde", "augmented", STATES, ACTIONS)
    interval, updates = config["checkpoint"]["every"], config["updates_per_step"]
    between = interval * updates * seconds_of_update(count)
    print(f"{interval} steps with {updates} updates each take {between:.0f} s here.\n")
    print("| transitions held | s a checkpoint | share of the time | MB of replay it writes | s of the first |\n"
          "|---:|---:|---:|---:|---:|")
    for held in (interval, full):
        median, first, written = seconds_of_checkpoints(held, interval, saved)
        share = 100 * median / (between + median)
        print(f"| {held} | {median:.2f} | {share:.1g}% | {written / 1e6:.1f} | {first:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    main(*(20_000, 1, 1) if parser.parse_args().quick else (1_000_000, 7, 20))
