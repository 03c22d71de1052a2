"""Reading A: the augmentation applies to the expected cost, not to the energy of each action.

    J(π) = −E_π[Q] − β·entropy(π) + ([λ + ρ(E_π[Qc] − h)]₊² − λ²)/(2ρ)

J is strictly convex in π. Its minimiser at λ = λ* is computed by two methods that do not assume that it is π*.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from analysis.studies.invariance.energies import penalty, weight
from analysis.studies.invariance.multipliers import at, decreasing_root
from analysis.studies.invariance.policies import Policy
from analysis.studies.invariance.problems import Array, Problem

NEWTON_STEPS = 500  # at most
TOLERANCE = 1e-6  # change of λ at which the method of multipliers ends
MULTIPLIER_STEPS = 100_000  # at most


def by_fixed_point(problem: Problem, beta: float, rho: float, lam: float, panels: int) -> Policy:
    """Return the minimiser of J, by a scalar fixed-point equation.

    The derivative of J in π is −Q + μ Qc + β log π + constant with μ = [λ + ρ(E_π[Qc] − h)]₊. Hence the minimiser is
    the plain Boltzmann density at the μ that equals this bracket under that density. The bracket decreases in μ, so the
    root is unique.
    """
    def mismatch(mu: float) -> float:
        mean_excess = at(problem, beta, 0.0, mu, panels).cost - problem.threshold
        return float(weight(mean_excess, lam, rho)) - mu

    return at(problem, beta, 0.0, decreasing_root(mismatch), panels)


@dataclass(frozen=True)
class Cells:
    """A problem discretised into equal cells, where a policy is a probability vector (n,).

    Attributes:
        reward: Q at the cells' centres, (n,).
        cost: Qc at the cells' centres, (n,).
        volume: volume of a cell.
        threshold: h.
    """

    reward: Array
    cost: Array
    volume: float
    threshold: float

    def boltzmann(self, beta: float, mu: float) -> Array:
        exponent = (self.reward - mu * self.cost) / beta
        p = np.exp(exponent - exponent.max())
        return p / p.sum()

    def optimal_multiplier(self, beta: float) -> float:
        """Return λ* of the discretised problem P."""
        return decreasing_root(lambda mu: float(self.boltzmann(beta, mu) @ self.cost) - self.threshold)

    def objective(self, p: Array, beta: float, rho: float, lam: float) -> float:
        """Return J of a probability vector with positive entries."""
        mean_excess = float(p @ self.cost) - self.threshold
        return float(-p @ self.reward + beta * p @ np.log(p / self.volume) + penalty(np.array(mean_excess), lam, rho))


def cells(problem: Problem, per_axis: int) -> Cells:
    centres = -1 + (np.arange(per_axis) + 0.5) * 2 / per_axis
    points = np.stack(np.meshgrid(*[centres] * problem.dimension, indexing="ij"), -1).reshape(-1, problem.dimension)
    return Cells(problem.reward.value(points), problem.cost.value(points), (2 / per_axis) ** problem.dimension,
                 problem.threshold)


def by_convex_optimisation(grid: Cells, beta: float, rho: float, lam: float) -> Array:
    """Return the minimiser of J over the probability simplex, (n,), by damped Newton steps from the uniform vector.

    The Hessian is diag(β/p) + ρ 1[active] Qc Qcᵀ. Steps preserve Σp = 1 and keep all entries positive.
    """
    p = np.full(len(grid.reward), 1 / len(grid.reward))
    for _ in range(NEWTON_STEPS):
        mean_excess = float(p @ grid.cost) - grid.threshold
        active = float(weight(mean_excess, lam, rho))
        gradient = -grid.reward + beta * (np.log(p / grid.volume) + 1) + active * grid.cost
        curvature = rho if active > 0 else 0.0

        def solve(right: Array, p: Array = p, curvature: float = curvature) -> Array:  # Sherman-Morrison
            scaled, along = p * right / beta, p * grid.cost / beta
            return scaled - curvature * along * (grid.cost @ scaled) / (1 + curvature * grid.cost @ along)

        ones = np.ones_like(p)
        step = -solve(gradient)
        step -= solve(ones) * step.sum() / solve(ones).sum()
        decrement = -float(gradient @ step)
        if decrement < 1e-24:
            break
        shrinking = step < 0
        length = min(1.0, 0.99 * float(np.min(-p[shrinking] / step[shrinking], initial=np.inf)))
        value = grid.objective(p, beta, rho, lam)
        enough = 1e-15 - 0.1 * decrement * length
        while length > 1e-12 and grid.objective(p + length * step, beta, rho, lam) > value + enough:
            length /= 2
        p = p + length * step
    return p


def multiplier_steps(grid: Cells, beta: float, rho: float) -> int:
    """Return the number of steps of the method of multipliers from λ = 0 until λ changes by less than TOLERANCE.

    A step minimises J and sets λ ← [λ + ρ(E_π[Qc] − h)]₊, which is the μ of the minimiser (`by_fixed_point`).
    """
    def mean_excess(mu: float) -> float:
        return float(grid.boltzmann(beta, mu) @ grid.cost) - grid.threshold

    lam = 0.0
    for step in range(1, MULTIPLIER_STEPS + 1):
        high = float(weight(mean_excess(lam), lam, rho))  # the bracket at μ = λ is a bound of the root
        low, high = sorted((lam, high))

        def mismatch(mu: float, lam: float = lam) -> float:
            return mu - float(weight(mean_excess(mu), lam, rho))

        following = low if low == high else float(brentq(mismatch, low, high, xtol=1e-12))
        if abs(following - lam) < TOLERANCE:
            return step
        lam = following
    return MULTIPLIER_STEPS
