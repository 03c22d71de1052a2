"""A run in memory: its configuration, its state, and a summary of each evaluation.

The cost of an evaluation is of the kind that the task's limit applies to (`env.limit_kind`). An evaluation is feasible
(safe) if its mean cost is at most the limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.estimators import StayTime, time_to_stay_feasible

Floats = NDArray[np.float64]
COST = {"episode": "cost", "discounted": "discounted_cost"}  # env.limit_kind ↦ the column that the limit applies to
# Keys that a run's configuration must have.
NEEDED = ("seed", "eval.episodes", "env.name", "env.family", "env.limit", "env.limit_kind", "agent.name",
          "guidance.name")


def terms(config: Mapping[str, Any]) -> tuple[int, float, str]:
    """Return what a run is judged by: the episodes of an evaluation, the limit, and the column that it applies to.

    Raises:
        KeyError, TypeError, ValueError: one of them cannot be.
    """
    episodes, limit, cost = int(config["eval.episodes"]), float(config["env.limit"]), COST[config["env.limit_kind"]]
    if not math.isfinite(limit) or episodes < 1:
        raise ValueError(f"env.limit={limit}, eval.episodes={episodes}: they cannot be")
    return episodes, limit, cost


@dataclass(frozen=True)
class Training:
    """Cost of training up to some step, over the episodes that ended after the initial steps.

    Attributes:
        episodes: number of complete episodes.
        total_cost: undiscounted cost of all episodes.
        cost_rate: cost per environment step.
        over: share of complete episodes over the limit, by the cost that the limit applies to.
    """

    episodes: int
    total_cost: float
    cost_rate: float
    over: float | None


@dataclass(frozen=True)
class Evaluation:
    """Summary of a complete evaluation during training; costs are those that the limit applies to.

    Attributes:
        step: training step.
        mean_return, mean_cost: means over all episodes, including identical ones.
        violation: max(0, mean_cost − limit).
        over: share of episodes over the limit; None if single episodes are not known.
        cvar: CVaR of the costs at level 0.1, the mean of the worst tenth; None if single episodes are not known.
        different, episodes: number of distinct episodes, and of all; equal if single episodes are not known.
        cut: number of episodes that the simulator ended early; they count with the return and cost until then.
        training: cost of training up to this step; None before the first complete episode.
    """

    step: int
    mean_return: float
    mean_cost: float
    violation: float
    over: float | None
    cvar: float | None
    different: int
    episodes: int
    cut: int = 0
    training: Training | None = None

    @property
    def finite(self) -> bool:
        """Whether return and cost are finite numbers."""
        return math.isfinite(self.mean_return) and math.isfinite(self.mean_cost)


@dataclass(frozen=True, kw_only=True)
class Result(Evaluation):
    """What a run is judged by: an evaluation, or the mean over several consecutive ones, of which `step` is the last's.

    Attributes:
        first_step: step of the first evaluation.
        evaluations_over: share of the evaluations whose mean cost is not within the limit.
    """

    first_step: int
    evaluations_over: float


def result_of(evaluations: Sequence[Evaluation], limit: float) -> Result:
    """Return the mean over evaluations with equally many episodes, each of which has the same weight.

    Violation is that of the mean cost, CVaR the mean of the evaluations' own, and training that of the last.

    Args:
        evaluations: at least one, by step.
        limit: the limit of the mean cost.
    """
    def mean(name: str) -> float | None:
        values = [getattr(point, name) for point in evaluations]
        return None if None in values else float(np.mean(values))

    gain, cost, last = mean("mean_return"), mean("mean_cost"), evaluations[-1]
    assert gain is not None and cost is not None
    return Result(
        last.step, gain, cost, max(0.0, cost - limit) if math.isfinite(cost) else cost, mean("over"), mean("cvar"),
        sum(point.different for point in evaluations), sum(point.episodes for point in evaluations),
        sum(point.cut for point in evaluations), last.training, first_step=evaluations[0].step,
        evaluations_over=float(np.mean([not point.mean_cost <= limit for point in evaluations])))


@dataclass(frozen=True)
class Series:
    """A quantity of one run over training: increasing steps (n,) and values (n,)."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class Run:
    """A run's configuration, state and evaluations.

    Attributes:
        folder: the run's folder, or a name for a run without one; for messages.
        config: the resolved configuration, by dotted keys.
        state: state in status.json; "unknown" if there is none.
        reason: reason of a failure.
        step: training step in status.json.
        evaluations: complete evaluations, by step.
        incomplete: number of episodes of each incomplete evaluation, by step; these evaluations are not used.
        training: cost of the whole training; None without complete training episodes.
        updates_per_second, hours: over all starts of the run; None if not recorded.
        source: "" for a run folder of this project; else where the run was imported from, and what is not known of it.
        foreign: whether another framework trained it, so that its configuration is not comparable with this project's.
        code: the hashes of each trusted module's code, over all starts of the run.
        metrics: training scalars of a run without a folder.
        judged_at: step of the evaluation that is the run's result (`analysis.results.steps`); None: not yet chosen.
        averaged: number of evaluations, up to that one, over which the result is the mean.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    reason: str | None
    step: int | None
    evaluations: Sequence[Evaluation]
    incomplete: Mapping[int, int]
    training: Training | None
    updates_per_second: float | None
    hours: float | None
    source: str = ""
    foreign: bool = False
    code: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    judged_at: int | None = None
    averaged: int = 1

    @property
    def limit(self) -> float:
        return float(self.config["env.limit"])

    @property
    def env(self) -> str:
        return str(self.config["env.name"])

    @property
    def family(self) -> str:
        return str(self.config["env.family"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def failed(self) -> bool:
        return self.state == "failed"

    @property
    def last(self) -> Evaluation | None:
        """The newest complete evaluation; not a result, since the run may still be training."""
        return self.evaluations[-1] if self.evaluations else None

    @cached_property
    def result(self) -> Result | None:
        """The mean of the last `averaged` evaluations after step 0, up to that at `judged_at`; None if one of them is
        missing or not complete."""
        seen = self.window
        if len(seen) < self.averaged or seen[-1].step != self.judged_at:
            return None
        if any(seen[0].step < step < seen[-1].step for step in self.incomplete):
            return None
        return result_of(seen, self.limit)

    @property
    def finite_result(self) -> Result | None:
        """The result, if its return and cost are finite numbers."""
        return self.result if self.result is not None and self.result.finite else None

    @property
    def window(self) -> Sequence[Evaluation]:
        """The last `averaged` complete evaluations after step 0 and up to `judged_at`, or as many as there are."""
        return self.seen[-self.averaged:]

    @property
    def seen(self) -> list[Evaluation]:
        """The complete evaluations after step 0 and up to `judged_at`."""
        return [point for point in self.evaluations if 0 < point.step <= (self.judged_at or 0)]

    @property
    def safe(self) -> bool:
        """Whether the mean cost of the result is at most the limit; False for a failed run or one without a result."""
        return self.finite_result is not None and self.finite_result.mean_cost <= self.limit and not self.failed

    @property
    def feasible(self) -> bool | None:
        """Whether the mean cost of the newest evaluation is at most the limit; None without an evaluation."""
        return None if self.last is None else self.last.mean_cost <= self.limit

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of the complete evaluations, (n,)."""
        return np.array([point.step for point in self.evaluations], dtype=np.int64)

    @property
    def returns(self) -> Floats:
        """Mean returns of the complete evaluations, (n,)."""
        return np.array([point.mean_return for point in self.evaluations], dtype=float)

    @property
    def costs(self) -> Floats:
        """Mean costs of the complete evaluations, (n,)."""
        return np.array([point.mean_cost for point in self.evaluations], dtype=float)

    @cached_property
    def stay(self) -> StayTime | None:
        """The step from which the run stays feasible, up to `judged_at`; a failed run does not up to there."""
        if self.failed:
            return self.never
        seen = [point for point in self.evaluations if self.judged_at is None or point.step <= self.judged_at]
        return time_to_stay_feasible([point.step for point in seen], [point.mean_cost <= self.limit for point in seen])

    @property
    def never(self) -> StayTime | None:
        """The censored time of an event that has not happened by `judged_at`, or by the last evaluation before it; None
        without both.

        For a failed run it is `judged_at`, however early it failed: censoring it at its failure, as one does with a run
        that was merely stopped, would reward failures.
        """
        steps = [point.step for point in self.evaluations if self.judged_at is None or point.step <= self.judged_at]
        last = self.judged_at if self.failed and self.judged_at is not None else max(steps, default=None)
        return None if last is None else StayTime(last, True)
