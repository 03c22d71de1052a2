"""What is kept of a run: a few numbers, and what each of its evaluations came to.

A run's cost is of the kind that the task's limit applies to, and an evaluation is feasible (safe) when its mean cost is
at most the limit.
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
COST = {"episode": "cost", "discounted": "discounted_cost"}  # by env.limit_kind, the column that the limit applies to
# What a configuration must say for a run to be tabled.
NEEDED = ("seed", "eval.episodes", "env.name", "env.family", "env.limit", "env.limit_kind", "agent.name",
          "guidance.name")


@dataclass(frozen=True)
class Training:
    """What training had cost by some step, in episodes that ended after the initial steps.

    Attributes:
        total_cost: undiscounted, of all episodes.
        cost_rate: per environment step.
        over: the share of episodes over the limit, in the limit's own kind.
    """

    episodes: int
    total_cost: float
    cost_rate: float
    over: float | None


@dataclass(frozen=True)
class Evaluation:
    """What a complete evaluation during training came to; costs in the limit's own kind.

    Attributes:
        step: of training.
        mean_return, mean_cost: over all its episodes, identical ones too.
        violation: max(0, mean_cost − limit).
        over: the share of its episodes over the limit; None where single episodes are not known.
        cvar: mean of the worst tenth of the costs; None likewise.
        different, episodes: how many different episodes there were, of how many.
        cut: how many the simulator ended; they count with what they had until then.
        training: what training had cost by this step; None where no episode had ended.
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
        """Whether return and cost are numbers, of which a NaN is none."""
        return math.isfinite(self.mean_return) and math.isfinite(self.mean_cost)


@dataclass(frozen=True)
class Series:
    """Values of a quantity of one run: steps (n,), increasing, and values (n,)."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class Run:
    """A run, boiled down.

    Attributes:
        folder: where it is, for messages.
        config: the resolved configuration by dotted keys.
        state: what status.json says; "unknown" without one.
        reason: of a failure, if there was one.
        step: that training had reached, as status.json says.
        evaluations: all complete ones, by step.
        incomplete: episodes of each evaluation that lacks some, by step; they are used for nothing.
        training: by the end of its tables; None without training episodes.
        updates_per_second, hours: over all its starts; None where not recorded.
        source: "" for a folder of this project; else where it was imported from, and what it lacks.
        foreign: whether another framework trained it, so that its configuration cannot be compared with this one's.
        metrics: training scalars of runs without a folder.
        judged_at: the step whose evaluation the run is judged by (`analysis.results.steps`); None: not decided.
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
    metrics: Mapping[str, Series] = field(default_factory=dict)
    judged_at: int | None = None

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
        """Its newest complete evaluation, which for a run that is under way is no result."""
        return self.evaluations[-1] if self.evaluations else None

    @cached_property
    def result(self) -> Evaluation | None:
        """The evaluation that it is judged by; None where it has none at that step."""
        return next((point for point in self.evaluations if point.step == self.judged_at), None)

    @property
    def safe(self) -> bool:
        """Whether the result's mean cost is at most the limit. Without a result, or failed, it is not."""
        result = self.result
        return result is not None and result.finite and result.mean_cost <= self.limit and not self.failed

    @property
    def feasible(self) -> bool | None:
        """Whether the newest evaluation's mean cost is at most the limit; None without an evaluation."""
        return None if self.last is None else self.last.mean_cost <= self.limit

    @property
    def steps(self) -> NDArray[np.int64]:
        """Of all complete evaluations, (n,)."""
        return np.array([point.step for point in self.evaluations], dtype=np.int64)

    @property
    def returns(self) -> Floats:
        """The mean return of every complete evaluation, (n,)."""
        return np.array([point.mean_return for point in self.evaluations], dtype=float)

    @property
    def costs(self) -> Floats:
        """The mean cost of every complete evaluation, (n,)."""
        return np.array([point.mean_cost for point in self.evaluations], dtype=float)

    @cached_property
    def stay(self) -> StayTime | None:
        """When it became feasible for good, of the evaluations up to the one it is judged by."""
        seen = [point for point in self.evaluations if self.judged_at is None or point.step <= self.judged_at]
        stay = time_to_stay_feasible([point.step for point in seen], [point.mean_cost <= self.limit for point in seen])
        return StayTime(seen[-1].step, True) if self.failed and stay is not None else stay
