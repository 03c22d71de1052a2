"""Energies smoothed at the sampler's noise levels, and paths of the reverse process.

    π_σ = π ∗ N(0, σ² I),   smoothed energy U_σ = −β log π_σ                     (U_σ → the energy as σ → 0)
    ∇ log π_σ(x)  = (E[a₀|x] − x)/σ²                                             (Tweedie)
    ∇² U_σ(x)     = (β/σ²)(I − Cov[a₀|x]/σ²)

The reverse process is the variance-exploding one with K levels σ_k, geometric from σ_min to σ_max, and σ_0 = 0:
x_{k−1} = x_k + Δσ²_k ∇ log π_{σ_k}(x_k) + √(Δσ²_k) z, Δσ²_k = σ_k² − σ_{k−1}², no noise in the last step (Cheng et al.,
arXiv 2602.02924). The score is exact, so that effects are due to the energy and not to a network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from analysis.studies.invariance.energies import Energy
from analysis.studies.invariance.problems import Array

NODES = 512  # per dimension; at most 0.006 apart, less than σ_min = 0.01


def noise_levels(sigma_min: float, sigma_max: float, levels: int) -> Array:
    """Return σ_1 … σ_K, (K,)."""
    return np.geomspace(sigma_min, sigma_max, levels)


@dataclass(frozen=True)
class Smoother:
    """Moments of a₀ given x = a₀ + σε for a₀ ~ π ∝ exp(−energy/β) on the box.

    Attributes:
        axis: Gauss-Legendre nodes, (n,).
        mass: π times the weights on the tensor grid of the nodes, (n,) or (n, n).
        beta: temperature.
    """

    axis: Array
    mass: Array
    beta: float

    def _integrals(self, x: Array, sigma: float, powers: list[tuple[int, ...]]) -> list[Array]:
        """Return ∫ π(a) N(x; a, σ² I) Π (a_i − x_i)^{power_i} da for each tuple of powers, up to a factor per point."""
        d = x.shape[1]
        offsets = [self.axis[None, :] - x[:, i, None] for i in range(d)]
        kernels = []
        for offset in offsets:
            exponent = -(offset**2) / (2 * sigma**2)
            # Without the shift all kernels would underflow far outside the box; the factor cancels in the ratios.
            kernels.append(np.exp(exponent - exponent.max(1, keepdims=True)))
        if d == 1:
            return [(kernels[0] * offsets[0] ** power) @ self.mass for (power,) in powers]
        along = [kernels[0] * offsets[0] ** power @ self.mass for power in range(1 + max(p for p, _ in powers))]
        return [(along[p] * kernels[1] * offsets[1] ** q).sum(1) for p, q in powers]

    def score(self, x: Array, sigma: float) -> Array:
        """Return ∇ log π_σ, (n, d), at points x (n, d)."""
        d = x.shape[1]
        total, *first = self._integrals(x, sigma, [(0,) * d, *_units(d)])
        return np.stack(first, -1) / total[:, None] / sigma**2

    def curvature(self, x: Array, sigma: float) -> Array:
        """Return the smallest eigenvalue of ∇²U_σ, (n,), at points x (n, d)."""
        d = x.shape[1]
        units = _units(d)
        pairs = [tuple(np.add(u, v)) for u in units for v in units]
        total, *rest = self._integrals(x, sigma, [(0,) * d, *units, *pairs])
        first = np.stack(rest[:d], -1) / total[:, None]
        second = np.stack(rest[d:], -1).reshape(-1, d, d) / total[:, None, None]
        covariance = second - first[:, :, None] * first[:, None, :]
        return self.beta / sigma**2 * (1 - np.linalg.eigvalsh(covariance)[:, -1] / sigma**2)

    def density(self, x: Array, sigma: float) -> Array:
        """Return π_σ, (n,), at points x (n, d), including its normalising constant."""
        d = x.shape[1]
        kernels = [np.exp(-((x[:, i, None] - self.axis) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
                   for i in range(d)]
        return kernels[0] @ self.mass if d == 1 else ((kernels[0] @ self.mass) * kernels[1]).sum(1)


def _units(d: int) -> list[tuple[int, ...]]:
    return [tuple(int(i == j) for j in range(d)) for i in range(d)]


def smoother(energy: Energy, beta: float) -> Smoother:
    d = energy.problem.dimension
    axis, w = legendre.leggauss(NODES)
    grid = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1)
    exponent = -energy.value(grid) / beta
    weights = w if d == 1 else w[:, None] * w[None, :]
    mass = weights * np.exp(exponent - exponent.max())
    return Smoother(axis, mass / mass.sum(), beta)


def reverse(smooth: Smoother, sigmas: Array, start: Array, noise: Array) -> Array:
    """Run the reverse process.

    Args:
        smooth: computes the exact scores.
        sigmas: σ_1 … σ_K, (K,).
        start: x_K, (n, d).
        noise: standard normal draws, (K − 1, n, d), used from level K down to level 2.

    Returns:
        x_K, …, x_0, (K + 1, n, d).
    """
    path, x = [start], start
    lower = np.concatenate([[0.0], sigmas[:-1]])
    for step, k in enumerate(range(len(sigmas) - 1, -1, -1)):
        variance = sigmas[k] ** 2 - lower[k] ** 2
        x = x + variance * smooth.score(x, sigmas[k])
        if k > 0:
            x = x + np.sqrt(variance) * noise[step]
        path.append(x)
    return np.stack(path)


def probes(dimension: int, per_axis: int) -> Array:
    """Return points at which curvature is measured, (n, d): a grid over the interior of the box."""
    axis = -1 + (np.arange(per_axis) + 0.5) * 2 / per_axis
    return np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1).reshape(-1, dimension)
