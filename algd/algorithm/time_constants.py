"""The number of updates that a constraint needs to act, and the number that a run makes.

*The cost critics*: their values propagate through target networks, which move towards the online networks by the share
`polyak` every `target_interval` updates, over the 1/(1 − γ_c) steps of a discounted return (or over the
steps of an episode, if the return ends with it). So they settle in about

    target_interval / (polyak (1 − γ_c))        40,000 with the authors' values.

*The multiplier*: by ascent in log λ with Adam it changes by at most a factor exp(learning_rate) an update, so that a
factor e takes 1/learning_rate updates at least: 3,333 with the authors' value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from algd.algorithm.agent import Agent
from algd.algorithm.dual import LogAscent
from algd.budget import Budget

ENOUGH = 2.5
"""A run of this many times the cost critics' updates has time for λ to fall and to rise again."""
PAGE = "docs/time_constants.md"


@dataclass(frozen=True)
class TimeConstants:
    """All in updates.

    Attributes:
        run: of the whole run.
        critics: until the cost critics have settled.
        multiplier: until λ can have changed by a factor e; None if the rule has no rate in updates.
        hold: before the first change of λ.
    """

    run: int
    critics: float
    multiplier: float | None = None
    hold: int = 0

    @property
    def needed(self) -> float:
        """Number of updates from which a run is informative about its constraint."""
        return self.hold + ENOUGH * max(self.critics, self.multiplier or 0.0)

    def sentence(self) -> str:
        """A summary for the start of a run."""
        lam = "" if self.multiplier is None else f", λ changes by a factor e in at least {self.multiplier:,.0f}" + (
            f" and is constant for the first {self.hold:,}" * bool(self.hold))
        return f"{self.run:,} updates; the cost critics settle in about {self.critics:,.0f}{lam} ({PAGE})"

    def warning(self) -> str | None:
        """A warning for a run that is too short; None for one that is long enough."""
        if self.run >= self.needed:
            return None
        return (f"{self.run:,} updates are too few to judge how well this agent keeps its limit: that takes about "
                f"{self.needed:,.0f}, and until then costs and λ show the start of training; {PAGE} lists the keys "
                "that shorten it")


def time_constants(agent: Agent, budget: Budget, updates: int) -> TimeConstants | None:
    """Return the time constants of a run with this many updates; None if its energy has no constraint."""
    dual = agent.guidance.dual
    rate, hold = (dual.learning_rate, dual.hold) if isinstance(dual, LogAscent) else (None, 0)
    return None if agent.guidance.kind == "none" else _of(
        updates, agent.target_interval, agent.polyak, agent.cost_discount,
        budget.horizon if budget.cost_return == "ends" else None, rate, hold)


def configured(config: Mapping[str, Any]) -> TimeConstants | None:
    """`time_constants` of a run's configuration, by dotted keys; None also if keys are missing, as in runs of other
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
    """Compute the time constants; `ends` is the number of steps after which the cost's return ends, if it does."""
    steps = 1 / (1 - cost_discount)
    if ends is not None:
        steps = min(steps, ends - 1)  # the value of the last step does not bootstrap
    multiplier = None if learning_rate is None else 1 / learning_rate
    return TimeConstants(updates, target_interval / polyak * steps, multiplier, hold)
