"""Successive halving under a constraint: decide which trials continue at a rung.

At each rung the best 1/η of all trials that have ever reached it continue (arXiv 1502.07943; counting earlier batches
is from arXiv 1810.05934). Feasible trials rank before infeasible ones, and infeasible ones by their violation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A trial's result at a step: means over its seeds' last evaluations.

    Attributes:
        gain: the return.
        cost: the cost, of the kind that the limit applies to.
        limit: the allowed cost.
    """

    gain: float
    cost: float
    limit: float

    @property
    def violation(self) -> float:
        """(cost − limit) / max(limit, 1); feasible if at most 0."""
        return (self.cost - self.limit) / max(self.limit, 1.0)

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, smaller is better: (violation, −return). A result that is not a number comes last."""
        if math.isnan(self.gain) or math.isnan(self.cost):
            return math.inf, math.inf
        return max(self.violation, 0.0), -self.gain


def going_on(candidates: Mapping[int, Result], reached: Mapping[int, Result], factor: float) -> set[int]:
    """Return the candidates that continue: those among the best ⌈n/factor⌉ of the n trials that reached the rung.

    Args:
        candidates: number ↦ result of the trials to decide on.
        reached: number ↦ result of all trials that ever reached the rung, including the candidates.
        factor: η, above 1.
    """
    best = sorted(reached, key=lambda number: (*reached[number].rank, number))[:math.ceil(len(reached) / factor)]
    return set(best) & candidates.keys()
