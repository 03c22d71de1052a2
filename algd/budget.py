"""The budget of a constrained task, and its conversion to what a discounted cost critic predicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["episode", "discounted"]
CostReturn = Literal["bootstraps", "ends", "authors"]


@dataclass(frozen=True)
class Budget:
    """The allowed cost.

    Attributes:
        limit: allowed cost, in the task's own kind.
        kind: "episode": the limit applies to the undiscounted sum of an episode's costs;
            "discounted": to Σ_t γ_c^t c_t from the episode's start.
        horizon: steps T after which an episode is over.
        cost_return: what the cost's return does at step T. "bootstraps": it continues, since a time limit is not the
            task's end; "ends": it ends; "authors": it continues, but h is computed as if it ended.
    """

    limit: float
    kind: Kind
    horizon: int
    cost_return: CostReturn = "authors"

    def threshold(self, cost_discount: float) -> float:
        """The threshold h for the cost critic, which predicts discounted sums.

        A limit per episode allows limit/T a step on average. A policy that spends that at every step has, with
        γ_c < 1, a cost value of

            bootstraps   limit / (T (1 − γ_c))                in every state
            ends         limit (1 − γ_c^T) / (T (1 − γ_c))    at an episode's start, less later in it

        The second is the conversion of Cheng et al. (arXiv 2602.02924), after CVPO, whose critics do bootstrap
        ("authors"): their budget is stricter than stated, by the factor 1 − γ_c^T. With γ_c = 1 it is the limit.
        """
        if self.kind == "discounted" or cost_discount == 1:
            return self.limit
        if self.cost_return == "bootstraps":
            return self.limit / (1 - cost_discount) / self.horizon
        return self.limit * (1 - cost_discount**self.horizon) / (1 - cost_discount) / self.horizon

    def spent(self, cost: float, discounted_cost: float) -> float:
        """The one of an episode's two cost sums that the limit applies to."""
        return discounted_cost if self.kind == "discounted" else cost


def budget_of(config: Mapping[str, Any]) -> Budget | None:
    """The budget in a configuration; None if it has none."""
    env = config.get("env") or {}
    if env.get("limit") is None or env.get("limit_kind") is None:
        return None
    return Budget(limit=float(env["limit"]), kind=env["limit_kind"], horizon=int(env.get("horizon") or 0),
                  cost_return=env.get("cost_return", Budget.cost_return))
