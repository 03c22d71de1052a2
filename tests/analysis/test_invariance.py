"""The invariance study against closed forms, numbers computed by hand and second implementations."""

import csv
import inspect
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.integrate import quad
from scipy.special import erf

from algd.algorithm import lagrangian
from algd.errors import UsageError
from analysis.studies.invariance import (
    basins,
    denoising,
    energies,
    multipliers,
    policies,
    policy_level,
    quadrature,
    study,
    zero_temperature,
)
from analysis.studies.invariance.energies import Energy
from analysis.studies.invariance.problems import PROBLEMS, Linear, Problem, Quadratic, Sum

LINES = [name for name, problem in PROBLEMS.items() if problem.dimension == 1]
PLANES = [name for name, problem in PROBLEMS.items() if problem.dimension == 2]
SMOOTH = [name for name, problem in PROBLEMS.items() if problem.cost.differentiable]
ACTIVE = [name for name in LINES if name not in ("slack", "never")]
BETA = 0.1
PANELS = {1: 80, 2: 16}


def solved(name: str, rho: float, kind: multipliers.Kind,
           beta: float = BETA) -> tuple[policies.Policy, policies.Policy]:
    """Return the policy of reading B, and π* on the same quadrature rule."""
    problem = PROBLEMS[name]
    panels = PANELS[problem.dimension]
    policy = multipliers.solve(problem, beta, rho, kind, panels)
    star = multipliers.solve(problem, beta, 0.0, "optimal", panels)
    return policy, policies.boltzmann(star.energy, beta, policy.rule)


def flat(slope: float, threshold: float) -> Problem:
    """Return the problem Q = slope·a and Qc = a on [−1, 1]."""
    return Problem("flat", 1, Sum((Linear((slope,)),)), Sum((Linear((1.0,)),)), threshold, "", "")


def truncated_gaussian(variance: float) -> tuple[float, float, float]:
    """Return ∫ exp(−a²/(2·variance)) over [−1, 1], and E[a²] and E|a| under that density."""
    s = math.sqrt(variance)
    inside = erf(1 / (s * math.sqrt(2)))
    edge = math.exp(-0.5 / variance)
    total = s * math.sqrt(2 * math.pi) * inside
    return total, variance * (1 - 2 * edge / total), 2 * variance * (1 - edge) / total


# Formulas


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_energies_equal_the_training_codes(name: str) -> None:
    problem = PROBLEMS[name]
    a = np.random.default_rng(0).uniform(-1, 1, (200, problem.dimension))
    q, qc = problem.reward.value(a), problem.cost.value(a)
    for lam, rho in ((0.0, 0.3), (0.7, 1.0), (0.2, 50.0)):
        theirs = lagrangian.augmented(torch.from_numpy(q), torch.from_numpy(qc), lam, problem.threshold, rho).numpy()
        np.testing.assert_allclose(Energy(problem, lam, rho).value(a), theirs, atol=1e-12)
        plain = lagrangian.plain(torch.from_numpy(q), torch.from_numpy(qc), lam, problem.threshold).numpy()
        np.testing.assert_allclose(Energy(problem, lam, 0.0).value(a), plain, atol=1e-12)


def test_the_augmented_energy_by_hand() -> None:
    # For λ = 1, ρ = 2 the bracket is 2 at excess 0.5, giving (4 − 1)/4, and 0 at excess −0.5 and below, giving −1/4.
    np.testing.assert_allclose(energies.penalty(np.array([0.5, 0.0, -0.5, -3.0]), 1.0, 2.0), [0.75, 0, -0.25, -0.25])
    np.testing.assert_allclose(energies.weight(np.array([0.5, 0.0, -0.5, -3.0]), 1.0, 2.0), [2, 1, 0, 0])


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_and_hessians_are_those_of_the_values(name: str) -> None:
    problem = PROBLEMS[name]
    energy = Energy(problem, 0.4, 3.0)
    a = np.random.default_rng(1).uniform(-0.9, 0.9, (50, problem.dimension))
    a = a[np.abs(energy.excess(a) + energy.lam / energy.rho) > 1e-3]  # the Hessian jumps at the kink
    step = 1e-5
    for i, e in enumerate(step * np.eye(problem.dimension)):
        slope = (energy.value(a + e) - energy.value(a - e)) / (2 * step)
        np.testing.assert_allclose(energy.gradient(a)[:, i], slope, atol=1e-7, rtol=1e-6)
        bend = (energy.gradient(a + e) - energy.gradient(a - e)) / (2 * step)
        np.testing.assert_allclose(energy.hessian(a)[:, i], bend, atol=1e-6, rtol=1e-6)


# Integration


def test_integrals_over_a_disc_are_exact() -> None:
    rule = quadrature.build(PROBLEMS["disc"], (0.25,), 16)
    r2 = (rule.points**2).sum(1)
    assert rule.weights @ (r2 > 0.25) == pytest.approx(4 - math.pi / 4, abs=1e-9)
    # ∫ [r² − h]₊ over the box is 8/3 − 4h + πh²/2
    assert rule.weights @ np.maximum(r2 - 0.25, 0) == pytest.approx(8 / 3 - 1 + math.pi / 32, abs=1e-9)


def test_lines_along_a_level_set_are_split_too() -> None:
    rule = quadrature.build(PROBLEMS["valley"], (-0.123456,), 16)
    assert rule.weights @ (rule.points[:, 0] > -0.123456) == pytest.approx(2 * 1.123456, abs=1e-9)


@pytest.mark.parametrize("name", LINES)
def test_integrals_on_a_line_to_ten_digits(name: str) -> None:
    problem, energy = PROBLEMS[name], Energy(PROBLEMS[name], 0.3, 10.0)
    policy = policies.boltzmann(energy, BETA, quadrature.build(problem, energy.kinks(), 80))
    grid = np.linspace(-1, 1, 200_001)
    excess = energy.excess(grid[:, None])
    cuts = [grid[i] for level in (0.0, -0.03) for i in np.flatnonzero(np.diff(excess > level))]
    cuts = sorted([-1, 1, *cuts, *np.linspace(-0.9, 0.9, 19)])

    def integral(f) -> float:
        return sum(quad(lambda x: f(np.array([[x]])).item(), u, v, epsabs=1e-14, epsrel=1e-13)[0]
                   for u, v in pairwise(cuts))

    def weight(a: np.ndarray) -> np.ndarray:
        return np.exp(-energy.value(a) / BETA)

    total = integral(weight)
    # The cuts are within 1e-5 of the kinks, which explains the remaining difference where Qc jumps.
    tolerance = 1e-10 if problem.cost.differentiable else 1e-5
    cost = integral(lambda a: weight(a) * problem.cost.value(a)) / total
    reward = integral(lambda a: weight(a) * problem.reward.value(a)) / total
    assert policy.cost == pytest.approx(cost, abs=tolerance)
    assert policy.reward == pytest.approx(reward, abs=tolerance)


@pytest.mark.parametrize("name", PLANES)
def test_integrals_in_the_plane_to_six_digits(name: str) -> None:
    problem, energy = PROBLEMS[name], Energy(PROBLEMS[name], 0.3, 10.0)
    coarse = policies.boltzmann(energy, BETA, quadrature.build(problem, energy.kinks(), 16))
    side = -1 + (np.arange(1500) + 0.5) * 2 / 1500  # second implementation: midpoint rule
    points = np.stack(np.meshgrid(side, side, indexing="ij"), -1)
    exponent = -energy.value(points) / BETA
    mass = np.exp(exponent - exponent.max())
    mass /= mass.sum()
    assert coarse.cost == pytest.approx((mass * problem.cost.value(points)).sum(), abs=5e-6)
    assert coarse.risk == pytest.approx((mass * (energy.excess(points) > 0)).sum(), abs=2e-3)
    fine = policies.boltzmann(energy, BETA, quadrature.build(problem, energy.kinks(), 32))
    for name in ("cost", "reward", "risk", "entropy"):
        assert getattr(coarse, name) == pytest.approx(getattr(fine, name), abs=1e-6)


# Closed forms


@pytest.mark.parametrize("kind", ["optimal", "code", "saddle"])
def test_linear_reward_and_cost_in_closed_form(kind: multipliers.Kind) -> None:
    """For Q = Qc = a, h = 0: λ* = 1, π* is uniform, and for ρ ≤ λ* each B policy is N(0, β/ρ) cut to the box."""
    policy, star = solved("linear", 1.0, kind)
    assert star.energy.lam == pytest.approx(1, abs=1e-12)
    assert policy.energy.lam == pytest.approx(1, abs=1e-10)
    total, square, modulus = truncated_gaussian(0.1)
    assert policies.kl(policy, star) == pytest.approx(math.log(2 / total) - 5 * square, abs=1e-10)
    assert policies.kl(policy, star) == pytest.approx(0.435581, abs=1e-6)  # by hand, with a table of erf
    assert policies.kl(star, policy) == pytest.approx(math.log(total / 2) + 5 / 3, abs=1e-10)
    # Both densities are symmetric and B's is narrower, so W₁ is the difference of E|a|.
    assert policies.wasserstein_line(policy, star) == pytest.approx(0.5 - modulus, abs=1e-10)
    crossing = math.sqrt(0.2 * math.log(2 / total))
    inside = math.sqrt(0.2 * math.pi) * erf(crossing / math.sqrt(0.2)) / total
    assert policies.total_variation(policy, star, 80) == pytest.approx(inside - crossing, abs=1e-10)


def test_augmenting_shifts_the_policy_although_the_constraint_is_slack() -> None:
    """For Q = 0, Qc = a, h = 0.2: π* is uniform, λ* = 0, and at λ = 0 KL(π*‖B) = ρ·0.8³/(12β) + log(Z/2)."""
    problem = flat(0.0, 0.2)
    star = multipliers.solve(problem, 1.0, 0.0, "optimal", 80)
    policy = multipliers.solve(problem, 1.0, 3.0, "code", 80)
    assert star.energy.lam == policy.energy.lam == 0
    star = policies.boltzmann(star.energy, 1.0, policy.rule)
    total = 1.2 + math.sqrt(math.pi / 6) * erf(0.8 * math.sqrt(1.5))
    assert policies.kl(star, policy) == pytest.approx(0.128 + math.log(total / 2), abs=1e-11)
    assert policies.kl(star, policy) > 0.01


@pytest.mark.parametrize("kind", ["optimal", "code", "saddle"])
def test_nothing_changes_where_no_action_exceeds_the_budget(kind: multipliers.Kind) -> None:
    policy, star = solved("never", 10.0, kind)
    assert policy.energy.lam == 0
    assert abs(policies.kl(policy, star)) < 1e-14


def test_a_cost_with_two_values_is_the_exception() -> None:
    policy, star = solved("binary", 1.0, "code")
    assert abs(policies.kl(policy, star)) < 1e-11
    assert policy.energy.lam < star.energy.lam / 2  # equal policies, different multipliers
    # For ρ above ρ̄ = 2λ*/(1 − h)² the multiplier is 0. As ρ → ∞, B becomes π* given Qc = 0, with KL = −log(1 − h).
    assert multipliers.release(PROBLEMS["binary"], BETA, 80) == pytest.approx(2 * star.energy.lam / 0.64, rel=1e-8)
    odds = (math.exp(4) - math.exp(0.8)) / (math.exp(0.8) - math.exp(-4))
    assert star.energy.lam == pytest.approx(BETA * math.log(odds * 4), rel=1e-8)
    policy, star = solved("binary", 100.0, "code")
    assert policy.energy.lam == 0
    assert policies.kl(policy, star) == pytest.approx(-math.log(0.8), abs=1e-6)


@pytest.mark.parametrize("name", [*ACTIVE, "slack"])
@pytest.mark.parametrize("kind", ["optimal", "code"])
def test_the_shift_grows_as_the_square_of_a_small_penalty(name: str, kind: multipliers.Kind) -> None:
    policy, star = solved(name, 1e-3, kind)
    predicted = multipliers.small_rho_kl(star, kind) * 1e-6
    assert policies.kl(policy, star) == pytest.approx(predicted, rel=0.02, abs=1e-12)


# Properties of every problem


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_price_of_any_policy_is_its_divergence_plus_its_slack(name: str) -> None:
    """F(π*) − F(π) = β KL(π‖π*) + λ*(h − E_π[Qc]), here for random densities that are not Boltzmann densities."""
    problem = PROBLEMS[name]
    star = multipliers.solve(problem, BETA, 0.0, "optimal", PANELS[problem.dimension])
    rng = np.random.default_rng(2)
    cost, reward = problem.cost.value(star.rule.points), problem.reward.value(star.rule.points)
    for _ in range(3):
        density = np.exp(rng.normal() * np.sin(5 * star.rule.points[:, 0]) + rng.normal() * cost)
        density /= star.rule.weights @ density
        mass = star.rule.weights * density
        objective = mass @ reward - BETA * mass @ np.log(density)
        divergence = mass @ (np.log(density) - star.log_density)
        price = BETA * divergence + star.energy.lam * (problem.threshold - mass @ cost)
        assert star.objective - objective == pytest.approx(price, abs=1e-10)


@pytest.mark.parametrize("name", [*LINES, "disc"])
def test_the_equations_of_the_multipliers_fall_as_they_grow(name: str) -> None:
    problem = PROBLEMS[name]
    lams = np.linspace(0, 3, 13)
    for rho, kind in ((0.0, "optimal"), (2.0, "code"), (2.0, "saddle")):
        panels = PANELS[problem.dimension]
        values = [multipliers.residual(multipliers.at(problem, BETA, rho, lam, panels), kind) for lam in lams]
        # If no action exceeds the budget, the augmented energy does not depend on λ as long as λ ≤ ρ(h − max Qc).
        assert np.all(np.diff(values) < (1e-14 if name == "never" and rho > 0 else 0))
        assert values[-1] < values[0]


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("rho", [0.5, 20.0])
def test_multipliers_solve_their_equations(name: str, rho: float) -> None:
    problem, beta, grid = PROBLEMS[name], BETA, np.linspace(-1, 1, 400_001)
    excess, q = problem.cost.value(grid[:, None]) - problem.threshold, problem.reward.value(grid[:, None])

    def mean(f: np.ndarray, lam: float, bracket: np.ndarray) -> float:  # second implementation, on a plain grid
        exponent = (q - (bracket**2 - lam**2) / (2 * rho)) / beta
        mass = np.exp(exponent - exponent.max())
        return float(mass @ f / mass.sum())

    lam = multipliers.solve(problem, beta, rho, "code", 80).energy.lam
    mean_excess = mean(excess, lam, np.maximum(lam + rho * excess, 0))
    assert (lam == 0 and mean_excess < 1e-5) or (lam > 0 and abs(mean_excess) < 1e-5)
    lam = multipliers.solve(problem, beta, rho, "saddle", 80).energy.lam
    bracket = np.maximum(lam + rho * excess, 0)
    assert mean(bracket, lam, bracket) == pytest.approx(lam, abs=1e-5 * rho)
    lam = multipliers.solve(problem, beta, 0.0, "optimal", 80).energy.lam
    exponent = (q - lam * excess) / beta
    mass = np.exp(exponent - exponent.max())
    slack = mass @ excess / mass.sum()
    assert (lam == 0 and slack < 1e-5) or (lam > 0 and abs(slack) < 1e-5)


@pytest.mark.parametrize("name", ACTIVE)
def test_the_codes_multiplier_narrows_the_cost_at_equal_mean(name: str) -> None:
    """B is π* times a log-concave factor of Qc, so at equal mean cost it is smaller in convex order."""
    policy, star = solved(name, 0.5, "code")
    assert policy.cost == pytest.approx(star.cost, abs=1e-9)
    assert policy.cost_deviation <= star.cost_deviation + 1e-12
    for level in (-0.1, 0.1, 0.5):
        excess = np.maximum(policy.energy.excess(policy.rule.points) - level, 0)
        assert policy.mean(excess) <= star.mean(excess) + 1e-5  # the kink is not at the end of a panel
    if name != "binary":
        assert star.objective - policy.objective == pytest.approx(BETA * policies.kl(policy, star), abs=1e-10)
        assert star.objective - policy.objective > 1e-7


def test_augmenting_at_the_optimal_multiplier_can_break_the_constraint() -> None:
    """At λ* the mean cost is above the budget, since Qc is skewed to the left under π*."""
    policy, star = solved("saturated", 1.0, "optimal")
    assert policy.cost - PROBLEMS["saturated"].threshold == pytest.approx(0.0951, abs=1e-3)
    skew = star.mean((PROBLEMS["saturated"].cost.value(star.rule.points) - star.cost) ** 3)
    assert skew < 0


@pytest.mark.parametrize("name", ["hazard", "gap", "slack"])
def test_total_variation_against_a_fine_grid(name: str) -> None:
    policy, star = solved(name, 4.0, "saddle")
    grid = np.linspace(-1, 1, 400_001)
    densities = []
    for energy in (policy.energy, star.energy):
        weights = np.exp(-(energy.value(grid[:, None]) - energy.value(grid[:, None]).min()) / BETA)
        densities.append(weights / weights.sum())
    expected = 0.5 * np.abs(densities[0] - densities[1]).sum()
    assert policies.total_variation(policy, star, 80) == pytest.approx(expected, abs=1e-5)
    distance = np.abs(np.cumsum(densities[0] - densities[1])).sum() * 2 / 400_000
    assert policies.wasserstein_line(policy, star) == pytest.approx(distance, abs=1e-5)


def test_sliced_distance_of_ordered_densities() -> None:
    """Densities tilted along a₁ are ordered in every direction, so W₁ of a projection is the difference of means."""
    line = Sum((Linear((1.0, 0.0)),))
    problem = Problem("tilts", 2, line, line, 0.0, "", "")
    rule = quadrature.build(problem, (0.0,), 16)
    p, q = (policies.boltzmann(Energy(problem, lam, 0.0), 0.5, rule) for lam in (1.3, 0.4))
    angles = np.pi * (np.arange(32) + 0.5) / 32
    expected = abs(p.cost - q.cost) * np.abs(np.cos(angles)).mean()
    assert policies.wasserstein_sliced(p, q, 32) == pytest.approx(expected, rel=1e-9)


# Reading A


@pytest.mark.parametrize("name", ["linear", "saturated", "gap", "binary", "slack", "valley"])
def test_the_policy_level_augmentation_has_the_same_optimum_for_every_penalty(name: str) -> None:
    problem = PROBLEMS[name]
    panels = PANELS[problem.dimension]
    star = multipliers.solve(problem, BETA, 0.0, "optimal", panels)
    grid = policy_level.cells(problem, 300 if problem.dimension == 1 else 17)
    lam = grid.optimal_multiplier(BETA)
    for rho in (0.1, 3.0, 100.0):
        fixed = policy_level.by_fixed_point(problem, BETA, rho, star.energy.lam, panels)
        assert abs(policies.kl(fixed, star)) < 1e-13
        p = policy_level.by_convex_optimisation(grid, BETA, rho, lam)
        assert np.abs(p - grid.boltzmann(BETA, lam)).sum() < 1e-8


def test_the_direct_optimisation_finds_other_optima_at_other_multipliers() -> None:
    """At λ = 0 the optimum differs from π* and is a minimum: no nearby point of the simplex has a lower objective."""
    grid = policy_level.cells(PROBLEMS["gap"], 60)
    lam = grid.optimal_multiplier(BETA)
    p = policy_level.by_convex_optimisation(grid, BETA, 1.0, 0.0)
    assert np.abs(p - grid.boltzmann(BETA, lam)).sum() > 0.01
    lowest = grid.objective(p, BETA, 1.0, 0.0)
    rng = np.random.default_rng(3)
    for _ in range(50):
        other = p * np.exp(0.01 * rng.normal(size=len(p)))
        assert grid.objective(other / other.sum(), BETA, 1.0, 0.0) > lowest


def test_the_method_of_multipliers_needs_fewer_steps_with_a_larger_penalty() -> None:
    grid = policy_level.cells(PROBLEMS["hazard"], 200)
    steps = [policy_level.multiplier_steps(grid, BETA, rho) for rho in (0.5, 5.0, 50.0)]
    assert steps[0] > steps[1] > steps[2]
    lam, count = 0.0, 0  # the same, by direct optimisation of each step's J
    while True:
        p = policy_level.by_convex_optimisation(grid, BETA, 5.0, lam)
        following, count = max(0.0, lam + 5.0 * (p @ grid.cost - grid.threshold)), count + 1
        if abs(following - lam) < 1e-6:
            break
        lam = following
    assert count == steps[1]
    assert lam == pytest.approx(grid.optimal_multiplier(BETA), abs=1e-5)


# Zero temperature


@pytest.mark.parametrize("name, rho", [("quadratic", 1.0), ("quadratic", 10.0), ("two_hills", 1.0), ("hazard", 1.0)])
def test_without_a_gap_the_actions_agree_but_the_divergence_does_not_vanish(name: str, rho: float) -> None:
    problem, beta = PROBLEMS[name], 1e-4
    panels = quadrature.resolution(1, beta, rho)
    policy = multipliers.solve(problem, beta, rho, "code", panels)
    star = policies.boltzmann(multipliers.solve(problem, beta, 0.0, "optimal", panels).energy, beta, policy.rule)
    limit = zero_temperature.limiting_kl(zero_temperature.sharpness(problem, zero_temperature.limit(problem), rho))
    assert policies.kl(policy, star) == pytest.approx(limit, rel=0.05)
    assert policies.wasserstein_line(policy, star) < 0.005


def test_the_limit_of_the_divergence_by_hand() -> None:
    # Q = −2(a − 0.7)², Qc = a², h = 0.15 give a* = √0.15, λ = 2·(0.7 − a*)/a*, H = 4 + 2λ, c = 2a*, s = ρc²/H.
    a = math.sqrt(0.15)
    lam = 2 * (0.7 - a) / a
    zero = zero_temperature.limit(PROBLEMS["quadratic"])
    assert zero.action[0] == pytest.approx(a, abs=2e-5)
    assert zero.lam == pytest.approx(lam, abs=1e-3)
    s = 10 * 4 * 0.15 / (4 + 2 * lam)
    assert zero_temperature.sharpness(PROBLEMS["quadratic"], zero, 10.0) == pytest.approx(s, rel=1e-3)
    assert zero_temperature.limiting_kl(1.0) == pytest.approx((math.log(2) - 0.5) / 2)


def test_with_a_gap_a_large_penalty_gives_up_the_coin() -> None:
    zero = zero_temperature.limit(PROBLEMS["gap"])
    # The maxima are at 0.6 (Qc ≈ 0.007) and 1 (Qc ≈ 0.993); to spend 0.4 a mixture takes the second with 0.399.
    assert zero.pure == pytest.approx(0.6, abs=1e-3)
    assert zero.mixed == pytest.approx(0.6 + 0.4 * (0.4 - 0.0067) / (0.9933 - 0.0067), abs=1e-3)
    policy, star = solved("gap", 10.0, "code", beta=0.01)
    assert star.reward - policy.reward > 0.14


# Smoothed energies and denoising


@pytest.mark.parametrize("dimension", [1, 2])
def test_scores_and_curvatures_of_a_gaussian(dimension: int) -> None:
    scale = np.array([50.0, 20.0])[:dimension]
    bowl = Sum((Quadratic((0.1,) * dimension, tuple(-scale / 2)),))
    problem = Problem("bowl", dimension, bowl, bowl, 1.0, "", "")
    smooth = denoising.smoother(Energy(problem, 0.0, 0.0), 0.5)
    variance = 0.5 / scale
    x = np.random.default_rng(4).uniform(-0.3, 0.5, (20, dimension))
    for sigma in (0.01, 0.1):
        np.testing.assert_allclose(smooth.score(x, sigma), -(x - 0.1) / (variance + sigma**2), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(smooth.curvature(x, sigma), 0.5 / (variance.max() + sigma**2), rtol=1e-5)


@pytest.mark.parametrize("name", ["hazard", "gap_plane"])
def test_curvatures_are_the_derivatives_of_scores(name: str) -> None:
    energy = Energy(PROBLEMS[name], 0.4, 5.0)
    smooth = denoising.smoother(energy, BETA)
    d = energy.problem.dimension
    x = np.random.default_rng(5).uniform(-0.8, 0.8, (6, d))
    for sigma in (0.05, 0.3):
        step = 1e-4 * np.eye(d)
        columns = [(smooth.score(x + e, sigma) - smooth.score(x - e, sigma)) / 2e-4 for e in step]
        hessian = -BETA * np.stack(columns, -1)
        np.testing.assert_allclose(smooth.curvature(x, sigma), np.linalg.eigvalsh(hessian)[:, 0], rtol=1e-5, atol=1e-5)


def test_a_little_noise_leaves_the_raw_curvature() -> None:
    energy = Energy(PROBLEMS["two_hills"], 0.7, 1.0)
    x = np.array([[-0.5], [0.1], [0.6]])
    found = denoising.smoother(energy, BETA).curvature(x, 0.01)
    np.testing.assert_allclose(found, energy.hessian(x)[:, 0, 0], rtol=0.03)


def test_the_reverse_process_on_a_gaussian() -> None:
    """The score is (0.2 − x)/(0.01 + σ²), so each step has a closed form; all but the last add noise."""
    bowl = Sum((Quadratic((0.2,), (-25.0,)),))
    smooth = denoising.smoother(Energy(Problem("bowl", 1, bowl, bowl, 1.0, "", ""), 0.0, 0.0), 0.5)
    sigmas = denoising.noise_levels(0.01, 0.15, 5)
    assert sigmas[0] == pytest.approx(0.01)
    assert sigmas[-1] == pytest.approx(0.15)
    rng = np.random.default_rng(6)
    x, noise = 0.1 * rng.standard_normal((500, 1)), rng.standard_normal((4, 500, 1))
    path = denoising.reverse(smooth, sigmas, x, noise)
    assert path.shape == (6, 500, 1)
    lower = np.concatenate([[0], sigmas[:-1]])
    for step, k in enumerate(range(4, -1, -1)):
        moved = sigmas[k] ** 2 - lower[k] ** 2
        x = x + moved * (0.2 - x) / (0.01 + sigmas[k] ** 2)
        if step < 4:
            x = x + math.sqrt(moved) * noise[step]
        np.testing.assert_allclose(path[step + 1], x, atol=1e-6)


def test_descent_goes_to_the_near_minimum_and_not_over_a_barrier() -> None:
    energy = Energy(PROBLEMS["gap"], 0.42, 0.0)
    left, right = sorted(basins.modes(energy)[:, 0])
    found = basins.descend(energy, np.array([[-0.95], [-0.3], [0.3], [0.95]]))[:, 0]
    np.testing.assert_allclose(found, [left, left, right, right], atol=1e-4)
    assert (energy.excess(np.array([[left]])) < 0).all()
    assert (energy.excess(np.array([[right]])) > 0).all()
    # With a rising slope paths end at the boundary.
    assert basins.descend(Energy(flat(1.0, 0.0), 0.0, 0.0), np.array([[-0.5]]))[0, 0] == 1


# The study


def arguments() -> dict[str, Any]:
    """Return the arguments that conf/experiment/invariance.yaml passes to the study."""
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "experiment" / "invariance.yaml")
    return {key: value for key, value in OmegaConf.to_container(config.study).items() if key != "_target_"}


def test_the_configuration_names_the_studys_arguments() -> None:
    assert set(arguments()) == set(inspect.signature(study.run).parameters) - {"folder"}


def test_the_study_writes_tables_and_figures(tmp_path: Path) -> None:
    small = {"problems": ["linear", "hazard"], "rhos": [1.0], "betas": [0.1], "ratios": [10.0], "cold_betas": [0.1],
             "cold_rhos": [1.0], "landscape_rhos": [1.0], "starts": 20, "draws": 5, "probes": 50, "processes": 1}
    study.run(folder=tmp_path, **(arguments() | small))
    with (tmp_path / "pointwise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["problem"], row["multiplier"]) for row in rows] == [
        (name, kind) for name in ("linear", "hazard") for kind in ("optimal", "code", "saddle")]
    assert float(rows[0]["kl"]) == pytest.approx(0.435581, abs=1e-6)
    assert all(float(row["integration_error"]) < 1e-10 and abs(float(row["identity_error"])) < 1e-10 for row in rows)
    written = {path.name for path in tmp_path.iterdir()}
    tables = {"problems", "policy_level", "pointwise", "ratio", "temperature", "curvature", "paths"}
    assert written == {f"{name}.{end}" for name in tables for end in ("csv", "md")} | {
        f"{name}.png" for name in ("densities", "kl", "constraint", "temperature", "curvature")}


def test_a_wrong_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"study\.problems=hill is unknown"):
        study.run(folder=tmp_path / "out", **(arguments() | {"problems": ["hill"]}))
    with pytest.raises(UsageError, match=r"study\.sigma_min=2 must be below study\.sigma_max=1"):
        study.run(folder=tmp_path / "out", **(arguments() | {"sigma_min": 2.0}))
    assert not (tmp_path / "out").exists()
