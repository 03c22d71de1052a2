"""Measure the time and memory of analysing many runs: python -m benchmarks.analysis RUN

The synthetic runs are as large as 100,000 steps of a navigation task make them: every 5000 steps an evaluation of 20
episodes for each sampler, 250 training episodes, and a row of metrics every 500 steps.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

STEPS, EVERY, EPISODES, LENGTH, LOG_EVERY = 100_000, 5000, 20, 400, 500
COUNTS = (50, 500, 5000)
DIFFERENT = 50  # runs with different rows; others repeat them, which takes as long to read
CODE = """
import resource, sys, time
start = time.perf_counter()
from analysis.__main__ import main
from benchmarks.memory import peak_resident
main(["table", *sys.argv[1:], "--columns", "guidance.rho", "--format", "csv"])
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"{time.perf_counter() - start:.1f} {used.ru_utime + used.ru_stime:.1f} {peak_resident() / 2**20:.0f}",
      file=sys.stderr)
"""


def tables(random: np.random.Generator) -> dict[str, str]:
    """Return the content of a run's tables, by name."""
    evals = ["step,sampler,source,episode,seed,return,cost,discounted_cost,length"]
    for step in range(0, STEPS + 1, EVERY):
        for sampler in ("deterministic", "stochastic"):
            values = random.random((EPISODES, 3)) * 30
            evals += [f"{step},{sampler},train,{i},{random.integers(2**31)},{a},{b},{c},{LENGTH}"
                      for i, (a, b, c) in enumerate(values)]
    episodes = ["step,episode,seed,return,cost,discounted_cost,length"]
    episodes += [f"{(i + 1) * LENGTH},{i},{i},{a},{b},{c},{LENGTH}"
                 for i, (a, b, c) in enumerate(random.random((STEPS // LENGTH, 3)) * 30)]
    metrics = ["step,critic_loss,lam,constraint"]
    metrics += [f"{(i + 1) * LOG_EVERY},{a},{b},{c}"
                for i, (a, b, c) in enumerate(random.random((STEPS // LOG_EVERY, 3)))]
    return {name: "\n".join(lines) + "\n" for name, lines in
            (("evals", evals), ("episodes", episodes), ("metrics", metrics))}


def make_runs(top: Path, config: dict, first: int, last: int) -> None:
    """Write the run folders first to last − 1: five seeds for each value of ρ."""
    random = np.random.default_rng(0)
    different = [tables(random) for _ in range(min(DIFFERENT, last))]
    for number in range(first, last):
        folder = top / f"run{number:04d}"
        folder.mkdir(parents=True)
        one = config | {"seed": number % 5, "guidance": config["guidance"] | {"rho": 1.0 + number // 5}}
        (folder / "config.yaml").write_text(yaml.safe_dump(one))
        (folder / "status.json").write_text('{"state": "finished", "step": 100000, "seconds": 3600}')
        for name, content in different[number % len(different)].items():
            (folder / f"{name}.csv").write_text(content)


def measured(top: Path, cache: Path) -> list[str]:
    """Return seconds, CPU seconds and MB for a table of all runs below a folder."""
    result = subprocess.run([sys.executable, "-c", CODE, str(top)], capture_output=True, text=True, check=True,
                            env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    return result.stderr.split()[-3:]


def main(example: Path) -> None:
    """Print a table of time and memory, with copies of an existing run's configuration."""
    config = yaml.safe_load((example / "config.yaml").read_text())
    config |= {"eval": config["eval"] | {"episodes": EPISODES}}
    print("| runs | first: s | CPU s | MB | nothing changed: s | CPU s | MB |\n|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        for count in COUNTS:
            make_runs(Path(folder) / "runs", config, done, count)
            done = count
            time.sleep(3)  # the cache does not keep files that were written just before
            cache = Path(folder) / f"cache{count}"
            first, again = (measured(Path(folder) / "runs", cache) for _ in range(2))
            print(f"| {count} | {' | '.join([*first, *again])} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.analysis RUN   (a run's folder, whose configuration is copied)")
    main(Path(sys.argv[1]))
