"""Measure the replay at (76, 2): microseconds to add a transition and to draw a batch, and its memory.

    python -m benchmarks.replay [--quick]

Each variant runs in its own process on one thread. The processes take turns; numbers are medians over the rounds.
Memory is the growth of the resident memory while the replay is filled, relative to the transitions' raw bytes.
"""

import argparse
from collections.abc import Callable

from benchmarks.memory import resident
from benchmarks.turns import serve, take_turns

STATES, ACTIONS, BATCH = 76, 2, 256


def prepare(name: str) -> tuple[Callable[[], object], str]:
    """Return the function to time, and memory relative to the raw bytes; name: add/size or sample/size."""
    import numpy as np
    import torch

    from algd.algorithm.rng import RandomGenerator
    from benchmarks.setting import random_replay

    torch.set_num_threads(1)
    what, _, count = name.partition("/")
    before = resident()
    replay = random_replay(1_000_000, int(count), STATES, ACTIONS)
    numbers = 2 * STATES + ACTIONS + 4  # reward, cost, and where each return ends
    said = f"{(resident() - before) / (4 * numbers * int(count)):.4f}"
    noise, state, action = RandomGenerator(0), np.zeros(STATES), np.zeros(ACTIONS)
    once = {"sample": lambda: replay.sample(BATCH, noise),
            "add": lambda: replay.add(state, action, 0.0, 0.0, state, False, False)}[what]
    return once, said


def main(rounds: int, count: int, full: int) -> None:
    """Measure every variant and print the table."""
    names = [f"{what}/{size}" for size in (10_000, full) for what in ("sample", "add")]
    workers = take_turns("benchmarks.replay", names, rounds, count, burn_in=count)
    print(f"| transitions | µs to draw {BATCH} | µs to add one | memory / raw bytes |\n|---:|---:|---:|---:|")
    for size in (10_000, full):
        sample, add = workers[f"sample/{size}"], workers[f"add/{size}"]
        print(f"| {size} | {1e6 * sample.median:.0f} | {1e6 * add.median:.1f} | {float(sample.said):.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(*prepare(given.worker))
    else:
        main(*(1, 3, 20_000) if given.quick else (9, 1000, 1_000_000))
