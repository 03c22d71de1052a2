"""Sweeps on a real SLURM with accounting, with one node on this machine (`tests.support.slurm_cluster`)."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from algd.storage.lock import Lock
from tests.support.command import ROOT, TINY, outcome, run, start, status, train_here
from tests.support.slurm_cluster import Cluster, running_cluster, states_of, wait_for

pytestmark = pytest.mark.needs("slurm")

MAX_ARRAY = 8
LONG = [*TINY, "env=toy", "initial_steps=40", "total_steps=400", "checkpoint.every=100000", "eval.every=200",
        "eval.episodes=1", "log_every=50", "threads=1"]
SHORT = [*LONG, "total_steps=60"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.poll_seconds=2", "hydra.launcher.time=10", "hydra.launcher.name=s"]
PATIENCE = 600.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("slurm")
    with running_cluster(root, max_array=MAX_ARRAY) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders of a runs_dir."""
    return sorted(path.parent for path in folder.glob("*/*/*/config.yaml"))


def jobs_of(runs: Path) -> list[str]:
    """Return the job arrays of the sweep's runs, in order of submission."""
    file = runs / "sweeps" / "s.json"
    submissions = json.loads(file.read_text())["submissions"] if file.exists() else []
    return [entry["job"] for entry in submissions if any(entry["tasks"]) and entry["job"]]


def until(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, PATIENCE, what)


def until_trained(folder: Path, rows: int = 3) -> None:
    """Wait until the run has this many rows of metrics."""
    file = folder / "metrics.csv"
    until(lambda: file.exists() and file.read_bytes().count(b"\n") >= rows, f"{rows} rows in {file}")


def until_over(cluster: Cluster, job: str) -> dict[str, str]:
    """Wait until all tasks of an array have ended, and return the states of its elements in sacct, which for a while
    may list the array as well or only."""
    def elements() -> dict[str, str]:
        return {task: state for task, state in states_of(cluster, [job]).items() if "_" in task}

    def over() -> bool:
        known = set(elements().values())
        return (cluster.ask("squeue", "-h", "-t", "PD,R,CG", "-j", job) == "" and bool(known)
                and not {"PENDING", "RUNNING", "REQUEUED"} & known)

    until(over, f"the end of job {job}")
    return elements()


def submit(*arguments: str) -> str:
    """Submit a sweep without waiting for it, and return the command's standard error."""
    return run("-m", *SLURM, "hydra.launcher.detach=true", *arguments)


def starts(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "meta.json").read_text())["starts"]


def launchers(*arguments: str | Path, code: int = 0) -> str:
    """Run python -m launchers and return its standard output, with standard error if the exit code is not 0."""
    done = subprocess.run([sys.executable, "-m", "launchers", *arguments], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def twin_of(folder: Path, tmp_path: Path, *arguments: str) -> None:
    """Check that the run's files equal, byte for byte, those of an uninterrupted one."""
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    twin = tmp_path / "twin" / folder.relative_to(folder.parents[2])
    expected, found = outcome(twin), outcome(folder)
    assert [name for name in expected if expected[name] != found[name]] == []


def test_an_array_with_two_at_once_typed_twice(cluster: Cluster, tmp_path: Path) -> None:
    told = tmp_path / "told"
    arguments = ["-m", *SLURM, *SHORT, "seed=0,1,2,3,4,5", f"runs_dir={tmp_path}", "hydra.launcher.max_running=2",
                 f"hydra.launcher.on_end='cat >> {told}; date >> {told}'"]
    sweep = start(*arguments)
    until(lambda: bool(jobs_of(tmp_path)), "the submission")
    # By another path to the same folder.
    (tmp_path / "link").symlink_to(tmp_path)
    again = run(*arguments, "hydra.launcher.detach=true", f"runs_dir={tmp_path / 'link' / 'nowhere' / '..'}")
    assert again.count("already submitted as") + again.count("already finished at step") == 6
    assert "nothing to submit" in again
    most = 0
    while sweep.poll() is None:
        most = max(most, cluster.ask("squeue", "-h", "-r", "-t", "R", "-o", "%i").count("\n"))
        time.sleep(0.5)
    _, errors = sweep.communicate()
    assert sweep.returncode == 0 and "6 runs: 6 finished" in errors, errors
    assert most == 2
    (job,) = jobs_of(tmp_path)
    assert until_over(cluster, job) == {f"{job}_{index}": "COMPLETED" for index in range(6)}
    assert [len(starts(folder)) for folder in runs_in(tmp_path)] == [1] * 6
    assert "nothing to submit" in submit(*SHORT, "seed=0,1,2,3,4,5", f"runs_dir={tmp_path}")
    table = json.loads(launchers("status", "--json", tmp_path / "sweeps" / "s.json"))
    assert [line["state"] for line in table] == ["finished"] * 6
    # Once, however often the command was repeated.
    until(lambda: told.exists() and told.read_text().count("\n") == 2, "the command at the end")
    assert told.read_text().startswith("s: 6 runs: 6 finished\n")


def test_a_second_submission_counts_what_the_first_has_queued(cluster: Cluster, tmp_path: Path) -> None:
    """With max_running=1 the array of a second sweep of the same name begins when the first has ended."""
    submit(*SHORT, "seed=0,1", f"runs_dir={tmp_path}", "hydra.launcher.max_running=1")
    submit(*SHORT, "seed=0,1,2,3", f"runs_dir={tmp_path}", "hydra.launcher.max_running=1")
    first, second = jobs_of(tmp_path)
    for job in (first, second):
        assert set(until_over(cluster, job).values()) == {"COMPLETED"}
    times = cluster.ask("sacct", "-n", "-X", "-P", "-o", "Start,End", "-j", f"{first},{second}").split()
    spans = sorted(line.split("|") for line in times)
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), spans


def test_another_command_for_the_end(cluster: Cluster, tmp_path: Path) -> None:
    """The same sweep with another on_end has nothing to submit, and the later command is run instead of the earlier."""
    for word in ("earlier", "later"):
        submit(*SHORT, "seed=0", f"runs_dir={tmp_path}", "+hydra.launcher.sbatch.hold=true",
               f"hydra.launcher.on_end='cat > /dev/null; echo {word} >> {tmp_path / 'told'}'")
    (job,) = jobs_of(tmp_path)
    cluster.ask("scontrol", "release", job)
    until(lambda: (tmp_path / "told").exists(), "the command at the end")
    until(lambda: cluster.ask("squeue", "-h") == "", "an empty queue")
    assert (tmp_path / "told").read_text() == "later\n"


def test_packed_failed_and_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Of three runs in one task one is killed, one fails and one finishes; SLURM reports the task as FAILED."""
    sweep = start("-m", *SLURM, *LONG, "agent.policy.beta=1.0,2.0,1e-38", f"runs_dir={tmp_path}", "seed=0",
                  "hydra.launcher.runs_per_task=3", "hydra.launcher.cpus=3", "hydra.launcher.gpus=1")
    until(lambda: len(list(tmp_path.glob("*/*/*/metrics.csv"))) == 3, "three runs at once")
    folders = {yaml_beta(folder): folder for folder in runs_in(tmp_path)}
    killed = folders["1.0"]
    until_trained(killed)
    os.kill(starts(killed)[-1]["pid"], signal.SIGKILL)
    _, errors = sweep.communicate()
    assert sweep.returncode == 1 and "3 runs: 2 failed, 1 finished" in errors, errors
    assert {beta: status(folder)["state"] for beta, folder in folders.items()} == {
        "1.0": "failed", "2.0": "finished", "1.0e-38": "failed"}
    assert "SIGKILL" in status(killed)["reason"] and "    | error: " in errors
    (job,) = jobs_of(tmp_path)
    assert until_over(cluster, job) == {f"{job}_0": "FAILED"}
    assert {entry["slurm_job"] for folder in folders.values() for entry in starts(folder)} != {None}


def yaml_beta(folder: Path) -> str:
    found = re.search(r"beta: (\S+)", (folder / "config.yaml").read_text())
    assert found is not None
    return found[1]


def test_cancelled_while_pending_and_while_running(cluster: Cluster, tmp_path: Path) -> None:
    """Cancelling in mid-episode writes a checkpoint, from which the same command resumes."""
    arguments = [*LONG, "seed=0,1", f"runs_dir={tmp_path / 'runs'}", "hydra.launcher.max_running=1"]
    sweep = start("-m", *SLURM, *arguments)
    until(lambda: bool(jobs_of(tmp_path / "runs")), "the submission")
    running, pending = sorted(runs_in(tmp_path / "runs"))
    until_trained(running)
    (job,) = jobs_of(tmp_path / "runs")
    cluster.ask("scancel", f"{job}_1")
    cluster.ask("scancel", f"{job}_0")
    _, errors = sweep.communicate()
    assert sweep.returncode == 1 and "2 runs: 2 cancelled" in errors, errors
    assert set(until_over(cluster, job).values()) == {"CANCELLED"}
    assert status(running)["state"] == "interrupted" and not (pending / "status.json").exists()
    stopped_at = status(running)["step"]
    assert stopped_at > 50 and (running / "checkpoints" / "000002").is_dir()
    submit(*arguments)
    until_over(cluster, jobs_of(tmp_path / "runs")[-1])
    assert f"going on from step {stopped_at}" in (running / "log.txt").read_text()
    twin_of(running, tmp_path, *LONG, "seed=0")
    assert status(pending)["state"] == "finished"


def test_killed_requeued_and_lost(cluster: Cluster, tmp_path: Path) -> None:
    """scontrol requeue continues the run; killing the whole task loses it until the command is repeated."""
    arguments = [*LONG, "checkpoint.every=100", "total_steps=600", "seed=0", f"runs_dir={tmp_path / 'runs'}"]
    submit(*arguments)
    (folder,), (job,) = runs_in(tmp_path / "runs"), jobs_of(tmp_path / "runs")
    until_trained(folder)
    cluster.ask("scontrol", "requeue", f"{job}_0")
    until(lambda: len(starts(folder)) == 2, "the second start")
    until_trained(folder, 6)
    pid = int(starts(folder)[-1]["pid"])  # type: ignore[call-overload]
    task = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
    os.kill(pid, signal.SIGSTOP)  # As if its node had failed: no time for a last checkpoint.
    os.kill(task, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert until_over(cluster, job) == {f"{job}_0": "FAILED"}
    until(lambda: "lost" in launchers("status", folder), "the run's loss")
    submit(*arguments)
    until_over(cluster, jobs_of(tmp_path / "runs")[-1])
    assert len(starts(folder)) == 3
    twin_of(folder, tmp_path, *LONG, "checkpoint.every=100", "total_steps=600", "seed=0")


@pytest.mark.parametrize("user_signal", [True, False])
def test_preempted(user_signal: bool, cluster: Cluster, tmp_path: Path) -> None:
    """A job of a higher partition preempts the run with a checkpoint; it continues when the node is free."""
    arguments = [*LONG, "total_steps=1200", "seed=0"]
    cluster.reconfigure(user_signal)
    try:
        submit(*arguments, f"runs_dir={tmp_path / 'runs'}")
        (folder,), (job,) = runs_in(tmp_path / "runs"), jobs_of(tmp_path / "runs")
        until_trained(folder)
        cluster.ask("sbatch", "-p", "urgent", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 1")
        until(lambda: len(starts(folder)) == 2, "the second start")
        assert until_over(cluster, job) == {f"{job}_0": "COMPLETED"}
    finally:
        cluster.reconfigure(True)
    assert "going on from step" in (folder / "log.txt").read_text()
    twin_of(folder, tmp_path, *arguments)
    (log,) = (tmp_path / "runs" / "sweeps" / "s" / "slurm").glob("*_log.out")
    assert (f"requeue {job}_0" in log.read_text()) == user_signal


def test_a_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    # SLURM checks time limits every 30 s: the run is long enough to get the signal on a fast machine too.
    arguments = [*LONG, "total_steps=8000", "seed=0"]
    # Setup before a task's runs has 30 s here.
    submit(*arguments, f"runs_dir={tmp_path / 'runs'}", "hydra.launcher.time=2", "hydra.launcher.signal_seconds=90")
    (folder,), (job,) = runs_in(tmp_path / "runs"), jobs_of(tmp_path / "runs")
    assert until_over(cluster, job) == {f"{job}_0": "COMPLETED"}
    assert len(starts(folder)) >= 2
    twin_of(folder, tmp_path, *arguments)


def test_stuck_in_requeues(cluster: Cluster, tmp_path: Path) -> None:
    """Another process holds its lock, so no start makes progress, and after two requeues the run counts as failed."""
    submit(*SHORT, "seed=0", f"runs_dir={tmp_path}", "+hydra.launcher.sbatch.hold=true")
    (folder,), (job,) = runs_in(tmp_path), jobs_of(tmp_path)
    log = tmp_path / "sweeps" / "s" / "slurm" / f"{job}_0_0_log.out"
    lock = Lock(folder / "lock")
    try:
        cluster.ask("scontrol", "release", job)
        for number in (0, 1):
            until(lambda n=number: log.exists() and f"restarted {n} times" in log.read_text(), f"start {number}")
            cluster.ask("scontrol", "requeue", f"{job}_0")
        assert until_over(cluster, job) == {f"{job}_0": "FAILED"}
    finally:
        lock.release()
    assert status(folder)["state"] == "failed"
    assert status(folder)["reason"].startswith("no progress between two requeues")


def test_edits_and_a_killed_driver_while_jobs_wait(cluster: Cluster, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for name in ("algd", "analysis", "launchers", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", copy)
    submitted = (copy / "algd" / "run" / "trainer.py").read_bytes()
    driver = subprocess.Popen([sys.executable, "run.py", "-m", *SLURM, *SHORT, "seed=0",
                               "+hydra.launcher.sbatch.hold=true"], cwd=copy, stderr=subprocess.DEVNULL)
    until(lambda: bool(jobs_of(copy / "runs")), "the submission")
    driver.kill()
    driver.wait()
    for package in ("algd", "launchers"):
        for file in (copy / package).rglob("*.py"):
            file.write_text("raise RuntimeError('edited')\n")
    (copy / "conf" / "guidance" / "augmented.yaml").write_text("rho: broken\n")
    (job,) = jobs_of(copy / "runs")
    cluster.ask("scontrol", "release", job)
    assert until_over(cluster, job) == {f"{job}_0": "COMPLETED"}
    (folder,) = runs_in(copy / "runs")
    assert status(folder)["state"] == "finished"
    sweep = json.loads((copy / "runs" / "sweeps" / "s.json").read_text())
    assert (copy / "runs" / "sweeps" / sweep["code"] / "algd" / "run" / "trainer.py").read_bytes() == submitted


WRONG = {
    "hydra.launcher.partition=nowhere": "invalid partition specified: nowhere",
    "hydra.launcher.gpus=9": "Requested node configuration is not available",
    "hydra.launcher.signal_seconds=600": "a task has only time=10 minutes",
    "hydra.launcher.time=0": "hydra.launcher.time=0: it should be greater than 0",
}


@pytest.mark.parametrize("argument", WRONG)
def test_one_sentence(argument: str, cluster: Cluster, tmp_path: Path) -> None:
    errors = run("-m", *SLURM, *SHORT, "seed=0,1", argument, f"runs_dir={tmp_path}", code=2)
    assert errors.startswith("error: ") and errors.count("\n") == 1 and WRONG[argument] in errors
    assert runs_in(tmp_path) == []


def test_more_runs_than_an_array_takes(cluster: Cluster, tmp_path: Path) -> None:
    """One sbatch per array; with max_running=1 arrays run one after another; all are shown, cancelled and retried."""
    count = MAX_ARRAY + 2
    said = submit(*SHORT, f"seed=range({count})", f"runs_dir={tmp_path}", "hydra.launcher.max_running=1",
                  "+hydra.launcher.sbatch.hold=true")
    first, second = jobs_of(tmp_path)
    assert f"submitted array {first}: {MAX_ARRAY} tasks" in said and f"submitted array {second}: 2 tasks" in said
    assert f"afterany:{first}" in cluster.ask("squeue", "-h", "-o", "%E", "-j", second)
    assert f"{count} runs: {count} queued" in launchers("status", tmp_path)
    launchers("cancel", tmp_path / "sweeps" / "s.json")
    assert f"{count} runs: {count} cancelled" in launchers("status", tmp_path)
