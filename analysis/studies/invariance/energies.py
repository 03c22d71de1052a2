"""The plain and the augmented Lagrangian of single actions, in NumPy.

    L  (a, λ) = −Q(a) + λ (Qc(a) − h)
    L_A(a, λ) = −Q(a) + ([λ + ρ (Qc(a) − h)]₊² − λ²) / (2ρ)                 (Cheng et al., arXiv 2602.02924)

L_A → L as ρ → 0; in the code ρ = 0 means L.
"""

from dataclasses import dataclass

import numpy as np

from analysis.studies.invariance.problems import Array, Problem


def penalty(excess: Array, lam: float, rho: float) -> Array:
    """Return the penalty term of the energy at the excess x = Qc − h: λx for ρ = 0, else ([λ + ρx]₊² − λ²)/(2ρ)."""
    if rho == 0:
        return lam * excess
    return (np.maximum(lam + rho * excess, 0) ** 2 - lam**2) / (2 * rho)


def weight(excess: Array | float, lam: float, rho: float) -> Array:
    """Return the weight of ∇Qc in the energy's gradient, d penalty/dx = [λ + ρx]₊ (λ for ρ = 0)."""
    excess = np.asarray(excess, float)
    return np.maximum(lam + rho * excess, 0) if rho > 0 else np.full_like(excess, lam)


@dataclass(frozen=True)
class Energy:
    """L (ρ = 0) or L_A of a problem at a multiplier.

    Attributes:
        problem: defines Q, Qc and h.
        lam: λ ≥ 0.
        rho: ρ ≥ 0.
    """

    problem: Problem
    lam: float
    rho: float

    def excess(self, a: Array) -> Array:
        return self.problem.cost.value(a) - self.problem.threshold

    def value(self, a: Array) -> Array:
        """Return the energies (...) of actions (..., d)."""
        return penalty(self.excess(a), self.lam, self.rho) - self.problem.reward.value(a)

    def gradient(self, a: Array) -> Array:
        """Return the gradient of the energy, (..., d), at actions (..., d)."""
        active = weight(self.excess(a), self.lam, self.rho)[..., None]
        return active * self.problem.cost.gradient(a) - self.problem.reward.gradient(a)

    def hessian(self, a: Array) -> Array:
        """Return the Hessian of the energy, (..., d, d); at the kink of L_A that of the inactive side."""
        active = weight(self.excess(a), self.lam, self.rho)[..., None, None]
        slope = self.problem.cost.gradient(a)
        rank_one = self.rho * (active > 0) * slope[..., :, None] * slope[..., None, :]
        return active * self.problem.cost.hessian(a) - self.problem.reward.hessian(a) + rank_one

    def kinks(self) -> tuple[float, ...]:
        """Return the values of Qc at which integrands are not smooth: h, for P(Qc > h), and the kink h − λ/ρ of L_A."""
        h = self.problem.threshold
        return (h, h - self.lam / self.rho) if self.rho > 0 else (h,)
