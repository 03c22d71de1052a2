"""A user's configurations beside the project's, with Hydra's --config-dir."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from algd.cli import main as cli
from tests.support.command import CONF, TINY, compose, start, status

QUICK = """# @package _global_
defaults:
  - override /env: line
  - override /hydra/launcher: slurm
total_steps: 400
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command in a folder with configurations in `mine`: code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for group in ("env", "experiment"):
        (tmp_path / "mine" / group).mkdir(parents=True)
    line = (CONF / "env" / "toy.yaml").read_text().replace("name: toy", "name: line")
    (tmp_path / "mine" / "env" / "line.yaml").write_text(line)
    (tmp_path / "mine" / "experiment" / "quick.yaml").write_text(QUICK)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            code = cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("typed", "key"), [([], "partition=day"), (["hydra/launcher=local"], "jobs=2")])
def test_an_experiment_chooses_its_launcher_unless_one_is_typed(call: Call, typed: list[str], key: str) -> None:
    """Each case sets a key that only the expected launcher has."""
    code, output, errors = call("-m", "--config-dir", "mine", "experiment=quick", "seed=0", *typed,
                                f"hydra.launcher.{key}", "hydra.launcher.dry_run=true")
    assert code == 0, errors
    assert "1 run: 1 to start" in output and "/line/" in output


def test_a_launcher_without_a_sweep_is_told(call: Call, tmp_path: Path) -> None:
    """A run whose experiment names SLURM is refused without -m, since it would train on the local machine."""
    code, output, errors = call("--config-dir", "mine", "experiment=quick")
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "hydra/launcher=slurm, which experiment=quick" in errors and "needs -m" in errors
    assert not (tmp_path / "runs").exists()


def test_known_keys_are_those_with_the_users_folder(call: Call) -> None:
    code, _, errors = call("--config-dir", "mine", "env=line", "total_stepz=3")
    assert code == 2 and errors.count("\n") == 1
    assert "total_stepz is not a key of the configuration; did you mean total_steps" in errors


@pytest.mark.parametrize("arguments", [("env=toy", "--config-dir", "mine", "experiment=quick", "--cfg", "job"),
                                       ("experiment=quick", "--cfg=job", "--config-dir=mine"),
                                       ("experiment=quick", "-c", "job", "-cd", "mine"),
                                       ("--cfg", "job", "hydra.searchpath=[file://mine]", "experiment=quick")])
def test_flags_stand_anywhere(call: Call, arguments: tuple[str, ...]) -> None:
    code, output, errors = call(*arguments)
    assert code == 0, errors
    assert "total_steps: 400" in output


def test_names_of_both_folders_are_offered(call: Call) -> None:
    assert "experiment is one of algd_ddpm" in (said := call("--config-dir", "mine", "experiment=quikc")[2])
    assert ", quick, " in said


def test_a_file_that_asks_for_one_that_is_not_there(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment" / "lost.yaml").write_text(QUICK.replace("line", "nowhere"))
    code, _, errors = call("--config-dir", "mine", "experiment=lost")
    assert code == 2 and errors.count("\n") == 1
    assert "env=nowhere is unknown" in errors and ", line, " in errors


def test_info_with_an_override_behind_it() -> None:
    """In a process of its own, since Hydra's --info changes the logging of its process permanently."""
    process = start("--info", "env=toy")
    output, errors = process.communicate()
    assert process.returncode == 0 and "Installed Hydra Plugins" in output, errors


def test_a_plugin_that_is_installed_is_not_called_unknown(call: Call) -> None:
    ConfigStore.instance().store(group="hydra/launcher", name="joblib", node={"_target_": "x.Y"})
    code, _, errors = call("-m", "env=toy", "hydra/launcher=joblib")
    assert code == 2 and "hydra/launcher=joblib is there, but not used here" in errors


def test_hydras_own_launcher_runs_members_in_this_process(call: Call, tmp_path: Path) -> None:
    code, _, errors = call("-m", *TINY, "env=toy", "initial_steps=20", "total_steps=20", "eval.episodes=1", "seed=0,1",
                           "hydra/launcher=basic", "hydra/sweeper=basic")
    assert code == 0, errors
    assert [status(path.parent)["state"] for path in tmp_path.glob("runs/*/*/*/config.yaml")] == ["finished"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "runs"]


def test_a_tilde_in_quotes_is_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose("env=toy", "runs_dir=~/here", "mode=eval", "run='~/there'")
    assert (config["runs_dir"], config["run"]) == (f"{tmp_path}/here", f"{tmp_path}/there")
