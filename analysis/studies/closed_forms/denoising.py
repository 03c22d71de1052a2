"""DDPM with exact or estimated noise: its schedule, its push, and the centre of its Monte-Carlo samples.

With p_k the target diffused to level k, the exact noise is ε̂ = −√(1−ᾱ_k) ∇ log p_k(x_k), and
∇ log p_k(x_k) = E[∇ log p(x_0) | x_k] / √ᾱ_k, where samples of x_0 given x_k are drawn about x_k/√ᾱ_k with the
standard deviation √(1−ᾱ_k)/√ᾱ_k and weighted by p.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from algd.algorithm.noise_processes import DDPM, Predict
from algd.algorithm.rng import RandomGenerator
from analysis.studies.closed_forms.chains import exact_score
from analysis.studies.closed_forms.squashing import estimated, policy
from analysis.studies.closed_forms.targets import Mixture


def exact_noise(process: DDPM, target: Mixture) -> Predict:
    """Return a predictor with both heads exact: the noise ε̂, and the score that the push follows."""
    score = exact_score(process, target)
    return _heads(process, score)


def uncentred_noise(process: DDPM, target: Mixture) -> Predict:
    """Return a predictor with the centre x_k instead of x_k/√ᾱ_k: the authors' estimator for N → ∞."""
    levels = [target.diffused(1.0, float(spread)) for spread in process.spreads]
    return _heads(process, lambda x, level: levels[level - 1].score(x))


def estimated_noise(process: DDPM, target: Mixture, samples: int, beta: float, rescale: bool,
                    noise: RandomGenerator) -> Predict:
    """Return a predictor from the policy's φ*; with `rescale` φ* estimates E[∇ log p(x_0)|x_k], divided by √ᾱ_k."""
    # score_space=action evaluates the energy directly, without tanh.
    drive = estimated(policy(process, target.size, "action", samples, beta, rescale), target, noise, lambda x: x)

    def score(x: Tensor, level: int) -> Tensor:
        value = drive("score", x.float(), level).to(x)
        return value / process.scales[level - 1].to(x) if rescale else value

    return _heads(process, score)


def no_noise(process: DDPM, target: Mixture) -> Predict:
    """Return a predictor with ε̂ = 0 and the exact score, so that only the push acts."""
    score = exact_score(process, target)
    return lambda head, x, level: torch.zeros_like(x) if head == "noise" else score(x, int(level))


def _heads(process: DDPM, score: Callable[[Tensor, int], Tensor]) -> Predict:
    def predict(head: str, x: Tensor, level: Tensor | int) -> Tensor:
        if head == "score" and process.guidance_scale == 0:
            return torch.zeros_like(x)  # no push
        value = score(x, int(level))
        return -process.spreads[int(level) - 1].to(x) * value if head == "noise" else value
    return predict


def refined(process: DDPM, schedule: str, beta_min: float, beta_max: float, steps: int) -> DDPM:
    """Return the process with the same noise in `steps` steps, without the push.

    The K linear β_k are taken as rates K β_k in continuous time.
    """
    factor = process.steps if schedule == "linear" else 1
    return DDPM(steps, "variance_preserving", factor * beta_min, factor * beta_max, 0.0)


def score_steps(process: DDPM, target: Mixture) -> list[float]:
    """Return for each level the root mean square over p_k of β_k/√(1−β_k) ‖∇ log p_k‖, the step due to the score.

    It is the score's term in the posterior mean (x_k + β_k ∇ log p_k)/√(1−β_k).
    """
    generator = torch.Generator().manual_seed(0)
    products = torch.cat([torch.ones(1), process.scales**2]).double()
    lengths = []
    for k in range(process.steps):
        kept = float(products[k + 1] / products[k])
        diffused = target.diffused(float(process.scales[k]), float(process.spreads[k]))
        norms = diffused.score(diffused.sample(20_000, generator)).square().sum(1)
        lengths.append((1 - kept) / kept**0.5 * float(norms.mean().sqrt()))
    return lengths


def gaussian_moments(steps: int, beta_min: float, beta_max: float, mean: float, variance: float) -> tuple[float, float]:
    """Return mean and variance of x_0 from x_K ~ N(0, 1) for the target N(mean, variance), with exact noise.

    To avoid rounding, this uses the variance-preserving schedule in float64, without the 1e-8 of `DDPM`'s denominators,
    and the form (x_k + β_k ∇ log p_k)/√(1−β_k) of the posterior mean.
    """
    k = np.arange(1, steps + 1)
    rates = beta_min / steps + (beta_max - beta_min) * (2 * k - 1) / (2 * steps**2)
    betas, bars = -np.expm1(-rates), np.exp(-rates.cumsum())
    noises = np.concatenate([[0.0], -np.expm1(-rates.cumsum())])
    x, spread = 0.0, 1.0
    for level in range(steps, 0, -1):
        beta, bar, noise = float(betas[level - 1]), float(bars[level - 1]), float(noises[level])
        pull = beta / (bar * variance + noise)
        x = (x - pull * (x - bar**0.5 * mean)) / (1 - beta) ** 0.5
        spread = (1 - pull) ** 2 / (1 - beta) * spread + beta * float(noises[level - 1]) / noise
    return x, spread
