"""Runs of OmniSafe in tables together with the project's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.results.cells import cells
from analysis.runs.find import find_runs
from analysis.runs.model import Run
from analysis.runs.omnisafe import env_name, read_progress
from analysis.runs.read import read_run
from tests.analysis.run_folders import as_json, config, refused, simple, text_of


def progress(folder: Path, seed: int, epochs: list[tuple[int, float, float]], algo: str = "SACLag", test: bool = False,
             torn: str = "", **algo_cfgs: Any) -> Path:
    """Write a folder as OmniSafe does, with these (steps, return, cost) of each epoch."""
    folder.mkdir(parents=True)
    lagrange = {"lagrange_cfgs": {"cost_limit": 25.0}} if algo.endswith("Lag") else {}
    (folder / "config.json").write_text(json.dumps({
        "seed": seed, "algo": algo, "env_id": "SafetyPointGoal1-v0", "exp_name": f"{algo}-{{SafetyPointGoal1-v0}}",
        "train_cfgs": {"total_steps": 2000, "device": f"cuda:{seed}"}, "logger_cfgs": {"log_dir": str(folder)},
        "algo_cfgs": {"gamma": 0.99} | algo_cfgs} | lagrange))
    extra = ",Metrics/TestEpRet,Metrics/TestEpCost" if test else ""
    lines = [f"{gain},{cost},1000,{step},{step / 10}" + (f",{gain + 1},{cost + 2}" if test else "")
             for step, gain, cost in epochs]
    (folder / "progress.csv").write_text(
        f"Metrics/EpRet,Metrics/EpCost,Metrics/EpLen,TotalEnvSteps,Time/Total{extra}\n"
        + "".join(f"{line}\n" for line in lines) + torn)
    return folder


def runs_in(folder: Path) -> list[Run]:
    return [read_run(one) for one in find_runs([str(folder)]).folders]


@pytest.mark.parametrize(("env_id", "name"), [
    ("SafetyPointGoal1-v0", "safety_point_goal1"), ("SafetyCarButton2-v0", "safety_car_button2"),
    ("SafetyHalfCheetahVelocity-v1", "safety_halfcheetah_velocity"), ("SafetyAntVelocity-v1", "safety_ant_velocity"),
    ("SafetyWalker2dVelocity-v1", "safety_walker2d_velocity"), ("SafetyPointPush1-v0", "safety_point_push1")])
def test_tasks_have_the_projects_names(env_id: str, name: str) -> None:
    assert env_name(env_id) == name
    assert (Path(__file__).parents[2] / "conf" / "env" / f"{name}.yaml").exists()


def test_a_run_by_hand(tmp_path: Path) -> None:
    run = read_progress(progress(tmp_path / "a", 3, [(1000, 5, 30), (2000, 9, 25)], torn="99,99"))
    assert run.last is not None and run.feasible
    assert (run.last.step, run.last.mean_return, run.last.mean_cost) == (2000, 9, 25)
    assert run.last.over is None and run.last.cvar is None
    assert (run.seed, run.state, run.env, run.limit, run.training) == (3, "finished", "safety_point_goal1", 25, None)
    assert run.stay is not None and (run.stay.step, run.stay.censored) == (2000, False)
    assert run.hours == 200 / 3600 and "recent training episodes" in run.source
    run = read_progress(progress(tmp_path / "b", 3, [(1000, 5, 24)], algo="SAC", test=True))
    assert run.last is not None and (run.last.mean_return, run.last.violation, run.state) == (6, 1, "unknown")
    assert "last test episodes" in run.source and "it has no limit" in run.source
    run = read_progress(progress(tmp_path / "c", 3, [(1000, 5, 24)], algo="CPO", cost_limit=10))
    assert run.limit == 10 and not run.feasible
    assert read_progress(progress(tmp_path / "d", 3, [])).last is None


def test_in_one_table_with_the_projects_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported cells are marked, with what they lack in the notes, and may have other settings than the project's."""
    for seed in range(3):
        progress(tmp_path / "omnisafe" / f"SACLag-{seed}", seed, [(2000, 10.0 + seed, 20)])
        progress(tmp_path / "omnisafe" / f"SAC-{seed}", seed, [(2000, 30.0, 60)], algo="SAC", tau=0.005)
        simple(tmp_path / "own" / str(seed), config(seed, env="safety_point_goal1", family="stock", limit=25.0), 5, 5)
    (table,) = as_json(capsys, tmp_path)
    at = {(cell["agent"], cell["guidance"]): cell for cell in table["cells"]}
    assert (at["SACLag", "imported"]["return"], at["SACLag", "imported"]["best_feasible"]) == (11, True)
    assert at["SAC", "imported"]["feasible"] is False and at["SACLag", "imported"]["cvar"] is None
    assert at["vesde", "augmented"]["return"] == 5
    text = text_of(capsys, tmp_path)
    assert "Imported from OmniSafe (SACLag): means of up to 50 recent training episodes" in text
    assert text.count("Imported from") == 2
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / "figures")]) == 0
    capsys.readouterr()
    progress(tmp_path / "omnisafe" / "other", 5, [(2000, 1, 1)], gamma=0.9)
    assert "agent.algo_cfgs.gamma (0.9, 0.99)" in refused(capsys, tmp_path)
    progress(tmp_path / "omnisafe" / "again", 0, [(2000, 1, 1)])
    with pytest.raises(UsageError, match="same run"):
        cells(runs_in(tmp_path), pool=True)


def test_another_frameworks_runs_are_no_seeds_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is one bold because it was trained for longer."""
    for seed in range(2):
        settings = config(seed, env="safety_point_goal1", limit=25.0)
        settings["env"]["family"] = "stock"
        simple(tmp_path / f"a{seed}", settings, 5, 1)
        progress(tmp_path / f"b{seed}", seed, [(1000, 5, 30), (2000, 90, 2)])
    assert "one cell (env=safety_point_goal1, env.limit=25) has runs of this project and of another framework" in (
        refused(capsys, tmp_path, "--columns", "env.limit"))
    assert [cell["best_feasible"] for cell in as_json(capsys, tmp_path)[0]["cells"]] == [True, True]


def test_a_limit_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run would be within it."""
    folder = progress(tmp_path / "a", 0, [(2000, 1, 3000)], algo="CPO", cost_limit=float("inf"))
    assert "cannot be read as a run (ValueError: cost_limit=inf: it cannot be)" in refused(capsys, folder)


def test_what_is_no_run_of_it_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = progress(tmp_path / "a", 0, [(1000, 1, 1)])
    (folder / "config.json").write_text("{}")
    assert "cannot be read as a run (KeyError: 'seed')" in refused(capsys, folder)
