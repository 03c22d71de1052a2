"""Noise schedules, reverse steps and the Monte-Carlo score, against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from algd.algorithm.noise_processes import DDPM, VESDE, reverse
from algd.algorithm.rng import RandomGenerator
from algd.algorithm.score import monte_carlo_score


def test_vesde_levels() -> None:
    process = VESDE(5, 0.01, 1.0)
    torch.testing.assert_close(process.spreads, torch.tensor([0.01, 10**-1.5, 0.1, 10**-0.5, 1.0]))
    assert sum(process._increments) == pytest.approx(1.0)  # Σ Δσ² = σ_max², a telescoping sum from σ_0 = 0
    assert process._increments[0] == pytest.approx(1e-4)
    torch.testing.assert_close(VESDE(1, 0.01, 2.0).spreads, torch.tensor([2.0]))


def test_ddpm_levels() -> None:
    process = DDPM(5, "linear", 1e-4, 0.02, 0.05)
    betas = [1e-4, 0.005075, 0.01005, 0.015025, 0.02]
    products = np.cumprod([1 - b for b in betas])
    assert products[-1] == pytest.approx(0.9506, abs=1e-4)
    np.testing.assert_allclose(process.scales**2, products, rtol=1e-6)
    np.testing.assert_allclose(process.scales**2 + process.spreads**2, 1, rtol=1e-6)


def test_variance_preserving_schedule_integrates_the_rate() -> None:
    """ᾱ_k = exp(−∫_0^{k/K} (b0 + (b1 − b0) t) dt), and ᾱ_K = exp(−(b0 + b1)/2)."""
    process = DDPM(5, "variance_preserving", 0.1, 10.0, 0.05)
    t = np.arange(1, 6) / 5
    np.testing.assert_allclose(process.scales**2, np.exp(-(0.1 * t + 9.9 * t**2 / 2)), rtol=1e-5)
    assert process.scales[-1] ** 2 == pytest.approx(math.exp(-5.05), rel=1e-4)


def test_one_reverse_step_by_hand() -> None:
    x, z = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 1.0]])
    process = VESDE(3, 0.1, 0.4)  # σ = .1, .2, .4; Δσ²_2 = .04 − .01 = .03
    step = process.step(lambda head, latent, level: -latent, x, 2, z)
    torch.testing.assert_close(step, x * (1 - 0.03) + math.sqrt(0.03) * z)
    process = DDPM(2, "linear", 0.1, 0.2, 0.05)  # ᾱ = .9, .72
    heads = {"noise": torch.tensor([[0.3, -0.1]]), "score": torch.tensor([[3.0, 4.0]])}
    step = process.step(lambda head, latent, level: heads[head], x, 2, z)
    x0 = (x - math.sqrt(0.28) * heads["noise"]) / math.sqrt(0.72)
    mean = math.sqrt(0.9) * 0.2 / 0.28 * x0 + math.sqrt(0.8) * 0.1 / 0.28 * x
    expected = mean + 0.05 * torch.tensor([[0.6, 0.8]]) + math.sqrt(0.2 * 0.1 / 0.28) * z
    torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)


def test_ddpm_posterior_inverts_the_forward_process() -> None:
    """With the true noise as prediction and no push, the chain's means lead from x_K back to x_0."""
    process = DDPM(5, "linear", 1e-4, 0.02, 0.0)
    x0 = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    start = process.scales[4] * x0 + process.spreads[4] * torch.randn(64, 3)

    def true_noise(head: str, x: Tensor, level: int) -> Tensor:
        return (x - process.scales[level - 1] * x0) / process.spreads[level - 1]

    end = reverse(process, true_noise, start, None)[-1]
    # The 1e-8 in the authors' denominators changes the last step by a relative 1e-4.
    torch.testing.assert_close(end, x0, rtol=3e-4, atol=3e-4)


def test_reverse_draws_once_a_level_but_the_last() -> None:
    draws = []
    process = VESDE(4, 0.1, 1.0)
    path = reverse(process, lambda h, x, k: torch.zeros_like(x), torch.zeros(2, 1),
                   lambda: draws.append(1) or torch.ones(2, 1))
    assert len(draws) == 3 and len(path) == 5
    assert torch.equal(path[-1], path[-2])


def gaussian(mean: Tensor, variance: float, beta: float):
    """Return the energy β (a − m)²/(2v), whose Boltzmann density at temperature β is N(m, v I), with its gradient."""
    def value_and_gradient(a: Tensor) -> tuple[Tensor, Tensor]:
        return beta * ((a - mean) ** 2).sum(-1) / (2 * variance), beta * (a - mean) / variance
    return value_and_gradient


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("size", [1, 2])
def test_score_estimator_tends_to_the_exact_score(size: int, beta: float) -> None:
    """For N(m, v) diffused by σ the score is −(x − m)/(v + σ²); the error's standard deviation falls as 1/√N."""
    mean, variance, sigma = torch.arange(1.0, size + 1), 0.5, 0.7
    x = mean + torch.linspace(-1, 1, 9).unsqueeze(1)
    exact = -(x - mean) / (variance + sigma**2)
    noise, repeats, errors = RandomGenerator(0), 400, {}
    for samples in (64, 1024):
        rows = x.repeat(repeats, 1)
        estimate = monte_carlo_score(gaussian(mean, variance, beta), rows, torch.full((len(rows),), sigma),
                                     noise.normal(len(rows), samples, size), beta).reshape(repeats, 9, size)
        errors[samples] = (estimate - exact).square().mean().sqrt().item()
        bias = (estimate.mean(0) - exact).abs().max().item()
        # The bias of a ratio of averages is O(1/N); the mean over the repeats has a standard error of RMSE/√400.
        assert bias < 4 * errors[samples] / math.sqrt(repeats) + 3 / samples
    assert errors[64] / errors[1024] == pytest.approx(4, rel=0.15)


def test_many_fine_steps_with_the_exact_score_reach_the_gaussian() -> None:
    """With the exact score and many steps VE-SDE gives variance v and mean m·σ_max²/(v + σ_max²), by prior mismatch."""
    mean, variance, sigma_max = 1.5, 0.3, 1.0
    process = VESDE(400, 0.01, sigma_max)
    noise = RandomGenerator(1)

    def score(head: str, x: Tensor, level: int) -> Tensor:
        return -(x - mean) / (variance + process.spreads[level - 1] ** 2)

    x = reverse(process, score, sigma_max * noise.normal(40_000, 1), lambda: noise.normal(40_000, 1))[-1]
    assert x.mean().item() == pytest.approx(mean * sigma_max**2 / (variance + sigma_max**2), abs=0.02)
    # Linear reverse SDE in u = v + σ²: Var = u_0 − u_0²/u_K + (u_0/u_K)² σ_max², here u_0 = v, u_K = v + σ_max².
    u = variance + sigma_max**2
    assert x.var().item() == pytest.approx(variance - variance**2 / u + (variance / u) ** 2 * sigma_max**2, abs=0.02)
