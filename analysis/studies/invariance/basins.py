"""Local minima of an energy on the box, and their basins of attraction."""

import numpy as np
from scipy.optimize import minimize

from analysis.studies.invariance.energies import Energy
from analysis.studies.invariance.problems import Array

ITERATIONS = 400
RESOLUTION = 0.02  # the largest step, and the distance up to which two minimisers are the same


def descend(energy: Energy, points: Array) -> Array:
    """Return the local minimiser, (n, d), that each point (n, d) reaches by projected gradient descent.

    Each point has its own step length. Steps only decrease the energy and are at most RESOLUTION, so that no barrier is
    crossed. Points that end in the same small cell share one refined minimiser.
    """
    a = np.clip(points, -1, 1)
    value, gradient, rate = energy.value(a), energy.gradient(a), np.full(len(a), 0.1)
    for _ in range(ITERATIONS):
        move = -rate[:, None] * gradient
        move *= np.minimum(1, RESOLUTION / np.maximum(np.linalg.norm(move, axis=1), 1e-300))[:, None]
        trial = np.clip(a + move, -1, 1)
        trial_value = energy.value(trial)
        better = trial_value < value
        a, value = np.where(better[:, None], trial, a), np.where(better, trial_value, value)
        gradient = np.where(better[:, None], energy.gradient(trial), gradient)
        rate = np.clip(np.where(better, 1.5 * rate, 0.4 * rate), 1e-8, 1e8)
    if not energy.problem.cost.differentiable:
        return a
    _, first, cell = np.unique(np.round(a / RESOLUTION), axis=0, return_index=True, return_inverse=True)
    return np.array([_polish(energy, a[i]) for i in first])[np.ravel(cell)]


def _polish(energy: Energy, start: Array) -> Array:
    result = minimize(lambda a: float(energy.value(a)), start, jac=energy.gradient, method="L-BFGS-B",
                      bounds=[(-1, 1)] * len(start), options={"ftol": 1e-15, "gtol": 1e-10})
    return result.x


def distinct(points: Array) -> Array:
    """Return the points (n, d) without those closer than RESOLUTION to an earlier one."""
    kept: list[Array] = []
    for point in points:
        if all(np.linalg.norm(point - other) > RESOLUTION for other in kept):
            kept.append(point)
    return np.array(kept)


def modes(energy: Energy) -> Array:
    """Return the modes of exp(−energy/β), (number, d): local minimisers on the closed box, deepest first.

    The result is empty, (0, d), for a constant energy. Candidates are grid points below all their neighbours.
    """
    d = energy.problem.dimension
    axis = np.linspace(-1, 1, 2001 if d == 1 else 201)
    grid = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1)
    values = energy.value(grid)
    if np.ptp(values) < 1e-9:
        return np.empty((0, d))
    padded = np.pad(values, 1, constant_values=np.inf)
    lowest = np.ones(values.shape, bool)
    for shift in np.ndindex(*(3,) * d):
        if shift != (1,) * d:
            lowest &= values <= padded[tuple(slice(s, s + n) for s, n in zip(shift, values.shape, strict=True))]
    found = descend(energy, grid[lowest])
    return distinct(found[np.argsort(energy.value(found))])
