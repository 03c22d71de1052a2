"""Sweeps on a SLURM of three nodes, which lack something or die (`tests.support.virtual_nodes`)."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from algd.errors import ExitCode
from analysis.__main__ import main
from tests.launchers.submission_race import killed_before, operations, orphans, tries
from tests.launchers.test_slurm import (
    LONG,
    PATIENCE,
    SHORT,
    SLURM,
    jobs_of,
    launchers,
    runs_in,
    starts,
    submit,
    twin_of,
    until,
    until_over,
    until_trained,
)
from tests.support.command import interrupted_at, run, start, status
from tests.support.page import Page
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
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    text = Page((tmp_path / "page.html").read_text()).text
    trouble = text[text.index("What failed"):text.index("Runs", text.index("What failed"))]
    assert "lost" in trouble and re.search(r"FAILED on n\d, its node cannot run it", trouble), trouble
    assert "setup: ls /nowhere: exit code 2" in trouble and "No such file or directory" in trouble


def test_a_setup_that_leaves_no_time(nodes: Nodes, tmp_path: Path) -> None:
    """The task ends before any run, and says what it lacked."""
    submit(*SHORT, "seed=0", f"runs_dir={tmp_path}", "hydra.launcher.setup=['sleep 3']", "hydra.launcher.time=1",
           "hydra.launcher.signal_seconds=58")
    (job,), (folder,) = jobs_of(tmp_path), runs_in(tmp_path)
    assert until_over(nodes, job) == {f"{job}_0": "FAILED"}
    (line,) = json.loads(launchers("status", "--json", folder))
    assert line["state"] == "lost" and "after 2 s the task is asked to stop already" in line["note"], line


def test_one_folder_of_a_task_that_cannot_be_written(nodes: Nodes, tmp_path: Path) -> None:
    """That run fails, the others of its task continue."""
    submit(*SHORT, "seed=0,1,2", f"runs_dir={tmp_path}", "hydra.launcher.runs_per_task=3",
           "hydra.launcher.cpus=2", "hydra.launcher.exclude=[n2,n3]", "+hydra.launcher.sbatch.hold=true")
    folders, (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    nodes.again("n1", read_only=folders[1])
    try:
        nodes.ask("scontrol", "release", job)
        assert until_over(nodes, job) == {f"{job}_0": "FAILED"}
    finally:
        nodes.again("n1")
    states = [line["state"] for line in json.loads(launchers("status", "--json", tmp_path))]
    assert [states[0], states[2]] == ["finished"] * 2 and states[1] == "lost"
    assert f"failed: {folders[1]}" in outputs(tmp_path) and "Read-only" in outputs(tmp_path)


def test_a_node_that_dies(nodes: Nodes, tmp_path: Path) -> None:
    """SLURM requeues its task, which continues elsewhere."""
    submit(*LONG, "checkpoint.every=100", "total_steps=600", "seed=0", f"runs_dir={tmp_path}")
    (folder,), (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    until_trained(folder, 4)
    victim = str(starts(folder)[0]["host"])
    nodes.kill(victim)
    until(lambda: len(starts(folder)) == 2, "the second start")
    assert until_over(nodes, job) == {f"{job}_0": "COMPLETED"}
    nodes.again(victim)
    assert starts(folder)[1]["host"] != victim and status(folder)["state"] == "finished"


def test_two_nodes_that_die_before_a_checkpoint(nodes: Nodes, tmp_path: Path) -> None:
    """The run is told as one that lost its nodes, not as one that needs more time."""
    submit(*LONG, "total_steps=100000", "seed=0", f"runs_dir={tmp_path}")
    (folder,), (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    victims = []
    try:
        for _ in range(2):
            until(lambda: (folder / "meta.json").exists() and len(starts(folder)) > len(victims), "the next start")
            victims.append(str(starts(folder)[-1]["host"]))
            nodes.kill(victims[-1])
            # So that SLURM need not find out by itself, which the test before it waits for.
            nodes.ask("scontrol", "update", f"NodeName={victims[-1]}", "State=DOWN", "Reason=died")
        assert until_over(nodes, job) == {f"{job}_0": "FAILED"}
    finally:
        for victim in victims:
            nodes.again(victim)
    assert f"its task vanished on {victims[0]} and then on {victims[1]}" in status(folder)["reason"]
    assert f"vanished on {victims[0]}" in launchers("status", folder)


def test_a_slurmd_that_dies_alone(nodes: Nodes, tmp_path: Path) -> None:
    """The run continues while SLURM starts its task elsewhere, which waits for it and does not train it twice."""
    arguments = [*LONG, "seed=0", f"runs_dir={tmp_path / 'runs'}"]
    nodes.again("n1", mortal=False)
    try:
        submit(*arguments, "hydra.launcher.exclude=[n2]")  # the first node that is free is n1
        (folder,), (job,) = runs_in(tmp_path / "runs"), jobs_of(tmp_path / "runs")
        until_trained(folder)
        assert starts(folder)[0]["host"] == "n1"
        trainer = int(str(starts(folder)[0]["pid"]))
        os.kill(trainer, signal.SIGSTOP)  # so that it is not over before SLURM has missed its node
        nodes.kill("n1")
        until(lambda: "on n3, restarted 1 times" in outputs(tmp_path / "runs"), "the start elsewhere")
        assert len(starts(folder)) == 1
        os.kill(trainer, signal.SIGCONT)
        assert until_over(nodes, job) == {f"{job}_0": "COMPLETED"}
    finally:
        nodes.again("n1")
    assert status(folder)["state"] == "finished"
    twin_of(folder, tmp_path, *LONG, "seed=0")


def test_nodes_that_a_user_leaves_out(nodes: Nodes, tmp_path: Path) -> None:
    """`exclude`, and `retry --exclude` on top of it."""
    submit(*SHORT, "agent.policy.beta=1e-38", "seed=0", f"runs_dir={tmp_path}", "hydra.launcher.exclude=[n1]")
    (folder,), (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    assert until_over(nodes, job) == {f"{job}_0": "FAILED"}
    launchers("retry", folder, "--exclude", "n2")
    again = json.loads((tmp_path / "sweeps" / "s-retry.json").read_text())["submissions"][0]["job"]
    assert until_over(nodes, again) == {f"{again}_0": "FAILED"}
    assert [start["host"] for start in starts(folder)] == ["n2", "n3"]


def test_tasks_that_differ_and_a_sweep_after_another(nodes: Nodes, tmp_path: Path) -> None:
    """An array for each agent, with its own time and nodes; the next sweep waits for both, and for a job of its own."""
    held = [*SHORT, f"runs_dir={tmp_path}", "+hydra.launcher.sbatch.hold=true"]
    submit(*held, "agent=vesde,ddpm", "seed=0,1", "hydra.launcher.per=agent",
           "+hydra.launcher.tasks.ddpm={time: 33, exclude: [n3], partition: urgent, runs_per_task: 2}")
    vesde, ddpm = jobs_of(tmp_path)
    asked = nodes.ask("squeue", "-h", "-r", "-o", "%F %l %P %x %K", "-j", f"{vesde},{ddpm}")
    assert sorted(asked.splitlines()) == [f"{vesde} 10:00 day  0", f"{vesde} 10:00 day  1", f"{ddpm} 33:00 urgent n3 0"]
    submit(*held, "seed=2", "hydra.launcher.name=next", "hydra.launcher.after=[s]",
           f"+hydra.launcher.sbatch.dependency=afterok:{ddpm}")
    (later,) = json.loads((tmp_path / "sweeps" / "next.json").read_text())["submissions"]
    waits = nodes.ask("scontrol", "show", "job", later["job"])
    assert [part in waits for part in (f"afterany:{vesde}", f"afterany:{ddpm}", f"afterok:{ddpm}")] == [True] * 3, waits
    launchers("cancel", tmp_path)


def test_the_database_is_away(nodes: Nodes, tmp_path: Path) -> None:
    """What was cancelled stays so; a task that only the database could know is over, and not new."""
    submit(*SHORT, "seed=0", f"runs_dir={tmp_path}", "+hydra.launcher.sbatch.hold=true")
    nodes.end("slurmdbd")
    try:
        launchers("cancel", tmp_path)
        (line,) = json.loads(launchers("status", "--json", tmp_path))
        assert line["state"] == "cancelled"
        file = tmp_path / "sweeps" / "s.json"
        file.write_text(file.read_text().replace(jobs_of(tmp_path)[0], "7"))
        (line,) = json.loads(launchers("status", "--json", tmp_path))
        assert line["state"] == "lost" and "SLURM's accounting does not answer how it ended" in line["note"]
    finally:
        nodes.restart("slurmdbd")
        until(lambda: nodes.works("sacctmgr", "-n", "list", "cluster"), "the database's return")


def test_the_controller_is_away(nodes: Nodes, tmp_path: Path) -> None:
    """What waits is shown as waiting, and nothing is called cancelled that was not."""
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


def test_more_jobs_than_the_cluster_takes(nodes: Nodes, tmp_path: Path) -> None:
    """What is waited for is said at once, and the array is submitted when there is room."""
    nodes.take_at_most(1)
    try:
        waiting = start("-m", *SLURM, *SHORT, "seed=0,1", f"runs_dir={tmp_path}", "hydra.launcher.detach=true",
                        "+hydra.launcher.sbatch.hold=true")
        assert waiting.stderr is not None
        said = next((line for line in waiting.stderr if "does not take" in line), "")
        assert "SLURM does not take the array yet, and sbatch tries again: Slurm temporarily unable" in said
        assert jobs_of(tmp_path) == []
    finally:
        nodes.take_at_most(10000)
    output, errors = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0, output + errors
    assert orphans(nodes, tmp_path) == []
    launchers("cancel", tmp_path)


def test_ctrl_c_while_it_is_submitted(nodes: Nodes, tmp_path: Path) -> None:
    """One sentence, and the same command submits what SLURM does not have."""
    arguments = ["-m", *SLURM, *SHORT, "seed=0,1", f"runs_dir={tmp_path}", "hydra.launcher.detach=true",
                 "+hydra.launcher.sbatch.hold=true"]
    errors = run(*arguments, code=ExitCode.INTERRUPTED, **interrupted_at("sbatch"))
    assert errors.startswith("interrupted; what was submitted") and errors.count("\n") == 1, errors
    run(*arguments)
    assert orphans(nodes, tmp_path) == []
    launchers("cancel", tmp_path)


def test_nothing_is_submitted_twice_or_orphaned(nodes: Nodes, tmp_path: Path) -> None:
    """A few of the tries that `python -m tests.launchers.submission_race` makes."""
    assert tries(nodes, tmp_path, 1) == []
    count = operations(nodes, tmp_path / "counted")
    assert count > 10
    for part in range(4):
        assert killed_before(nodes, tmp_path / f"before-{part}", 1 + part * (count - 1) // 3) == []
