"""Curvature of smoothed energies, against closed forms and second implementations, and its columns of metrics.csv."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from algd.algorithm import curvature as module
from algd.algorithm import lagrangian
from algd.algorithm.curvature import both_energies, curvature, draw, noise_levels, raw_hessian, smallest_eigenvalue
from algd.algorithm.curvature import smoothed_hessian as smoothed
from algd.algorithm.energy import Energy
from algd.algorithm.networks import CriticEnsemble
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.run.build import build_agent, build_task
from algd.run.loading import load
from algd.seeding import stream
from algd.storage.checkpoint import Checkpoints
from tests.run.test_resume import folder_of, rows, wait_until
from tests.support.command import TINY, compose, only_run, outcome, start, train_here

SLOPE = torch.tensor([0.6, -0.8])
POINT = torch.tensor([0.2, 0.1])


def formula(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a function of actions (..., d) in the form of a critic with one member."""
    return lambda observation, action, frozen=False: function(action).unsqueeze(0)


class FormulaEnergy(Energy):
    """An energy whose critics are formulas; its gradient is by autograd."""

    def value_and_gradient(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        action = action.detach().requires_grad_()
        energy = self(observation, action)
        return energy.detach(), torch.autograd.grad(energy.sum(), action)[0]


def energy_of(reward: Callable[[Tensor], Tensor], cost: Callable[[Tensor], Tensor] = lambda a: a @ SLOPE,
              lagrange: Callable[[Tensor, Tensor], Tensor] = lambda q, qc: -q) -> Energy:
    return FormulaEnergy(formula(reward), formula(cost), 0.0, lagrange, None)  # type: ignore[arg-type]


def average(energy: Energy, sigma: float, draws: int = 40_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return mean and standard error of the smoothed Hessian at POINT over `draws` single draws."""
    points, nothing = POINT.expand(draws, 2), torch.zeros(draws, 1)
    each = smoothed(energy, nothing, points, sigma, draw(1, draws, 2, RandomGenerator(seed))).double()
    return each.mean(0), each.std(0) / math.sqrt(draws)


def test_bases_are_orthonormal_and_radii_are_chi() -> None:
    draws = draw(3, 20_000, 3, RandomGenerator(0))
    torch.testing.assert_close(draws.bases @ draws.bases.mT, torch.eye(3).expand(3, 20_000, 3, 3), atol=1e-5, rtol=0)
    # Uniform on the sphere: E[u uᵀ] = I/3 and E[u_1⁴] = 3/(d(d + 2)) = 1/5. chi: E[r²] = d + 2 = 5.
    first = draws.bases[..., 0].reshape(-1, 3)
    torch.testing.assert_close(first.T @ first / len(first), torch.eye(3) / 3, atol=0.01, rtol=0)
    assert (first[:, 0] ** 4).mean().item() == pytest.approx(0.2, abs=0.006)
    assert draws.radii.square().mean().item() == pytest.approx(5, abs=0.06)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_one_draw_is_exact_for_a_cubic(size: int) -> None:
    """For E = aᵀHa/2 + (s·a)³/6 the smoothed Hessian equals the Hessian H + (s·a) ssᵀ, with a single draw."""
    generator = torch.Generator().manual_seed(size)
    half, s = torch.randn(size, size, generator=generator), torch.randn(size, generator=generator)
    matrix, action = half + half.T, torch.randn(5, size, generator=generator)
    energy = energy_of(lambda a: -(a * (a @ matrix)).sum(-1) / 2 - (a @ s) ** 3 / 6, cost=lambda a: a.sum(-1))
    expected = matrix + (action @ s)[:, None, None] * torch.outer(s, s)
    nothing = torch.zeros(5, 1)
    torch.testing.assert_close(raw_hessian(energy, nothing, action), expected, atol=1e-5, rtol=1e-5)
    for sigma, tolerance in ((0.01, 2e-3), (1.0, 1e-4)):  # float32: differences over a distance of 0.02 lose two digits
        found = smoothed(energy, nothing, action, sigma, draw(1, 5, size, RandomGenerator(1)))
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(smallest_eigenvalue(found), torch.tensor(
            np.linalg.eigvalsh(expected.numpy())[:, 0]), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_a_kink_has_no_raw_curvature_but_a_smoothed_one(sigma: float) -> None:
    """For Q = 3|s·a| with |s| = 1 the smoothed −Q has the Hessian −6 φ(s·a/σ)/σ · ssᵀ; the raw Hessian is 0."""
    energy = energy_of(lambda a: 3 * (a @ SLOPE).abs())
    assert raw_hessian(energy, torch.zeros(1, 1), POINT.unsqueeze(0)).abs().max() == 0
    distance = (POINT @ SLOPE).item()
    height = -6 * math.exp(-((distance / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / sigma
    mean, error = average(energy, sigma)
    assert ((mean - height * torch.outer(SLOPE, SLOPE)).abs() < 4 * error + 1e-4).all()
    assert error.max() < 0.02 * abs(height)


@pytest.mark.parametrize("threshold", [-0.3, 0.04, 0.4])
def test_augmentation_adds_the_smoothed_rank_one_term(threshold: float) -> None:
    """For Qc = s·a smoothing turns 1[active] ρ ssᵀ into ρ Φ((λ + ρ(Qc − h))/(ρσ)) ssᵀ; the plain L has no curvature."""
    lam, rho, sigma = 0.2, 2.0, 0.3
    penalty = energy_of(lambda a: 0 * a[..., 0], lagrange=partial(lagrangian.augmented, lam=lam, threshold=threshold,
                                                                  rho=rho))
    margin = lam + rho * ((POINT @ SLOPE).item() - threshold)
    share = 0.5 * (1 + math.erf(margin / (rho * sigma) / math.sqrt(2)))
    mean, error = average(penalty, sigma)
    assert ((mean - rho * share * torch.outer(SLOPE, SLOPE)).abs() < 4 * error + 1e-4).all()
    assert error.max() < 0.02
    flat = energy_of(lambda a: 0 * a[..., 0], lagrange=partial(lagrangian.plain, lam=lam, threshold=threshold))
    assert average(flat, sigma, 100)[0].abs().max() < 1e-5


def networks() -> tuple[CriticEnsemble, CriticEnsemble]:
    torch.manual_seed(0)
    return (CriticEnsemble(2, 3, 2, [16, 16], "relu", "xavier").double(),
            CriticEnsemble(4, 3, 2, [16, 16], "silu", "xavier").double())


def augmented_energy() -> Energy:
    parameters = {"lam": 0.5, "threshold": -0.2, "rho": 2.0}
    return Energy(*networks(), 1.0, partial(lagrangian.augmented, **parameters),
                  partial(lagrangian.constraint_weight, **parameters))


def test_against_steins_second_form() -> None:
    """On networks as critics the smoothed Hessian equals E[(εεᵀ − I) E(a + σε)]/σ², which needs no gradient."""
    energy = augmented_energy()
    observation, action, sigma, count = torch.randn(1, 3).double(), POINT.double().unsqueeze(0), 0.5, 200_000
    normals = RandomGenerator(1).normal(count, 2).double()
    with torch.no_grad():
        values = [energy(observation, (action + sign * sigma * normals).unsqueeze(0))[0] for sign in (1, -1)]
        centred = (values[0] + values[1]) / 2 - energy(observation, action)
    terms = (normals[:, :, None] * normals[:, None, :] - torch.eye(2)) * centred[:, None, None] / sigma**2
    repeated = observation.expand(20_000, -1), action.expand(20_000, -1)
    each = smoothed(energy, *repeated, sigma, draw(1, 20_000, 2, RandomGenerator(2)))
    error = (terms.var(0) / count + each.var(0) / 20_000).sqrt()
    assert ((terms.mean(0) - each.mean(0)).abs() < 4 * error).all()
    assert error.max() < 0.05 * each.mean(0).abs().max()


def test_raw_hessian_against_differences_of_the_gradient() -> None:
    energy = augmented_energy()
    observation, action, step = torch.randn(4, 3).double(), torch.randn(4, 2).double(), 1e-6
    columns = [(energy.value_and_gradient(observation, action + step * axis)[1]
                - energy.value_and_gradient(observation, action - step * axis)[1]) / (2 * step)
               for axis in torch.eye(2).double()]
    torch.testing.assert_close(raw_hessian(energy, observation, action), torch.stack(columns, -1),
                               atol=1e-6, rtol=1e-6)


def test_average_of_draws_is_the_mean_of_single_ones() -> None:
    energy, draws = energy_of(lambda a: (a @ SLOPE).abs()), draw(3, 4, 2, RandomGenerator(0))
    points = POINT.expand(4, 2)
    singles = [smoothed(energy, torch.zeros(4, 1), points, 0.3, module.Directions(b.unsqueeze(0), r.unsqueeze(0)))
               for b, r in zip(draws.bases, draws.radii, strict=True)]
    torch.testing.assert_close(smoothed(energy, torch.zeros(4, 1), points, 0.3, draws), torch.stack(singles).mean(0))


def test_energies_are_compared_at_one_multiplier_and_the_guidances_rho() -> None:
    task = build_task(compose("env=toy", "logger=none"))
    for arguments, lam, rho in ((["guidance=none"], 0.0, 1.0), (["guidance=plain"], 0.6931, 1.0),
                                (["guidance=augmented", "guidance.rho=3"], 0.6931, 3.0),
                                (["guidance=augmented", "guidance.rho=3", "guidance.level=batch"], 0.6931, 3.0)):
        agent = build_agent(compose("env=toy", "logger=none", *TINY[:3], *arguments), task)
        both, h = both_energies(agent), agent.guidance.threshold
        q, qc = torch.tensor([1.0, -2.0]), torch.tensor([0.0, h + 5])
        torch.testing.assert_close(both["plain"].lagrangian(q, qc), -q + lam * (qc - h), check_dtype=False)
        weight = torch.clamp(lam + rho * (qc - h), min=0)
        torch.testing.assert_close(both["augmented"].lagrangian(q, qc), (weight**2 - lam**2) / (2 * rho) - q,
                                   check_dtype=False)
        assert both["plain"].risk_factor == agent.energy.risk_factor


def test_quantiles_are_over_states_and_names_say_what_they_are() -> None:
    """With a small ρ, L_A has the curvature of the plain L; a quantile is recomputed from the matrices."""
    task = build_task(compose("env=toy"))
    for name in ("vesde", "gaussian"):
        agent = build_agent(compose("env=toy", f"agent={name}", *TINY[:3], "guidance.rho=1e-4"), task)
        assert noise_levels(agent) == pytest.approx([0.01, 0.01**0.75, 0.1, 0.01**0.25, 1.0])
        observation = torch.randn(40, 3)
        found = curvature(agent, observation, 2, RandomGenerator(5))
        assert list(found) == module.column_names(5) and next(iter(found)) == "curvature_plain_raw_q10"
        assert list(found)[-1] == "curvature_augmented_s5_q90" and len(found) == 2 * 6 * 3
        assert found == curvature(agent, observation, 2, RandomGenerator(5))
        assert found != curvature(agent, observation, 2, RandomGenerator(6))
        for key in found:
            twin = found[key.replace("plain", "augmented")]
            assert found[key] == pytest.approx(twin, rel=1e-2, abs=1e-2)
        noise = RandomGenerator(5)
        action, draws = agent.act(observation, noise), draw(2, 40, 2, noise)
        matrices = smoothed(both_energies(agent)["augmented"], observation, action, 0.1, draws)
        lowest = np.linalg.eigvalsh(matrices.numpy())[:, 0]
        assert found["curvature_augmented_s3_q90"] == pytest.approx(np.quantile(lowest, 0.9), rel=1e-4, abs=1e-5)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


SMALL = [*TINY, "env=toy", "initial_steps=60", "total_steps=120", "eval.every=50", "eval.episodes=1", "log_every=20",
         "checkpoint.every=40", "snapshots=2"]
WITH = ["curvature.states=8", "curvature.samples=2"]


def test_columns_of_a_run(tmp_path: Path) -> None:
    """The columns exist from the first row on, are filled at evaluations only, and do not change training."""
    train_here(*SMALL, *WITH, "checkpoint.keep_replay=true", f"runs_dir={tmp_path / 'with'}")
    train_here(*SMALL, "checkpoint.keep_replay=true", f"runs_dir={tmp_path / 'without'}")
    folder, plain = only_run(tmp_path / "with"), only_run(tmp_path / "without")
    names = module.column_names(5)
    with_rows, without = metrics(folder), metrics(plain)
    assert [list(row)[-len(names):] for row in with_rows] == [names] * len(with_rows)
    assert [{k: v for k, v in row.items() if k not in names} for row in with_rows] == without
    filled = {int(row["step"]): [row[name] != "" for name in names] for row in with_rows}
    assert list(filled) == [20, 40, 50, 60, 80, 100, 120]
    assert all(set(cells) == {step in (50, 100, 120)} for step, cells in filled.items())
    there, here = outcome(folder), outcome(plain)
    differ = {name for name in here if there[name] != here[name]} - {"metrics.csv", "state.json"}
    # Snapshots differ in the identity of their run, which has another configuration; their tensors are equal.
    snapshots = {name for name in here if name.startswith("step=")}
    assert differ == snapshots
    for name in snapshots:
        torch.testing.assert_close(safetensors.torch.load(there[name]), safetensors.torch.load(here[name]),
                                   rtol=0, atol=0)

    loaded = load(folder)
    replay = Replay(loaded.config["buffer_size"], 3, 2)
    Checkpoints(loaded.folder.checkpoints).load(max(Checkpoints(loaded.folder.checkpoints).numbers()), replay)
    noise = RandomGenerator(stream(0, "curvature", 120))
    again = curvature(loaded.agent, replay.sample(8, noise).observation, 2, noise)
    assert {name: float(with_rows[-1][name]) for name in names} == pytest.approx(again, rel=1e-8)


def test_columns_survive_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, *WITH]
    runs = tmp_path / "killed"
    process = start(*arguments, f"runs_dir={runs}")
    wait_until(lambda: rows(folder_of(runs), "metrics.csv") >= 5, process)
    process.kill()
    process.communicate()
    train_here(*arguments, f"runs_dir={runs}")
    assert "going on from step" in capsys.readouterr().err
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    assert outcome(only_run(runs)) == outcome(only_run(tmp_path / "twin"))
