"""Successive halving under a constraint: which trials continue at a rung.

At each rung a share of 1/η of all trials that ever reached it continues (arXiv 1502.07943; counting earlier batches
too is from arXiv 1810.05934). Feasible comes before better: of two over the limit the one with the smaller violation is
better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """How a trial stands at a step: means over its seeds' last evaluations.

    Attributes:
        gain: the return.
        cost: in the kind that the limit applies to.
        limit: allowed cost.
    """

    gain: float
    cost: float
    limit: float

    @property
    def violation(self) -> float:
        """Cost over the limit, in units of the limit (of 1, if that is less); at most 0: feasible."""
        return (self.cost - self.limit) / max(self.limit, 1.0)

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: the violation, then minus the return."""
        return max(self.violation, 0.0), -self.gain


def going_on(candidates: Mapping[int, Result], reached: Mapping[int, Result], factor: float) -> set[int]:
    """The candidates that continue: those among the best ⌈n/factor⌉ of the n trials that reached the rung.

    Args:
        candidates: number ↦ result of the trials that are decided on.
        reached: the same of all trials that ever reached the rung, the candidates included.
        factor: η, above 1.
    """
    best = sorted(reached, key=lambda number: (*reached[number].rank, number))[:math.ceil(len(reached) / factor)]
    return set(best) & candidates.keys()
