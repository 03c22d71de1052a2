"""Measure the cost of logging: µs in the training process, and memory and CPU time of the mirroring process.

    python benchmarks/logging.py
"""

import io
import os
import sys
import tempfile
import time
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algd.budget import Budget
from algd.logging.console import Console
from algd.logging.tensorboard import TensorBoard
from algd.logging.wandb import Wandb
from benchmarks.memory import resident

ROWS = 20_000


def console_microseconds() -> float:
    """Return the µs of one `Console.update` between two drawings."""
    console = Console(10**6, Budget(25.0, "episode", 400), io.StringIO(), every_seconds=3600)
    calls = 200_000
    seconds = timeit.timeit(lambda: console.update(step=1, updates_per_second=2.0, episode_return=3.0,
                                                   episode_cost=4.0, lam=5.0, seconds_left=6.0), number=calls)
    return 1e6 * seconds / calls


def family(pid: int) -> list[int]:
    """Return the ids of a process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(title: str, logger: Wandb | TensorBoard, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("env: {name: toy}\n")
    begin = time.perf_counter()
    logger.start(folder)
    start = time.perf_counter() - begin
    pid = family(os.getpid())[1]
    columns = ",".join(f"metric{n}" for n in range(10))
    row = ",".join(["0.123456"] * 10)
    (folder / "metrics.csv").write_text(f"step,{columns}\n" + "".join(f"{step},{row}\n" for step in range(ROWS)))
    time.sleep(10)
    processes = family(pid)
    before = sum(map(cpu_seconds, processes))
    time.sleep(20)
    idle = (sum(map(cpu_seconds, processes)) - before) / 20
    looks = timeit.timeit(logger.warnings, number=1000) * 1000
    memory = " + ".join(f"{resident(process) / 2**20:.0f}" for process in processes)
    begin = time.perf_counter()
    logger.close("finished")
    end = time.perf_counter() - begin
    print(f"{title}: start {1e3 * start:.0f} ms, warnings {looks:.0f} µs, close {end:.1f} s; the process: {memory} MB, "
          f"{before:.1f} s CPU for its start and {ROWS} rows of 10 values, then {100 * idle:.1f}% of a core; "
          f"{' '.join(logger.warnings())}")


def main() -> None:
    print(f"console: {console_microseconds():.2f} µs for an update between two drawings")
    with tempfile.TemporaryDirectory() as runs:
        measure("W&B offline", Wandb(), Path(runs) / "toy" / "a" / "seed=0-0")
        measure("TensorBoard", TensorBoard(), Path(runs) / "toy" / "a" / "seed=1-0")


if __name__ == "__main__":
    main()
