"""How many updates a constraint needs before it is heard, against how many a run makes.

*The cost critics*: their values propagate through target networks, of which an online network is copied by the share
`polyak` every `target_interval` updates, over the 1/(1 − γ_c) steps that a discounted return looks ahead (or over the
steps that an episode has, if the return ends with it). So they settle in some

    target_interval / (polyak (1 − γ_c))        40,000 with the authors' values.

*The multiplier*: by ascent in log λ with Adam it moves by at most a factor exp(learning_rate) an update, so that a
factor e takes 1/learning_rate updates at least: 3,333 with the authors' value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from algd.algorithm.agent import Agent
from algd.algorithm.dual import LogAscent
from algd.budget import Budget

ENOUGH = 2.5
"""A run of so many times what the cost critics need has time for λ to fall and to climb back."""
PAGE = "docs/time_constants.md"


@dataclass(frozen=True)
class TimeConstants:
    """All in updates.

    Attributes:
        run: of the whole run.
        critics: until the cost critics have settled.
        multiplier: until λ can have moved by a factor e; None where the rule has no rate in updates.
        hold: before λ moves.
    """

    run: int
    critics: float
    multiplier: float | None = None
    hold: int = 0

    @property
    def needed(self) -> float:
        """From where on a run says something about its constraint."""
        return self.hold + ENOUGH * max(self.critics, self.multiplier or 0.0)

    def sentence(self) -> str:
        """What they are, for the start of a run."""
        lam = "" if self.multiplier is None else f", λ moves by a factor e in at least {self.multiplier:,.0f}" + (
            f" and stands still for the first {self.hold:,}" * bool(self.hold))
        return f"{self.run:,} updates; the cost critics settle in about {self.critics:,.0f}{lam} ({PAGE})"

    def warning(self) -> str | None:
        """What a run that is too short cannot say; None of one that is long enough."""
        if self.run >= self.needed:
            return None
        return (f"{self.run:,} updates are too few to say how this agent keeps its limit: that takes about "
                f"{self.needed:,.0f}, before which costs and λ are those of the start of training; {PAGE} has the keys "
                "that shorten it")


def time_constants(agent: Agent, budget: Budget, updates: int) -> TimeConstants | None:
    """Those of a run of so many updates; None if there is no constraint in its energy."""
    dual = agent.guidance.dual
    rate, hold = (dual.learning_rate, dual.hold) if isinstance(dual, LogAscent) else (None, 0)
    return None if agent.guidance.kind == "none" else _of(
        updates, agent.target_interval, agent.polyak, agent.cost_discount,
        budget.horizon if budget.cost_return == "ends" else None, rate, hold)


def configured(config: Mapping[str, Any]) -> TimeConstants | None:
    """`time_constants` of a run's configuration, by dotted keys; None also where it does not say, as in runs of other
    frameworks."""
    if config.get("guidance.name") == "none":
        return None
    ascent = config.get("guidance.dual.name") == "ascent"
    try:
        return _of(int(config["total_steps"]) * int(config["updates_per_step"]), config["agent.target_interval"],
                   config["agent.polyak"], config["agent.cost_discount"],
                   config["env.horizon"] if config.get("env.cost_return") == "ends" else None,
                   config["guidance.dual.learning_rate"] if ascent else None,
                   config.get("guidance.dual.hold", 0) if ascent else 0)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _of(updates: int, target_interval: int, polyak: float, cost_discount: float, ends: int | None,
        learning_rate: float | None, hold: int) -> TimeConstants:
    """From the numbers themselves; `ends`: the steps after which the cost's return ends, if it does."""
    steps = 1 / (1 - cost_discount)
    if ends is not None:
        steps = min(steps, ends - 1)  # the last step's value is regressed to its cost at once
    multiplier = None if learning_rate is None else 1 / learning_rate
    return TimeConstants(updates, target_interval / polyak * steps, multiplier, hold)
