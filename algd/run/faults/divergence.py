"""Signs that a run diverges, told with numbers while it runs.

A few rules over what a run measures anyway. Each sign has a size; it is told when it first appears, and again only when
its size has grown by a factor, so that a run that goes on diverging says so a few times and not at every look.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from algd.budget import Budget

LOOK_BACK = 3       # evaluations that a sign must last
FIRST_ROWS = 10     # rows of losses that later ones are compared with
DOUBLED = 2.0
OUTWEIGHS = 1000.0  # λ times the largest cost of a step, against its largest reward
FAR_OFF = 3.0       # between what the cost critics predict and what the episodes cost
GROWN = 100.0       # of a loss
ABSURD = 100.0      # the error of a step, against the largest reward or cost of one
BEYOND = 5.0        # Q, against what rewards can come to: an entropy bonus may add some
TENFOLD = 10.0
SETTLED = 5.0       # times that a bootstrapped value needs to travel over its horizon


@dataclass(frozen=True)
class Look:
    """One evaluation, as the rules see it.

    Attributes:
        lam: λ at the evaluation.
        spent: mean cost of the stochastic sampler's episodes, in the budget's kind.
        predicted: mean of what the cost critics predict at the episodes' first states and actions.
        measured: mean discounted cost of the same episodes.
        tail: what may come after their last step, discounted: γ_c^length · cost of a step / (1 − γ_c), if the episodes
            went on as they did on average.
    """

    lam: float
    spent: float
    predicted: float
    measured: float
    tail: float


def look(lam: float, budget: Budget, cost_discount: float, episodes: Iterable[Mapping[str, Any]]) -> Look | None:
    """The look at an evaluation's rows by the stochastic sampler; None where the simulator ended every one."""
    whole = [row for row in episodes if not row["simulator_error"]]
    if not whole:
        return None

    def mean(name: str) -> float:
        return math.fsum(row[name] for row in whole) / len(whole)

    a_step = math.fsum(row["cost"] for row in whole) / sum(row["length"] for row in whole)
    spent = math.fsum(budget.spent(row["cost"], row["discounted_cost"]) for row in whole) / len(whole)
    return Look(lam, spent, mean("predicted_cost"), mean("discounted_cost"),
                cost_discount ** mean("length") * a_step / (1 - cost_discount))


class Divergence:
    """The signs of one run.

    Args:
        budget: what the cost is held against.
        threshold: h, the limit in the cost critics' units.
        multiplier: λ at the start; None: it never moves, and being over the limit is no sign.
        discount, cost_discount: γ and γ_c.
        settling_updates: updates after which the cost critics' predictions have had time to form.

    Attributes:
        warnings: the last sentence of each sign that appeared.
        count: sentences told so far.
    """

    def __init__(self, budget: Budget, threshold: float, multiplier: float | None, discount: float,
                 cost_discount: float, settling_updates: float):
        self.budget, self.threshold, self.multiplier = budget, threshold, multiplier
        self.discount, self.cost_discount, self.settling_updates = discount, cost_discount, settling_updates
        self.largest_reward = self.largest_cost = 0.0
        self.looks: list[Look] = []
        self.first_losses: dict[str, list[float]] = {}
        self.told: dict[str, float] = {}
        self.warnings: dict[str, str] = {}
        self.count = 0
        self._step = 0

    def observe(self, reward: float, cost: float) -> None:
        """Take in a training step."""
        self.largest_reward = max(self.largest_reward, abs(reward))
        self.largest_cost = max(self.largest_cost, abs(cost))

    def after_evaluation(self, step: int, seen: Look | None, updates: int) -> list[str]:
        """The sentences to tell after an evaluation at an environment step."""
        self._step = step
        if seen is None:
            return []
        self.looks = [*self.looks, seen][-LOOK_BACK:]
        if len(self.looks) < LOOK_BACK:
            return []
        return [*self._multiplier(), *self._cost_critics(updates)]

    def after_updates(self, step: int, means: Mapping[str, float], reward_unit: float) -> list[str]:
        """The sentences to tell after a stretch of updates.

        Args:
            step: the environment step.
            means: the updates' scalars, averaged.
            reward_unit: what the critics' rewards are divided by.
        """
        self._step = step
        allowed = self.threshold * (1 - self.cost_discount)
        scales = {"critic_loss": self.largest_reward / reward_unit, "cost_critic_loss": max(self.largest_cost, allowed)}
        sentences = []
        for name, scale in scales.items():
            error, what = math.sqrt(max(means[name], 0.0)), "reward" if name == "critic_loss" else "cost"
            first = self.first_losses.setdefault(name, [])
            usual = max([scale**2, *first])
            if first and error >= ABSURD * scale > 0:
                sentences += self._tell(name, means[name], TENFOLD, (
                    f"{name} is {means[name]:.3g}: the error of a step is {error / scale:.3g} times the largest {what} "
                    "of a step: the critics diverge"))
            elif len(first) == FIRST_ROWS and means[name] >= GROWN * usual > 0:
                sentences += self._tell(name, means[name], TENFOLD, (
                    f"{name} is {means[name]:.3g}, {means[name] / usual:.3g} times the largest of the run's first "
                    f"{FIRST_ROWS} rows and of one step's {what} squared: the critics diverge"))
            if len(first) < FIRST_ROWS:
                first.append(means[name])
        bound = scales["critic_loss"] / (1 - self.discount)
        if abs(means["q"]) >= BEYOND * bound > 0:
            sentences += self._tell("q", abs(means["q"]), TENFOLD, (
                f"Q is {means['q']:.3g} on average, but rewards of at most {scales['critic_loss']:.3g} a step can "
                f"only come to {bound:.3g}: the reward critics diverge"))
        return sentences

    def _multiplier(self) -> list[str]:
        """λ that moves away while the cost stays over the limit, or beyond all proportion."""
        if self.multiplier is None:
            return []
        multipliers, costs = [one.lam for one in self.looks], [one.spent for one in self.looks]
        limit, lam = self.budget.limit, multipliers[-1]
        shown = " to ".join(f"{one:.3g}" for one in (multipliers[0], lam))
        cost = f"now {costs[-1]:.4g}, limit {limit:g}, {self.budget.kind}"
        episodes = (f"over the last {LOOK_BACK} evaluations, in all of which the stochastic policy's cost was over the "
                    f"limit ({cost})")
        sentences = []
        weight = lam * self.largest_cost / self.largest_reward if self.largest_reward > 0 else 0.0
        if weight >= OUTWEIGHS:
            sentences += self._tell("multiplier outweighs", lam, TENFOLD, (
                f"λ is {lam:.3g}: the largest cost of a step weighs {weight:.3g} times its largest reward (the "
                f"stochastic policy's cost: {cost}): the reward hardly counts any more"))
        over = all(cost > limit for cost in costs)
        if _grows(multipliers) and over:
            sentences += self._tell("multiplier rises", lam, DOUBLED, (
                f"λ rose from {shown} {episodes}: the limit may be out of reach"))
        if over and (lam == 0 or _grows([1 / one for one in multipliers if one > 0])):
            sentences += self._tell("multiplier falls", math.inf if lam == 0 else 1 / lam, DOUBLED, (
                (f"λ is 0 {episodes}" if lam == 0 else f"λ fell from {shown} {episodes}")
                + ": what moves λ does not see the violation"))
        return sentences

    def _cost_critics(self, updates: int) -> list[str]:
        """Cost critics that predict something else than the episodes cost."""
        margin = max(self.threshold, self.largest_cost)
        if margin <= 0:
            return []
        above = [one.predicted / (FAR_OFF * (one.measured + one.tail) + margin) for one in self.looks]
        below = [one.measured / (FAR_OFF * (abs(one.predicted) + margin)) for one in self.looks]
        now = self.looks[-1]
        numbers = (f"the cost critics predict a discounted cost of {now.predicted:.3g}, the evaluation's episodes had "
                   f"{now.measured:.3g} (and {now.tail:.3g} may come after their last step)")
        if min(above) > 1:
            return self._tell("cost critics above", above[-1], DOUBLED, f"{numbers}: they diverge")
        if min(below) > 1 and updates >= self.settling_updates:
            return self._tell("cost critics below", below[-1], DOUBLED, f"{numbers}: they do not see the cost")
        return []

    def _tell(self, sign: str, size: float, factor: float, sentence: str) -> list[str]:
        """The sentence, if the sign is new or has grown by the factor since it was told."""
        before = self.told.get(sign)
        if before is not None and (size < factor * before or math.isinf(before)):
            return []
        self.told[sign] = size
        self.warnings[sign] = f"step {self._step}: {sentence}"
        self.count += 1
        return [self.warnings[sign]]

    def checkpoint(self) -> dict[str, Any]:
        return {"largest": [self.largest_reward, self.largest_cost],
                "looks": [[one.lam, one.spent, one.predicted, one.measured, one.tail] for one in self.looks],
                "first_losses": self.first_losses, "told": self.told, "warnings": self.warnings, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.largest_reward, self.largest_cost = state["largest"]
        self.looks = [Look(*values) for values in state["looks"]]
        self.first_losses, self.told = state["first_losses"], state["told"]
        self.warnings, self.count = state["warnings"], state["count"]


def _grows(values: Sequence[float]) -> bool:
    """Whether each is larger than the one before, and the last at least twice the first."""
    rising = all(later > earlier for earlier, later in pairwise(values))
    return len(values) == LOOK_BACK and rising and values[-1] >= DOUBLED * values[0]
