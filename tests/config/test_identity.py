"""A run's identity never changes, so that existing runs and studies are found under their names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import algd
from algd.config import identity as module
from algd.config.identity import identity
from algd.run.build import build_task
from algd.run.train import train
from algd.storage.run_folder import RunFolder, run_path
from tests.support.command import ROOT, compose

PINNED: dict[str, str] = json.loads((ROOT / "tests" / "fixtures" / "identities.json").read_text())
FIRST_VERSION = ROOT / "tests" / "fixtures" / "first_version"
FOLDERS = sorted(path.parent for path in FIRST_VERSION.rglob("config.yaml"))
UNFINISHED = [folder for folder in FOLDERS if RunFolder(folder).status()["state"] == "interrupted"]


@pytest.mark.parametrize("overrides", PINNED)
def test_identities_are_those_of_the_first_version(overrides: str) -> None:
    assert identity(compose(*overrides.split())) == PINNED[overrides]


# Budgets are converted by how the cost's return ends, so that the defaults of these tasks now give other thresholds and
# thus other runs. env.cost_return=authors gives the earlier ones, with the identities above; it is the default of the
# paper's tasks, and of run folders written without the key.
CONVERTED = {
    "env=toy": "env.horizon=16 env.cost_return=authors", "env=safety_point_goal1": "env.cost_return=authors",
    "env=safety_ant_velocity": "env.cost_return=authors",
    "env=gymnasium env.id=SafetyPointGoal2-v0": "env.cost_return=authors"}


@pytest.mark.parametrize("task", CONVERTED)
def test_a_budget_that_is_converted_otherwise_is_another_run(task: str) -> None:
    before = compose(*task.split(), *CONVERTED[task].split())
    assert identity(compose(*task.split())) != identity(before)
    without_the_key = before | {"env": {key: value for key, value in before["env"].items() if key != "cost_return"}}
    assert identity(without_the_key) == identity(before)
    assert build_task(without_the_key).budget == build_task(before).budget
    assert build_task(before).budget.cost_return == "authors"


def test_every_agent_with_every_guidance_is_pinned() -> None:
    agents, guidances = ([path.stem for path in (ROOT / "conf" / group).glob("*.yaml")]
                         for group in ("agent", "guidance"))
    assert all(any(f"agent={a} guidance={g} " in f"{line} " for line in PINNED) for a in agents for g in guidances)


def test_what_determines_the_result_changes_the_identity() -> None:
    config = compose("env=toy")
    for key, value in (("seed", 1), ("batch_size", 17), ("updates_per_step", 3)):
        assert identity(config | {key: value}) != identity(config), key
    rho = config | {"guidance": config["guidance"] | {"rho": 2.0}}
    process = config["agent"]["policy"]["process"]
    other = config | {"agent": config["agent"] | {"policy": config["agent"]["policy"] | {
        "process": process | {"_target_": process["_target_"].replace("VESDE", "Other")}}}}
    assert len({identity(one) for one in (config, rho, other)}) == 3


def test_what_does_not_leaves_it_alone() -> None:
    config = compose("env=toy")
    for key, value in (("total_steps", 7), ("device", "cpu"), ("runs_dir", "elsewhere"), ("threads", 3)):
        assert identity(config | {key: value}) == identity(config), key


def test_a_key_that_is_added_counts_only_at_a_new_value(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("env=toy")
    monkeypatch.setattr(module, "ADDED", {"guidance.hold": 0})
    before = {"guidance": {**config["guidance"], "hold": 0}}
    assert identity({**config, **before}) == identity(config)
    assert identity({**config, "guidance": {**config["guidance"], "hold": 1}}) != identity(config)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_folders_of_the_first_version_are_found_and_loaded(folder: Path) -> None:
    config = RunFolder(folder).config()
    assert run_path(config | {"runs_dir": str(FIRST_VERSION)}) == folder
    loaded = algd.load(folder)
    # The budget as the first version converted it: 4 over 16 steps, as if the cost's return ended with them.
    assert loaded.agent.guidance.threshold == pytest.approx(4 * (1 - 0.99**16) / 0.01 / 16)
    observation, _ = loaded.task.reset(seed=0)
    assert loaded.task.action_space.contains(loaded.act(observation))


@pytest.mark.parametrize("folder", UNFINISHED, ids=lambda folder: folder.parent.name)
def test_folders_of_the_first_version_are_resumed(folder: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / folder.relative_to(FIRST_VERSION)
    shutil.copytree(folder, copy)
    step = RunFolder(copy).status()["step"]
    episodes = (copy / "episodes.csv").read_bytes()
    config: dict[str, Any] = RunFolder(copy).config() | {"runs_dir": str(tmp_path), "total_steps": 60}
    assert train(config) == 0
    said = capsys.readouterr().err
    assert f"going on from step {step}" in said and "begins again" not in said, said
    assert (copy / "episodes.csv").read_bytes().startswith(episodes)
    assert RunFolder(copy).status()["state"] == "finished"


def test_there_are_unfinished_ones_of_every_agent() -> None:
    assert {folder.parent.name.split("-")[0] for folder in UNFINISHED} == {"vesde", "ddpm", "gaussian"}
