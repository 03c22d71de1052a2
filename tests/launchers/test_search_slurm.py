"""A search whose runs are tasks of a real SLURM with one node (`tests.support.slurm_cluster`)."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.campaigns import SMALL
from tests.soak.search import trials_of
from tests.support.command import start, status
from tests.support.slurm_cluster import Cluster, running_cluster, wait_for

pytestmark = pytest.mark.needs("slurm")

SEARCH = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", "hydra/launcher=slurm",
          "hydra.launcher.poll_seconds=2", "hydra.launcher.time=10", "hydra.launcher.name=search", *SMALL, "seed=0,1",
          "guidance.rho=tag(log, interval(0.1, 10))"]
PATIENCE = 300.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


def submitted(sweep: Path) -> list[str]:
    """Return the runs of all tasks that were submitted to SLURM."""
    return [run for submission in json.loads(sweep.read_text())["submissions"] if submission["job"]
            for task in submission["tasks"] for run in task] if sweep.exists() else []


def test_a_search_on_slurm_goes_on_after_its_process_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """The repeated command waits for tasks submitted before the kill, and submits no run twice."""
    sweep = tmp_path / "sweeps" / "search.json"
    first = start(*SEARCH, f"runs_dir={tmp_path}")
    wait_for(lambda: first.poll() is not None or len(submitted(sweep)) > 0, PATIENCE, "a submission")
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, first.communicate()
    second = start(*SEARCH, f"runs_dir={tmp_path}")
    output, errors = second.communicate()
    assert (second.returncode, output) == (0, f"{sweep}\n"), errors
    trials = trials_of(tmp_path)
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "COMPLETE") for number in range(4)]
    runs = json.loads(sweep.read_text())["runs"]
    assert len(runs) == len(set(runs)) == 8 and sorted(submitted(sweep)) == sorted(runs)
    assert {status(tmp_path / run)["state"] for run in runs} == {"finished"}
