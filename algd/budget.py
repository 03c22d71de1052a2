"""The budget of a constrained task, and its conversion to what a discounted cost critic predicts."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["episode", "discounted"]


@dataclass(frozen=True)
class Budget:
    """How much cost is allowed.

    Attributes:
        limit: allowed cost, in the task's own kind.
        kind: "episode": the limit applies to the undiscounted sum of an episode's costs;
            "discounted": to Σ_t γ_c^t c_t from the episode's start.
        horizon: steps T after which an episode is truncated.
    """

    limit: float
    kind: Kind
    horizon: int

    def threshold(self, cost_discount: float) -> float:
        """The threshold h for the cost critic, which predicts discounted sums.

        A limit per episode is spread evenly over its T steps and discounted (Cheng et al., arXiv 2602.02924,
        following CVPO):  h = limit · (1 − γ_c^T) / (1 − γ_c) / T;  with γ_c = 1 this is the limit itself.
        """
        if self.kind == "discounted" or cost_discount == 1:
            return self.limit
        return self.limit * (1 - cost_discount**self.horizon) / (1 - cost_discount) / self.horizon

    def spent(self, cost: float, discounted_cost: float) -> float:
        """Of an episode's two cost sums, the one that the limit applies to."""
        return discounted_cost if self.kind == "discounted" else cost
