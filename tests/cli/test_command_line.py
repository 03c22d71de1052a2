"""The command line as users type it: one-sentence errors with exit code 2, before any file is written."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from algd.cli.compose import quoted_path
from algd.run.reevaluation import reevaluate
from algd.storage.checkpoint_state import TABLES
from tests.support.command import ROOT, TINY, compose, only_run, run, status, train_here

WRONG = {
    "agent=vedse": "agent=vedse is unknown: agent is one of cvpo, ddpm, gaussian, vesde",
    "env=nowhere": "env=nowhere is unknown: env is one of ant_velocity, car_button1,",
    "hydra/launcher=clowd": "hydra/launcher=clowd is unknown: hydra/launcher is one of",
    "total_stepz=100": "total_stepz is not a key of the configuration; did you mean total_steps",
    "guidance.rh=2": "guidance.rh is not a key of the configuration; did you mean guidance.rho",
    "guidance=plain,augmented": "guidance=plain,augmented: several values are a sweep, which needs -m",
    "agent.policy.process.steps=0": "agent.policy.process.steps=0: it should be greater than 0",
    "seed=[": "seed=[ cannot be read: a value with more in it than letters",
    "device=cuda:7": "device=cuda:7: torch finds",
    "env=gymnasium": "env.id",
    "mode=eval": "mode=eval: name the run's folder",
}


@pytest.mark.parametrize("argument", WRONG)
def test_one_sentence_and_nothing_made(argument: str, tmp_path: Path) -> None:
    errors = run(argument, f"runs_dir={tmp_path / 'runs'}", code=2)
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert WRONG[argument] in errors
    assert not (tmp_path / "runs").exists()


def test_an_environment_without_a_cost(tmp_path: Path) -> None:
    errors = run("env=gymnasium", "env.id=Pendulum-v1", f"runs_dir={tmp_path / 'runs'}", code=2)
    assert "reports no cost" in errors and errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_runs_dir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    errors = run(*TINY, "env=toy", f"runs_dir={tmp_path / 'file'}", code=2)
    assert "cannot be made" in errors and errors.count("\n") == 1


def test_a_folder_of_a_different_configuration(tmp_path: Path) -> None:
    arguments = [*TINY, "env=toy", "initial_steps=20", "total_steps=30", "eval.episodes=1", f"runs_dir={tmp_path}"]
    train_here(*arguments)
    config = only_run(tmp_path) / "config.yaml"
    config.write_text(config.read_text().replace("rho: 1.0", "rho: 2.0"))
    assert "was made by a different configuration" in run(*arguments, code=2)


def test_a_failing_run_is_marked_failed_and_tried_again(tmp_path: Path) -> None:
    """With a very low temperature the score target overflows; the run is marked failed, and is tried again."""
    arguments = [*TINY, "env=toy", "initial_steps=20", "total_steps=300", "eval.episodes=1", "log_every=50",
                 "agent.policy.beta=1e-38",
                 f"runs_dir={tmp_path}"]
    errors = run(*arguments, code=1)
    assert "Traceback" not in errors
    found = status(only_run(tmp_path))
    assert found["state"] == "failed" and "score_loss is inf in update 1" in found["reason"]
    assert "this run failed before" in run(*arguments, code=1)


def test_a_dead_wandb_server_costs_a_warning(tmp_path: Path) -> None:
    arguments = [*TINY, "env=toy", "initial_steps=20", "total_steps=60", "eval.episodes=1", "logger=wandb",
                 "logger.mode=online", "logger.start_seconds=5", "logger.finish_seconds=10", f"runs_dir={tmp_path}"]
    errors = run(*arguments, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    assert "warning: W&B" in errors
    folder = only_run(tmp_path)
    assert status(folder)["state"] == "finished"
    assert len((folder / "evals.csv").read_text().splitlines()) == 1 + 2 * 2


def test_paths_need_no_quotes() -> None:
    assert quoted_path("run=runs/toy/vesde-plain/seed=3-1a2b3c4d") == "run='runs/toy/vesde-plain/seed=3-1a2b3c4d'"
    assert quoted_path("runs_dir=it's here") == r"runs_dir='it\'s here'"
    for untouched in ("seed=3", "run='x'", "run=", "-m", "agent.name=a=b"):
        assert quoted_path(untouched) == untouched


@pytest.mark.parametrize("name", ["seed=0-1a2b3c4d", "seed=0-1a2b3c4d/snapshots", "run"])
def test_a_path_without_its_key(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir(parents=True)
    errors = run("mode=eval", str(path), code=2)
    assert f"error: {path} cannot be read: KEY=VALUE is needed; mode=eval run={path} evaluates a run\n" == errors


def test_evaluate_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mode=eval evaluates the end of a run or a snapshot on new episodes, whose rows have their source and are kept."""
    arguments = [*TINY, "env=toy", "initial_steps=30", "total_steps=100", "eval.episodes=1",
                 f"runs_dir={tmp_path / 'odd = name'}"]
    train_here(*arguments)
    folder = only_run(tmp_path / "odd = name")
    before = (folder / "evals.csv").read_text()
    run("mode=eval", f"run={folder}", "eval.episodes=3")
    train = [line.split(",") for line in before.splitlines()[1:]]
    (snapshot,) = (folder / "snapshots").glob("*=000000050.*")
    run("mode=eval", f"run={snapshot}", "eval.episodes=2")
    after = (folder / "evals.csv").read_text()
    assert after.startswith(before)
    rows = [line.split(",") for line in after.removeprefix(before).splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("100", "eval-1")] * 6 + [("50", "eval-2")] * 4
    seeds = {row[4] for row in rows}
    assert len(seeds) == 5 and not seeds & {row[4] for row in train}
    # Rows are not added to damaged ones.
    (folder / "evals.csv").write_text(after.replace("cost", "cosu"))
    assert "evals.csv is damaged" in run("mode=eval", f"run={folder}", code=2)
    (folder / "evals.csv").write_text(after)
    # Continuing the run keeps them.
    train_here(*arguments, "total_steps=120")
    kept = [line.split(",") for line in (folder / "evals.csv").read_text().splitlines()[1:]]
    assert [row for row in kept if row[2] != "train"] == rows
    assert {row[0] for row in kept if row[2] == "train"} == {"0", "100", "120"}
    # One of anything is singular.
    reevaluate(compose("mode=eval", f"run={folder}", "eval.episodes=1"))
    said = capsys.readouterr()
    assert "step 0: evaluating 1 episode with each sampler" in said.err
    assert "step 120, stochastic, 1 episode: return" in said.out
    # A folder that cannot be written ends it, and there is nothing to resume.
    (folder / "lock").unlink()
    (folder / "lock").mkdir()
    assert run("mode=eval", f"run={folder}", code=1).endswith("lock cannot be used: Is a directory\n")


def test_standard_error_that_is_closed(tmp_path: Path) -> None:
    """No file of the run gets its number, and standard output has the folder alone."""
    command = shlex.join([sys.executable, "run.py", *TINY, "env=toy", "initial_steps=20", "total_steps=30",
                          "eval.episodes=1", f"runs_dir={tmp_path / 'runs'}"])
    done = subprocess.run(f"{command} 2>&-", shell=True, cwd=ROOT, capture_output=True, text=True)
    folder = only_run(tmp_path / "runs")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")
    for table in TABLES:
        header, *rows = (folder / f"{table}.csv").read_text().splitlines()
        assert header.startswith("step,") and rows
        assert {row.count(",") for row in rows} == {header.count(",")}


def test_standard_output_without_unicode() -> None:
    done = subprocess.run([sys.executable, "-m", "analysis", "table", "tests/fixtures/runs", "--where",
                           "env.family=paper"], cwd=ROOT, capture_output=True, env=os.environ | {
                               "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"\\u2020: mean cost above the limit" in done.stdout, done.stderr


@pytest.mark.parametrize(("typed", "completions"), [
    ("algd agent=vesde guidance=pl", "guidance=plain"),
    ("algd agent=", "agent=cvpo agent=ddpm agent=gaussian agent=vesde"),
    ("algd total_s", "total_steps="), ("algd guidance.dual.lea", "guidance.dual.learning_rate=")])
def test_bash_completes_groups_choices_and_keys(typed: str, completions: str) -> None:
    """As docs/running.md says, in a real bash."""
    script = ('eval "$(algd -sc install=bash)"; COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$2; hydra_bash_completion; '
              'echo "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script, "bash", typed, str(len(typed.split()) - 1)], text=True, cwd="/",
                          env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                          capture_output=True, check=True)
    assert done.stdout.split() == completions.split(), done.stderr
