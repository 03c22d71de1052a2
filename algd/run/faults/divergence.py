"""Signs that a run diverges, reported with numbers while it trains.

A few rules on quantities that a run measures anyway. Each sign has a size; a warning is given when it first appears,
and again only when its size has grown by a factor, so that a diverging run warns a few times and not at every
evaluation.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

from algd.algorithm.agent import Agent
from algd.algorithm.dual import Fixed
from algd.budget import Budget

EVALUATIONS = 3     # consecutive evaluations that a sign must last
FIRST_ROWS = 10     # rows of losses with which later ones are compared
DOUBLED = 2.0
OUTWEIGHS = 1000.0  # ratio of λ times the largest cost of a step to the largest reward of a step
FAR_OFF = 3.0       # factor between the cost critics' prediction and the episodes' cost
GROWN = 100.0       # factor by which a loss has grown
ABSURD = 100.0      # ratio of the error of a step to the largest reward or cost of a step
BEYOND = 5.0        # ratio of Q to the largest possible return
TENFOLD = 10.0
STUCK = 0.95        # share of an evaluation's steps in which a component of the action is at one bound
SETTLED = 5.0       # time constants after which a bootstrapped value has settled


@dataclass(frozen=True)
class EvaluationMeans:
    """One evaluation's means, as the rules use them.

    Attributes:
        lam: λ at the evaluation.
        spent: mean cost of the stochastic sampler's episodes, in the budget's kind.
        predicted: mean of what the cost critics predict at the episodes' first states and actions.
        measured: mean discounted cost of the same episodes.
        tail: an estimate of the discounted cost after their last step: γ_c^length · mean cost of a step / (1 − γ_c).
        at_bound: for each component of the action, the share of both samplers' steps at one bound; negative at the
            lower one. Empty in the checkpoints of earlier versions.
    """

    lam: float
    spent: float
    predicted: float
    measured: float
    tail: float
    at_bound: tuple[float, ...] = ()


def evaluation_means(lam: float, budget: Budget, cost_discount: float,
                     episodes: Iterable[Mapping[str, Any]], at_bound: tuple[float, ...]) -> EvaluationMeans | None:
    """The means over the rows of evals.csv of the stochastic sampler's episodes, those that the simulator ended left
    out; None if it ended all."""
    whole = [row for row in episodes if not row["simulator_error"]]
    if not whole:
        return None

    def mean(name: str) -> float:
        return math.fsum(row[name] for row in whole) / len(whole)

    step_cost = math.fsum(row["cost"] for row in whole) / sum(row["length"] for row in whole)
    spent = math.fsum(budget.spent(row["cost"], row["discounted_cost"]) for row in whole) / len(whole)
    return EvaluationMeans(lam, spent, mean("predicted_cost"), mean("discounted_cost"),
                           cost_discount ** mean("length") * step_cost / (1 - cost_discount), at_bound)


class Divergence:
    """The signs of one run.

    Args:
        budget: the allowed cost.
        threshold: h, the limit in the cost critics' units.
        fixed_multiplier: whether λ is constant, so that being over the limit is no sign.
        discount, cost_discount: γ and γ_c.
        settling_updates: updates that the cost critics need; None: they do not predict the discounted cost
            (agent.cost_backup=reach).

    Attributes:
        warnings: the last warning of each sign that appeared.
        count: warnings so far.
    """

    def __init__(self, budget: Budget, threshold: float, fixed_multiplier: bool, discount: float,
                 cost_discount: float, settling_updates: float | None):
        self.budget, self.threshold, self.fixed_multiplier = budget, threshold, fixed_multiplier
        self.discount, self.cost_discount, self.settling_updates = discount, cost_discount, settling_updates
        self.largest_reward = self.largest_cost = self.lowest_cost = 0.0
        self.largest_bonus = 0.0  # of the policy's entropy, for a step, in the critics' units
        self.recent: list[EvaluationMeans] = []
        self.first_losses: dict[str, list[float]] = {}
        self.sizes: dict[str, float] = {}
        self.warnings: dict[str, str] = {}
        self.count = 0
        self._step = 0

    @classmethod
    def of(cls, agent: Agent, budget: Budget) -> "Divergence":
        """Return the signs that an agent can show under a budget."""
        settling = SETTLED * agent.target_interval / agent.polyak / (1 - agent.cost_discount)
        return cls(budget, budget.threshold(agent.cost_discount), isinstance(agent.guidance.dual, Fixed),
                   agent.discount, agent.cost_discount, settling if agent.cost_backup == "sum" else None)

    def observe(self, reward: float, cost: float) -> None:
        """Record the reward and cost of a training step."""
        self.largest_reward = max(self.largest_reward, abs(reward))
        self.largest_cost = max(self.largest_cost, abs(cost))
        self.lowest_cost = min(self.lowest_cost, cost)

    @property
    def _violation(self) -> float:
        """The largest cost of a step in the cost critics' units: with agent.cost_backup=reach an unsafe step is 1."""
        return 1.0 if self.settling_updates is None else self.largest_cost

    def after_evaluation(self, step: int, means: EvaluationMeans | None, updates: int,
                         reward_unit: float) -> list[str]:
        """Return the warnings after an evaluation at an environment step.

        Args:
            step: the environment step.
            means: the evaluation's means; None: there are none.
            updates: gradient updates so far.
            reward_unit: the divisor of the critics' rewards.
        """
        self._step = step
        if means is None:
            return []
        self.recent = [*self.recent, means][-EVALUATIONS:]
        if len(self.recent) < EVALUATIONS:
            return []
        return [*self._multiplier(self.largest_reward / reward_unit), *self._cost_critics(updates), *self._policy()]

    def after_updates(self, step: int, means: Mapping[str, float], reward_unit: float) -> list[str]:
        """Return the warnings after the updates of one row of metrics.csv.

        Args:
            step: the environment step.
            means: the updates' scalars, averaged.
            reward_unit: the divisor of the critics' rewards.
        """
        self._step = step
        predicts_sum = self.settling_updates is not None
        allowed = self.threshold * (1 - self.cost_discount) if predicts_sum else 0.0
        scales = {"critic_loss": self.largest_reward / reward_unit, "cost_critic_loss": max(self._violation, allowed)}
        sentences = []
        for name, scale in scales.items():
            if name not in means:  # an agent of the user's may have others
                continue
            error, what = math.sqrt(max(means[name], 0.0)), "reward" if name == "critic_loss" else "cost"
            first = self.first_losses.setdefault(name, [])
            usual = max([scale**2, *first])
            if first and error >= ABSURD * scale > 0:
                sentences += self._warn(name, means[name], TENFOLD, (
                    f"{name} is {means[name]:.3g}: the error of a step is {error / scale:.3g} times the largest {what} "
                    "of a step: the critics diverge"))
            elif len(first) == FIRST_ROWS and means[name] >= GROWN * usual > 0:
                sentences += self._warn(name, means[name], TENFOLD, (
                    f"{name} is {means[name]:.3g}, {means[name] / usual:.3g} times the largest of the run's first "
                    f"{FIRST_ROWS} rows and of one step's {what} squared: the critics diverge"))
            if len(first) < FIRST_ROWS:
                first.append(means[name])
        if {"temperature", "entropy"} <= means.keys():
            self.largest_bonus = max(self.largest_bonus, means["temperature"] * means["entropy"])
        bound = (scales["critic_loss"] + self.largest_bonus) / (1 - self.discount)
        if "q" in means and abs(means["q"]) >= BEYOND * bound > 0:
            sentences += self._warn("q", abs(means["q"]), TENFOLD, (
                f"Q is {means['q']:.3g} on average, but rewards of at most {scales['critic_loss']:.3g} a step "
                + f"and an entropy bonus of at most {self.largest_bonus:.3g} " * (self.largest_bonus > 0)
                + f"can only add up to {bound:.3g}: the reward critics diverge"))
        margin = max(self.threshold, self.largest_cost)
        possible = self.lowest_cost / (1 - self.cost_discount)
        if predicts_sum and "qc" in means and means["qc"] < possible - margin < 0:
            sentences += self._warn("qc", possible - means["qc"], DOUBLED, (
                f"Qc is {means['qc']:.3g} on average, but the costs of an episode add up to {possible:.3g} at least: "
                "the cost critics are wrong"))
        return sentences

    def _multiplier(self, largest_reward: float) -> list[str]:
        """λ that rises or falls while the cost stays over the limit, or outweighs the reward, in the critics' units."""
        if self.fixed_multiplier:
            return []
        multipliers, costs = [past.lam for past in self.recent], [past.spent for past in self.recent]
        limit, lam = self.budget.limit, multipliers[-1]
        shown = f"{multipliers[0]:.3g} to {lam:.3g}"
        cost = f"now {costs[-1]:.4g}, limit {limit:g}, {self.budget.kind}"
        episodes = (f"over the last {EVALUATIONS} evaluations, in all of which the stochastic policy's cost was over "
                    f"the limit ({cost})")
        sentences = []
        weight = lam * self._violation / largest_reward if largest_reward > 0 else 0.0
        if weight >= OUTWEIGHS:
            sentences += self._warn("multiplier outweighs", lam, TENFOLD, (
                f"λ is {lam:.3g}: the largest cost of a step weighs {weight:.3g} times its largest reward (the "
                f"stochastic policy's cost: {cost}): the reward hardly counts any more"))
        over = all(cost > limit for cost in costs)
        if _grows(multipliers) and over:
            sentences += self._warn("multiplier rises", lam, DOUBLED, (
                f"λ rose from {shown} {episodes}: the limit may be out of reach"))
        if over and (lam == 0 or _grows([1 / past for past in multipliers if past > 0])):
            sentences += self._warn("multiplier falls", math.inf if lam == 0 else 1 / lam, DOUBLED, (
                (f"λ is 0 {episodes}" if lam == 0 else f"λ fell from {shown} {episodes}")
                + ": its signal does not show the violation"))
        return sentences

    def _cost_critics(self, updates: int) -> list[str]:
        """Cost critics whose predictions differ from the episodes' costs."""
        margin = max(self.threshold, self.largest_cost)
        if margin <= 0 or self.settling_updates is None:
            return []
        above = [past.predicted / (FAR_OFF * (past.measured + past.tail) + margin) for past in self.recent]
        below = [past.measured / (FAR_OFF * (abs(past.predicted) + margin)) for past in self.recent]
        now = self.recent[-1]
        numbers = (f"the cost critics predict a discounted cost of {now.predicted:.3g}, the evaluation's episodes had "
                   f"{now.measured:.3g} (and {now.tail:.3g} may come after their last step)")
        if min(above) > 1:
            return self._warn("cost critics above", above[-1], DOUBLED, f"{numbers}: they diverge")
        if min(below) > 1 and updates >= self.settling_updates:
            return self._warn("cost critics below", below[-1], DOUBLED, f"{numbers}: they do not see the cost")
        return []

    def _policy(self) -> list[str]:
        """Components of the action that are at the same bound in nearly all states."""
        stuck, least = [], 1.0
        for number, shares in enumerate(zip(*(past.at_bound for past in self.recent), strict=False)):
            for name, sign in (("lower", -1), ("upper", 1)):
                share = min(sign * share for share in shares)
                if share >= STUCK:
                    stuck.append(f"{number} ({name})")
                    least = min(least, share)
        if not stuck:
            return []
        what = f"component {stuck[0]} of the policy's action was" if len(stuck) == 1 else (
            f"components {', '.join(stuck)} of the policy's action were")
        return self._warn("actions at a bound", len(stuck), DOUBLED, (
            f"{what} at the same bound in at least {math.floor(100 * least)}% of the steps of each of the last "
            f"{EVALUATIONS} evaluations: the slope of tanh is almost 0 there, and the policy may hardly learn for a "
            "long time"))

    def _warn(self, sign: str, size: float, factor: float, sentence: str) -> list[str]:
        """The warning, if the sign is new or has grown by the factor since the last one."""
        before = self.sizes.get(sign)
        if before is not None and (size < factor * before or math.isinf(before)):
            return []
        self.sizes[sign] = size
        self.warnings[sign] = f"step {self._step}: {sentence}"
        self.count += 1
        return [self.warnings[sign]]

    def checkpoint(self) -> dict[str, Any]:
        return {"largest": [self.largest_reward, self.largest_cost], "lowest_cost": self.lowest_cost,
                "largest_bonus": self.largest_bonus,
                "looks": [list(astuple(past)) for past in self.recent],
                "first_losses": self.first_losses, "told": self.sizes, "warnings": self.warnings, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.largest_reward, self.largest_cost = state["largest"]
        # Earlier versions did not record these.
        self.lowest_cost, self.largest_bonus = state.get("lowest_cost", 0.0), state.get("largest_bonus", 0.0)
        self.recent = [EvaluationMeans(*values[:5], *map(tuple, values[5:])) for values in state["looks"]]
        self.first_losses, self.sizes = state["first_losses"], state["told"]
        self.warnings, self.count = state["warnings"], state["count"]


def _grows(values: Sequence[float]) -> bool:
    """Whether each is larger than the one before, and the last at least twice the first."""
    rising = all(later > earlier for earlier, later in pairwise(values))
    return len(values) == EVALUATIONS and rising and values[-1] >= DOUBLED * values[0]
