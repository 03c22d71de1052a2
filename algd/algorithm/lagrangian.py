"""The Lagrangian as an energy over actions: the formulas, with no state.

Symbols: q = Q(s, a) and qc = Qc(s, a), the reward's and the cost's critics; lam = λ ≥ 0, the multiplier;
threshold = h; rho = ρ > 0. All arguments broadcast; the result is an energy (lower is better).
Cheng et al., arXiv 2602.02924.
"""

from torch import Tensor


def plain(q: Tensor, qc: Tensor, lam: Tensor | float, threshold: float) -> Tensor:
    """L = −Q + λ (Qc − h)."""
    return lam * (qc - threshold) - q


def constraint_weight(qc: Tensor, lam: Tensor | float, threshold: float, rho: float) -> Tensor:
    """[λ + ρ (Qc − h)]₊, the weight that ∇Qc carries in ∇L_A."""
    return (lam + rho * (qc - threshold)).clip(0)


def augmented(q: Tensor, qc: Tensor, lam: Tensor | float, threshold: float, rho: float) -> Tensor:
    """L_A = −Q + ([λ + ρ (Qc − h)]₊² − λ²) / (2ρ)."""
    return (constraint_weight(qc, lam, threshold, rho) ** 2 - lam**2) / (2 * rho) - q
