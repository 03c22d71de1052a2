"""Bias and variance of the Monte-Carlo score φ*: the asymptotic 1/N laws in closed form, and measurements."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from algd.algorithm.score import monte_carlo_score
from analysis.studies.closed_forms.targets import Mixture


@dataclass(frozen=True)
class Laws:
    """Asymptotic laws of φ* at a point: for large N its bias is bias/N and its variance variance/N, each (d,).

    With q = N(x, σ²I), f = ∇ log p, φ = ∇ log p_σ(x) and r = p/E_q[p], the delta method for the ratio
    E_q[p f]/E_q[p] gives  bias = −E_q[r² (f − φ)]  and  variance = E_q[r² (f − φ)²].

    Attributes:
        score: φ, the limit of φ*, (d,).
        bias, variance: N times the bias and the variance of φ*, each (d,).
        weight_square: E_q[r²] ≥ 1; N / E_q[r²] is the effective number of samples for large N.
    """

    score: Tensor
    bias: Tensor
    variance: Tensor
    weight_square: float


@dataclass(frozen=True)
class Measured:
    """Measured bias and variance of φ* at one point, each with its standard error, (d,)."""

    bias: Tensor
    bias_error: Tensor
    variance: Tensor
    variance_error: Tensor


def laws(target: Mixture, x: Tensor, sigma: float) -> Laws:
    """Return the laws at a point x, (d,), in closed form: p², p∇p and (∇p)² are sums over pairs of components.

    N(a; m_i, v_i) N(a; m_j, v_j) is a scaled Gaussian in a, and so is its product with N(a; x, σ²).
    """
    w, m, v = target.weights, target.means, target.variances
    pair_variance = v[:, None] * v / (v[:, None] + v)
    pair_mean = (m[:, None] * v[None, :, None] + m * v[:, None, None]) / (v[:, None] + v)[..., None]
    mass = w[:, None] * w * _normal((m[:, None] - m), v[:, None] + v) * _normal(x - pair_mean, pair_variance + sigma**2)
    mean = (pair_mean * sigma**2 + x * pair_variance[..., None]) / (pair_variance + sigma**2)[..., None]
    variance = pair_variance * sigma**2 / (pair_variance + sigma**2)
    of_i, of_j = mean - m[:, None], mean - m
    square = mass.sum()
    product = -(mass[..., None] * of_i / v[:, None, None]).sum((0, 1))
    slopes = (mass[..., None] * (of_i * of_j + variance[..., None]) / (v[:, None] * v)[..., None]).sum((0, 1))
    log_density, score = target.diffused(1.0, sigma).log_density_and_score(x)
    scale = float((-2 * log_density).exp())
    return Laws(score, -scale * (product - score * square),
                scale * (slopes - 2 * score * product + score**2 * square), float(scale * square))


def _normal(offset: Tensor, variance: Tensor) -> Tensor:
    """Return N(offset; 0, variance · I) for offsets (..., d) and variances (...)."""
    return torch.exp(-offset.square().sum(-1) / (2 * variance)) / (2 * math.pi * variance) ** (offset.shape[-1] / 2)


def measure(target: Mixture, x: Tensor, sigma: float, samples: int, repeats: int, beta: float,
            generator: torch.Generator, most: int = 2**20) -> Measured:
    """Measure bias and variance of `monte_carlo_score` at a point x, (d,), with N = samples, over `repeats` draws.

    The linear part Σ_i r_i (f_i − φ)/N of the ratio is a control variate for the bias: its mean is exactly zero, and
    the remainder has a standard deviation of order 1/N, like the bias itself.

    Args:
        most: approximate limit of the numbers that are in memory at once.
    """
    diffused = target.diffused(1.0, sigma)
    log_density, score = diffused.log_density_and_score(x)
    errors, rests = [], []
    rows = max(1, most // (samples * target.size))
    for start in range(0, repeats, rows):
        n = min(rows, repeats - start)
        normals = torch.randn(n, samples, target.size, generator=generator, dtype=torch.float64)
        spread = torch.full((n,), sigma, dtype=torch.float64)
        error = monte_carlo_score(target.energy(beta), x.expand(n, -1), spread, normals, beta) - score
        logs, slopes = target.log_density_and_score(x + sigma * normals)
        linear = ((logs - log_density).exp().unsqueeze(-1) * (slopes - score)).mean(1)
        errors.append(error)
        rests.append(error - linear)
    error, rest = torch.cat(errors), torch.cat(rests)
    squares = (error - error.mean(0)).square()
    return Measured(rest.mean(0), rest.std(0) / math.sqrt(repeats), error.var(0), squares.std(0) / math.sqrt(repeats))


def typical_point(target: Mixture, sigma: float) -> Tensor:
    """Return the mean of p_σ plus one standard deviation in each coordinate, (d,)."""
    return target.mean() + math.sqrt(target.variance() + sigma**2)
