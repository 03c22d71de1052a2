"""Exports of runs: the tables that the analysis reads, without anything about the machine."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import algd
from algd.config.identity import identity
from algd.errors import UsageError
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main
from tests.analysis.run_folders import config, make_run
from tests.support.command import ROOT, TINY, only_run, train_here

FIRST_VERSION = ROOT / "tests" / "fixtures" / "first_version"


def test_a_copy_reads_as_its_run_and_tells_nothing_of_the_machine(tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    shutil.copytree(FIRST_VERSION, runs)
    (source,) = runs.glob("toy/vesde-augmented/seed=0-*")
    run = RunFolder(source)
    meta = run.meta()
    meta["starts"][0] |= {"host": "node-17", "command": "run.py /home/somebody/x"}
    run.write_meta(meta)
    run.write_config(run.config() | {"runs_dir": "/home/somebody/runs"})
    with (source / "evals.csv").open("a") as file:
        file.write("120,deterministic,tr")  # an incomplete row
    assert main(["export", str(source), "--out", str(out)]) == 0
    (copy,) = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert copy == out / "toy" / "vesde-augmented" / source.name
    assert {path.name for path in copy.iterdir()} == {"config.yaml", "meta.json", "status.json", "episodes.csv",
                                                     "evals.csv", "metrics.csv"}
    assert (copy / "evals.csv").read_text() == (source / "evals.csv").read_text().removesuffix("120,deterministic,tr")
    published = RunFolder(copy)
    assert published.meta()["starts"][0]["processor"] == meta["starts"][0]["processor"]
    assert published.damage(identity(published.config())) == []
    assert "somebody" not in "".join(path.read_text() for path in copy.iterdir())
    assert "node-17" not in (copy / "meta.json").read_text()
    assert main(["table", str(out)]) == 0
    of_copy = capsys.readouterr().out
    (source / "evals.csv").write_text((copy / "evals.csv").read_text())
    assert main(["table", str(source)]) == 0
    assert capsys.readouterr().out == of_copy


def test_what_is_not_the_runs_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither what a link in a run's folder leads to, nor one of two runs in the place of the other."""
    one, other = (make_run(tmp_path / name / "toy" / "vesde-augmented" / "seed=0", config(0)) for name in "ab")
    assert main(["export", str(one), str(other), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{one} and {other} would both be {tmp_path / 'out' / 'toy' / 'vesde-augmented' / 'seed=0'}" in said
    (tmp_path / "secret").write_text("SECRET\n")
    (other / "episodes.csv").symlink_to(tmp_path / "secret")
    assert main(["export", str(other), "--out", str(tmp_path / "other")]) == 2
    assert "a link out of the run's folder" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_published_policy_acts_as_its_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy loaded from the exported copy acts as the run's; functions that need critics raise an error."""
    train_here(*TINY, "env=toy", "initial_steps=20", "total_steps=40", "eval.episodes=1", "snapshots=2",
               "normalise.observation=true", f"runs_dir={tmp_path / 'runs'}")
    run = only_run(tmp_path / "runs")
    for _ in range(2):
        assert main(["export", str(run), "--out", str(tmp_path / "out"), "--policies"]) == 0
    copy = only_run(tmp_path / "out")
    (policy,) = (copy / "snapshots").iterdir()
    assert policy.name == "step=000000040.safetensors"
    trained, published = algd.load(run), algd.load(copy)
    states = np.random.default_rng(0).normal(size=(5, *trained.observation_space.shape))
    np.testing.assert_array_equal(published.act(states), trained.act(states))
    np.testing.assert_array_equal(published.act(states, 3), trained.act(states, 3))
    assert (published.step, published.multiplier) == (40, trained.multiplier)
    for row, expected in zip(algd.evaluate(published, 1), algd.evaluate(trained, 1), strict=True):
        assert np.isnan(row.pop("predicted_cost")) and np.isfinite(expected.pop("predicted_cost"))
        assert row == expected
    with pytest.raises(UsageError, match="the policy alone"):
        published.energy(states, trained.act(states))
    assert main(["landscape", str(copy), "--out", str(tmp_path / "figures")]) == 2
    assert "the policy alone" in capsys.readouterr().err


def test_runs_are_not_exported_into_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FIRST_VERSION, tmp_path / "runs")
    assert main(["export", str(tmp_path / "runs"), "--out", str(tmp_path / "runs")]) == 2
    assert "is in it already" in capsys.readouterr().err


def test_a_copy_is_as_safe_from_changes_as_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed run is not copied, a changed copy not read, and what a run has lost is not kept."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    shutil.copytree(FIRST_VERSION, runs)
    (source,) = runs.glob("toy/vesde-augmented/seed=0-*")
    run = RunFolder(source)
    run.write_status(run.status() | {"reason": "OSError: no room in /home/somebody/runs/a.csv (see ~/x/log.txt)"})
    assert main(["export", str(source), "--out", str(out), "--policies"]) == 0
    (copy,) = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert RunFolder(copy).status()["reason"] == "OSError: no room in a.csv (see log.txt)"
    table = (copy / "evals.csv").read_text()
    (copy / "evals.csv").write_text(table.replace(",0.", ",9.", 1))
    assert main(["table", str(copy), "--strict", "--no-cache"]) == 2
    assert "evals.csv is damaged" in capsys.readouterr().err
    shutil.rmtree(source / "snapshots")
    (source / "metrics.csv").unlink()
    for number in (source / "checkpoints").iterdir():
        shutil.rmtree(number)
    assert main(["export", str(source), "--out", str(out), "--policies"]) == 0
    assert not (copy / "metrics.csv").exists() and not (copy / "snapshots").exists()
    assert (copy / "evals.csv").read_text() == table
    shutil.copytree(FIRST_VERSION, runs, dirs_exist_ok=True)
    (source / "evals.csv").write_text(table.replace(",0.", ",9.", 1))
    capsys.readouterr()
    assert main(["export", str(source), "--out", str(tmp_path / "third")]) == 2
    assert "it cannot be copied" in (said := capsys.readouterr().err) and "evals.csv is damaged" in said
