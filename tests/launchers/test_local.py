"""Sweeps on this machine with the real command line: failures, kills and interruptions do not affect other runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from algd.storage.run_folder import RunFolder, run_path
from launchers.devices import Gpus
from launchers.estimate import Speeds
from launchers.local import Pool, Running, StopRequests, collect, show
from launchers.states import is_held, read_state
from launchers.sweeps import Member, begin_sweep
from launchers.table import Board
from tests.support.command import ROOT, TINY, compose, interrupted_at, outcome, run, start, status, train_here

SMALL = [*TINY, "env=toy", "initial_steps=40", "total_steps=300", "checkpoint.every=150", "eval.every=150",
         "eval.episodes=1", "log_every=50", "threads=1"]
SHORT = [*SMALL, "total_steps=60"]


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders of a runs_dir."""
    return sorted(path.parent for path in folder.glob("*/*/*/config.yaml"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds; fail if the process ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def has_rows(folder: Path, name: str, count: int) -> bool:
    path = folder / name
    return path.exists() and path.read_bytes().count(b"\n") >= count


def started(runs: Path, seed: int, rows: int = 3) -> Path | None:
    """Return the folder of the run with this seed, if it has at least this many rows of metrics."""
    found = [path for path in runs.glob(f"*/*/seed={seed}-*") if has_rows(path, "metrics.csv", rows)]
    return found[0] if found else None


def process_of(folder: Path) -> int:
    """Return the process id of the run's last start."""
    return json.loads((folder / "meta.json").read_text())["starts"][-1]["pid"]


def test_a_run_that_fails_and_one_that_is_killed(tmp_path: Path) -> None:
    """A failed run is reported and skipped or tried again, a killed one is resumed, and the others continue."""
    arguments = ["-m", *SMALL, "agent.policy.beta=1.0,1e-38", "seed=0,1", f"runs_dir={tmp_path / 'runs'}",
                 "hydra.launcher.jobs=2", "hydra.launcher.name=fates", "trusted=[tests.support.kills_one]",
                 "callbacks=[{_target_:tests.support.kills_one.KillsOne}]"]
    errors = run(*arguments, code=1)
    states = {folder: status(folder) for folder in runs_in(tmp_path / "runs")}
    assert sorted(found["state"] for found in states.values()) == ["failed", "failed", "failed", "finished"]
    (killed,) = [folder for folder, found in states.items() if "SIGKILL" in (found["reason"] or "")]
    assert [found["reason"] for folder, found in states.items() if folder != killed and found["state"] == "failed"
            and not found["reason"].startswith("NumericalError: ")] == []
    assert "4 runs: 3 failed, 1 finished" in errors
    assert "    | error: " in errors and "is inf in update 1 at step 1" in errors, "the tail of the log that failed"
    listed = json.loads((tmp_path / "runs" / "sweeps" / "fates.json").read_text())["runs"]
    assert sorted(tmp_path / "runs" / path for path in listed) == runs_in(tmp_path / "runs")

    errors = run(*arguments, "hydra.launcher.retry_failed=false", code=1)
    assert errors.count("left so by retry_failed=false") == 3 and "1 already finished" in errors
    assert states == {folder: status(folder) for folder in runs_in(tmp_path / "runs")}

    sweep = start(*arguments, "agent.policy.beta=1.0", "hydra.launcher.dry_run=true")
    listing, _ = sweep.communicate()
    assert sweep.returncode == 0 and "1 to retry" in listing and "1 to skip" in listing
    estimate = r"estimate, 1 at once: \d+:\d\d:\d\d, .* core-hours \(by 1 run of the same kind\)"
    assert re.search(estimate, listing), listing
    errors = run(*arguments, "agent.policy.beta=1.0")
    assert "already finished at step 300" in errors
    train_here(*SMALL, f"seed={killed.name[5]}", f"runs_dir={tmp_path / 'twin'}")
    (twin,) = runs_in(tmp_path / "twin")
    assert twin.name == killed.name and outcome(twin) == outcome(killed)


def test_a_command_at_the_end(tmp_path: Path) -> None:
    """on_end gets the summary and the sweep's name and file, and its exit code changes nothing.

    Its output is not part of the launcher's, and the sweep's file does not contain it.
    """
    told, file = tmp_path / "told", tmp_path / "runs" / "sweeps" / "s.json"
    command = f'tee {told}; echo "$ALGD_SWEEP $ALGD_SWEEP_FILE: $ALGD_SWEEP_ENDED" >> {told}; false'
    sweep = start("-m", *SHORT, "agent.policy.beta=1.0,1e-38", f"runs_dir={tmp_path / 'runs'}", "hydra.launcher.name=s",
                  f"hydra.launcher.on_end='{command}'")
    output, errors = sweep.communicate()
    assert sweep.returncode == 1 and output == f"{file}\n", (output, errors)
    first, *others, last = told.read_text().splitlines()
    assert first == "s: 2 runs: 1 failed, 1 finished" and last == f"s {file}: {first}"
    assert [line.split(":")[0] for line in others] == ["  failed", "    log"]
    assert errors.splitlines()[-1].endswith("exit code 1")
    assert "on_end" not in json.loads(file.read_text())["launcher"]


def test_out_of_memory(tmp_path: Path) -> None:
    errors = run("-m", *SHORT, "buffer_size=100000000000000,1000", f"runs_dir={tmp_path}", code=1)
    assert "2 runs: 1 failed, 1 finished" in errors and "failed: " in errors and "allocate" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stopped_and_typed_again(number: signal.Signals, tmp_path: Path) -> None:
    """SIGINT or SIGHUP writes a checkpoint, from which the same command resumes."""
    arguments = ["-m", *SMALL, "checkpoint.every=100000", "snapshots=[100]", "seed=0,1", "hydra.launcher.jobs=1"]
    # Without an end that the run could reach before the signal; neither total_steps nor snapshots are of its identity.
    sweep = start(*arguments, "total_steps=1000000", f"runs_dir={tmp_path / 'runs'}")
    wait_for(lambda: started(tmp_path / "runs", 0) is not None, sweep)
    sweep.send_signal(number)
    _, errors = sweep.communicate()
    assert sweep.returncode == 128 + number, errors
    (folder,) = runs_in(tmp_path / "runs")
    assert status(folder)["state"] == "interrupted" and (folder / "checkpoints" / "000002").is_dir()
    assert "1 interrupted, 1 new" in errors
    if number == signal.SIGHUP:
        return
    end = f"total_steps={status(folder)['step'] + 100}"
    run(*arguments, "seed=0", end, f"runs_dir={tmp_path / 'runs'}")
    assert "going on from step" in (folder / "log.txt").read_text()
    train_here(*SMALL, "checkpoint.every=100000", "snapshots=[100]", "seed=0", end, f"runs_dir={tmp_path / 'twin'}")
    (twin,) = runs_in(tmp_path / "twin")
    expected, found = outcome(twin), outcome(folder)
    assert [name for name in expected if expected[name] != found[name]] == []


def test_only_a_second_ctrl_c_kills() -> None:
    """A closed terminal may send SIGHUP twice, and `cancel` may be typed again while runs write their checkpoints."""
    with StopRequests().listening() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert stop.received == [signal.SIGHUP, signal.SIGTERM, signal.SIGINT] and not stop.at_once
        signal.raise_signal(signal.SIGINT)
        assert stop.at_once


def test_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that was started with nohup goes on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests().listening() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("at_once", "state"), [(True, "interrupted"), (False, "failed")])
def test_what_this_process_has_killed_has_not_failed(at_once: bool, state: str, tmp_path: Path) -> None:
    member = Member(tmp_path / "toy" / "vesde-augmented" / "seed=0", {"total_steps": 100, "updates_per_step": 1})
    member.folder.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "600"])
    process.kill()
    process.wait()
    pool = Pool(running={member.folder: Running(member, process, None)})
    collect(pool, Gpus([]), 5, at_once)
    assert pool.states == {member.folder: state} and (member.folder / "status.json").exists() == (not at_once)


def test_the_progress_of_a_run_that_another_process_trains(tmp_path: Path) -> None:
    member = Member(tmp_path / "toy" / "vesde-augmented" / "seed=0", {"total_steps": 100, "updates_per_step": 1})
    member.folder.mkdir(parents=True)
    pool = Pool(elsewhere=[member], found={member.folder: read_state(member.folder)})
    RunFolder(member.folder).write_status({"state": "running", "step": 50, "total_steps": 100})
    with Board("s") as board:
        show(board, [member], pool, Speeds([member]), 1)
    assert pool.found[member.folder].step == 50


def test_two_sweeps_that_share_a_run(tmp_path: Path) -> None:
    """The second sweep waits for the shared run and trains the other; killing a launcher does not kill its runs."""
    long = [*SMALL, "total_steps=600"]
    first = start("-m", *long, "seed=0", f"runs_dir={tmp_path}")
    wait_for(lambda: started(tmp_path, 0, 1) is not None, first)
    (folder,) = runs_in(tmp_path)
    # It holds its run but does not go on until the second command has found it.
    os.kill(process_of(folder), signal.SIGSTOP)
    try:
        assert is_held(folder)
        first.kill()
        first.communicate()
        second = start("-m", *long, "seed=0,1", f"runs_dir={tmp_path}", "hydra.launcher.jobs=1")
        assert second.stderr is not None
        errors = ""
        while "trained by another process right now" not in errors:
            errors += (line := second.stderr.readline())
            assert line, errors
    finally:
        os.kill(process_of(folder), signal.SIGCONT)
    errors += second.communicate()[1]
    assert second.returncode == 0, errors
    assert errors.count("trained by another process right now") == 1 and "2 runs: 2 finished" in errors
    assert [len(json.loads((folder / "meta.json").read_text())["starts"]) for folder in runs_in(tmp_path)] == [1, 1]


def test_edits_while_runs_wait(tmp_path: Path) -> None:
    """Code and YAML files that are broken while the second run waits do not affect it."""
    copy = tmp_path / "checkout"
    for name in ("algd", "analysis", "launchers", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", copy)
    sweep = subprocess.Popen([sys.executable, "run.py", "-m", *SHORT, "seed=0,1", "hydra.launcher.jobs=1"], cwd=copy,
                             text=True, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    wait_for(lambda: bool(runs_in(copy / "runs")), sweep)
    with (copy / "algd" / "run" / "trainer.py").open("a") as file:
        file.write("\nraise RuntimeError('edited')\n")
    (copy / "conf" / "guidance" / "augmented.yaml").write_text("rho: broken\n")
    _, errors = sweep.communicate()
    assert sweep.returncode == 0, errors
    assert [status(folder)["state"] for folder in runs_in(copy / "runs")] == ["finished", "finished"]


def test_fresh(tmp_path: Path) -> None:
    for wish in ("false", "true"):
        run("-m", *SHORT, "seed=0", f"fresh={wish}", f"runs_dir={tmp_path}")
    aside, folder = sorted(runs_in(tmp_path), key=lambda path: ".old-" not in path.name)
    assert aside.name == folder.name + ".old-1"
    assert outcome(aside) == outcome(folder)


def test_a_name_used_again_for_fewer_runs(tmp_path: Path) -> None:
    """The sweep's list is replaced, and the runs that it loses are counted."""
    members = [Member(run_path(config), config) for config in (
        compose(*SHORT, f"seed={seed}", f"runs_dir={tmp_path}") for seed in range(3))]
    begin_sweep(tmp_path, "final", None, members, {"kind": "local"}).save()
    again = ["-m", *SHORT, f"runs_dir={tmp_path}", "hydra.launcher.name=final", "hydra.launcher.dry_run=true"]
    assert "final had 3 runs, of which 1 is no longer in it (its folder stays)\n" in run(*again, "seed=0,1")
    assert "of which 2 are no longer in it (their folders stay)\n" in run(*again, "seed=2,3")
    assert "no longer" not in run(*again, "seed=0,1,2,3")


WRONG = {
    "agent.policy.process.steps=5,0": "in the run agent.policy.process.steps=0 seed=0: agent.policy.",
    "guidance=plain,augmentd": "guidance=augmentd is unknown: guidance is one of",
    "hydra.launcher.jobs=0": "hydra.launcher.jobs=0: it should be greater than 0",
    "hydra.launcher.jobz=2": "hydra.launcher.jobz is not a key of hydra/launcher=local; did you mean",
    "hydra.launcher.name=a/b": "hydra.launcher.name='a/b': it should",
    "mode=eval": "a sweep is over runs that train",
    "+hydra.job.env_set.MUJOCO_GL=egl": "hydra.job.env_set: MUJOCO_GL would not be set in the runs of a sweep",
}


@pytest.mark.parametrize("argument", WRONG)
def test_one_sentence_before_anything_is_started(argument: str, tmp_path: Path) -> None:
    errors = run("-m", "env=toy", argument, "seed=0,1", f"runs_dir={tmp_path / 'runs'}", code=2)
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert WRONG[argument] in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("where", "said"), [
    ("hydra", "interrupted"), ("launchers.grid", "interrupted; what was submitted"),
    ("/sweeps/", "interrupted; what was submitted")])
def test_ctrl_c_before_anything_runs(where: str, said: str, tmp_path: Path) -> None:
    """During imports, composition and the writing of files: one sentence, and no run was started."""
    sweep = start("-m", *SHORT, "seed=0,1", f"runs_dir={tmp_path / 'runs'}", **interrupted_at(where))
    _, errors = sweep.communicate()
    assert sweep.returncode == 128 + signal.SIGINT and errors.startswith(said) and errors.count("\n") == 1, errors
    assert runs_in(tmp_path / "runs") == []


def test_presets_of_seeds_and_studies(tmp_path: Path) -> None:
    """A study sweeps what it names, a preset of seeds replaces its seeds, and a dry run writes nothing."""
    listing = subprocess.run([sys.executable, ROOT / "run.py", "experiment=toy_guidance", "seeds=five",
                              "hydra.launcher.dry_run=true"], cwd=tmp_path, text=True, capture_output=True,
                             check=True).stdout
    assert listing.count("new         start ") == 10 and "10 runs: 10 to start" in listing
    assert listing.count("seed=4-") == 2 and listing.count("guidance=plain") == 5
    assert list(tmp_path.iterdir()) == []
