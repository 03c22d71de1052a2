"""A Lagrangian."""

import math

from pydantic import FiniteFloat, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus as log_one_plus_exp

from algd.algorithm.dual import Positive
from algd.algorithm.guidance import Dual, Guidance


class Softplus(Guidance):
    """E = −Q + (2λ/ρ) (log(1 + exp(ρ(Qc − h))) − log 2).

    Near Qc = h this is the plain Lagrangian, with slope λ at Qc = h; far within the limit the slope tends to 0, and
    beyond it the slope is at most 2λ.

    Args:
        dual: the rule for λ.
        threshold: h.
        rho: ρ, the inverse width of the transition, in 1/cost-value.
    """

    def __init__(self, dual: object, threshold: float, rho: float):
        super().__init__("plain", dual, threshold)  # type: ignore[arg-type]
        self.sharpness = rho

    def lagrangian(self, q: Tensor, qc: Tensor, lam: Tensor | None = None) -> Tensor:
        lam = self.multiplier if lam is None else lam
        excess = self.sharpness * (qc - self.threshold)
        return 2 * lam / self.sharpness * (log_one_plus_exp(excess) - math.log(2)) - q

    def constraint_weight(self, qc: Tensor, lam: Tensor | None = None) -> Tensor:
        lam = self.multiplier if lam is None else lam
        return 2 * lam * (self.sharpness * (qc - self.threshold)).sigmoid()


def softplus(name: str, rho: Positive, dual: Dual, *, threshold: FiniteFloat, limit: NonNegativeFloat,
             observation_size: PositiveInt) -> Guidance:
    """Make guidance=softplus. The keyword-only arguments come from the task, the others from the YAML file's keys."""
    rule = dual(threshold=threshold, limit=limit, observation_size=observation_size)
    return Softplus(rule, threshold, rho)
