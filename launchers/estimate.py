"""Estimate a sweep's time, core-hours and GPU-hours from existing runs of the same kind."""

import heapq
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from algd.logging.console import duration
from launchers.devices import default_jobs, threads_of, visible_gpus, wants_gpu
from launchers.settings import LocalSettings, Settings, SlurmSettings
from launchers.slurm.submission import arrays_of
from launchers.states import RunState, read_state
from launchers.sweeps import Member
from launchers.table import many

HOUR = 3600.0


@dataclass(frozen=True)
class Kind:
    """Properties shared by runs of about the same speed.

    Attributes:
        env: the environment's name.
        method: agent and guidance, as in the run's folder name.
        updates: gradient updates per environment step.
    """

    env: str
    method: str
    updates: int

    def __str__(self) -> str:
        return f"{self.env}/{self.method} with {many(self.updates, 'update')} a step"


def kind_of(folder: Path, updates: int) -> Kind:
    """Return the kind of a run from its folder and its updates per step."""
    return Kind(folder.parts[-3], folder.parts[-2], updates)


class Speeds:
    """Seconds per environment step, measured from runs that have made steps.

    Args:
        members: the runs whose speeds will be asked for.
    """

    def __init__(self, members: Iterable[Member]):
        self._kinds = {member.folder: kind_of(member.folder, member.config["updates_per_step"]) for member in members}
        self._known: dict[Kind, dict[Path, RunState]] = {}

    def learn(self, folder: Path, state: RunState) -> None:
        """Add a run's measurement, replacing an earlier one of the same run."""
        if state.seconds_per_step is not None:
            self._known.setdefault(kind_of(folder, round(state.updates / state.step)), {})[folder] = state

    def learn_neighbours(self) -> None:
        """Add the measurements of other runs in the members' parent folders."""
        for parent in {folder.parent for folder in self._kinds}:
            for status in parent.glob("*/status.json"):
                self.learn(status.parent, read_state(status.parent))

    def kind(self, folder: Path) -> Kind:
        """Return the kind of a member."""
        return self._kinds[folder]

    def measured(self, folder: Path) -> dict[Path, RunState]:
        """Return the runs that predict this one's speed: those of its kind, finished ones only if there are any."""
        known = self._known.get(self.kind(folder), {})
        return {path: state for path, state in known.items() if state.state == "finished"} or known

    def seconds_per_step(self, folder: Path) -> float | None:
        """Return the median over runs of the same kind; None if there are none."""
        found = [state.seconds_per_step for state in self.measured(folder).values()]
        return statistics.median(seconds for seconds in found if seconds is not None) if found else None

    def seconds(self, rest: Mapping[Path, int]) -> dict[Path, float] | None:
        """Return each run's seconds for its remaining environment steps; None if the speed of one is unknown."""
        each = {}
        for folder, steps in rest.items():
            seconds = self.seconds_per_step(folder)
            if seconds is None:
                return None
            each[folder] = seconds * max(steps, 0)
        return each

    def seconds_left(self, rest: Mapping[Path, int], at_once: int) -> float | None:
        """Return the seconds until all runs are finished.

        Args:
            rest: remaining environment steps of each run.
            at_once: number of simultaneous runs.

        Returns:
            Seconds; None if the speed of one run is unknown.
        """
        each = self.seconds(rest)
        return None if each is None else makespan(each.values(), at_once)


def makespan(seconds: Iterable[float], at_once: int) -> float:
    """Return the end of the last run, if runs start in order whenever fewer than `at_once` are running."""
    ends = [0.0] * max(at_once, 1)
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


@dataclass(frozen=True)
class Cost:
    """The resources of runs: core-hours and GPU-hours."""

    core_hours: float
    gpu_hours: float

    def __str__(self) -> str:
        return f"{amount(self.core_hours)} core-hours" + \
            (f", {amount(self.gpu_hours)} GPU-hours" if self.gpu_hours else "")


def amount(value: float) -> str:
    """Format hours with as many digits as the estimate is accurate to."""
    return "less than 0.1" if value < 0.05 else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def cost(members: Sequence[Member], seconds: Mapping[Path, float], settings: Settings, at_once: int,
         gpus: int = 0) -> Cost:
    """Return the cost of runs: on SLURM, all that a task requests until its longest run ends; here, the runs' threads.

    Args:
        members: the runs.
        seconds: duration of each run.
        settings: the launcher's settings.
        at_once: number of simultaneous runs on this machine.
        gpus: number of GPUs that they share on this machine.
    """
    cores = cards = 0.0
    if isinstance(settings, SlurmSettings):
        for array in arrays_of(members, settings, len(members)):
            for task in array.tasks:
                longest = max(seconds[member.folder] for member in task)
                cores += array.cpus * longest
                cards += array.settings.gpus * longest
    else:
        for member in members:
            cores += threads_of(member.config) * seconds[member.folder]
            if gpus and wants_gpu(member.config):
                cards += seconds[member.folder] * min(1.0, gpus / at_once)
    return Cost(cores / HOUR, cards / HOUR)


def estimate(members: Sequence[Member], rest: Mapping[Path, int], settings: Settings) -> str:
    """Describe the time and the cost of runs in one line.

    Args:
        members: the sweep's members.
        rest: remaining environment steps by run; finished runs are not in it.
        settings: the launcher's settings.
    """
    speeds = Speeds(members)
    speeds.learn_neighbours()
    gpus = len(visible_gpus()) if isinstance(settings, LocalSettings) else 0
    at_once = simultaneous(settings, members, len(rest))
    each = speeds.seconds(rest)
    if each is None:
        unknown = next(folder for folder in rest if speeds.seconds_per_step(folder) is None)
        return f"estimate: none, as there is no run of {speeds.kind(unknown)} to go by"
    runs = len({path for folder in rest for path in speeds.measured(folder)})
    wanted = [member for member in members if member.folder in rest]
    return (f"estimate, {at_once} at once: {duration(makespan(each.values(), at_once))}, "
            f"{cost(wanted, each, settings, at_once, gpus)} (by {many(runs, 'run')} of the same kind)")


def simultaneous(settings: Settings, members: Sequence[Member], count: int) -> int:
    """Return the largest number of `count` runs that run at the same time."""
    if isinstance(settings, SlurmSettings):
        tasks = (len(task) for array in arrays_of(members, settings, len(members)) for task in array.tasks)
        return min(count, sum(sorted(tasks, reverse=True)[:settings.max_running]))
    assert isinstance(settings, LocalSettings)
    return min(count, settings.jobs or default_jobs([member.config for member in members], visible_gpus()))
