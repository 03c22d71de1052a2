"""Two submitters at once, and submitters that are killed: python -m tests.launchers.submission_race --tries 200

Each try submits one sweep of two held runs from two processes at once, or kills a submitter at some moment of its
submission and submits again. Whatever SLURM has in its queue then must be known to the sweep's file, and each run must
be there once. It needs a SLURM, which it starts (`tests.support.slurm_cluster`).
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
    """Two runs."""
    config = compose(*TINY, "env=toy", f"runs_dir={runs_dir}")
    return [Member(runs_dir / "toy" / "vesde-augmented" / f"seed={seed}-{seed:08x}", config | {"seed": seed})
            for seed in (0, 1)]


def submit(members: list[Member], runs_dir: Path) -> None:
    """What the command line does once it has composed its grid, in a process of its own."""
    os.setsid()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    launch(begin_sweep(runs_dir, "s", None, members, {"kind": "slurm", **HELD.model_dump()}), members, HELD)


def begin(members: list[Member], runs_dir: Path) -> Any:
    """A submitter that runs."""
    process = multiprocessing.get_context("fork").Process(target=submit, args=(members, runs_dir))
    process.start()
    return process


def orphans(cluster: Cluster, runs_dir: Path) -> list[str]:
    """What is wrong: arrays in the queue that the sweep does not know, or runs that are in it twice or not at all."""
    queued = cluster.ask("squeue", "-h", "-r", "-o", "%F_%K|%k").split()
    submissions = load_sweep(runs_dir / "sweeps" / "s.json").submissions
    known = {f"{record['job']}_{index}|{record['token']}" for record in submissions
             for index in range(len(record["tasks"]))}
    runs = [run for record in submissions for task in record["tasks"] for run in task]
    problems = [f"unknown to the sweep: {task}" for task in queued if task not in known]
    problems += [f"not in the queue: {task}" for task in known if task not in queued]
    return problems + ([] if len(runs) == len(set(runs)) == 2 else [f"submitted: {runs}"])


def two_at_once(cluster: Cluster, runs_dir: Path) -> list[str]:
    """One try of the race."""
    members = members_of(runs_dir)
    processes = [begin(members, runs_dir) for _ in range(2)]
    for process in processes:
        process.join()
    return orphans(cluster, runs_dir) + [f"exit code {process.exitcode}" for process in processes if process.exitcode]


def killed(cluster: Cluster, runs_dir: Path, chance: random.Random, whole: float) -> list[str]:
    """One try of the kill, at any moment of a submission that takes so many seconds."""
    members = members_of(runs_dir)
    first = begin(members, runs_dir)
    time.sleep(chance.uniform(0, whole))
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second = begin(members, runs_dir)
    second.join()
    return orphans(cluster, runs_dir) + ([f"exit code {second.exitcode}"] if second.exitcode else [])


def tries(cluster: Cluster, scratch: Path, count: int, seed: int = 0) -> list[str]:
    """So many tries of each. Returns what was wrong."""
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
        found = tries(cluster, Path(folder) / "runs", given.tries)
    print("\n".join(found) or f"{given.tries} races and {given.tries} kills: nothing orphaned, nothing twice")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
