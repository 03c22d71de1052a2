"""Measure whole runs, from the command to the end: environment steps per second, and where the time goes.

    python -m benchmarks.whole_runs [--quick] [--env point_button1]

Each run is a process on one thread with the default agent. Runs follow each other, the variants taking turns over the
rounds; numbers are medians. Rates count from the first update, without evaluations and checkpoints. The last table
trains the toy with small networks for three lengths, where a constant time per step shows that time is linear in steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SMALL = ["env=toy", "agent=gaussian", "agent.critic_hidden_sizes=[16,16]", "agent.cost_hidden_sizes=[16,16]",
         "agent.policy.hidden_sizes=[16,16]", "batch_size=16", "updates_per_step=1"]


@dataclass(frozen=True)
class Measured:
    """Times and memory of one run.

    Attributes:
        to_first_update: seconds from the command to the end of the first update.
        steps: environment steps after the first update.
        seconds: their duration, including evaluations and checkpoints.
        environment, updating, evaluating, saving: of these, seconds in resets and steps, in updates, in evaluations
            and in checkpoints.
        peak: peak memory in bytes.
    """

    to_first_update: float
    steps: int
    seconds: float
    environment: float
    updating: float
    evaluating: float
    saving: float
    peak: int


def timed(owner: Any, name: str, seconds: dict[str, float], what: str) -> None:
    """Make a method add its time to `seconds[what]`, unless another timed method called it."""
    method: Callable[..., Any] = getattr(owner, name)

    def wrapper(*arguments: Any, **named: Any) -> Any:
        if seconds["inside"]:
            return method(*arguments, **named)
        seconds["inside"], start = 1.0, time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            seconds["inside"] = 0.0
            seconds[what] += time.perf_counter() - start

    setattr(owner, name, wrapper)


def train_here(started: float, arguments: Sequence[str]) -> Measured:
    """Train a run in this process, which was started at `time.time()` = started."""
    from algd.envs.task import Task
    from algd.run.evaluation import Evaluator
    from algd.run.persistence import Persistence
    from algd.run.train import train
    from algd.run.trainer import Trainer
    from benchmarks.memory import peak_resident
    from benchmarks.setting import configuration

    seconds = dict.fromkeys(("inside", "environment", "updating", "evaluating", "saving"), 0.0)
    timed(Task, "step", seconds, "environment")
    timed(Task, "reset", seconds, "environment")
    timed(Evaluator, "evaluate", seconds, "evaluating")
    timed(Persistence, "save_checkpoint", seconds, "saving")
    timed(Trainer, "update", seconds, "updating")
    first: dict[str, Any] = {}
    update = Trainer.update

    def watched(trainer: Trainer) -> None:
        update(trainer)
        if not first:
            first.update(seconds, to_first_update=time.time() - started, at=time.perf_counter())

    Trainer.update = watched  # type: ignore[method-assign]
    config = configuration(*arguments)
    train(config)
    took = time.perf_counter() - first["at"]
    spent = {what: seconds[what] - first[what] for what in ("environment", "updating", "evaluating", "saving")}
    return Measured(first["to_first_update"], config["total_steps"] - 1, took, **spent,
                    peak=peak_resident())


def start(*arguments: str, folder: str) -> subprocess.Popen[str]:
    """Start a run in its own process, with one-episode evaluations only at its start and end."""
    given = ["logger=none", "initial_steps=256", "eval.every=1000000", "eval.episodes=1", "snapshots=0",
             f"runs_dir={folder}", *arguments]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.whole_runs", "--worker", str(time.time()), *given],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def as_in_a_long_run() -> str:
    """Return the argument by which a short run executes updates as a long one does."""
    from benchmarks.setting import long_run

    return f"compile={str(long_run() == 'native').lower()}"


def measure(*arguments: str) -> Measured:
    """Measure one run in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        output, _ = start(*arguments, folder=folder).communicate()
    return Measured(**json.loads(output.splitlines()[-1]))


def median(runs: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(map(value, runs))


def main(env: str, rounds: int, steps: int, lengths: Sequence[int]) -> None:
    """Measure and print the tables."""
    variants = {(agent, updates): [f"agent={agent}", f"env={env}", f"updates_per_step={updates}", as_in_a_long_run(),
                                   f"total_steps={steps * (10 // updates)}"]
                for agent in ("vesde", "gaussian") for updates in (1, 10)}
    runs: dict[tuple[str, int], list[Measured]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, arguments in variants.items():
            runs[variant].append(measure(*arguments))
    print(f"| {env} | updates a step | steps/s | updates | environment | the rest | s to the first update | peak MB |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|")
    for (agent, updates), measured in runs.items():
        loop = [run.seconds - run.evaluating - run.saving for run in measured]
        shares = [statistics.median(getattr(run, what) / took for run, took in zip(measured, loop, strict=True))
                  for what in ("updating", "environment")]
        rate = statistics.median(run.steps / took for run, took in zip(measured, loop, strict=True))
        print(f"| {agent} | {updates} | {rate:.1f} | {shares[0]:.1%} | {shares[1]:.1%} | {1 - sum(shares):.1%} | "
              f"{median(measured, lambda run: run.to_first_update):.1f} | "
              f"{median(measured, lambda run: run.peak / 1e6):.0f} |")
    print("\n| steps of the toy, small networks | ms a step | peak MB |\n|---:|---:|---:|")
    of_length: dict[int, list[Measured]] = {length: [] for length in lengths}
    for _ in range(rounds):
        for length in lengths:
            of_length[length].append(measure(*SMALL, f"total_steps={length}"))
    for length, measured in of_length.items():
        print(f"| {length} | {1e3 * median(measured, lambda run: run.seconds / run.steps):.3f} | "
              f"{median(measured, lambda run: run.peak / 1e6):.0f} |")
    shortest, longest = (median(of_length[length], lambda run: run.seconds / run.steps)
                         for length in (lengths[0], lengths[-1]))
    print(f"\na step of {lengths[-1]} takes {longest / shortest:.2f} times as long as one of {lengths[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--env", default="point_button1")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(asdict(train_here(float(given.worker[0]), given.worker[1:]))), flush=True)
    elif given.quick:
        main("toy", 1, 2, (50, 100))
    else:
        main(given.env, 3, 40, (1000, 4000, 16000))
