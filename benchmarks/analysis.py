"""How long tables of many runs take, and how much memory: python -m benchmarks.analysis prints it.

The folders are as 100,000 steps of a navigation task leave them: an evaluation every 5000 steps of 20 episodes for each
sampler, 250 training episodes, a row of metrics every 500 steps.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

STEPS, EVERY, EPISODES, LENGTH, LOG_EVERY = 100_000, 5000, 20, 400, 500
COUNTS = (50, 100, 500)
CODE = """
import resource, sys, time
start = time.perf_counter()
from analysis.__main__ import main
main(["table", *sys.argv[1:], "--format", "csv"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{time.perf_counter() - start:.2f} {peak:.1f}", file=sys.stderr)
"""


def make_runs(top: Path, config: dict, count: int) -> list[Path]:
    """`count` run folders: five seeds each of as many values of ρ as that takes."""
    random = np.random.default_rng(0)
    folders = []
    for number in range(count):
        folder = top / f"run{number:04d}"
        folder.mkdir(parents=True)
        one = config | {"seed": number % 5, "guidance": config["guidance"] | {"rho": 1.0 + number // 5}}
        (folder / "config.yaml").write_text(yaml.safe_dump(one))
        (folder / "status.json").write_text('{"state": "finished", "step": 100000, "seconds": 3600}')
        lines = ["step,sampler,source,episode,seed,return,cost,discounted_cost,length"]
        for step in range(0, STEPS + 1, EVERY):
            for sampler in ("deterministic", "stochastic"):
                values = random.random((EPISODES, 3)) * 30
                lines += [f"{step},{sampler},train,{i},{random.integers(2**31)},{a},{b},{c},{LENGTH}"
                          for i, (a, b, c) in enumerate(values)]
        (folder / "evals.csv").write_text("\n".join(lines) + "\n")
        lines = ["step,episode,seed,return,cost,discounted_cost,length"]
        lines += [f"{(i + 1) * LENGTH},{i},{i},{a},{b},{c},{LENGTH}"
                  for i, (a, b, c) in enumerate(random.random((STEPS // LENGTH, 3)) * 30)]
        (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
        lines = ["step,critic_loss,lam,constraint"]
        lines += [f"{(i + 1) * LOG_EVERY},{a},{b},{c}"
                  for i, (a, b, c) in enumerate(random.random((STEPS // LOG_EVERY, 3)))]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        folders.append(folder)
    return folders


def main(example: Path) -> None:
    """Print a table of time and memory, for copies of an existing run's configuration."""
    config = yaml.safe_load((example / "config.yaml").read_text())
    config |= {"eval": config["eval"] | {"episodes": EPISODES}}
    print("| runs | seconds | peak memory, MB |\n|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as top:
        folders = make_runs(Path(top), config, max(COUNTS))
        for count in COUNTS:
            result = subprocess.run(
                [sys.executable, "-c", CODE, *map(str, folders[:count]), "--columns", "guidance.rho"],
                capture_output=True, text=True, check=True)
            seconds, peak = result.stderr.split()[-2:]
            print(f"| {count} | {seconds} | {peak} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.analysis RUN   (a run's folder, whose configuration is copied)")
    main(Path(sys.argv[1]))
