"""Sampling with actions squashed by tanh: the Boltzmann density on the box, and scores of the action or the latent.

The density on the box is p(a) ∝ exp(−E(a)/β) for a in (−1, 1)^d and 0 outside. With a = tanh(x) the density of the
latent x is p(tanh x) ∏ (1 − tanh² x_i), which is never zero. Its diffused score has no closed form and is computed by
numerical integration on a grid.
"""

import math
from collections.abc import Callable
from typing import Literal, cast

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.noise_processes import NoiseProcess, Predict
from algd.algorithm.policies.diffusion import DiffusionPolicy
from algd.algorithm.rng import RandomGenerator
from analysis.studies.closed_forms.chains import MOST_NORMALS, Truth
from analysis.studies.closed_forms.targets import Mixture, gaussian

NODES = {1: 1201, 2: 601}  # grid points along each axis, by dimension: 0.01 and 0.02 apart
REACH = 6.0  # half the width of the grid
Space = Literal["action", "latent"]
SPACES: tuple[Space, ...] = ("latent", "action")


class LatentGrid:
    """The density of the latent on a grid over [−REACH, REACH]^d, d = 1 or 2; its tails decay as exp(−2|x|).

    Args:
        target: the density of the energy on R^d.
        nodes: grid points along each axis.
    """

    def __init__(self, target: Mixture, nodes: int):
        self.nodes, self.size = nodes, target.size
        self.axis = torch.linspace(-REACH, REACH, nodes, dtype=torch.float64)
        x = torch.stack(torch.meshgrid(*[self.axis] * target.size, indexing="ij"), -1)
        log_slope = 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x)).sum(-1)
        log_density = target.log_density(torch.tanh(x)) + log_slope
        mass = (log_density - log_density.max()).exp()
        self.points, self.mass = x, mass / mass.sum()

    def mean(self, values: Tensor) -> Tensor:
        """Return the expectation, under the density on the box, of values (grid, ...) at the grid points."""
        return torch.tensordot(self.mass, values, dims=self.size)

    def score(self, sigma: float) -> "GridScore":
        """Return the score of the latent's density diffused by σ."""
        offset = self.axis - self.axis[:, None]
        kernel = torch.exp(-offset.square() / (2 * sigma**2))
        slope = kernel * offset / sigma**2
        if self.size == 1:
            values = [(slope @ self.mass) / (kernel @ self.mass)]
        else:
            half = kernel @ self.mass
            density = half @ kernel
            values = [(slope @ self.mass @ kernel) / density, (half @ slope.T) / density]
        return GridScore([v.numpy() for v in values], self.nodes)


class GridScore:
    """A score tabulated on a grid, one array per output: linear between nodes, constant beyond the grid."""

    def __init__(self, values: list[np.ndarray], nodes: int):
        self.values, self.nodes = values, nodes

    def __call__(self, x: Tensor) -> Tensor:
        """Return the score (n, d) at points (n, d); a one-dimensional table is used for each coordinate."""
        place = ((x.double() + REACH) / (2 * REACH) * (self.nodes - 1)).T.numpy()
        if len(self.values) == 1:
            columns = [map_coordinates(self.values[0], p[None], order=1, mode="nearest") for p in place]
        else:
            columns = [map_coordinates(v, place, order=1, mode="nearest") for v in self.values]
        return torch.from_numpy(np.stack(columns, 1)).to(x)


class TargetEnergy:
    """A mixture's energy with the interface of the agent's energy, the same in every state."""

    def __init__(self, target: Mixture, beta: float):
        self._energy = target.energy(beta)

    def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return E and ∇E at actions (B, N, d), in the precision of the actions."""
        value, gradient = self._energy(action.double())
        return value.to(action), gradient.to(action)


def policy(process: NoiseProcess, size: int, space: Space, samples: int, beta: float,
           rescale: bool = True) -> DiffusionPolicy:
    """Return the agent's policy on the box [−1, 1]^d, for its squashing and score target; its network is not used."""
    return DiffusionPolicy(1, [-1.0] * size, [1.0] * size, process, [1], 1, beta, samples, 0.0, space, "before", True,
                           rescale, False)


def estimated(policy: DiffusionPolicy, target: Mixture, noise: RandomGenerator,
              point: Callable[[Tensor], Tensor]) -> Predict:
    """Return the policy's φ*, resampled at each call, as a predictor.

    Args:
        point: maps the latent to the space of the score: `policy.squash` for score_space=action.
    """
    energy = cast(EnergyAtStates, TargetEnergy(target, policy.beta))

    def predict(head: str, x: Tensor, level: Tensor | int) -> Tensor:
        parts = []
        for part in x.split(max(1, MOST_NORMALS // (policy.mc_samples * target.size))):
            levels = torch.full((len(part),), int(level))
            normals = noise.normal(len(part), policy.mc_samples, target.size)
            parts.append(policy.score_target(energy, point(part), levels, normals))
        return torch.cat(parts)

    return predict


def exact(process: NoiseProcess, target: Mixture, space: Space) -> Predict:
    """Return the limit of `estimated` for N → ∞: the diffused score of the latent, or that of the action at tanh(x)."""
    if space == "action":
        levels = [target.diffused(1.0, float(spread)) for spread in process.spreads]
        return lambda head, x, level: levels[int(level) - 1].score(torch.tanh(x).double()).to(x)
    grid = latent_grid(target)
    tables = [grid.score(float(spread)) for spread in process.spreads]
    return lambda head, x, level: tables[int(level) - 1](x)


def latent_grid(target: Mixture) -> LatentGrid:
    """Return the grid of a target; for a Gaussian that of one coordinate, since all are alike."""
    if len(target.weights) == 1:
        target = one_coordinate(target)
    return LatentGrid(target, NODES[target.size])


def one_coordinate(target: Mixture) -> Mixture:
    """Return the density of the first coordinate of a Gaussian."""
    return gaussian(1, float(target.means[0, 0]), float(target.variances[0]))


def point_of(policy: DiffusionPolicy) -> Callable[[Tensor], Tensor]:
    """Return the map from latents to the space of the policy's score."""
    return policy.squash if policy.score_space == "action" else lambda x: x


def box_truth(target: Mixture, draws: int, generator: torch.Generator) -> Truth:
    """Return moments of the density on the box, by integration, and samples from it, by rejection."""
    grid = latent_grid(target)
    action = torch.tanh(grid.points)
    center = grid.mean(action)
    variance = float(grid.mean((action - center).square()).mean())
    mean = float(center.expand(target.size) @ target.axis)
    first = float(grid.mean(target.first_side(action).double())) if len(target.weights) > 1 else None
    return Truth(target.axis, mean, variance, first, target.first_side, box_sample(target, draws, generator))


def box_sample(target: Mixture, draws: int, generator: torch.Generator) -> Tensor:
    """Sample actions (draws, d) from the density on the box."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < draws:
        sample = target.sample(2 * draws, generator)
        kept.append(sample[(sample.abs() < 1).all(1)])
    return torch.cat(kept)[:draws]


def start(process: NoiseProcess, target: Mixture, exact: bool, n: int, generator: torch.Generator) -> Tensor:
    """Sample latents x_K, (n, d): latents of exact actions at the process's largest noise, or from its prior."""
    normals = torch.randn(n, target.size, generator=generator, dtype=torch.float64)
    if not exact:
        return process.prior_std * normals
    return torch.atanh(box_sample(target, n, generator)) + float(process.spreads[-1]) * normals
