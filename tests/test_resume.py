"""A run that is killed or stopped and started again ends with the same bytes as one that was left alone."""

import contextlib
import signal
import time
from pathlib import Path

import pytest

from tests.command import TINY, only_run, outcome, run, start, status, train_here

TASKS = {
    # Small enough for seconds; checkpoints rare enough that a kill always loses steps; evaluations in between.
    "toy": ["env=toy", "initial_steps=60", "total_steps=600", "checkpoint.every=150", "eval.every=130",
            "eval.episodes=2", "log_every=50"],
    "point_button1": ["env=point_button1", "initial_steps=60", "total_steps=500", "checkpoint.every=130",
                      "eval.every=250", "eval.episodes=1", "log_every=50"],
    "hopper_velocity": ["env=hopper_velocity", "initial_steps=60", "total_steps=500", "checkpoint.every=120",
                        "eval.every=250", "eval.episodes=1", "log_every=50"],
}


def rows(folder: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        return (folder / name).read_bytes().count(b"\n")
    return 0


def wait_until(condition, process) -> None:
    """Until the condition holds or the process ends by itself."""
    while not condition() and process.poll() is None:
        time.sleep(0.005)


def folder_of(runs: Path) -> Path:
    found = [path.parent for path in runs.rglob("status.json")]
    return found[0] if found else runs


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("agent", ["vesde"])
def test_sigkill_changes_nothing(task: str, agent: str, tmp_path: Path) -> None:
    arguments = [*TINY, *TASKS[task], f"agent={agent}", "seed=3"]
    twin = start(*arguments, f"runs_dir={tmp_path / 'twin'}")
    killed, runs = 0, tmp_path / "killed"
    # Killed after so many rows of the metrics: in the first stretch, and later between two checkpoints.
    for rows_before_kill in (3, 8):
        process = start(*arguments, f"runs_dir={runs}")
        wait_until(lambda n=rows_before_kill: rows(folder_of(runs), "metrics.csv") >= n, process)
        process.kill()
        _, errors = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode == -signal.SIGKILL, errors
    assert killed == 2
    errors = run(*arguments, f"runs_dir={runs}")
    assert "going on from step" in errors
    assert twin.wait() == 0, twin.communicate()
    twin.communicate()
    expected, found = outcome(only_run(tmp_path / "twin")), outcome(only_run(runs))
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


@pytest.mark.parametrize("agent", ["ddpm", "gaussian"])
def test_stop_and_go_on(agent: str, tmp_path: Path) -> None:
    """SIGTERM: a checkpoint at once, exit code 143, and the same end; also in the middle of an evaluation."""
    arguments = [*TINY, *TASKS["toy"], f"agent={agent}", "guidance=pid", "normalise.observation=true",
                 "normalise.reward=true", "eval.episodes=10", "total_steps=400"]
    twin = start(*arguments, f"runs_dir={tmp_path / 'twin'}")
    runs = tmp_path / "stopped"
    for evaluations in (5, 30):  # in the middle of the first evaluation, and of the second
        process = start(*arguments, f"runs_dir={runs}")
        wait_until(lambda n=evaluations: rows(folder_of(runs), "evals.csv") >= n, process)
        process.terminate()
        _, errors = process.communicate()
        assert process.returncode == 143, errors
        assert "the same command goes on from there" in errors
        assert status(only_run(runs))["state"] == "interrupted"
    run(*arguments, f"runs_dir={runs}")
    assert twin.wait() == 0, twin.communicate()
    twin.communicate()
    assert outcome(only_run(tmp_path / "twin")) == outcome(only_run(runs))


def test_checkpoint_on_request(tmp_path: Path) -> None:
    """SIGUSR1 between two steps: a checkpoint, and the run goes on to the same end."""
    arguments = [*TINY, *TASKS["toy"], "checkpoint.every=100000"]
    process = start(*arguments, f"runs_dir={tmp_path / 'asked'}")
    twin = start(*arguments, f"runs_dir={tmp_path / 'twin'}")
    wait_until(lambda: rows(folder_of(tmp_path / "asked"), "metrics.csv") >= 4, process)
    folder = only_run(tmp_path / "asked")
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: (folder / "checkpoints" / "000002").exists(), process)
    assert (folder / "checkpoints" / "000002" / "manifest.json").exists()
    assert process.wait() == 0 and twin.wait() == 0
    process.communicate(), twin.communicate()
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))


def test_finished_skipped_and_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path / 'runs'}", "checkpoint.keep_replay=true", "total_steps=260"]
    train_here(*short)
    folder = only_run(tmp_path / "runs")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    train_here(*short)
    assert "already finished at step 260" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    train_here(*short, "total_steps=400")
    assert "extending it to 400" in capsys.readouterr().err
    train_here(*short, f"runs_dir={tmp_path / 'twin'}", "total_steps=400")
    found, expected = outcome(folder), outcome(only_run(tmp_path / "twin"))
    for name in ("episodes.csv", "state.safetensors", "metrics.csv", "evals.csv"):
        assert found[name] == expected[name], name
    train_here(*short, "fresh=true", "total_steps=100")
    assert status(folder.with_name(folder.name + ".old-1"))["step"] == 400
    assert status(folder)["step"] == 100


def test_extended_without_its_replay_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path}"]
    train_here(*arguments, "total_steps=100")
    assert not list((only_run(tmp_path) / "checkpoints" / "replay").iterdir())
    train_here(*arguments, "total_steps=200")
    assert "its replay dropped" in capsys.readouterr().err
    assert status(only_run(tmp_path))["step"] == 200


def test_seeds(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        train_here(*TINY, *TASKS["toy"], "total_steps=150", f"seed={seed}", f"runs_dir={tmp_path / name}")
    first, again, other = (outcome(only_run(tmp_path / name)) for name in ("first", "again", "other"))
    assert first == again
    assert all(first[name] != other[name] for name in ("episodes.csv", "evals.csv", "state.safetensors"))


def test_one_run_is_trained_once_at_a_time(tmp_path: Path) -> None:
    arguments = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path}", "total_steps=100000"]
    process = start(*arguments)
    wait_until(lambda: rows(folder_of(tmp_path), "metrics.csv") >= 1, process)
    assert "is being trained by another process" in run(*arguments, code=2)
    process.kill()
    process.communicate()
