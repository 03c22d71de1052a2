"""Sweeps on a SLURM of three nodes, which lack something or die (`tests.support.virtual_nodes`)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launchers.submission_race import tries
from tests.launchers.test_slurm import (
    LONG,
    SHORT,
    jobs_of,
    launchers,
    runs_in,
    starts,
    submit,
    until,
    until_over,
    until_trained,
)
from tests.support.command import status
from tests.support.virtual_nodes import Nodes

pytestmark = pytest.mark.needs("nodes")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), max_array=20)
    try:
        nodes.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in nodes.environment.items():
                patch.setenv(name, value)
            yield nodes
    finally:
        nodes.stop()


def outputs(runs: Path) -> str:
    """What the tasks have said."""
    return "".join(path.read_text() for path in sorted((runs / "sweeps" / "s" / "slurm").glob("*.out")))


def test_nodes_that_can_run_nothing(nodes: Nodes, tmp_path: Path) -> None:
    """One has no Python, on another runs cannot be written: tasks leave them, and end well on the third."""
    runs = tmp_path / "runs"
    runs.mkdir()
    nodes.again("n1", hidden=Path(sys.executable).parent)
    nodes.again("n2", read_only=runs)
    try:
        submit(*SHORT, "seed=0,1", f"runs_dir={runs}")
        (job,) = jobs_of(runs)
        assert until_over(nodes, job) == {f"{job}_0": "COMPLETED", f"{job}_1": "COMPLETED"}
    finally:
        nodes.again("n1")
        nodes.again("n2")
    assert [status(folder)["state"] for folder in runs_in(runs)] == ["finished", "finished"]
    assert {start["host"] for folder in runs_in(runs) for start in starts(folder)} == {"n3"}
    assert "n1 cannot run this task" in outputs(runs) and "requeued, with n1 excluded" in outputs(runs)


def test_a_setup_that_fails_everywhere(nodes: Nodes, tmp_path: Path) -> None:
    """The task tries two nodes more, and then says where it failed, with what, and why."""
    submit(*SHORT, "seed=0", f"runs_dir={tmp_path}", "hydra.launcher.setup=['ls /nowhere']")
    (job,), (folder,) = jobs_of(tmp_path), runs_in(tmp_path)
    assert until_over(nodes, job) == {f"{job}_0": "FAILED"}
    (line,) = json.loads(launchers("status", "--json", folder))
    assert line["state"] == "lost" and "its node cannot run it: " in line["note"], line
    assert "setup: ls /nowhere: exit code 2" in line["note"] and " on n" in line["note"]
    assert outputs(tmp_path).count("cannot run this task") == 3 and not (folder / "log.txt").exists()
    assert "No such file or directory" in launchers("logs", folder)


def test_a_node_that_dies(nodes: Nodes, tmp_path: Path) -> None:
    """SLURM requeues its task, which goes on elsewhere."""
    submit(*LONG, "checkpoint.every=100", "total_steps=600", "seed=0", f"runs_dir={tmp_path}")
    (folder,), (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    until_trained(folder, 4)
    victim = str(starts(folder)[0]["host"])
    nodes.kill(victim)
    until(lambda: len(starts(folder)) == 2, "the second start")
    assert until_over(nodes, job) == {f"{job}_0": "COMPLETED"}
    nodes.again(victim)
    assert starts(folder)[1]["host"] != victim and status(folder)["state"] == "finished"


def test_the_controller_and_the_database_are_away(nodes: Nodes, tmp_path: Path) -> None:
    """What waits is shown as waiting, nothing is cancelled that was not, and what was cancelled does not become new."""
    submit(*SHORT, "seed=0,1", f"runs_dir={tmp_path}", "+hydra.launcher.sbatch.hold=true")
    nodes.end("slurmctld")
    try:
        shown = json.loads(launchers("status", "--json", tmp_path))
        assert {(line["state"], line["note"]) for line in shown} == {("queued", "SLURM does not answer")}
        said = launchers("cancel", tmp_path, code=1)
        assert "SLURM does not answer, and 2 tasks were not cancelled" in said
    finally:
        nodes.restart("slurmctld")
    until(lambda: nodes.works("squeue"), "the controller's return")
    launchers("cancel", tmp_path)
    assert [line["state"] for line in json.loads(launchers("status", "--json", tmp_path))] == ["cancelled"] * 2


def test_nothing_is_submitted_twice_or_orphaned(nodes: Nodes, tmp_path: Path) -> None:
    """A few tries; `python -m tests.launchers.submission_race` makes hundreds."""
    assert tries(nodes, tmp_path, 2) == []
