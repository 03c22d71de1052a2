"""Landscapes: the plotted numbers are the agent's own, and the command draws real runs."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.image import imread

from algd.algorithm.rng import RandomGenerator
from algd.errors import UsageError
from algd.run.build import build_agent, build_task
from algd.run.episodes import run_episode
from algd.run.loaded_agent import LoadedAgent
from algd.run.loading import load
from algd.seeding import episode_seed, stream
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main
from analysis.results.landscape import at_step, comparable, snapshots, spaced, spread
from analysis.results.landscape_figure import draw
from analysis.results.survey import episode, survey
from tests.support.command import TINY, compose, only_run, train_here

matplotlib.use("Agg")
SMALL = [*TINY, "env=toy", "initial_steps=30", "total_steps=90", "eval.every=90", "eval.episodes=1", "snapshots=6"]


def untrained(*arguments: str) -> LoadedAgent:
    """Return an agent as `load` does, but with its initial weights."""
    config = compose(*TINY, *arguments)
    task = build_task(config)
    torch.manual_seed(1)
    return LoadedAgent(build_agent(config, task).eval(), config, task, 0, RunFolder(Path("nowhere")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a trained run for each guidance."""
    folder = tmp_path_factory.mktemp("landscape")
    for guidance in ("augmented", "plain"):
        train_here(*SMALL, f"guidance={guidance}", f"runs_dir={folder / guidance}")
    return {guidance: only_run(folder / guidance) for guidance in ("augmented", "plain")}


@pytest.mark.parametrize(("guidance", "guide"), [("plain", "plain"), ("augmented", "augmented"), ("pid", "plain")])
def test_energies_are_the_agents_at_every_grid_point(guidance: str, guide: str) -> None:
    """At grid points, indexed [first dimension, second], the guiding energy and its gradient equal the agent's."""
    loaded = untrained("env=toy", f"guidance={guidance}")
    observation = episode(loaded)[3]
    one = survey(loaded, observation, 3)
    state = loaded.observations(observation[None])
    assert one.guide == guide and one.state_number == 3
    for i, j in ((0, 0), (80, 0), (17, 60)):
        action = torch.tensor([[one.axes[0][i], one.axes[1][j]]], dtype=torch.float32)
        value, gradient = loaded.agent.energy.value_and_gradient(state, action)
        assert one.energies[guide][i, j] == pytest.approx(value.item(), abs=1e-5)
        assert one.gradients[guide][i, j] == pytest.approx(gradient[0].numpy(), abs=1e-5)
        q, qc = (f(state, action).item() for f in (loaded.agent.energy.reward, loaded.agent.energy.risk))
        assert one.risk[i, j] == pytest.approx(qc, abs=1e-5)
        excess = qc - one.threshold
        weight = max(one.lam + one.rho * excess, 0)
        assert one.energies["plain"][i, j] == pytest.approx(-q + one.lam * excess, abs=1e-5)
        assert one.energies["augmented"][i, j] == pytest.approx(
            -q + (weight**2 - one.lam**2) / (2 * one.rho), abs=1e-5)
    assert (one.lam, one.rho) == pytest.approx((0.6931, 1.0))
    higher = survey(loaded, observation, lam=2.0)
    assert higher.lam == 2.0
    assert higher.energies["plain"][5, 6] - one.energies["plain"][5, 6] == pytest.approx(
        (2 - one.lam) * (one.risk[5, 6] - one.threshold), abs=1e-4)


def test_neither_energy_guides_where_the_agent_descends_another() -> None:
    for arguments in (["guidance=none"], ["guidance=augmented", "guidance.level=batch"]):
        loaded = untrained("env=toy", *arguments)
        assert survey(loaded, episode(loaded)[0]).guide is None


@pytest.mark.parametrize("agent", ["vesde", "ddpm", "gaussian"])
def test_paths_are_the_policys_own(agent: str) -> None:
    """Paths end at the policy's samples for the same noise, and the orange one at the deterministic action."""
    loaded = untrained("env=toy", f"agent={agent}")
    observation = episode(loaded)[2]
    one = survey(loaded, observation, 2, paths=5)
    noise = RandomGenerator(stream(0, "landscape paths", 2))
    states = loaded.observations(np.repeat(observation[None], 5, axis=0))
    assert one.paths.shape == (5, 1 if agent == "gaussian" else 6, 2)
    assert one.paths[:, -1] == pytest.approx(loaded.agent.act(states, noise).numpy(), abs=1e-6)
    assert one.mean_path[-1] == pytest.approx(loaded.act(observation), abs=1e-6)
    if agent != "gaussian":
        start = torch.tanh(loaded.agent.policy.draw(5, RandomGenerator(stream(0, "landscape paths", 2)))[0])
        assert one.paths[:, 0] == pytest.approx(start.numpy(), abs=1e-6)
        assert one.mean_path[0] == pytest.approx([0, 0])


def test_other_dimensions_stay_at_the_deterministic_action() -> None:
    """With dimensions 2 and 0 of Hopper on the axes, dimension 1 is that of the policy; one dimension gives a line."""
    loaded = untrained("env=hopper_velocity")
    observation = loaded.task.reset(seed=0)[0]
    one = survey(loaded, observation, dimensions=(2, 0))
    state, action = loaded.observations(observation[None]), torch.tensor(loaded.act(observation))[None]
    action[0, 2], action[0, 0] = one.axes[0][10], one.axes[1][70]
    value, gradient = loaded.agent.energy.value_and_gradient(state, action)
    assert one.energies["augmented"][10, 70] == pytest.approx(value.item(), abs=1e-5)
    assert one.gradients["augmented"][10, 70] == pytest.approx(gradient[0, [2, 0]].numpy(), abs=1e-5)
    assert one.mean_path[-1] == pytest.approx(loaded.act(observation)[[2, 0]], abs=1e-6)
    line = survey(loaded, observation, dimensions=(2,))
    action[0, 0] = float(loaded.act(observation)[0])
    assert line.energies["augmented"][10] == pytest.approx(loaded.energy(state, action).item(), abs=1e-5)
    assert line.gradients["plain"].shape == (81, 1)
    axes = draw([line]).axes
    assert [axis.get_title() for axis in axes[:2]] == ["$L$", "$L_A$ (guides)"]
    drawn = axes[0].lines[0].get_ydata()
    assert drawn == pytest.approx(line.energies["plain"] - line.energies["plain"].min())
    loaded.task.close()


def test_episode_is_the_deterministic_policys() -> None:
    loaded = untrained("env=toy")
    seen: list[np.ndarray] = []

    def act(observation: np.ndarray) -> np.ndarray:
        seen.append(observation)
        return loaded.act(observation)

    run_episode(loaded.task, act, episode_seed(0, "landscape", 0), 0.99)
    assert np.array_equal(episode(loaded), np.array(seen, dtype=float))


def test_spacing() -> None:
    assert spaced(16, 1) == [8] and spaced(17, 3) == [4, 8, 12] and spaced(3, 9) == [0, 1, 2]
    paths = [Path(str(i)) for i in range(10)]
    assert [path.name for path in spread(paths, 5)] == ["0", "2", "4", "7", "9"]
    assert spread(paths[:3], 5) == paths[:3]


def test_both_panels_have_one_scale_of_heights() -> None:
    """Heights start at each panel's lowest energy; the common scale ends at four times the smaller range."""
    loaded = untrained("env=toy", "guidance.rho=1e5", "env.limit=0")
    one = survey(loaded, episode(loaded)[8])
    ranges = {name: np.ptp(values) for name, values in one.energies.items()}
    assert ranges["augmented"] > 4 * ranges["plain"]
    figure = draw([one])
    meshes = [mesh for axis in figure.axes for mesh in axis.collections if isinstance(mesh, QuadMesh)][:2]
    assert [mesh.get_clim() for mesh in meshes] == [(0, pytest.approx(4 * ranges["plain"]))] * 2
    for mesh, values in zip(meshes, one.energies.values(), strict=True):
        assert np.asarray(mesh.get_array()).reshape(81, 81) == pytest.approx((values - values.min()).T)
    labels = [axis.get_xlabel() for axis in figure.axes] + [axis.get_ylabel() for axis in figure.axes]
    assert {"action 1 (env. units)", "action 2 (env. units)", "energy above\nthe lowest (reward)"} <= set(labels)


def test_command_draws_real_runs(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure is written as PNG and PDF, is not blank, and is reproducible to the byte."""
    run, other = runs["augmented"], runs["plain"]
    stem = f"landscape_toy_vesde-augmented_{run.name}"
    out = tmp_path / "new" / "folder"
    for arguments, names in ((["--states", "1"], [stem]), (["--step", "30", "--at", "2"], [f"{stem}_step=30"]),
                             (["--strip", "--at", "7"], [f"{stem}_strip_at=7"]),
                             (["--against", str(other), "--at", "4", "--axes", "1"],
                              [f"{stem}_against_vesde-plain_{other.name}"])):
        assert main(["landscape", str(run), *arguments, "--out", str(out)]) == 0
        files = [out / f"{name}.{ending}" for name in names for ending in ("png", "pdf")]
        assert capsys.readouterr().out.split() == [str(file) for file in files]
        assert all(file.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for file in files)
        picture = imread(files[0])[..., :3]
        assert picture.shape[1] == 850 and picture.std() > 0.05
    assert len(list(out.iterdir())) == 8
    assert main(["landscape", str(run), "--states", "1", "--out", str(tmp_path)]) == 0
    assert all((out / f"{stem}.{ending}").read_bytes() == (tmp_path / f"{stem}.{ending}").read_bytes()
               for ending in ("png", "pdf"))


def test_a_snapshot_is_what_the_run_was_then(runs: dict[str, Path]) -> None:
    assert list(snapshots(runs["plain"])) == [15, 30, 45, 60, 75, 90]
    first, last, newest = at_step(runs["plain"], 15), at_step(runs["plain"], 90), load(runs["plain"])
    observation = episode(last)[5]
    early, late, now = (survey(agent, observation) for agent in (first, last, newest))
    assert (early.step, late.step, now.step) == (15, 90, 90)
    assert np.array_equal(late.energies["plain"], now.energies["plain"])
    assert not np.array_equal(early.energies["plain"], late.energies["plain"]) and early.lam != late.lam


def test_wrong_requests_are_one_sentence(runs: dict[str, Path], tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs["augmented"])
    for arguments, sentence in (
            (["nowhere"], "nowhere is not a run's folder"),
            ([run, "--step", "31"], "has no snapshot of step 31; there are 15, 30, 45, 60, 75, 90"),
            ([run, "--at", "20"], "--at 20: the episode has steps 0 to 19"),
            ([run, "--axes", "0", "2"], "--axes 0 2: one or two different numbers from 0 to 1 are needed"),
            ([run, "--axes", "1", "1"], "--axes 1 1: one or two different"),
            ([run, "--strip", "--step", "30"], "--strip shows all steps of one run"),
            ([run, "--against", str(tmp_path / "none")], "is not a run's folder"),
            ([run, "--states", "1", "--out", f"{run}/config.yaml"], "this folder cannot be made")):
        assert main(["landscape", *arguments, *(["--out", str(tmp_path)] if "--out" not in arguments else [])]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert main(["landscape", run, "--states", "0"]) == 2
    assert "--states: 0: a whole number from 1" in capsys.readouterr().err
    there, other = untrained("env=toy"), untrained("env=hopper_velocity")
    with pytest.raises(UsageError, match=r"was trained on env=hopper_velocity, but .* on env=toy"):
        comparable(other, there)
    other.task.close()
