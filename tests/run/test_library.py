"""algd as a library, as in notebooks: load, act, evaluate critics and policies, read tables, with any numeric input."""

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import algd
from algd.errors import UsageError
from algd.storage.snapshots import write_snapshot
from tests.support.command import TINY, only_run, train_here

RUN = [*TINY, "env=toy", "initial_steps=30", "total_steps=60", "eval.every=40", "eval.episodes=2", "snapshots=2",
       "normalise.observation=true", "log_every=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    train_here(*RUN, f"runs_dir={runs}")
    return only_run(runs)


@pytest.fixture(scope="module")
def agent(folder: Path) -> algd.LoadedAgent:
    return algd.load(folder)


@pytest.fixture(scope="module")
def states(agent: algd.LoadedAgent) -> np.ndarray:
    """Return four raw observations of an episode, (4, 3)."""
    found = [agent.task.reset(seed=0)[0]]
    for _ in range(3):
        found.append(agent.task.step(agent.action_space.high)[0])
    return np.stack(found)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.from_numpy,
                                  lambda array: torch.from_numpy(array).double()])
def test_one_or_a_batch_of_any_kind(kind: Any, agent: algd.LoadedAgent, states: np.ndarray) -> None:
    """All kinds of input give the same numbers; tensors give tensors, everything else arrays."""
    actions = agent.act(states)
    assert actions.shape == (4, 2) and actions.dtype == agent.action_space.dtype
    expected = {"act": actions, "energy": agent.energy(states, actions), "q": agent.q(states, actions),
                "qc": agent.qc(states, actions)}
    assert all(expected[name].shape == (4,) for name in ("energy", "q", "qc"))
    for name, values in expected.items():
        method = getattr(agent, name)
        given = (kind(states), *([] if name == "act" else [kind(actions)]))
        found = method(*given)
        assert isinstance(found, torch.Tensor) == isinstance(given[0], torch.Tensor)
        np.testing.assert_allclose(np.asarray(found), values, rtol=0, atol=1e-5)
        single = method(*(item[2] for item in given))
        assert np.shape(single) == ((2,) if name == "act" else ())
        np.testing.assert_allclose(np.asarray(single), values[2], rtol=0, atol=1e-5)


def test_they_are_the_networks_values_at_what_the_networks_see(agent: algd.LoadedAgent, states: np.ndarray) -> None:
    """Observations are normalised for the networks, and E = −Q + ((λ + ρ (Qc − h))₊² − λ²) / 2ρ with ρ = 1."""
    inner, actions = agent.agent, agent.act(states)
    seen, taken = inner.normaliser.observations(torch.as_tensor(states).float()), torch.as_tensor(actions)
    assert not torch.equal(seen, torch.as_tensor(states).float())
    np.testing.assert_array_equal(agent.observations(states), seen)
    with torch.no_grad():
        np.testing.assert_allclose(agent.q(states, actions), inner.critics(seen, taken).amin(0), rtol=1e-5)
    lam, h = agent.multiplier, inner.guidance.threshold
    assert lam == float(inner.guidance.multiplier) > 0
    weight = np.maximum(lam + agent.qc(states, actions) - h, 0)
    np.testing.assert_allclose(agent.energy(states, actions), -agent.q(states, actions) + (weight**2 - lam**2) / 2,
                               rtol=1e-4, atol=1e-5)


def test_one_state_with_many_actions_and_the_slope_of_a_tensor(agent: algd.LoadedAgent, states: np.ndarray) -> None:
    actions = np.linspace(agent.action_space.low, agent.action_space.high, 7)
    along = agent.energy(states[1], actions)
    assert along.shape == (7,) and along[3] == pytest.approx(agent.energy(states[1], actions[3]), abs=1e-5)
    assert agent.energy(states, actions[0]).shape == (4,)
    action = torch.tensor(actions, requires_grad=True)
    (slope,) = torch.autograd.grad(agent.energy(states[1], action).sum(), action)
    _, expected = agent.agent.energy.value_and_gradient(agent.observations(np.repeat(states[1:2], 7, 0)),
                                                        torch.as_tensor(actions).float())
    torch.testing.assert_close(slope.float(), expected, rtol=1e-4, atol=1e-5)


def test_the_stochastic_policy_takes_a_seed(agent: algd.LoadedAgent, states: np.ndarray) -> None:
    assert (agent.act(states, 3) == agent.act(states, 3)).all() and (agent.act(states, 3) != agent.act(states, 4)).any()
    assert (agent.act(states, np.int64(3)) == agent.act(states, 3)).all()  # type: ignore[call-overload,unused-ignore]
    assert (agent.act(states) == agent.act(states)).all()
    many = agent.act(np.repeat(states[:1], 500, axis=0), 0)
    assert agent.action_space.contains(many[0]) and np.unique(many, axis=0).shape[0] > 400


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda agent: agent.act(np.zeros(4)), r"observation has shape \(4,\); of env=toy one is \(3,\), and a batch of B"),
    (lambda agent: agent.act(0.5), r"observation has shape \(\); of env=toy one is \(3,\)"),
    (lambda agent: agent.act(np.zeros((2, 2, 3))), r"observation has shape \(2, 2, 3\)"),
    (lambda agent: agent.act(["a", "b", "c"]), "observation is not an array of numbers"),
    (lambda agent: agent.act([[1, 2, 3], [1, 2]]), "observation is not an array of numbers"),
    (lambda agent: agent.q(np.zeros(3), np.zeros(5)), r"action has shape \(5,\); of env=toy one is \(2,\)"),
    (lambda agent: agent.energy(np.zeros((3, 3)), np.zeros((2, 2))), "3 observations and 2 actions"),
    (lambda agent: agent.energy(np.zeros((0, 3)), np.zeros((2, 2))), "0 observations and 2 actions"),
    (lambda agent: agent.act(np.zeros(3), 2**70), "noise=1180591620717411303424: None, a RandomGenerator, or a seed"),
    (lambda agent: agent.act(np.zeros(3), 0.5), "noise=0.5: None"),
    (lambda agent: algd.load(agent.folder.path, "gpu"), "device=gpu: it should be auto, cpu, cuda or cuda:N"),
    (lambda agent: algd.load(agent.folder.path, "cpu:7"), "device=cpu:7: it should be"),
    (lambda agent: algd.load("~nosuchuser/x"), "~nosuchuser/x is not a run's folder"),
    (lambda agent: algd.read("~nosuchuser/x"), "~nosuchuser/x: there is no run"),
    (lambda agent: algd.read([]), "runs is empty"),
    (lambda agent: algd.evaluate(str(agent.folder.path)), r"agent='/.*': an agent from algd.load is needed"),
    (lambda agent: algd.evaluate(agent, 0), "episodes=0: a whole number from 1"),
    (lambda agent: algd.evaluate(agent, 2.5), "episodes=2.5: a whole number"),
    (lambda agent: algd.evaluate(agent, 1, -1), "seed=-1: a whole number from 0")])
def test_what_does_not_fit_is_told_in_a_sentence(call: Any, sentence: str, agent: algd.LoadedAgent) -> None:
    with pytest.raises(UsageError, match=sentence):
        call(agent)


def test_it_shows_itself_in_a_line(agent: algd.LoadedAgent, folder: Path) -> None:
    assert repr(agent) == (f"LoadedAgent(vesde-augmented on toy, seed 0, step 60, λ = {agent.multiplier:.4g}, "
                           f"{folder})")


def test_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert algd.load(f"~/{folder.name}").step == 60
    snapshot = min((folder / "snapshots").iterdir())
    assert algd.load(f"~/{folder.name}/snapshots/{snapshot.name}").step == 30


def test_a_snapshot_named_within_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = min((folder / "snapshots").iterdir())
    monkeypatch.chdir(folder / "snapshots")
    assert algd.load(snapshot.name).folder.path == folder
    monkeypatch.chdir(folder)
    assert algd.load(f"snapshots/{snapshot.name}").step == 30


def test_no_batch_is_a_batch(agent: algd.LoadedAgent) -> None:
    assert agent.energy(np.zeros((0, 3)), np.zeros(2)).shape == agent.q(np.zeros(3), np.zeros((0, 2))).shape == (0,)


def test_a_snapshot_of_other_networks(folder: Path, tmp_path: Path) -> None:
    """Put into a folder without a meta.json that says whose snapshots are in it."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    (copy / "meta.json").unlink()
    snapshot = min((copy / "snapshots").iterdir())
    write_snapshot(snapshot, {"policy.network.weight": torch.zeros(3)}, 30, "aaaaaaaa")
    with pytest.raises(UsageError, match=f"{snapshot.name} does not fit the networks"):
        algd.load(snapshot)


def test_evaluating_is_training_s_own_and_leaves_the_run_alone(agent: algd.LoadedAgent, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rows = algd.evaluate(agent, episodes=3, seed=5)
    assert [(row["sampler"], row["episode"]) for row in rows] == [
        (sampler, number) for sampler in ("deterministic", "stochastic") for number in range(3)]
    assert rows == algd.evaluate(agent, episodes=3, seed=5) != algd.evaluate(agent, episodes=3, seed=6)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # By hand: return and cost of the first episode, and the cost critics' mean where it begins.
    observation, total, cost, over = agent.task.reset(seed=rows[0]["seed"])[0], 0.0, 0.0, False
    with torch.no_grad():
        seen, first = agent.observations(observation), torch.as_tensor(agent.act(observation)[None])
        assert rows[0]["predicted_cost"] == pytest.approx(agent.agent.cost_critics(seen, first).mean().item(), abs=1e-6)
    while not over:
        observation, reward, terminated, truncated, info = agent.task.step(agent.act(observation))
        total, cost, over = total + reward, cost + info["cost"], terminated or truncated
    assert (rows[0]["return"], rows[0]["cost"]) == (total, cost)


def test_tables(folder: Path, tmp_path: Path) -> None:
    """A folder with two runs, one of them also moved aside, and a sweep's copy of the code with a run in it."""
    for place in ("toy/a/seed=0", "toy/a/seed=0.old-1", "sweeps/code/runs/seed=0"):
        shutil.copytree(folder, tmp_path / place)
    train_here(*RUN, f"runs_dir={tmp_path / 'deeper'}", "seed=7", "guidance=plain")
    tables = algd.read(tmp_path)
    assert repr(tables).startswith("Tables(2 runs; rows: 24 evals, ")
    assert [(row["seed"], row["guidance"], row["state"], row["step"]) for row in tables.runs] == [
        (7, "plain", "finished", 60), (0, "augmented", "finished", 60)]
    assert tables.runs[0]["agent.cost_discount"] == 0.99 and tables.runs[1]["guidance.rho"] == 1.0
    with (folder / "evals.csv").open(newline="") as file:
        texts = list(csv.DictReader(file))
    mine = [row for row in tables.evals if row["seed"] == 0 and row["guidance"] == "augmented"]
    assert len(mine) == len(texts) == 12
    assert [row["return"] for row in mine] == [float(text["return"]) for text in texts]
    assert [row["episode_seed"] for row in mine] == [int(text["seed"]) for text in texts]
    assert {type(row["step"]) for row in mine} == {int} and {type(row["return"]) for row in mine} == {float}
    for rows in (tables.evals, tables.episodes, tables.metrics):
        assert rows and {tuple(row) for row in rows} == {tuple(rows[0])}  # columns, as pandas.DataFrame takes them
    assert len(algd.read([folder, folder, tmp_path / "deeper"]).runs) == 2
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "toy").symlink_to(tmp_path / "toy")
    assert len(algd.read(tmp_path / "linked").runs) == 1


def test_tables_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        algd.read(tmp_path)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        algd.laod  # noqa: B018
    assert set(algd.__all__) == {name for name in algd.__all__ if getattr(algd, name)}


def test_importing_it_costs_nothing() -> None:
    assert os.system(f"{sys.executable} -c \"import algd, sys; sys.exit('torch' in sys.modules)\"") == 0
