"""How many updates a constraint needs before it is heard, against how many a run makes.

*The cost critics*: their values propagate through target networks, of which an online network is copied by the share
`polyak` every `target_interval` updates, over the 1/(1 − γ_c) steps that a discounted return looks ahead (or over the
steps that an episode has, if the return ends with it). So they settle in some

    target_interval / (polyak (1 − γ_c))        40,000 with the authors' values.

*The multiplier*: by ascent in log λ with Adam it moves by at most a factor exp(learning_rate) an update, so that a
factor e takes 1/learning_rate updates at least: 3,333 with the authors' value.
"""

from dataclasses import dataclass

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
    if agent.guidance.kind == "none":
        return None
    steps = 1 / (1 - agent.cost_discount)
    if budget.cost_return == "ends":
        steps = min(steps, budget.horizon - 1)  # the last step's value is regressed to its cost at once
    critics, dual = agent.target_interval / agent.polyak * steps, agent.guidance.dual
    if isinstance(dual, LogAscent):
        return TimeConstants(updates, critics, 1 / dual.learning_rate, dual.hold)
    return TimeConstants(updates, critics)
