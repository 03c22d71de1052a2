"""Noise processes: the forward noise levels and one reverse step, without a network.

A process has K = `steps` levels, numbered 1 (least noise) … K (most). The reverse process starts from
N(0, prior_std² I) and applies `step` at levels K, K−1, …, 1. The network's predictions are passed as a function

    predict(head, x, level) -> (B, d)        head: one of the process's `heads`; x: (B, d), a latent

so that a network, an exact score or an estimator can drive the same sampler.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

Predict = Callable[[str, Tensor, Tensor | int], Tensor]
Steps = Annotated[int, Field(gt=0, le=10_000)]


class NoiseProcess(Protocol):
    """The interface of a noise process."""

    steps: int
    heads: tuple[str, ...]
    prior_std: float
    """The standard deviation of x_K."""
    scales: Tensor
    """(K,): the factor of x_0 in x_k, at index k − 1."""
    spreads: Tensor
    """(K,): the standard deviation of the noise in x_k, at index k − 1."""

    def step(self, predict: Predict, x: Tensor, level: int, z: Tensor | None) -> Tensor:
        """One reverse step, x_k ↦ x_{k−1}; z is a standard normal (B, d), or None for no noise."""
        ...


def reverse(process: NoiseProcess, predict: Predict, x: Tensor, draw: Callable[[], Tensor] | None) -> list[Tensor]:
    """Run the whole reverse process from x = x_K.

    Args:
        predict: see the module.
        x: (B, d), the latent at level K.
        draw: a function that returns standard normals (B, d), called once for each level but the last, in order;
            None: no noise.

    Returns:
        [x_K, x_{K−1}, …, x_0], K + 1 tensors.
    """
    path = [x]
    for level in range(process.steps, 0, -1):
        z = draw() if draw is not None and level > 1 else None
        path.append(process.step(predict, path[-1], level, z))
    return path


class VESDE:
    """The variance-exploding process  x_k = x_0 + σ_k ε  with geometric levels (arXiv 2602.02924; arXiv 2011.13456).

    σ_k = σ_min (σ_max / σ_min)^((k−1)/(K−1)); a single level has σ_1 = σ_max. The reverse step is Euler's, not the
    ancestral one, and treats σ_0 as 0, so that the last step is as long as σ_min².

    Args:
        steps: number of levels K.
        sigma_min, sigma_max: the least and the largest standard deviation, in latent units.

    Raises:
        ValueError: sigma_min is the larger of the two.
    """

    heads: tuple[str, ...] = ("score",)

    def __init__(self, steps: Steps, sigma_min: PositiveFloat, sigma_max: PositiveFloat):
        if sigma_min > sigma_max:
            raise ValueError(f"sigma_min={sigma_min}: it should be at most sigma_max={sigma_max}")
        self.steps = steps
        exponents = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1).double()
        sigmas = sigma_min * (sigma_max / sigma_min) ** exponents
        self.spreads, self.scales = sigmas.float(), torch.ones(steps)
        self.prior_std = sigma_max
        self._increments = torch.diff(sigmas**2, prepend=sigmas.new_zeros(1)).tolist()

    def step(self, predict: Predict, x: Tensor, level: int, z: Tensor | None) -> Tensor:
        """x_{k−1} = x_k + Δσ²_k φ(x_k, k) + √Δσ²_k z,  Δσ²_k = σ_k² − σ_{k−1}²."""
        increment = self._increments[level - 1]
        x = torch.add(x, predict("score", x, level), alpha=increment)
        return x if z is None else torch.add(x, z, alpha=math.sqrt(increment))


class DDPM:
    """The denoising process of Ho et al. (arXiv 2006.11239), pushed along a score (arXiv 2602.02924).

    Levels: ᾱ_k = Π_{j≤k} (1 − β_j), x_k = √ᾱ_k x_0 + √(1−ᾱ_k) ε. With the authors' schedule, β linear from 1e-4 to
    0.02 over five steps, ᾱ_5 is 0.95: the start, N(0, I), is far from the distribution of level 5.

    Args:
        steps: number of levels K.
        schedule: "linear": β_k linear from beta_min to beta_max; "variance_preserving": the continuous
            process's β(t), linear from beta_min to beta_max over t ∈ [0, 1], integrated over each step
            (arXiv 2112.07804, eq. 2): β_k = 1 − exp(−beta_min/K − (beta_max − beta_min)(2k − 1)/(2K²)).
        beta_min, beta_max: see schedule ("linear" needs them below 1).
        guidance_scale: length of the push along φ/‖φ‖ at every step, in latent units.

    Raises:
        ValueError: beta_min is larger than beta_max, or too large for the schedule.
    """

    heads: tuple[str, ...] = ("noise", "score")
    prior_std = 1.0

    def __init__(self, steps: Steps, schedule: Literal["linear", "variance_preserving"],
                 beta_min: Annotated[float, Field(gt=0)], beta_max: PositiveFloat,
                 guidance_scale: NonNegativeFloat):
        if beta_min > beta_max:
            raise ValueError(f"beta_min={beta_min}: it should be at most beta_max={beta_max}")
        if schedule == "linear" and beta_max >= 1:
            raise ValueError(f"beta_max={beta_max}: it should be less than 1 with schedule=linear")
        self.steps, self.guidance_scale = steps, guidance_scale
        # In float32 and with 1e-8 in the mean's denominators, as in the authors' code: at 1 − ᾱ_1 = 1e-4 either changes
        # an action by 1e-4.
        if schedule == "linear":
            betas = torch.linspace(beta_min, beta_max, steps)
        else:
            k = torch.arange(1, steps + 1)
            betas = 1 - torch.exp(-beta_min / steps - (beta_max - beta_min) * (2 * k - 1) / (2 * steps**2))
        products = torch.cumprod(1 - betas, 0)
        before = torch.cat([products.new_ones(1), products[:-1]])
        self.scales, self.spreads = products.sqrt(), (1 - products).sqrt()
        # arXiv 2006.11239, eq. 7: mean of q(x_{k−1} | x_k, x_0) and its variance.
        self._of_x0 = (before.sqrt() * betas / (1 - products + 1e-8)).tolist()
        self._of_xk = ((1 - betas).sqrt() * (1 - before) / (1 - products + 1e-8)).tolist()
        self._std = (betas * (1 - before) / (1 - products)).sqrt().tolist()
        self._products = products.tolist()

    def step(self, predict: Predict, x: Tensor, level: int, z: Tensor | None) -> Tensor:
        """x_{k−1} = posterior mean(x̂_0, x_k) + 0.05 φ/‖φ‖ + posterior std · z (0.05: `guidance_scale`)."""
        k = level - 1
        product = self._products[k]
        # With x̂_0 = (x − √(1−ᾱ) ε̂)/√ᾱ substituted, x and ε̂ have one factor each.
        of_x0 = self._of_x0[k] / math.sqrt(product)
        mean = torch.add((of_x0 + self._of_xk[k]) * x, predict("noise", x, level),
                         alpha=-of_x0 * math.sqrt(1 - product))
        score = predict("score", x, level)
        # The small constant avoids a division by zero for a zero score.
        length = torch.linalg.vector_norm(score, dim=-1, keepdim=True) + 1e-8
        mean = torch.addcdiv(mean, score, length, value=self.guidance_scale)
        return mean if z is None else torch.add(mean, z, alpha=self._std[k])
