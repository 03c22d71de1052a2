"""Comparison of a reverse process with its target density, and decomposition of the error by cause.

A sampler has three sources of error: it starts from N(0, prior_std² I) instead of the diffused density (prior
mismatch), it takes K steps (discretisation), and its score is a Monte-Carlo estimate (estimator).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algd.algorithm.noise_processes import VESDE, NoiseProcess, Predict, reverse
from algd.algorithm.score import monte_carlo_score
from analysis.studies.closed_forms.distances import permutation_test
from analysis.studies.closed_forms.targets import Mixture

ERRORS = ("prior", "steps", "estimator")  # in the order in which `decompose` switches them on
MOST_NORMALS = 2**20  # random numbers in memory at once


@dataclass(frozen=True)
class Truth:
    """Moments of the target density and samples from it.

    Args:
        axis: unit vector (d,) along which the mean is measured.
        mean: E[a] along the axis.
        variance: trace of the covariance divided by d.
        first: probability of being nearer to the first mode than to the last; None for one mode.
        side: whether points (..., d) are nearer to the first mode.
        draws: independent samples, (m, d).
    """

    axis: Tensor
    mean: float
    variance: float
    first: float | None
    side: Callable[[Tensor], Tensor]
    draws: Tensor


@dataclass(frozen=True)
class Result:
    """Deviations of a sample from a `Truth`; `first` is None if the truth's is."""

    mean: float
    variance: float
    first: float | None
    distance: float
    p_value: float


QUANTITIES = ("mean", "variance", "first", "distance")  # fields of Result that are 0 for a perfect sampler
DIVERGED = "diverges"  # in tables, instead of the numbers of a sample that has `diverged`


def diverged(sample: Tensor) -> bool:
    """Return whether a sample's (n, d) root mean square is above 1000 or not finite: its deviations are meaningless."""
    size = sample.double().square().mean().sqrt()
    return not bool(size <= 1000)


def truth(target: Mixture, draws: int, generator: torch.Generator) -> Truth:
    """Return a mixture's moments in closed form and samples from it."""
    first = target.first_weight() if len(target.weights) > 1 else None
    return Truth(target.axis, float(target.mean() @ target.axis), target.variance(), first, target.first_side,
                 target.sample(draws, generator))


def compare(sample: Tensor, target: Truth, permutations: int, generator: torch.Generator) -> Result:
    """Return the deviations of a sample (n, d); the energy distance uses as many of its points as the truth has."""
    sample = sample.double()
    first = None if target.first is None else float(target.side(sample).double().mean()) - target.first
    distance, p_value = permutation_test(sample[:len(target.draws)], target.draws, permutations, generator)
    return Result(float((sample @ target.axis).mean()) - target.mean, float(sample.var(0).mean()) - target.variance,
                  first, distance, p_value)


def exact_score(process: NoiseProcess, target: Mixture) -> Callable[[Tensor, int], Tensor]:
    """Return (x_k, k) ↦ ∇ log p_k(x_k), where p_k is the target diffused to level k."""
    levels = [target.diffused(scale, spread)
              for scale, spread in zip(process.scales.double(), process.spreads.double(), strict=True)]
    return lambda x, level: levels[level - 1].score(x)


def vesde_exact(process: VESDE, target: Mixture) -> Predict:
    """Return the exact score as the predictor of a VE-SDE."""
    score = exact_score(process, target)
    return lambda head, x, level: score(x, int(level))


def vesde_estimated(process: VESDE, target: Mixture, samples: int, beta: float, generator: torch.Generator) -> Predict:
    """Return φ* with N = samples, resampled at each call, as the predictor of a VE-SDE."""
    energy = target.energy(beta)

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        normals = torch.randn(len(x), samples, target.size, generator=generator, dtype=x.dtype)
        return monte_carlo_score(energy, x, sigma.expand(len(x)), normals, beta)

    rows = max(1, MOST_NORMALS // (samples * target.size))

    def predict(head: str, x: Tensor, level: Tensor | int) -> Tensor:
        sigma = process.spreads[int(level) - 1].to(x)
        return torch.cat([estimate(part, sigma) for part in x.split(rows)])

    return predict


def start(process: NoiseProcess, target: Mixture, exact: bool, n: int, generator: torch.Generator) -> Tensor:
    """Sample x_K, (n, d), from the diffused density (`exact`) or from the process's prior."""
    if exact:
        return target.diffused(process.scales[-1].double(), process.spreads[-1].double()).sample(n, generator)
    return process.prior_std * torch.randn(n, target.size, generator=generator, dtype=torch.float64)


def run(process: NoiseProcess, predict: Predict, x: Tensor, generator: torch.Generator) -> Tensor:
    """Run the stochastic reverse process from x_K = x and return x_0, (n, d)."""
    return reverse(process, predict, x,
                   lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype))[-1]


def affine_moments(process: NoiseProcess, predict: Predict, mean: float, variance: float) -> tuple[float, float]:
    """Return the exact mean and variance of x_0 in one dimension, for a `predict` that is affine in x.

    With the exact score of a Gaussian, x_{k−1} = A x_k + b + c z. A, b and c follow from the process's step at 0 and 1.
    """
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for level in range(process.steps, 0, -1):
        still = process.step(predict, ends, level, None).squeeze(1)
        moved = process.step(predict, ends, level, torch.ones_like(ends)).squeeze(1)
        slope, offset = float(still[1] - still[0]), float(still[0])
        noise = float(moved[0] - still[0]) if level > 1 else 0.0
        mean, variance = slope * mean + offset, slope**2 * variance + noise**2
    return mean, variance


Switches = tuple[bool, bool, bool]  # prior, steps, estimator: True if that error is on
NONE, EVERY = (False, False, False), (True, True, True)
ALONE: dict[str, Switches] = {
    "prior": (True, False, False), "steps": (False, True, False), "estimator": (False, False, True)}
IN_TURN: dict[str, tuple[Switches, Switches]] = {
    "prior": (NONE, (True, False, False)), "steps": ((True, False, False), (True, True, False)),
    "estimator": ((True, True, False), EVERY)}
OTHERS: dict[str, Switches] = {
    "prior": (False, True, True), "steps": (True, False, True), "estimator": (True, True, False)}


def decompose(cells: Mapping[Switches, float | None]) -> list[dict[str, Any]]:
    """Return a row for each source of error: its effect alone, in turn (after those above it), and last (after all).

    Args:
        cells: deviation from the truth of each of the eight samplers; None for one that diverges.

    Returns:
        Rows "floor" (no source on: fine steps, sampling), the three sources, and "total" (all on). The column in_turn
        adds up: floor + prior + steps + estimator = total.
    """
    def added(by: Switches, to: Switches) -> float | str:
        more, less = cells[by], cells[to]
        return DIVERGED if more is None or less is None else more - less

    def value(of: Switches) -> float | str:
        number = cells[of]
        return DIVERGED if number is None else number

    rows: list[dict[str, Any]] = [{"error": "floor", "alone": value(NONE), "in_turn": value(NONE), "last": ""}]
    for name in ERRORS:
        before, after = IN_TURN[name]
        rows.append({"error": name, "alone": added(ALONE[name], NONE), "in_turn": added(after, before),
                     "last": added(EVERY, OTHERS[name])})
    rows.append({"error": "total", "alone": "", "in_turn": value(EVERY), "last": value(EVERY)})
    return rows
