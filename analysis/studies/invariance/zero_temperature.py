"""The limit β → 0 of problem P and of the pointwise energies, where densities concentrate on actions.

    mixed value   min over λ ≥ 0 of max over a of Q(a) − λ(Qc(a) − h): value of the best randomised policy
    pure value    max of Q over actions with Qc ≤ h
    duality gap   mixed − pure ≥ 0
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from analysis.studies.invariance.energies import Energy
from analysis.studies.invariance.problems import Array, Problem


@dataclass(frozen=True)
class Limit:
    """The limit β → 0.

    Attributes:
        mixed: value of the best randomised policy.
        pure: value of the best feasible action.
        action: best feasible action, (d,).
        lam: multiplier that attains the mixed value.
    """

    mixed: float
    pure: float
    action: Array
    lam: float

    @property
    def gap(self) -> float:
        return self.mixed - self.pure


def limit(problem: Problem) -> Limit:
    """Return the limit on a grid of 200 001 (1-D) or 1201² (2-D) actions, with errors of about 1e-5 (1e-3)."""
    axis = np.linspace(-1, 1, 200_001 if problem.dimension == 1 else 1201)
    points = np.stack(np.meshgrid(*[axis] * problem.dimension, indexing="ij"), -1).reshape(-1, problem.dimension)
    reward, excess = problem.reward.value(points), problem.cost.value(points) - problem.threshold
    feasible = np.flatnonzero(excess <= 1e-12)
    best = feasible[np.argmax(reward[feasible])]

    def dual(lam: float) -> float:
        return float((reward - lam * excess).max())

    found = minimize_scalar(dual, bounds=(0.0, 20.0), method="bounded", options={"xatol": 1e-9})
    lam, mixed = (0.0, dual(0.0)) if dual(0.0) <= found.fun else (float(found.x), float(found.fun))
    return Limit(mixed, float(reward[best]), points[best], lam)


def sharpness(problem: Problem, zero: Limit, rho: float) -> float:
    """Return s = ρ cᵀ H⁻¹ c at the best action, with c = ∇Qc and H = ∇²L at the limit's λ.

    nan if `limiting_kl` does not apply: a duality gap, a slack constraint, an action on the boundary, or H not positive
    definite.
    """
    if zero.gap > 2e-3 or zero.lam < 1e-6 or np.abs(zero.action).max() > 1 - 1e-6:
        return float("nan")
    h = Energy(problem, zero.lam, 0.0).hessian(zero.action)
    if np.linalg.eigvalsh(h)[0] <= 1e-6:
        return float("nan")
    c = problem.cost.gradient(zero.action)
    return float(rho * c @ np.linalg.solve(h, c))


def limiting_kl(s: float) -> float:
    """Return the limit of KL(π_B‖π*) as β → 0 at fixed ρ: ½(log(1 + s) − s/(1 + s)).

    Both densities tend to Gaussians around the same action, with covariances β(H + ρccᵀ)⁻¹ and βH⁻¹; β cancels.
    """
    return float(0.5 * (np.log1p(s) - s / (1 + s)))
