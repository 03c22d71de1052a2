"""What is kept of a run: a few numbers, and the means of its evaluations.

A run is judged by the episodes of its last complete evaluation during training. Its cost is of the kind that the task's
limit applies to, and it is feasible (safe) when its mean cost is at most the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.estimators import StayTime

Floats = NDArray[np.float64]
COST = {"episode": "cost", "discounted": "discounted_cost"}  # by env.limit_kind, the column that the limit applies to
# What a configuration must say for a run to be tabled.
NEEDED = ("seed", "eval.episodes", "env.name", "env.family", "env.limit", "env.limit_kind", "agent.name",
          "guidance.name")


@dataclass(frozen=True)
class Evaluation:
    """A run's last complete evaluation; costs in the limit's own kind.

    Attributes:
        mean_return, mean_cost: over its different episodes.
        violation: max(0, mean_cost − limit).
        over: the share of its different episodes over the limit; None where single episodes are not known.
        cvar: mean of the worst tenth of the costs; None likewise.
        different, episodes: how many different ones there were, of how many.
        cut: how many the simulator ended; they count with what they had until then.
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


@dataclass(frozen=True)
class Training:
    """What training itself cost, in episodes that ended after the initial steps.

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
        last: its last complete evaluation; None: there is none yet.
        steps, returns, costs: of all complete evaluations, (n,) each.
        stay: when it became feasible for good; None without evaluations.
        training: None without training episodes.
        updates_per_second, hours: over all its starts; None where not recorded.
        source: "" for a folder of this project; else where it was imported from, and what it lacks.
        foreign: whether another framework trained it, so that its configuration cannot be compared with this one's.
        metrics: training scalars of runs without a folder.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    reason: str | None
    step: int | None
    last: Evaluation | None
    steps: NDArray[np.int64]
    returns: Floats
    costs: Floats
    stay: StayTime | None
    training: Training | None
    updates_per_second: float | None
    hours: float | None
    source: str = ""
    foreign: bool = False
    metrics: Mapping[str, Series] = field(default_factory=dict)

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
    def feasible(self) -> bool | None:
        """Whether the mean cost is at most the limit; None without an evaluation."""
        return None if self.last is None else self.last.mean_cost <= self.limit
