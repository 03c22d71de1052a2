"""Two submitters at once, and submitters that are killed: python -m tests.launchers.submission_race --tries 200

Each try submits one sweep of two held runs from two processes at once, or kills a submitter at a random moment and
submits again. Then a submitter is killed before each single operation on files, locks and processes while it submits an
array. Afterwards the sweep's file must know everything in SLURM's queue, and each run must be there once. It needs
SLURM, which it starts (`tests.support.slurm_cluster`).
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launchers.launch import launch
from launchers.settings import SlurmSettings
from launchers.sweeps import Member, begin_sweep, load_sweep
from tests.support.command import TINY, compose
from tests.support.slurm_cluster import Cluster, running_cluster

HELD = SlurmSettings(name="s", detach=True, sbatch={"hold": True})


def members_of(runs_dir: Path) -> list[Member]:
    """Return two runs."""
    config = compose(*TINY, "env=toy", f"runs_dir={runs_dir}")
    return [Member(runs_dir / "toy" / "vesde-augmented" / f"seed={seed}-{seed:08x}", config | {"seed": seed})
            for seed in (0, 1)]


def submit(members: list[Member], runs_dir: Path, deadly: int | None = None) -> None:
    """Submit as the command line does after composing its grid, in a process of its own.

    Args:
        deadly: number of the operation (`Operations`) before which the process is killed; None: it is not.
    """
    os.setsid()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.addaudithook(Operations(runs_dir, deadly))
    launch(begin_sweep(runs_dir, "s", None, members, {"kind": "slurm", **HELD.model_dump()}), members, HELD)


class Operations:
    """Counts a process's operations on files, locks and processes, from an array's first file on.

    Args:
        runs_dir: the count is written to a file beside it.
        deadly: operation before which the process kills itself; None: none.
    """

    EVENTS = ("open", "os.", "subprocess.", "fcntl.", "time.sleep", "shutil.")

    def __init__(self, runs_dir: Path, deadly: int | None):
        self.count, self._deadly, self._begun = 0, deadly, False
        # Opened here, so that opening is not counted.
        self._left = os.open(runs_dir.with_suffix(".operations"), os.O_WRONLY | os.O_CREAT, 0o644)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        self._begun = self._begun or (event == "open" and "tasks-" in str(arguments[0]))
        if not self._begun or not event.startswith(self.EVENTS):
            return
        self.count += 1
        if self.count == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        os.pwrite(self._left, b"%d\n" % self.count, 0)


def begin(members: list[Member], runs_dir: Path, deadly: int | None = None) -> Any:
    """Start a submitter."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=submit, args=(members, runs_dir, deadly))
    process.start()
    return process


def orphans(cluster: Cluster, runs_dir: Path) -> list[str]:
    """Return what is wrong: arrays in the queue that the sweep does not know, runs in it twice or not at all."""
    queued = cluster.ask("squeue", "-h", "-r", "-o", "%F_%K|%k").split()
    submissions = load_sweep(runs_dir / "sweeps" / "s.json").submissions
    known = {f"{record['job']}_{index}|{record['token']}" for record in submissions
             for index in range(len(record["tasks"]))}
    runs = [run for record in submissions for task in record["tasks"] for run in task]
    problems = [f"unknown to the sweep: {task}" for task in queued if task not in known]
    problems += [f"not in the queue: {task}" for task in known if task not in queued]
    return problems + ([] if len(runs) == len(set(runs)) == 2 else [f"submitted: {runs}"])


def two_at_once(cluster: Cluster, runs_dir: Path) -> list[str]:
    """Try the race once."""
    members = members_of(runs_dir)
    processes = [begin(members, runs_dir) for _ in range(2)]
    for process in processes:
        process.join()
    return orphans(cluster, runs_dir) + [f"exit code {process.exitcode}" for process in processes if process.exitcode]


def killed(cluster: Cluster, runs_dir: Path, chance: random.Random, whole: float) -> list[str]:
    """Kill a submitter once, at a random moment of a submission that takes `whole` seconds."""
    members = members_of(runs_dir)
    first = begin(members, runs_dir)
    time.sleep(chance.uniform(0, whole))
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second = begin(members, runs_dir)
    second.join()
    return orphans(cluster, runs_dir) + ([f"exit code {second.exitcode}"] if second.exitcode else [])


def operations(cluster: Cluster, runs_dir: Path) -> int:
    """Return how many operations a submitter makes while it submits an array."""
    process = begin(members_of(runs_dir), runs_dir)
    process.join()
    cluster.ask("scancel", "-u", "root")
    return int(runs_dir.with_suffix(".operations").read_text())


def killed_before(cluster: Cluster, runs_dir: Path, deadly: int) -> list[str]:
    """Kill a submitter before this operation."""
    members = members_of(runs_dir)
    first = begin(members, runs_dir, deadly)
    first.join()
    second = begin(members, runs_dir)
    second.join()
    found = orphans(cluster, runs_dir) + ([f"exit code {second.exitcode}"] if second.exitcode else [])
    cluster.ask("scancel", "-u", "root")
    return [f"killed before operation {deadly}: {problem}" for problem in
            found + (["it lived"] if first.exitcode != -signal.SIGKILL else [])]


def tries(cluster: Cluster, scratch: Path, count: int, seed: int = 0) -> list[str]:
    """Try each `count` times, and return what was wrong."""
    chance, found = random.Random(seed), []
    begun = time.monotonic()
    found += two_at_once(cluster, scratch / "first")
    whole = time.monotonic() - begun
    for number in range(count):
        cluster.ask("scancel", "-u", "root")
        for kind, wrong in (("race", lambda at: two_at_once(cluster, at)),
                            ("kill", lambda at: killed(cluster, at, chance, whole))):
            cluster.ask("scancel", "-u", "root")
            found += [f"{kind} {number}: {problem}" for problem in wrong(scratch / f"{kind}-{number}")]
    cluster.ask("scancel", "-u", "root")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder) / "slurm") as cluster:
        os.environ.update(cluster.environment)
        scratch = Path(folder) / "runs"
        found = tries(cluster, scratch, given.tries)
        count = operations(cluster, scratch / "counted")
        for deadly in range(1, count + 1):
            found += killed_before(cluster, scratch / f"before-{deadly}", deadly)
    print("\n".join(found) or f"{given.tries} races, {given.tries} kills at random and one before each of {count} "
          "operations: nothing orphaned, nothing twice")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
