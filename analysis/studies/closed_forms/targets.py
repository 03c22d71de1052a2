"""Densities known in closed form at every noise level, mixtures of isotropic Gaussians, and their energies."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from algd.algorithm.score import ValueAndGradient


@dataclass(frozen=True)
class Mixture:
    """p(a) = Σ_j w_j N(a; m_j, v_j I) on R^d, in float64.

    Args:
        weights: (J,), w_j, summing to 1.
        means: (J, d), m_j.
        variances: (J,), v_j.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    @property
    def size(self) -> int:
        """Dimension d."""
        return self.means.shape[1]

    @property
    def axis(self) -> Tensor:
        """Unit vector (d,) from the first mode to the last one, or from 0 to a single mode."""
        step = self.means[-1] - self.means[0] if len(self.weights) > 1 else self.means[0]
        return step / step.norm()

    def diffused(self, scale: float | Tensor, spread: float | Tensor) -> "Mixture":
        """Return the density of scale · a + spread · ε for a ~ p and a standard normal ε."""
        return Mixture(self.weights, scale * self.means, scale**2 * self.variances + spread**2)

    def _components(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return log(w_j N(a; m_j, v_j I)), (..., J), and m_j − a, (..., J, d), at points (..., d)."""
        toward = self.means - a.unsqueeze(-2)
        log_peak = self.weights.log() - 0.5 * self.size * (2 * math.pi * self.variances).log()
        return log_peak - toward.square().sum(-1) / (2 * self.variances), toward

    def log_density(self, a: Tensor) -> Tensor:
        """Return log p, (...), at points (..., d)."""
        return self._components(a)[0].logsumexp(-1)

    def log_density_and_score(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p, (...), and ∇ log p, (..., d), at points (..., d)."""
        logs, toward = self._components(a)
        shares = logs.softmax(-1) / self.variances
        return logs.logsumexp(-1), (shares.unsqueeze(-1) * toward).sum(-2)

    def score(self, a: Tensor) -> Tensor:
        """Return ∇ log p, (..., d), at points (..., d)."""
        return self.log_density_and_score(a)[1]

    def energy(self, beta: float) -> ValueAndGradient:
        """Return the energy E = −β log p, whose Boltzmann density at temperature β is p, with its gradient."""
        def value_and_gradient(a: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = self.log_density_and_score(a)
            return -beta * value, -beta * gradient
        return value_and_gradient

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return independent samples, (n, d)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        normals = torch.randn(n, self.size, generator=generator, dtype=torch.float64)
        return self.means[which] + self.variances[which].sqrt().unsqueeze(-1) * normals

    def mean(self) -> Tensor:
        """Return the mean, (d,)."""
        return self.weights @ self.means

    def variance(self) -> float:
        """Return the trace of the covariance divided by d."""
        between = self.weights @ (self.means - self.mean()).square().sum(1) / self.size
        return float(self.weights @ self.variances + between)

    def first_side(self, a: Tensor) -> Tensor:
        """Return whether points (..., d) are nearer to the first mode than to the last."""
        return (a - self.means[0]).norm(dim=-1) < (a - self.means[-1]).norm(dim=-1)

    def first_weight(self) -> float:
        """Return the probability of being nearer to the first mode than to the last."""
        cut = (self.means[0] + self.means[-1]) @ self.axis / 2
        distances = (cut - self.means @ self.axis) / self.variances.sqrt()
        return float(self.weights @ torch.special.ndtr(distances))


def gaussian(size: int, mean: float = 0.5, variance: float = 0.1) -> Mixture:
    """Return N(mean · (1, …, 1), variance · I)."""
    return _mixture([1.0], [[mean] * size], [variance])


def _mixture(weights: list[float], means: list[list[float]], variances: list[float]) -> Mixture:
    return Mixture(*(torch.tensor(x, dtype=torch.float64) for x in (weights, means, variances)))


# In units of the action: all have most of their mass inside [−1, 1]^d.
TARGETS = {
    "gaussian_1": gaussian(1),
    "gaussian_2": gaussian(2),
    "gaussian_8": gaussian(8),
    "mixture_1": _mixture([0.3, 0.7], [[-0.6], [0.5]], [0.15**2, 0.2**2]),
    "mixture_2": _mixture([0.3, 0.7], [[-0.5, -0.3], [0.5, 0.4]], [0.15**2, 0.2**2]),
}
