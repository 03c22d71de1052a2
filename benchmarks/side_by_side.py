"""Measure two simultaneous runs on two cores against one run alone.

    python -m benchmarks.side_by_side [--quick] [--env point_button1]

Whole runs of the default agent, one thread each, every one on its own core, alternate between one alone and a pair. The
ratio is the pair's total steps per second over the steps per second of one alone; medians over the rounds. The machine
should be idle.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence

from benchmarks.whole_runs import Measured, as_in_a_long_run, start


def together(cores: Sequence[int], *arguments: str) -> list[float]:
    """Return the environment steps per second of simultaneous runs, one on each of the given cores."""
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for seed, core in enumerate(cores):
            processes.append(start(*arguments, f"seed={seed}", folder=folder))
            os.sched_setaffinity(processes[-1].pid, {core})
        outputs = [process.communicate()[0] for process in processes]
    measured = [Measured(**json.loads(output.splitlines()[-1])) for output in outputs]
    return [run.steps / (run.seconds - run.evaluating - run.saving) for run in measured]


def main(env: str, rounds: int, steps: int) -> None:
    """Measure and print the ratio."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("side_by_side needs two cores, and this process may use one: not measured")
        return
    arguments = ["agent=vesde", f"env={env}", f"total_steps={steps}", as_in_a_long_run()]
    alone: list[float] = []
    pairs: list[float] = []
    for number in range(rounds):
        alone += together([cores[number % 2]], *arguments)
        pairs.append(sum(together(cores, *arguments)))
    single, pair = statistics.median(alone), statistics.median(pairs)
    print(f"| {env}, ten updates a step | steps/s |\n|---|---:|\n| one run | {single:.2f} |\n| two at once, together | "
          f"{pair:.2f} |\n| ratio | {pair / single:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--env", default="point_button1")
    given = parser.parse_args()
    main(*("toy", 1, 3) if given.quick else (given.env, 4, 100))
