"""python -m launchers, W&B for whole sweeps, and the parts of sweeps that need no processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from algd.errors import UsageError
from algd.storage.lock import Lock
from algd.storage.provenance import code_version, process_record
from algd.storage.run_folder import RunFolder, run_path
from launchers import commands
from launchers.processes import death
from launchers.settings import SlurmSettings, checked
from launchers.slurm.queue import Task, elements, listed_of, read_accounting, read_queue
from launchers.slurm.status import end_of, joined, submitted_tasks
from launchers.slurm.submission import chunks, lanes_of, sbatch_reason
from launchers.snapshot import code_files, take_snapshot
from launchers.states import RunState, is_held, read_state
from launchers.sweeps import Sweep, load_sweep, named_runs
from tests.support.command import ROOT, TINY, compose, run, start, status
from tests.support.wandb_server import WandbServer

SMALL = [*TINY, "env=toy", "initial_steps=20", "total_steps=40", "eval.every=40", "eval.episodes=1", "log_every=20",
         "threads=1"]
ENDLESS = [*SMALL, "total_steps=100000", "eval.every=100000", "checkpoint.every=100000"]


def launchers(*arguments: str | Path, code: int = 0) -> str:
    """Run python -m launchers with these arguments and return its output, with standard error."""
    done = subprocess.run([sys.executable, "-m", "launchers", *arguments], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == code, done.stdout
    return done.stdout


def make_run(folder: Path, **what: object) -> Path:
    """Write a run's folder with a status."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "lock").touch()
    if what:
        (folder / "status.json").write_text(json.dumps(what))
    return folder


def test_cancel_retry_and_logs(tmp_path: Path) -> None:
    """cancel stops launchers and run with a checkpoint; retry continues with the sweep's own settings."""
    earlier = subprocess.Popen(["sleep", "600"])  # as if the same command had been typed before, and still ran
    Sweep(tmp_path / "sweeps" / "s.json", [], [], drivers=[process_record(earlier.pid), {"pid": earlier.pid}]).save()
    sweep = start("-m", *ENDLESS, "seed=0,1", f"runs_dir={tmp_path}", "hydra.launcher.jobs=1", "hydra.launcher.name=s")
    try:
        while not list(tmp_path.glob("*/*/*/metrics.csv")):
            assert sweep.poll() is None
            time.sleep(0.05)
        (folder,) = [path.parent for path in tmp_path.glob("*/*/*/config.yaml")]
        following = subprocess.Popen([sys.executable, "-m", "launchers", "logs", folder, "-f"], cwd=ROOT, text=True,
                                     stdout=subprocess.PIPE)
        while "running" not in (shown := launchers("status", tmp_path / "sweeps" / "s.json")):
            assert sweep.poll() is None
        assert "1 new, 1 running" in shown
        assert launchers("cancel", tmp_path).count("asked the launcher of s to stop") == 2
        assert earlier.wait(60) == -signal.SIGTERM
        _, errors = sweep.communicate()
    finally:
        sweep.kill()
        earlier.kill()
    assert sweep.returncode == 128 + signal.SIGTERM, errors
    assert status(folder)["state"] == "interrupted" and (folder / "checkpoints" / "000002").is_dir()
    heard, _ = following.communicate()
    assert "stopped by SIGTERM at a checkpoint" in heard
    config = (folder / "config.yaml").read_text()
    reached = max(status(folder)["step"], 1)
    (folder / "config.yaml").write_text(config.replace("total_steps: 100000", f"total_steps: {reached}"))
    said = launchers("retry", tmp_path, "--on-end", f"cat > {tmp_path / 'told'}")
    assert "1 run, 0 already finished, 1 at once" in said and status(folder)["state"] == "finished"
    assert (tmp_path / "told").read_text() == "s-retry: 1 run: 1 finished\n"
    assert "nothing failed or was stopped" in launchers("retry", folder)


def test_the_state_of_an_older_folder_that_was_just_starting(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "seed=0-1", state="starting")
    assert read_state(folder).state == "lost"
    lock = Lock(folder / "lock")
    assert read_state(folder).state == "running"
    lock.release()


def test_a_sweep_file_that_cannot_be_read_hides_no_run(tmp_path: Path) -> None:
    make_run(tmp_path / "toy" / "a-b" / "seed=0-1", state="interrupted")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "torn.json").write_text('{"runs": [')
    (tmp_path / "sweeps" / "gone.json").symlink_to(tmp_path / "nowhere")
    shown = launchers("status", tmp_path)
    assert "1 interrupted" in shown and f"warning: left out: {tmp_path}/sweeps/torn.json is not a sweep's" in shown


def test_the_sweep_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share group and tags, and `sync` uploads offline runs once, however often they were started."""
    for name, value in {"WANDB_API_KEY": "0" * 40, "WANDB_CONFIG_DIR": str(tmp_path / "settings"),
                        "WANDB_CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    arguments = ["-m", *SMALL, "logger=wandb", "seed=0,1", f"runs_dir={tmp_path / 'runs'}", "experiment=algd_vesde",
                 "env=toy", "hydra.launcher.jobs=2"]
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        run(*arguments, "logger.mode=online", f"runs_dir={tmp_path / 'online'}")
        assert len(server.runs) == 2
        for stored in server.runs.values():
            assert stored.attributes["groupName"] == "algd_vesde"
            assert {"algd_vesde", "toy", "vesde", "augmented"} <= set(stored.attributes["tags"])
            assert [step for step, _ in stored.rows("train/lam")] == [20, 40]
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for total_steps in (40, 80):
            run(*arguments, "seed=0", f"total_steps={total_steps}")
        assert server.runs == {}
        assert launchers("sync", tmp_path / "runs").count("uploaded: ") == 1
        (stored,) = server.runs.values()
        assert stored.attributes["groupName"] == "algd_vesde"
        assert [step for step, _ in stored.rows("train/lam")] == [20, 40, 60, 80]
        assert launchers("sync", tmp_path / "runs") == ""


def test_states_of_folders(tmp_path: Path) -> None:
    """A run that says running but holds no lock was killed."""
    new = make_run(tmp_path / "toy" / "a-b" / "seed=0-1")
    dead = make_run(tmp_path / "toy" / "a-b" / "seed=1-1", state="running", step=50, total_steps=100, seconds=5.0)
    done = make_run(tmp_path / "toy" / "a-b" / "seed=2-1", state="finished", step=100, total_steps=100, seconds=20.0)
    assert [read_state(folder).state for folder in (new, dead, done)] == ["new", "lost", "finished"]
    lock = Lock(dead / "lock")
    assert is_held(dead) and read_state(dead).state == "running"
    lock.release()
    assert not is_held(dead) and read_state(tmp_path / "nowhere").state == "new"
    shown = json.loads(launchers("status", "--json", tmp_path))
    assert [(Path(line["run"]), line["state"], line["step"]) for line in shown] == [
        (new, "new", 0), (dead, "lost", 50), (done, "finished", 100)]
    assert "there are no runs" in launchers("status", tmp_path / "toy" / "nothing", code=2)


def test_watching_ends_with_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a search has pruned a run, which nothing continues by itself."""
    for state in ("finished", "pruned", "failed"):
        make_run(tmp_path / "toy" / "vesde-augmented" / state, state=state)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    assert commands.status([tmp_path], watch=True, as_json=False) == 0
    assert capsys.readouterr().out.endswith("\n3 runs: 1 failed, 1 finished, 1 pruned\n")
    commands.status([tmp_path / "toy" / "vesde-augmented" / "failed"], watch=False, as_json=False)
    assert capsys.readouterr().out.endswith("\n1 run: 1 failed\n")


def test_following_a_log_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    """Also what is written while its last lines are printed."""
    log = make_run(tmp_path / "toy" / "vesde-augmented" / "seed=0", state="finished") / "log.txt"
    log.write_text("one\ntwo\n")

    def printed(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        with log.open("a") as file:
            file.write("three\n")

    monkeypatch.setattr(commands, "print", printed, raising=False)
    assert commands.logs(log.parent, follow=True, lines=1) == 0
    assert capsys.readouterr().out == "two\nthree\n"


@pytest.mark.parametrize(("before", "first"), [({}, "first\n"), (
    {"state": "interrupted"}, "the same command resumes from there\n--- 2026-01-01 01:02:03 node7 process 12\n")])
def test_following_a_log_waits_for_the_run_to_begin(before: dict[str, str], first: str, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """Its process imports for seconds before it holds the run's lock, also if it resumes the run."""
    folder = make_run(tmp_path / "toy" / "vesde-augmented" / "seed=0", **before)
    (folder / "log.txt").write_text(first)

    def trains() -> None:
        time.sleep(1)
        lock = Lock(folder / "lock")
        time.sleep(1)
        with (folder / "log.txt").open("a") as file:
            file.write("second\n")
        lock.release()

    with ThreadPoolExecutor() as pool:
        pool.submit(trains)
        assert commands.logs(folder, follow=True, lines=5) == 0
    assert capsys.readouterr().out == f"{first}second\n"


def test_cancelling_one_run_leaves_its_sweep_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sweep's other runs have no folders yet, since a local launcher makes them when they start."""
    folder = make_run(tmp_path / "toy" / "a-b" / "seed=0-1", state="interrupted")
    launcher = subprocess.Popen(["sleep", "600"])
    try:
        Sweep(tmp_path / "sweeps" / "s.json", ["toy/a-b/seed=0-1", "toy/a-b/seed=1-1"], [["seed=0"], ["seed=1"]],
              launcher={"kind": "local"}, drivers=[process_record(launcher.pid)]).save()
        assert commands.cancel([folder]) == 0
        assert "nothing runs or waits" in capsys.readouterr().err and launcher.poll() is None
        assert commands.cancel([tmp_path]) == 0
        assert "asked the launcher of s to stop" in capsys.readouterr().err
        assert launcher.wait(60) == -signal.SIGTERM
    finally:
        launcher.kill()


def test_what_runs_elsewhere_is_not_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "toy" / "a-b" / "seed=0-1", state="running")
    lock = Lock(folder / "lock")
    try:
        assert commands.cancel([tmp_path]) == 1
        assert "is only just starting; the same command again stops it" in (said := capsys.readouterr().err)
        RunFolder(folder).write_meta({"starts": [{"host": "node-7", "pid": 1}]})
        assert commands.cancel([tmp_path]) == 1
        assert "runs on node-7, and must be cancelled there" in (more := capsys.readouterr().err)
    finally:
        lock.release()
    assert "nothing runs" not in said + more


def test_the_newest_task_of_a_run(tmp_path: Path) -> None:
    """The largest job id, also if an earlier sweep's file was written again after it."""
    old = Sweep(tmp_path / "sweeps" / "a.json", ["x"], [[]], submissions=[{"job": "109", "tasks": [["x"], ["y"]]}])
    new = Sweep(tmp_path / "sweeps" / "b.json", ["x"], [[]], submissions=[{"job": "1010", "tasks": [["x"]]},
                                                                         {"job": None, "tasks": [["x"]]}])
    assert submitted_tasks([old, new]) == submitted_tasks([new, old]) == {
        tmp_path / "x": ("1010", 0), tmp_path / "y": ("109", 1)}


def test_settings_of_a_sweeps_file_run_no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the shell are run only if they are allowed, and nothing is looked up in the environment."""
    monkeypatch.setenv("HOME_API_KEY", "topsecretvalue123")

    def sweep(**settings: object) -> Sweep:
        return Sweep(tmp_path / "s.json", [], [], launcher={"kind": "slurm", **settings})

    for given in ({"setup": ["touch x"]}, {"per": "env", "tasks": {"toy": {"setup": ["touch x"]}}}):
        with pytest.raises(UsageError, match=r"s.json: its setup has lines .*, which --setup allows: touch x"):
            commands.stored_settings(sweep(**given), setup=False)
        assert commands.stored_settings(sweep(**given), setup=True) == {"kind": "slurm", **given}
    with pytest.raises(UsageError, match=r"account=.*nothing that is looked up"):
        commands.stored_settings(sweep(account="${oc.env:HOME_API_KEY}"), setup=True)
    with pytest.raises(UsageError, match=r"hydra.launcher.setup.0: its value is the secret of .* HOME_API_KEY"):
        checked(SlurmSettings, {"setup": ["export HOME_API_KEY=topsecretvalue123"]})


def test_retrying_two_places_at_once(tmp_path: Path) -> None:
    for place in ("a", "b"):
        config = compose(*SMALL, "agent=gaussian", f"runs_dir={tmp_path / place}")
        folder = RunFolder(run_path(config))
        folder.path.mkdir(parents=True)
        folder.write_config(config)
        folder.write_status({"state": "interrupted", "step": 0, "total_steps": 40})
    said = launchers("retry", tmp_path / "a", tmp_path / "b")
    assert said.count("1 run: 1 finished") == 2


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    log = make_run(tmp_path / "toy" / "a-b" / "seed=0-1", state="finished") / "log.txt"
    log.write_text("line\n" * 50_000)
    command = f"{sys.executable} -m launchers logs {log.parent} -n 50000 | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n", "")


def test_runs_are_named_by_folders_and_lists(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / "toy" / "a-b" / f"seed={seed}-1") for seed in (0, 1))
    make_run(tmp_path / "toy" / "a-b" / "seed=0-1.old-1")
    other = make_run(tmp_path / "with.old-code" / "a-b" / "seed=0-1")
    sweep = Sweep(tmp_path / "sweeps" / "s.json", ["toy/a-b/seed=1-1"], [["seed=1"]])
    sweep.save()
    assert load_sweep(sweep.file) == sweep
    assert named_runs([tmp_path]) == [first, second, other]
    assert named_runs([sweep.file, first]) == [second, first]
    sweep.runs.append("../../elsewhere")
    sweep.save()
    with pytest.raises(UsageError, match="lists runs outside"):
        load_sweep(sweep.file)
    sweep.runs.pop()
    sweep.launcher = {"kind": "cluster"}
    sweep.save()
    with pytest.raises(UsageError, match="neither local nor slurm"):
        load_sweep(sweep.file)


def test_snapshots_are_shared_by_content(tmp_path: Path) -> None:
    root, sweeps = tmp_path / "root", tmp_path / "sweeps"
    for name in ("algd/one.py", "launchers/two.py", "launchers/__pycache__/two.pyc", "lab/three.py", "lab/.git/config",
                 "lab/data/four.csv", "lab/runs/toy/config.yaml", "five.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    assert [str(path.relative_to(root)) for path in code_files(root / "launchers")] == ["launchers/two.py"]
    own = take_snapshot(root / "lab" / "runs" / "sweeps", [root / "lab", root / "five.py"], root)
    assert sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()) == [
        "algd/one.py", "code.json", "five.py", "lab/data/four.csv", "lab/three.py", "launchers/two.py"]
    first = take_snapshot(sweeps, root=root)
    assert take_snapshot(sweeps, root=root) == first
    assert (first / "algd" / "one.py").read_text() == "algd/one.py"
    assert json.loads((first / "code.json").read_text()) == code_version()
    (root / "algd" / "one.py").write_text("edited")
    assert take_snapshot(sweeps, root=root) != first
    assert (first / "algd" / "one.py").read_text() == "algd/one.py"


def test_a_snapshot_says_what_it_was_copied_from(tmp_path: Path) -> None:
    code = take_snapshot(tmp_path)
    (code / "code.json").write_text(json.dumps({"commit": "abc", "diff": None}))
    ask = "from algd.storage.provenance import code_version; print(code_version())"
    told = subprocess.run([sys.executable, "-P", "-c", ask], env=os.environ | {"PYTHONPATH": str(code)}, cwd=ROOT,
                          capture_output=True, text=True)
    assert told.stdout == "{'commit': 'abc', 'diff': None}\n", told.stderr


def test_what_slurm_prints() -> None:
    assert elements("12_3") == [("12", 3)]
    assert elements("12_[1-3,7%2]") == [("12", 1), ("12", 2), ("12", 3), ("12", 7)]
    assert elements("12_1.batch") == []
    assert listed_of([("12", 0), ("12", 1), ("9", 0)], read_queue("12_0|RUNNING|None\n12|CANCELLED|None")) == {
        ("12", 0): Task("RUNNING"), ("12", 1): Task("CANCELLED")}
    assert read_queue("12_0|RUNNING|None\n12_[1-2%1]|PENDING|JobArrayTaskLimit\n") == {
        ("12", 0): Task("RUNNING"), ("12", 1): Task("PENDING", "JobArrayTaskLimit"),
        ("12", 2): Task("PENDING", "JobArrayTaskLimit")}
    assert read_accounting("12_0|CANCELLED by 0|0:15\n12_1|COMPLETED|0:0\n12_1.batch|COMPLETED|0:0\n"
                           "12_[0-1%1]|CANCELLED|0:0\n") == {
        ("12", 0): Task("CANCELLED", exit_code="0:15"), ("12", 1): Task("COMPLETED", exit_code="0:0")}
    assert read_accounting("12_0|FAILED|69:0|n2\n12_1|CANCELLED by 0|0:0|None assigned\n") == {
        ("12", 0): Task("FAILED", node="n2", exit_code="69:0"), ("12", 1): Task("CANCELLED", exit_code="0:0")}
    said = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: y"
    assert sbatch_reason(said) == "invalid partition specified: x; Batch job submission failed: y"


@pytest.mark.parametrize(("folder", "task", "expected"), [
    ("running", None, "running"), ("new", "PENDING", "queued"), ("interrupted", "PENDING", "queued"),
    ("running", "RUNNING", "running"), ("interrupted", "UNKNOWN", "interrupted"),
    ("new", "UNKNOWN", "queued"), ("new", "OVER", "lost"), ("interrupted", "OVER", "interrupted"),
    ("new", "GONE", "new"), ("finished", "RUNNING", "finished"), ("finished", "CANCELLED", "finished"),
    ("failed", "FAILED", "failed"), ("new", "CANCELLED", "cancelled"), ("interrupted", "CANCELLED", "cancelled"),
    ("lost", "OUT_OF_MEMORY", "lost"), ("new", "NODE_FAIL", "lost"), ("interrupted", "TIMEOUT", "interrupted")])
def test_folder_and_slurm_together(folder: str, task: str | None, expected: str) -> None:
    assert joined(RunState(folder), Task(task) if task else None)[0] == expected


@pytest.mark.parametrize(("task", "expected"), [
    (Task("FAILED", node="n2", exit_code="127:0"), "FAILED on n2, exit code 127"),
    (Task("FAILED", node="n2", exit_code="69:0"), "FAILED on n2, its node cannot run it"),
    (Task("FAILED", node="n2", exit_code="0:53"), "FAILED on n2, its node could not write the task's output"),
    (Task("OUT_OF_MEMORY", node="n1", exit_code="0:125"), "OUT_OF_MEMORY on n1, signal 125"),
    (Task("NODE_FAIL", node="n1", exit_code="0:0"), "NODE_FAIL on n1"), (Task("TIMEOUT"), "TIMEOUT")])
def test_how_a_task_ended(task: Task, expected: str) -> None:
    assert end_of(task) == expected


def test_many_arrays_keep_the_limit_together() -> None:
    assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert lanes_of(3, None) == (3, None)
    for arrays in range(1, 8):
        for most in range(1, 8):
            lanes, share = lanes_of(arrays, most)
            assert share is not None and 1 <= lanes * share <= most and lanes <= arrays


def test_deaths() -> None:
    assert death(-signal.SIGKILL).startswith("its process was ended by SIGKILL (the kernel")
    assert death(3) == "its process ended with exit code 3"


def test_retry_checks_every_sweep_before_it_runs_one(tmp_path: Path) -> None:
    """The setup of the second is refused before the first one runs; a signal that stops the first is meant for both."""
    sweeps, folders = {}, {}
    for seed, name in enumerate("ab"):
        config = compose(*ENDLESS, f"seed={seed}", f"runs_dir={tmp_path}")
        folders[name] = run_path(config)
        make_run(folders[name], state="interrupted", step=1)
        RunFolder(folders[name]).write_config(config)
        sweeps[name] = Sweep(tmp_path / "sweeps" / f"{name}.json", [str(folders[name].relative_to(tmp_path))], [[]],
                             launcher={"kind": "local"})
        sweeps[name].save()
    replace(sweeps["b"], launcher={"kind": "slurm", **checked(SlurmSettings, {"setup": ["touch x"]}).kept()}).save()
    assert "its setup has lines of the shell" in launchers("retry", tmp_path, code=2)
    assert {status(folder)["state"] for folder in folders.values()} == {"interrupted"}
    sweeps["b"].save()
    retry = subprocess.Popen([sys.executable, "-m", "launchers", "retry", tmp_path], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while not (folders["a"] / "metrics.csv").exists():
            assert retry.poll() is None
            time.sleep(0.05)
        retry.send_signal(signal.SIGINT)
        _, errors = retry.communicate()
    finally:
        retry.kill()
    assert retry.returncode == 128 + signal.SIGINT and "a-retry: 1 run: 1 interrupted" in errors, errors
    assert not (folders["b"] / "log.txt").exists() and "b-retry" not in errors


def test_no_other_code_takes_the_place_of_a_snapshot(tmp_path: Path) -> None:
    """The worker of an installation refuses to train in place of a snapshot that is gone."""
    config = compose(*SMALL, f"runs_dir={tmp_path}")
    folder = run_path(config)
    folder.mkdir(parents=True)
    RunFolder(folder).write_config(config)
    done = subprocess.run([sys.executable, "-P", "-m", "launchers.worker", folder, f"--code={tmp_path / 'gone'}"],
                          cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and status(folder)["state"] == "failed"
    assert f"the sweep's copy of the code, {tmp_path / 'gone'}, is gone or incomplete" in status(folder)["reason"]
    assert not (folder / "metrics.csv").exists()


def test_places_where_no_runs_are(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"no-place-{os.getpid()}"
    make_run(folder, state="finished")
    try:
        assert "is not where a run's folder is" in launchers("status", folder, code=2)
    finally:
        shutil.rmtree(folder)
    assert "does not exist" in launchers("logs", "x" * 300, code=2)


def test_a_folder_that_leads_out_of_runs_dir_is_refused(tmp_path: Path) -> None:
    """Before the first run: the sweep's file could not be read afterwards."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "toy").symlink_to(tmp_path / "elsewhere")
    said = run("-m", *SMALL, "seed=0", f"runs_dir={tmp_path / 'runs'}", code=2)
    assert "leads out of runs_dir" in said and not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    run("-m", *SMALL, "seed=0", f"runs_dir={tmp_path / 'link'}")
    run("-m", *SMALL, "seed=0", f"runs_dir={tmp_path / 'link'}")
