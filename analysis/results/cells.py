"""Runs grouped into the cells of a table: what may stand in one, and what a cell comes to across its seeds.

Return is an interquartile mean, with an interval. Cost is the plain mean, without one: an interquartile mean trims just
the seeds that are dangerous, and no interval holds for costs of few seeds (docs/analysis.md), so that the seeds
themselves are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from algd.errors import UsageError
from analysis.results.steps import judged, waiting
from analysis.runs.model import Run
from analysis.runs.select import canonical, check_key, differing_keys, may_differ, value_of
from analysis.statistics.estimators import Estimate, Method, iqm_interval, median_time, proportion_interval

ROWS, COLUMNS = ("env",), ("agent", "guidance")
SAFE_SHARE = 0.8  # of a cell's seeds that must be safe for it to be feasible


@dataclass(frozen=True)
class Spread:
    """The mean of a quantity over seeds, and the lowest and the highest seed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """The runs with the same values of the grouping keys, and what they come to.

    Attributes:
        row, column: values of the keys of rows and columns, as text; "–" for a key that the runs do not have.
        runs: all of them, by seed, each with the step that it is judged at.
        pooled: keys in which they differ nevertheless, because the user said so.
        mean_return: interquartile mean over the runs with a result; None without one.
        mean_cost: plain mean over them, and never an interval.
        limit: None where pooled runs have different ones.
        feasible: whether the mean cost is at most the limit and `safe_share` of all the seeds are safe; None without a
            result.
        safe_share: the share that was asked for.
        method, bootstrap_seed: of the intervals.
        best: whether no feasible cell of the same row and limit has a return that prints higher.
    """

    row: tuple[str, ...]
    column: tuple[str, ...]
    runs: list[Run]
    pooled: tuple[str, ...]
    mean_return: Estimate | None
    mean_cost: Estimate | None
    limit: float | None
    feasible: bool | None
    safe_share: float
    method: Method
    bootstrap_seed: int
    best: bool = False

    @property
    def evaluated(self) -> list[Run]:
        """Those with a result."""
        return [run for run in self.runs if run.result is not None]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.failed]

    @property
    def waiting(self) -> list[Run]:
        """Those that have no result and have not failed."""
        return [run for run in self.runs if waiting(run)]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.state != "finished"]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def safe(self) -> int:
        """Runs whose result is within the limit. One that failed, or has no result, is not safe."""
        return sum(run.safe for run in self.runs)

    @property
    def safe_interval(self) -> Estimate:
        """The share of safe runs among all, with Wilson's interval."""
        return proportion_interval(self.safe, len(self.runs))

    @property
    def step(self) -> int | None:
        """The step that the runs are judged at, where it is one."""
        steps = {run.judged_at for run in self.evaluated}
        return steps.pop() if len(steps) == 1 else None

    def singles(self, attribute: str) -> list[float]:
        """An attribute of every result, by seed."""
        return [float(getattr(run.result, attribute)) for run in self.evaluated]

    def spread(self, *path: str) -> Spread | None:
        """Over the runs that have it, an attribute of theirs, such as ("result", "training", "cost_rate")."""
        values = [value for run in self.runs if (value := _attribute(run, path)) is not None]
        return Spread(float(np.mean(values)), float(min(values)), float(max(values))) if values else None

    def mean(self, *path: str) -> float | None:
        """The mean of `spread`."""
        spread = self.spread(*path)
        return None if spread is None else spread.mean

    @property
    def stays_feasible(self) -> tuple[float, bool] | None:
        """The median step from which on runs stay feasible, and whether it is only a lower bound."""
        times = [run.stay for run in self.runs if run.stay is not None and (run.result is not None or run.failed)]
        return median_time(times) if times else None


def _attribute(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = None if value is None else getattr(value, name)
    return value


def values_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """A run's values of the keys as text."""
    found = (value_of(run, key) for key in keys)
    return tuple("–" if value is None else str(value) for value in found)


def sorting(values: Sequence[str]) -> tuple[Any, ...]:
    """Numbers by size, before texts: ρ = 10 stands after ρ = 2."""
    def one(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    return tuple(one(text) for text in values)


def number(value: float) -> str:
    """Two decimals below 100, one below 1000."""
    decimals = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if text.strip("-0.") == "" else text


def cells(runs: Sequence[Run], rows: Sequence[str] = ROWS, columns: Sequence[str] = COLUMNS, pool: bool = False,
          method: Method = "t", bootstrap_seed: int = 0, at_step: int | None = None,
          safe_share: float = SAFE_SHARE) -> list[Cell]:
    """The cells of one table, by row and then column.

    Args:
        runs: of one family of tasks.
        rows, columns: grouping keys.
        pool: whether runs that differ in more than the grouping keys may stand in one table and cell.
        method, bootstrap_seed: of the intervals.
        at_step: the step whose evaluations count; None: see `analysis.results.steps`.
        safe_share: of its seeds that must be safe for a cell to be feasible.

    Raises:
        UsageError: two runs are the same seed of the same configuration; runs differ in more than the grouping keys
            and must not be pooled; families are mixed; no run has a grouping key.
    """
    if len(families := sorted({run.family for run in runs})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} never share a table: choose one with "
                         f"--where env.family={families[0]}")
    keys = (*rows, *columns)
    for key in keys:
        check_key(runs, key)
    _refuse_twins(runs)
    if not pool:
        _refuse_differences(runs, keys)
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Run]] = {}
    for run in judged(runs, at_step, [run.config.get("total_steps") for run in runs] if "total_steps" in keys else ()):
        groups.setdefault((values_of(run, rows), values_of(run, columns)), []).append(run)
    found = [_cell(row, column, members, pool, method, bootstrap_seed, safe_share)
             for (row, column), members in sorted(
                 groups.items(), key=lambda item: (sorting(item[0][0]), sorting(item[0][1])))]
    return _with_best(found)


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        relevant = sorted((key, canonical(value)) for key, value in run.config.items() if not may_differ(key))
        if (twin := seen.setdefault(repr((run.seed, relevant)), run)) is not run:
            raise UsageError(f"{twin.folder} and {run.folder} are the same run: name only one of them")


def _refuse_differences(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Within a cell nothing but the seed may differ; between the cells of a task, what the grouping keys name."""
    advice = "group by them (--rows, --columns), choose among them (--where), or pool them (--pool)"
    inside: dict[tuple[bool, tuple[str, ...]], list[Run]] = {}
    between: dict[tuple[bool, str], list[Run]] = {}
    for run in runs:
        inside.setdefault((run.foreign, values_of(run, keys)), []).append(run)
        task = run.env if "env" in keys or "env.name" in keys else ""
        between.setdefault((run.foreign, task), []).append(run)
    for (_, values), members in inside.items():
        if differing := differing_keys([run.config for run in members]):
            named = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            raise UsageError(f"the runs of one cell ({named}) differ in {spelled(members, differing)}: {advice}")
    for (_, task), members in between.items():
        if differing := differing_keys([run.config for run in members], keys):
            place = f"the runs on {task}" if task else "the runs"
            raise UsageError(f"{place} differ in more than {', '.join(keys)}, namely in "
                             f"{spelled(members, differing)}: {advice}")


def spelled(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """The keys with their values, as far as a sentence holds them."""
    parts = []
    for key in keys[:6]:
        values = sorted({str(run.config.get(key, "–")) for run in runs}, key=lambda text: sorting([text]))
        parts.append(f"{key} ({', '.join(values[:4])}{', …' if len(values) > 4 else ''})")
    return ", ".join(parts) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def _cell(row: tuple[str, ...], column: tuple[str, ...], members: list[Run], pool: bool, method: Method,
          bootstrap_seed: int, safe_share: float) -> Cell:
    members = sorted(members, key=lambda run: (run.seed, str(run.folder)))
    limits = {run.limit for run in members}
    pooled = tuple(differing_keys([run.config for run in members])) if pool else ()
    cell = Cell(row, column, members, pooled, None, None, limits.pop() if len(limits) == 1 else None, None, safe_share,
                method, bootstrap_seed)
    results = [(run, run.result) for run in members if run.result is not None]
    if not results:
        return cell
    strata = [np.array([result.mean_return for run, result in results if run.env == task])
              for task in sorted({run.env for run, _ in results})]
    cost = float(np.mean([result.mean_cost for _, result in results]))
    over = float(np.mean([result.mean_cost - run.limit for run, result in results]))
    # What is not a number is not within a limit. Of a mean of differences the limit itself would be rounded.
    within = cost <= cell.limit if cell.limit is not None else over <= 0
    return replace(cell, mean_return=iqm_interval(strata, bootstrap_seed, method),
                   mean_cost=Estimate(cost, None, None, len(results)),
                   feasible=within and cell.safe >= safe_share * len(members) - 1e-9)


def _with_best(found: list[Cell]) -> list[Cell]:
    """The same cells with `best` set; returns that print alike share it, and what is no number has none."""
    rivals: dict[tuple[tuple[str, ...], float | None], list[float]] = {}
    for cell in found:
        if cell.feasible and cell.mean_return is not None and np.isfinite(cell.mean_return.value):
            rivals.setdefault((cell.row, cell.limit), []).append(cell.mean_return.value)
    return [replace(cell, best=bool(cell.feasible and cell.mean_return is not None
                                    and np.isfinite(cell.mean_return.value)
                                    and number(cell.mean_return.value) == number(max(rivals[cell.row, cell.limit]))))
            for cell in found]
