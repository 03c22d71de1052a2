"""What a SLURM task concludes from its earlier starts, and how many tasks of a sweep are in use."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from algd.storage.run_folder import RunFolder
from launchers.settings import SlurmSettings, checked
from launchers.slurm.script import options_of, script_of
from launchers.slurm.submission import in_use
from launchers.slurm.task import REQUEUES, remember_stop, settled, why_stuck
from launchers.sweeps import Sweep
from tests.support.command import compose


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set the environment of task 12_3 on node n1."""
    for name, value in {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURMD_NODENAME": "n1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_stopped_twice_before_it_was_any_further(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One requeue without progress is accepted; after two orderly stops the reason is too little time."""
    for restarts in (0, 1):
        assert why_stuck(tmp_path, restarts, 50) is None
        remember_stop(tmp_path)
    reason = why_stuck(tmp_path, 2, 50)
    assert reason is not None and reason.endswith("checkpoint at step 50; give it more time or checkpoint more often")


def test_vanished_twice_with_its_nodes(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an orderly stop the run was lost with its node, so more time is not suggested."""
    assert why_stuck(tmp_path, 0, 50) is None
    task.setenv("SLURMD_NODENAME", "n2")
    assert why_stuck(tmp_path, 1, 50) is None
    task.setenv("SLURMD_NODENAME", "n3")
    reason = why_stuck(tmp_path, 2, 50)
    assert reason is not None and "vanished on n1 and then on n2" in reason and "more time" not in reason


def test_another_job_begins_anew(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for restarts in (0, 1):
        assert why_stuck(tmp_path, restarts, 50) is None
    task.setenv("SLURM_ARRAY_JOB_ID", "13")
    assert why_stuck(tmp_path, 2, 50) is None
    assert json.loads((tmp_path / REQUEUES).read_text())["job"] == "13_3"


def test_a_finished_run_is_settled_once_it_has_its_video(task: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_status({"state": "finished", "step": 100})
    run.write_config(compose("total_steps=100", "eval.video=true"))
    assert settled(tmp_path, 0) is None
    run.videos.mkdir()
    run.video(100).touch()
    assert settled(tmp_path, 0) == "finished"


def test_what_a_sweep_has_in_use(tmp_path: Path) -> None:
    """Arrays that run at once count with their own limits; those that wait for another one do not count."""
    records = [{"job": "1", "at_once": 2}, {"job": "2", "at_once": None}, {"job": "3", "at_once": 2, "after": ["1"]},
               {"job": "4", "at_once": 5, "after": ["0"]}]
    sweep = Sweep(tmp_path / "s.json", [], [], submissions=records)
    assert in_use(sweep, {"1": 7, "3": 7, "4": 1}) == 2 + 1
    assert in_use(sweep, {"2": 6, "3": 7}) == 6 + 2
    assert in_use(sweep, {}) == 0


def test_a_task_keeps_the_users_path_behind_the_snapshot(tmp_path: Path) -> None:
    """What `setup` or the environment puts into PYTHONPATH can be imported, and never in place of the snapshot."""
    code = tmp_path / "it's the code"
    text = script_of(checked(SlurmSettings, {}), tmp_path, tmp_path / "tasks.json", code, "launchers.slurm.task", 1,
                     options_of(checked(SlurmSettings, {}), "x", "token", 1, None, []))
    (python,) = re.findall(r"^task_python=\((.*)\)$", text, re.MULTILINE)
    shown = f"task_python=({python})\n" + '"${task_python[@]}" -c "import os; print(os.environ[\'PYTHONPATH\'])"'
    for mine, expected in (("/mine", f"{code}:/mine"), ("", str(code))):
        done = subprocess.run(["bash", "-c", shown], env=os.environ | {"PYTHONPATH": mine}, text=True,
                              capture_output=True, check=True)
        assert done.stdout.strip() == expected
    (command,) = [line for line in text.splitlines() if line.startswith("srun")]
    assert python in shlex.split(command)[shlex.split(command).index("-c") + 1]
