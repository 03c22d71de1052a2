"""The multipliers at which the pointwise energy is evaluated, each the root of a decreasing function of λ.

    optimal   λ*: E[Qc] = h under the plain density exp((Q − λ Qc)/β), or 0 if the constraint is slack
    code      fixed point of the authors' dual update: E[Qc] = h under exp(−L_A/β), or 0 if E[Qc] ≤ h at λ = 0
              (they average over the replay buffer, this study over the policy itself)
    saddle    ∂/∂λ of the dual function is zero: E[[λ + ρ(Qc − h)]₊] = λ under exp(−L_A/β)

Each function decreases: with g(λ) = E_{π_λ}[f(λ, Qc)], g' = E[∂f/∂λ] − Cov(f, ∂L_A/∂λ)/β, and ∂L_A/∂λ =
max(Qc − h, −λ/ρ) is non-decreasing in Qc. For the saddle, f is ∂L_A/∂λ itself, which is non-increasing in λ.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from analysis.studies.invariance.energies import Energy, weight
from analysis.studies.invariance.policies import Policy, boltzmann
from analysis.studies.invariance.problems import Problem
from analysis.studies.invariance.quadrature import build

Kind = Literal["optimal", "code", "saddle"]
TOLERANCE = {1: 1e-14, 2: 1e-9}  # of the residual, by dimension


def residual(policy: Policy, kind: Kind) -> float:
    """Return the residual of the equation of `kind`, in units of Qc, at a policy and its λ.

    It is E[Qc] − h for optimal and code, and (E[[λ + ρ(Qc − h)]₊] − λ)/ρ for saddle.
    """
    energy = policy.energy
    if kind != "saddle":
        return policy.cost - energy.problem.threshold
    active = weight(energy.excess(policy.rule.points), energy.lam, energy.rho)
    return (policy.mean(active) - energy.lam) / energy.rho


def solve(problem: Problem, beta: float, rho: float, kind: Kind, panels: int) -> Policy:
    """Return the policy π ∝ exp(−L_A(·, λ)/β) at the multiplier of `kind`; for rho = 0 it is π*.

    Args:
        problem: defines Q, Qc and h.
        beta: temperature β > 0.
        rho: ρ ≥ 0.
        kind: the multiplier; "optimal" uses λ*, which does not depend on ρ.
        panels: resolution of the integrals, see `quadrature.build`.
    """
    if rho == 0 or kind == "optimal":
        lam = _root(problem, beta, 0.0, "optimal", panels)
    else:
        lam = _root(problem, beta, rho, kind, panels)
    return at(problem, beta, rho, lam, panels)


def at(problem: Problem, beta: float, rho: float, lam: float, panels: int) -> Policy:
    """Return π ∝ exp(−L_A(·, λ)/β) (L for ρ = 0) on a quadrature rule that is split at its kinks."""
    energy = Energy(problem, lam, rho)
    return boltzmann(energy, beta, build(problem, energy.kinks(), panels))


@lru_cache(maxsize=64)
def _root(problem: Problem, beta: float, rho: float, kind: Kind, panels: int) -> float:
    """Return the multiplier: approximately from one rule that ignores the kink, then corrected on rules split at it.

    The latter have to be built for every λ, which is expensive.
    """
    fixed = build(problem, (problem.threshold,), panels)

    def near(lam: float) -> float:
        return residual(boltzmann(Energy(problem, lam, rho), beta, fixed), kind)

    lam = decreasing_root(near)
    if rho == 0:
        return lam
    value = residual(at(problem, beta, rho, lam, panels), kind)
    if lam == 0 and value <= 0:
        return 0.0
    step = 1e-4 * max(lam, 1e-2)
    slope = (near(lam + step) - near(lam)) / step
    for _ in range(20):
        if abs(value) < TOLERANCE[problem.dimension]:
            break
        lam = max(lam - value / slope, 0.0)
        value = residual(at(problem, beta, rho, lam, panels), kind)
    return lam


def decreasing_root(f: Callable[[float], float]) -> float:
    """Return the root λ ≥ 0 of a decreasing function that becomes negative, or 0 if f(0) ≤ 0."""
    if f(0.0) <= 0:
        return 0.0
    high = 1.0
    while f(high) > 0:
        high *= 2
    return float(brentq(f, 0.0, high, xtol=1e-15, rtol=8.9e-16))


def release(problem: Problem, beta: float, panels: int) -> float:
    """Return the smallest ρ at which the code's multiplier is 0 although λ* > 0; inf if the constraint is slack.

    At this ρ, E[Qc] = h under exp(−L_A(·, 0)/β); above it the quadratic term alone keeps E[Qc] below h. It exists,
    since E[Qc] decreases in ρ to E[Qc | Qc ≤ h] < h under exp(Q/β).
    """
    if _root(problem, beta, 0.0, "optimal", panels) == 0:
        return float("inf")
    rule = build(problem, (problem.threshold,), panels)
    return decreasing_root(lambda rho: boltzmann(Energy(problem, 0.0, rho), beta, rule).cost - problem.threshold)


def small_rho_kl(star: Policy, kind: Kind) -> float:
    """Return the coefficient c in KL(π_B‖π*) = c ρ² + o(ρ²), for the multipliers `optimal` and `code`.

    For λ* > 0 the tilt is ρ(Qc − h)²/2, so c = Var((Qc − h)²)/(8β²) under π*. The code's multiplier removes the part
    that is linear in Qc and leaves the residual variance. For a slack constraint (λ = 0), [Qc − h]₊² replaces
    (Qc − h)².
    """
    excess = star.energy.excess(star.rule.points)
    active = star.energy.lam > 0
    tilt = np.maximum(excess, 0) ** 2 if not active else excess**2
    variance = star.mean((tilt - star.mean(tilt)) ** 2)
    if kind == "code" and active:
        covariance = star.mean((tilt - star.mean(tilt)) * (excess - star.mean(excess)))
        variance -= covariance**2 / star.mean((excess - star.mean(excess)) ** 2)
    return variance / (8 * star.beta**2)
