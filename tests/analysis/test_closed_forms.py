"""Estimator and samplers against densities known in closed form.

Tolerances follow from sample sizes: LIMIT standard errors (a correct comparison fails with probability below 1e-6),
plus a stated bound of the remainder where the expected value is a limit.
"""

import csv
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.integrate import quad
from scipy.stats import norm, truncnorm
from torch import Tensor

from algd.algorithm.noise_processes import DDPM, VESDE
from algd.algorithm.rng import RandomGenerator
from algd.algorithm.score import monte_carlo_score
from algd.errors import UsageError
from analysis.studies.closed_forms import chains, denoising, distances, estimator, squashing, study
from analysis.studies.closed_forms.targets import TARGETS, Mixture, gaussian

LIMIT = 5
MEAN, VARIANCE = 0.5, 0.1  # of the Gaussian targets
GAUSSIANS = ("gaussian_1", "gaussian_2", "gaussian_8")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_moments(sample: Tensor, mean: float, variance: float) -> None:
    """Check mean and variance of each coordinate of a Gaussian sample (n, d), within LIMIT standard errors."""
    n = len(sample)
    assert (sample.mean(0) - mean).abs().max() < LIMIT * math.sqrt(variance / n)
    assert (sample.var(0) - variance).abs().max() < LIMIT * variance * math.sqrt(2 / (n - 1))


# The densities


@pytest.mark.parametrize("name", TARGETS)
def test_score_and_energy_are_the_log_densitys(name: str) -> None:
    target = TARGETS[name].diffused(0.7, 0.2)
    x = torch.randn(20, target.size, generator=generator(), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(target.log_density(x).sum(), x)
    torch.testing.assert_close(target.score(x.detach()), slope)
    value, gradient = target.energy(2.0)(x.detach())
    torch.testing.assert_close(value, -2 * target.log_density(x.detach()))
    torch.testing.assert_close(gradient, -2 * slope)


def test_mixture_against_integrals() -> None:
    target, sigma, scale, x = TARGETS["mixture_1"], 0.3, 0.8, 0.1

    def density(a: float) -> float:
        return 0.3 * norm.pdf(a, -0.6, 0.15) + 0.7 * norm.pdf(a, 0.5, 0.2)

    diffused = quad(lambda a: density(a) * norm.pdf(x, scale * a, sigma), -3, 3, points=[-0.6, 0.5])[0]
    here = torch.tensor([x], dtype=torch.float64)
    assert float(target.diffused(scale, sigma).log_density(here).exp()) == pytest.approx(diffused, rel=1e-7)
    assert target.first_weight() == pytest.approx(quad(density, -3, -0.05, points=[-0.6])[0], rel=1e-7)
    mean = quad(lambda a: a * density(a), -3, 3, points=[-0.6, 0.5])[0]
    square = quad(lambda a: a**2 * density(a), -3, 3, points=[-0.6, 0.5])[0]
    assert float(target.mean()) == pytest.approx(mean) and target.variance() == pytest.approx(square - mean**2)


@pytest.mark.parametrize("name", ["gaussian_8", "mixture_2"])
def test_draws_have_the_targets_moments(name: str) -> None:
    target, n = TARGETS[name], 20_000
    sample = target.sample(n, generator())
    assert ((sample.mean(0) - target.mean()).abs() < LIMIT * sample.std(0) / math.sqrt(n)).all()
    squares = (sample - target.mean()).square().mean(1)
    assert abs(float(squares.mean()) - target.variance()) < LIMIT * float(squares.std()) / math.sqrt(n)
    share = float(target.first_side(sample).double().mean())
    if name == "mixture_2":
        weight = target.first_weight()
        assert abs(share - weight) < LIMIT * math.sqrt(weight * (1 - weight) / n)


# The estimator


def test_laws_against_integrals() -> None:
    """bias = −E_q[r²(f − φ)] and variance = E_q[r²(f − φ)²], integrated numerically for the mixture in 1 dimension."""
    target, sigma, x = TARGETS["mixture_1"], 0.4, 0.2
    here = torch.tensor([x], dtype=torch.float64)
    log_density, score = (float(v) for v in target.diffused(1.0, sigma).log_density_and_score(here))

    def moment(power: int) -> float:
        def integrand(a: float) -> float:
            value, slope = (float(v) for v in target.log_density_and_score(torch.tensor([a], dtype=torch.float64)))
            return norm.pdf(a, x, sigma) * math.exp(2 * (value - log_density)) * (slope - score) ** power
        return quad(integrand, -3, 3, points=[-0.6, 0.5], limit=200)[0]

    law = estimator.laws(target, here, sigma)
    assert float(law.score) == pytest.approx(score)
    assert float(law.bias) == pytest.approx(-moment(1), rel=1e-6)
    assert float(law.variance) == pytest.approx(moment(2), rel=1e-6)
    assert law.weight_square == pytest.approx(moment(0), rel=1e-6)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_laws_of_a_gaussian_by_hand(name: str) -> None:
    """r² q is E_q[r²] times N(m + (x − m) v/(v + 2σ²), vσ²/(v + 2σ²)), by the product of Gaussians."""
    target, sigma = TARGETS[name], 0.5
    d, u, w = target.size, VARIANCE + sigma**2, VARIANCE + 2 * sigma**2
    offset = torch.linspace(-0.4, 0.9, d, dtype=torch.float64)
    law = estimator.laws(target, MEAN + offset, sigma)
    square = (u**2 / (VARIANCE * w)) ** (d / 2) * math.exp(float(offset.square().sum()) * (1 / u - 1 / w))
    assert law.weight_square == pytest.approx(square, rel=1e-9)
    gap = offset / u - offset / w  # mean of f under that density, −(x − m)/(v + 2σ²), minus φ
    torch.testing.assert_close(law.bias, -square * gap)
    torch.testing.assert_close(law.variance, square * (gap**2 + sigma**2 / (VARIANCE * w)))


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", ["gaussian_1", "gaussian_8"])
def test_one_sample_is_a_gradient_near_by(name: str, beta: float) -> None:
    """With N = 1 all weights are 1, so φ* is Gaussian with mean −(x − m)/v and variance σ²/v²."""
    target, sigma, n = TARGETS[name], 0.3, 20_000
    x = torch.full((n, target.size), MEAN + 0.2, dtype=torch.float64)
    normals = torch.randn(n, 1, target.size, generator=generator(), dtype=torch.float64)
    value = monte_carlo_score(target.energy(beta), x, torch.full((n,), sigma), normals, beta)
    assert_moments(value, -0.2 / VARIANCE, sigma**2 / VARIANCE**2)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize(("name", "sigma", "samples"), [
    ("gaussian_1", 1.0, 256), ("gaussian_2", 0.316, 256), ("gaussian_8", 0.1, 256), ("mixture_1", 1.0, 512),
    ("mixture_1", 0.1, 128), ("mixture_2", 0.316, 512)])
def test_bias_and_variance_follow_the_laws(name: str, sigma: float, samples: int, beta: float) -> None:
    """The formulas neglect terms that are smaller by a factor of E[r²]/N; the tolerance allows ten times that."""
    target = TARGETS[name]
    x = estimator.typical_point(target, sigma)
    law = estimator.laws(target, x, sigma)
    measured = estimator.measure(target, x, sigma, samples, 600, beta, generator())
    rest = 10 * law.weight_square / samples
    assert rest < 0.6  # otherwise the comparison would show nothing
    for value, error, expected in ((measured.bias, measured.bias_error, law.bias),
                                   (measured.variance, measured.variance_error, law.variance)):
        assert ((samples * value - expected).abs() < LIMIT * samples * error + rest * expected.abs()).all()


def test_typical_errors_fall_as_one_over_n() -> None:
    """16 times the samples give 1/16 of bias and variance; at N = 64 the next order is 5 E[r²]/N = 0.15."""
    target, sigma = TARGETS["mixture_1"], 0.316
    x = estimator.typical_point(target, sigma)
    few, many = (estimator.measure(target, x, sigma, n, 2000, 1.0, generator()) for n in (64, 1024))
    for key in ("bias", "variance"):
        small, large = float(getattr(many, key)), float(getattr(few, key))
        spread = LIMIT * math.hypot(float(getattr(many, f"{key}_error")) / small,
                                    float(getattr(few, f"{key}_error")) / large)
        assert large / small == pytest.approx(16, rel=spread + 0.15)


# The VE-SDE


def levels(steps: int) -> list[float]:
    """Return σ_0 = 0 and the geometric levels from 0.01 to 1."""
    return [0.0] + [0.01 * 100 ** (k / (steps - 1)) for k in range(steps)]


def hand_chain(steps: int, mean: float, variance: float, samples: int | None) -> tuple[float, float]:
    """Return mean and variance of x_0 for N(MEAN, VARIANCE), with the exact score or N = 1's, −(x + σε − m)/v."""
    sigmas = levels(steps)
    for k in range(steps, 0, -1):
        length = sigmas[k] ** 2 - sigmas[k - 1] ** 2
        slope = 1 - length / (VARIANCE + (0 if samples else sigmas[k] ** 2))
        mean = MEAN + slope * (mean - MEAN)
        variance = slope**2 * variance + (length if k > 1 else 0.0)
        if samples:
            variance += (length * sigmas[k] / VARIANCE) ** 2
    return mean, variance


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", GAUSSIANS)
def test_five_steps_of_the_exact_score(name: str, exact: bool) -> None:
    target, process, draw = TARGETS[name], VESDE(5, 0.01, 1.0), generator()
    x = chains.start(process, target, exact, 20_000, draw)
    sample = chains.run(process, chains.vesde_exact(process, target), x, draw)
    begin = (MEAN, VARIANCE + 1) if exact else (0.0, 1.0)
    expected = hand_chain(5, *begin, samples=None)
    assert_moments(sample, *expected)
    one = gaussian(1)
    assert chains.affine_moments(process, chains.vesde_exact(process, one), *begin) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["gaussian_1", "gaussian_8"])
def test_five_steps_of_the_estimator_with_one_sample(name: str) -> None:
    """With N = 1 every step is affine with slope 1 − Δσ²/v (−8 in the first), which gives the chain in closed form."""
    target, process, draw = TARGETS[name], VESDE(5, 0.01, 1.0), generator()
    x = chains.start(process, target, False, 20_000, draw)
    sample = chains.run(process, chains.vesde_estimated(process, target, 1, 1.0, draw), x, draw)
    assert_moments(sample, *hand_chain(5, 0.0, 1.0, samples=1))


@pytest.mark.parametrize("exact", [True, False])
def test_five_steps_on_the_mixture_against_propagated_densities(exact: bool) -> None:
    """Samples equal the density that quadrature propagates, p ↦ ∫ p(x) N(·; x + Δσ² φ(x), Δσ²) dx at each level."""
    target, process, draw, n = TARGETS["mixture_1"], VESDE(5, 0.01, 1.0), generator(), 20_000
    sigmas, grid = levels(5), np.linspace(-7, 7, 1401)

    def score(x: np.ndarray, sigma: float) -> np.ndarray:
        spreads = [math.hypot(0.15, sigma), math.hypot(0.2, sigma)]
        left, right = 0.3 * norm.pdf(x, -0.6, spreads[0]), 0.7 * norm.pdf(x, 0.5, spreads[1])
        return -(left * (x + 0.6) / spreads[0] ** 2 + right * (x - 0.5) / spreads[1] ** 2) / (left + right)

    if exact:
        density = 0.3 * norm.pdf(grid, -0.6, math.hypot(0.15, 1)) + 0.7 * norm.pdf(grid, 0.5, math.hypot(0.2, 1))
    else:
        density = norm.pdf(grid)
    for k in range(5, 1, -1):
        length = sigmas[k] ** 2 - sigmas[k - 1] ** 2
        kernel = norm.pdf(grid[:, None], grid + length * score(grid, sigmas[k]), math.sqrt(length))
        density = kernel @ density * (grid[1] - grid[0])
    mass = density * (grid[1] - grid[0])
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    end = grid + sigmas[1] ** 2 * score(grid, sigmas[1])
    mean, first = float(mass @ end), float(mass @ (end < -0.05))
    variance, fourth = (float(mass @ (end - mean) ** power) for power in (2, 4))

    x = chains.start(process, target, exact, n, draw)
    sample = chains.run(process, chains.vesde_exact(process, target), x, draw)
    assert abs(float(sample.mean()) - mean) < LIMIT * math.sqrt(variance / n)
    assert abs(float(sample.var()) - variance) < LIMIT * math.sqrt((fourth - variance**2) / n)
    share = float(target.first_side(sample).double().mean())
    # The mass on one side is accurate to one cell of the grid.
    assert abs(share - first) < LIMIT * math.sqrt(first * (1 - first) / n) + 0.01 * density.max()


@pytest.mark.parametrize("process", ["vesde", "ddpm"])
def test_many_steps_draw_from_the_posterior_of_the_prior(process: str) -> None:
    """As K grows, x_0 given x_K has the exact posterior N(m + g(x_K − s m), v − g s v) with g = s v/(s²v + σ²).

    A start from N(0, 1) instead of the diffused density thus gives mean m(1 − g s) and variance v − g s v + g². The
    error
    of K steps is of first order, so twice the result of 2K steps minus that of K has an error of second order.
    """
    ends = []
    # At 40 linear steps 1 − ᾱ_1 is 4e-5; the authors' 1e-8 and float32 change it by 2e-3, which grows with more steps.
    for steps in (500, 1000) if process == "vesde" else (20, 40):
        target = gaussian(1)
        if process == "vesde":
            scale, spread = 1.0, 1.0
            chain = VESDE(steps, 0.001, 1.0)
            ends.append(chains.affine_moments(chain, chains.vesde_exact(chain, target), 0.0, 1.0))
        else:
            five = DDPM(5, "linear", 1e-4, 0.02, 0.0)
            chain = denoising.refined(five, "linear", 1e-4, 0.02, steps)
            scale = math.exp(-0.5 * 5 * (1e-4 + 0.02) / 2)
            spread = math.sqrt(1 - scale**2)
            ends.append(chains.affine_moments(chain, denoising.exact_noise(chain, target), 0.0, 1.0))
    gain = scale * VARIANCE / (scale**2 * VARIANCE + spread**2)
    limit = (MEAN * (1 - gain * scale), VARIANCE * (1 - gain * scale) + gain**2)
    for coarse, fine, expected in zip(*ends, limit, strict=True):
        assert 2 * fine - coarse == pytest.approx(expected, abs=1e-4 if process == "vesde" else 2e-3)


def test_without_errors_the_sampler_passes_the_permutation_test_and_with_them_it_fails() -> None:
    """Without errors p ≤ 0.005 has probability 0.005; for five steps from the prior p takes its least value, 1/200."""
    target, draw = TARGETS["mixture_2"], generator()
    truth = chains.truth(target, 600, draw)
    p_values = {}
    for steps, exact in ((150, True), (5, False)):
        process = VESDE(steps, 0.01, 1.0)
        x = chains.start(process, target, exact, 600, draw)
        sample = chains.run(process, chains.vesde_exact(process, target), x, draw)
        p_values[steps] = chains.compare(sample, truth, 199, draw).p_value
    assert p_values[150] > 0.005
    assert p_values[5] == pytest.approx(1 / 200)


# Distances and decompositions


def energy_distance(x: Tensor, y: Tensor) -> float:
    return distances.permutation_test(x, y, 0, generator())[0]


def test_energy_distance_by_hand() -> None:
    """For {0, 1} and {3, 5} the energy distance is 2 · (3 + 5 + 2 + 4)/4 − 1 − 2 = 4."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    assert energy_distance(x, y) == pytest.approx(4)
    x, y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert energy_distance(x, y) == pytest.approx(2 * (0 + 1 + 5 + math.hypot(3, 3)) / 4 - 5 - 1)


def test_energy_distance_of_shifted_gaussians() -> None:
    """2 E|N(μ, 2)| − 4/√π with E|N(μ, s²)| = s√(2/π) exp(−μ²/2s²) + μ erf(μ/(s√2)), by the mean of 40 sample pairs."""
    shift, s = 0.8, math.sqrt(2)
    folded = s * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * s**2)) + shift * math.erf(shift / 2)
    draw = generator()
    values = torch.tensor([energy_distance(torch.randn(100, 1, generator=draw),
                                           shift + torch.randn(100, 1, generator=draw)) for _ in range(40)])
    expected = 2 * folded - 4 / math.sqrt(math.pi)
    assert abs(float(values.mean()) - expected) < LIMIT * float(values.std()) / math.sqrt(40)


def test_permutation_p_values() -> None:
    """For separated groups of three 2 of 20 labellings reach the distance; for equal distributions p is uniform."""
    apart = torch.tensor([[0.0], [0.1], [0.25]]), torch.tensor([[9.0], [9.2], [9.5]])
    n = 4000
    assert abs(distances.permutation_test(*apart, n, generator())[1] - 0.1) < LIMIT * math.sqrt(0.09 / n) + 1 / n
    draw = generator()
    ps = []
    for _ in range(400):
        x, y = torch.randn(2, 15, 2, generator=draw)
        ps.append(distances.permutation_test(x, y, 19, draw)[1])
    for level in (0.1, 0.5):
        share = sum(p <= level + 1e-9 for p in ps) / 400
        assert abs(share - level) < LIMIT * math.sqrt(level * (1 - level) / 400)


def test_decomposition_by_hand_adds_up() -> None:
    """The deviation is 1 + 10·prior + 100·steps + 1000·estimator + 5·(steps and estimator)."""
    cells = {(p, k, n): 1.0 + 10 * p + 100 * k + 1000 * n + 5 * (k and n)
             for p in (False, True) for k in (False, True) for n in (False, True)}
    rows = {row["error"]: row for row in chains.decompose(cells)}
    assert [rows[e]["alone"] for e in ("floor", *chains.ERRORS)] == [1, 10, 100, 1000]
    assert [rows[e]["in_turn"] for e in ("floor", *chains.ERRORS)] == [1, 10, 100, 1005]
    assert [rows[e]["last"] for e in chains.ERRORS] == [10, 105, 1005]
    assert rows["total"]["in_turn"] == 1116
    lost = chains.decompose({**cells, (False, False, True): None})
    assert [row["alone"] for row in lost] == [1, 10, 100, chains.DIVERGED, ""]
    assert [chains.diverged(torch.tensor([[x]])) for x in (999.0, 1001.0, math.inf, math.nan)] == [
        False, True, True, True]


# Through tanh


def latent_by_hand(target: Mixture, scale: float, bias: float, x: float, sigma: float) -> tuple[float, float]:
    """Compute the diffused score of the latent x of a = tanh(x)·scale + bias, and E_q[r²], by the trapezoidal rule."""
    grid = np.linspace(x - 9 * sigma, x + 9 * sigma, 40_001)
    action = torch.tensor(np.tanh(grid) * scale + bias).unsqueeze(1)
    density = target.log_density(action).exp().numpy() * scale / np.cosh(grid) ** 2
    normal = norm.pdf(grid, x, sigma)
    here = np.trapezoid(density * normal, grid)
    score = np.trapezoid(density * normal * (grid - x) / sigma**2, grid) / here
    return float(score), float(np.trapezoid(density**2 * normal, grid) / here**2)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 1.0)])
def test_latent_score_target_tends_to_the_latents_score(low: float, high: float, beta: float) -> None:
    """The mean of the policy's φ* equals the latent's score, within Hartley and Ross's bound of the bias of a ratio:
    |bias| ≤ standard deviation of φ* · √((E[r²] − 1)/N)."""
    target, process, samples, rows = TARGETS["mixture_1"], VESDE(2, 0.3, 1.0), 1000, 200
    policy = squashing.policy(process, 1, "latent", samples, beta)
    policy.scale.fill_((high - low) / 2)
    policy.bias.fill_((high + low) / 2)
    energy: Any = squashing.TargetEnergy(target, beta)
    for level, sigma in ((1, 0.3), (2, 1.0)):
        for x in (-1.2, 0.0, 0.9):
            points, at = torch.full((rows, 1), x), torch.full((rows,), level)
            values = policy.score_target(energy, points, at, RandomGenerator(0).normal(rows, samples, 1)).double()
            score, square = latent_by_hand(target, (high - low) / 2, (high + low) / 2, x, sigma)
            allowed = LIMIT / math.sqrt(rows) + math.sqrt((square - 1) / samples)
            assert abs(float(values.mean()) - score) < allowed * float(values.std())


def test_flat_energy_leaves_the_jacobians_slope() -> None:
    """A constant energy is a uniform density on the box, whose latent has the score −2 tanh(x) at any temperature."""
    process = VESDE(1, 1e-4, 1e-4)
    policy = squashing.policy(process, 2, "latent", 4, 3.0)
    x = torch.tensor([[-1.0, 0.3], [2.5, 0.0]])

    class Flat:
        def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros(action.shape[:-1]), torch.zeros_like(action)

    flat: Any = Flat()
    value = policy.score_target(flat, x, torch.ones(2, dtype=torch.long), RandomGenerator(0).normal(2, 4, 2))
    torch.testing.assert_close(value, -2 * torch.tanh(x), atol=1e-3, rtol=0)  # standard deviation 1e-4, slopes below 2


def test_action_score_target_tends_to_the_actions_score() -> None:
    """Without the log-determinant φ* estimates the score of the action's density, which differs from the latent's."""
    target, sigma, samples, rows = TARGETS["mixture_1"], 0.3, 1000, 200
    policy = squashing.policy(VESDE(1, sigma, sigma), 1, "action", samples, 1.0)
    energy: Any = squashing.TargetEnergy(target, 1.0)
    a = torch.full((rows, 1), 0.7)
    values = policy.score_target(energy, a, torch.ones(rows, dtype=torch.long),
                                 RandomGenerator(0).normal(rows, samples, 1)).double()
    here = torch.tensor([0.7], dtype=torch.float64)
    law = estimator.laws(target, here, sigma)
    allowed = LIMIT / math.sqrt(rows) + math.sqrt((law.weight_square - 1) / samples)
    assert abs(float(values.mean() - law.score)) < allowed * float(values.std())
    latent = latent_by_hand(target, 1.0, 0.0, math.atanh(0.7), sigma)[0]
    assert abs(float(values.mean()) - latent) > 3 * allowed * float(values.std())


def test_grid_score_against_integrals() -> None:
    line = squashing.latent_grid(TARGETS["mixture_1"])
    for sigma in (0.05, 1.0):
        score = line.score(sigma)
        for x in (-1.5, 0.11, 2.0):
            value = float(score(torch.tensor([[x]], dtype=torch.float64)))
            expected = latent_by_hand(TARGETS["mixture_1"], 1.0, 0.0, x, sigma)[0]
            assert value == pytest.approx(expected, rel=2e-3, abs=2e-3)
    # In 2 dimensions with independent coordinates the results equal those in 1 dimension.
    plane = squashing.LatentGrid(gaussian(2), 301)
    x = torch.tensor([[0.3, -1.0], [1.4, 0.6]], dtype=torch.float64)
    value = plane.score(0.3)(x)
    for row in range(2):
        for column in range(2):
            expected = latent_by_hand(gaussian(1), 1.0, 0.0, float(x[row, column]), 0.3)[0]
            assert float(value[row, column]) == pytest.approx(expected, rel=5e-3, abs=5e-3)


def test_box_truth_is_a_truncated_gaussian() -> None:
    s = math.sqrt(VARIANCE)
    cut = truncnorm((-1 - MEAN) / s, (1 - MEAN) / s, loc=MEAN, scale=s)
    for name in GAUSSIANS:
        truth = squashing.box_truth(TARGETS[name], 3000, generator())
        assert truth.mean == pytest.approx(cut.mean() * math.sqrt(TARGETS[name].size), rel=1e-5)
        assert truth.variance == pytest.approx(cut.var(), rel=1e-4)
        assert (truth.draws.abs() < 1).all()
        assert (truth.draws.mean(0) - cut.mean()).abs().max() < LIMIT * cut.std() / math.sqrt(3000)


def test_the_logdeterminant_is_what_brings_the_sampler_to_the_box() -> None:
    """With equal start and steps the latent's score comes closer to the truncated mean, by more than LIMIT errors."""
    target, n = TARGETS["gaussian_1"], 5000
    truth = squashing.box_truth(target, 500, generator())
    process = VESDE(20, 0.01, 1.0)
    errors = {}
    for space in squashing.SPACES:
        draw = generator()
        x = squashing.start(process, target, True, n, draw)
        action = torch.tanh(chains.run(process, squashing.exact(process, target, space), x, draw))
        errors[space] = abs(float(action.mean()) - truth.mean)
    assert errors["action"] > errors["latent"] + LIMIT * math.sqrt(2 * truth.variance / n)


# DDPM

SCHEDULES = {"linear": ("linear", 1e-4, 0.02), "variance_preserving": ("variance_preserving", 0.1, 10.0)}


def schedule_betas(schedule: str) -> list[float]:
    if schedule == "linear":
        return [1e-4 + (0.02 - 1e-4) * k / 4 for k in range(5)]
    return [1 - math.exp(-quad(lambda t: 0.1 + 9.9 * t, k / 5, (k + 1) / 5)[0]) for k in range(5)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_five_denoising_steps_with_exact_noise(schedule: str, exact: bool) -> None:
    """For a Gaussian the chain equals affine steps with the mean written as (x + β_k ∇ log p_k)/√(1−β_k)."""
    target, process, draw = TARGETS["gaussian_2"], DDPM(5, *SCHEDULES[schedule], 0.0), generator()
    betas = schedule_betas(schedule)
    bars = np.cumprod([1.0] + [1 - b for b in betas])
    begin = (math.sqrt(bars[5]) * MEAN, bars[5] * VARIANCE + 1 - bars[5]) if exact else (0.0, 1.0)
    mean, variance = begin
    for k in range(5, 0, -1):
        beta, bar = betas[k - 1], bars[k]
        pull = beta / (bar * VARIANCE + 1 - bar)
        mean = (mean - pull * (mean - math.sqrt(bar) * MEAN)) / math.sqrt(1 - beta)
        variance = ((1 - pull) ** 2 / (1 - beta)) * variance + (beta * (1 - bars[k - 1]) / (1 - bar) if k > 1 else 0)
    found = chains.affine_moments(process, denoising.exact_noise(process, gaussian(1)), *begin)
    assert found == pytest.approx((mean, variance), rel=1e-3)  # the authors' 1e-8 changes level 1 by 1e-4
    x = chains.start(process, target, exact, 20_000, draw)
    assert_moments(chains.run(process, denoising.exact_noise(process, target), x, draw), *found)


def test_the_linear_schedule_keeps_the_signal_and_starts_without_it() -> None:
    """Linear: ᾱ_5 = 0.9506, and x_5 has deviation √(0.9506 · 0.1 + 0.0494) = 0.38, not 1. VP: exp(−5.05) and 0.997."""
    deviations = {}
    for name, arguments in SCHEDULES.items():
        process = DDPM(5, *arguments, 0.0)
        level = gaussian(1).diffused(process.scales[-1].double(), process.spreads[-1].double())
        deviations[name] = (float(process.scales[-1] ** 2), level.variance() ** 0.5)
        assert process.prior_std == 1
    bar = math.prod(1 - b for b in schedule_betas("linear"))
    assert deviations["linear"] == pytest.approx((bar, math.sqrt(bar * VARIANCE + 1 - bar)), rel=1e-5)
    assert deviations["linear"] == pytest.approx((0.9506, 0.3800), abs=1e-4)
    assert deviations["variance_preserving"] == pytest.approx((0.006409, 0.997), abs=2e-4)


@pytest.mark.parametrize("rescale", [True, False])
def test_centre_of_the_samples(rescale: bool) -> None:
    """Rescaled, φ*/√ᾱ is the score of x_k's density; raw, it is that of another density, with zero at m, not √ᾱ m."""
    target, samples, rows, level, x = gaussian(1), 2000, 400, 3, 0.9
    process = DDPM(5, "variance_preserving", 0.1, 10.0, 0.05)
    predict = denoising.estimated_noise(process, target, samples, 2.0, rescale, RandomGenerator(0))
    values = predict("score", torch.full((rows, 1), x, dtype=torch.float64), level)
    bar = float(process.scales[level - 1]) ** 2
    right = -(x - math.sqrt(bar) * MEAN) / (bar * VARIANCE + 1 - bar)
    raw = -(x - MEAN) / (VARIANCE + 1 - bar)
    centre, spread = (x / math.sqrt(bar), math.sqrt((1 - bar) / bar)) if rescale else (x, math.sqrt(1 - bar))
    square = estimator.laws(target, torch.tensor([centre], dtype=torch.float64), spread).weight_square
    allowed = (LIMIT / math.sqrt(rows) + math.sqrt((square - 1) / samples)) * float(values.std())
    expected, other = (right, raw) if rescale else (raw, right)
    assert abs(float(values.mean()) - expected) < allowed < abs(other - expected) / 2
    uncentred = denoising.uncentred_noise(process, target)("score", torch.tensor([[x]], dtype=torch.float64), level)
    assert float(uncentred) == pytest.approx(raw, rel=1e-5)
    noise = predict("noise", torch.full((rows, 1), x, dtype=torch.float64), level)
    assert abs(float(noise.mean()) + math.sqrt(1 - bar) * expected) < math.sqrt(1 - bar) * allowed


def test_the_push_has_one_length_whatever_the_score() -> None:
    """The push has a fixed length at every point and temperature; a step along the score would not."""
    target = TARGETS["mixture_2"]
    still, pushed = (DDPM(5, "linear", 1e-4, 0.02, length) for length in (0.0, 0.05))
    x = target.sample(200, generator()).double()
    heads = denoising.exact_noise(pushed, target)
    for level in (1, 3, 5):
        moved = pushed.step(heads, x, level, None) - still.step(heads, x, level, None)
        torch.testing.assert_close(moved.norm(dim=1), torch.full((200,), 0.05).double(), rtol=1e-5, atol=1e-8)
        hot = pushed.step(lambda head, x, k: heads(head, x, k) * (0.01 if head == "score" else 1), x, level, None)
        torch.testing.assert_close(hot, pushed.step(heads, x, level, None), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_score_steps_of_a_gaussian(schedule: str) -> None:
    """The length is β_k/√(1−β_k) · √d/√(ᾱv + 1 − ᾱ); the mean of 20000 points has relative error 1/(2√(20000 d/2))."""
    process, d = DDPM(5, *SCHEDULES[schedule], 0.05), 2
    betas = schedule_betas(schedule)
    bars = np.cumprod([1 - b for b in betas])
    expected = [b / math.sqrt(1 - b) * math.sqrt(d / (bar * VARIANCE + 1 - bar))
                for b, bar in zip(betas, bars, strict=True)]
    found = denoising.score_steps(process, TARGETS["gaussian_2"])
    np.testing.assert_allclose(found, expected, rtol=LIMIT / (2 * math.sqrt(20_000 * d / 2)) + 1e-3)  # β_1 in float32


def test_rounding_is_what_parts_fine_steps_from_the_formula() -> None:
    """Without rounding, the error of K steps is of first order, and the limit is the posterior (0.17004 and 0.4919).

    With DDPM's own constants five steps agree, and a thousand, with 1 − ᾱ_1 = 5e-7, lose 0.05 of the variance.
    """
    bar = math.exp(-5 * (1e-4 + 0.02) / 2)
    gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
    coarse, fine = (denoising.gaussian_moments(k, 5e-4, 0.1, MEAN, VARIANCE) for k in (500, 1000))
    assert fine[0] == pytest.approx(MEAN * (1 - gain * math.sqrt(bar)), rel=1e-9)
    limit = VARIANCE * (1 - gain * math.sqrt(bar)) + gain**2
    assert 2 * fine[1] - coarse[1] == pytest.approx(limit, abs=1e-5)
    for steps, loss in ((5, 0.0), (1000, 0.05)):
        process = DDPM(steps, "variance_preserving", 5e-4, 0.1, 0.0)
        found = chains.affine_moments(process, denoising.exact_noise(process, gaussian(1)), 0.0, 1.0)
        exact = denoising.gaussian_moments(steps, 5e-4, 0.1, MEAN, VARIANCE)
        assert exact[1] - found[1] == pytest.approx(loss, abs=0.01 if loss else 1e-4)


# The study


def arguments() -> dict[str, Any]:
    """Return the arguments that conf/experiment/closed_forms.yaml passes to the study."""
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "experiment" / "closed_forms.yaml")
    return {key: value for key, value in OmegaConf.to_container(config.study).items() if key != "_target_"}


SMALL = {"targets": ["gaussian_1", "mixture_2"], "fine_levels": 10, "squashed_fine_levels": 3, "levels": 3,
         "level_sweep": [3, 10], "sample_sweep": [4, 16], "sampler_sweep": [4], "repeats": 60, "paths": 200,
         "tested": 50, "permutations": 19}


def test_the_configuration_names_the_studys_arguments() -> None:
    assert set(arguments()) == set(inspect.signature(study.run).parameters) - {"folder"}


def test_the_study_writes_tables_and_figures(tmp_path: Path) -> None:
    study.run(folder=tmp_path, **(arguments() | SMALL))
    tables = {"estimator", "estimator_levels", "sampler_steps", "sampler_samples", "sampler_errors", "squashed_errors",
              "ddpm_levels", "ddpm_variants", "ddpm_samples", "ddpm_errors", "ddpm_push", "ddpm_rounding"}
    pictures = {f"{name}.png" for name in ("estimator", "steps", "sampler", "squashed", "ddpm")}
    assert {path.name for path in tmp_path.iterdir()} == {f"{t}.{e}" for t in tables for e in ("csv", "md")} | pictures
    for table, keys in (("sampler_errors", ()), ("squashed_errors", ("space",)), ("ddpm_errors", ("schedule",))):
        with (tmp_path / f"{table}.csv").open() as file:
            rows = list(csv.DictReader(file))
        groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[key] for key in ("target", *keys, "quantity")), []).append(row)
        assert len(groups) == 7 * (2 if keys else 1)  # three quantities of a Gaussian, four of a mixture
        for group in groups.values():
            assert [row["error"] for row in group] == ["floor", "prior", "steps", "estimator", "total"]
            parts = [row["in_turn"] for row in group]
            if chains.DIVERGED not in parts:
                values = [float(part) for part in parts]
                assert sum(values[:4]) == pytest.approx(values[4], rel=1e-6, abs=1e-8 + 1e-9 * max(map(abs, values)))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"targets": ["banana"]}, r"study\.targets=banana is unknown; choose from gaussian_1"),
    ({"sigma_min": 2.0}, r"study\.sigma_min=2 must be below study\.sigma_max=1"),
    ({"preserving_betas": [0.1]}, r"study\.preserving_betas=\[0\.1\] must name two values"),
    ({"linear_betas": [0.1, 1.5]}, r"study\.linear_betas=\[0\.1, 1\.5\] must stay below 1"),
    ({"tested": 9999}, r"study\.tested=9999 must lie between 2 and study\.paths=5000")])
def test_a_wrong_argument_is_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study.run(folder=tmp_path / "out", **(arguments() | wrong))
    assert not (tmp_path / "out").exists()
