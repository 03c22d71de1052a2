"""Grouping runs into the cells of a table, and estimates over the seeds of a cell.

The return of a cell is an interquartile mean with an interval. Its cost is a mean without an interval, shown with the
values of the seeds: an interquartile mean would trim exactly the dangerous seeds, and no interval has its nominal
coverage for costs of few seeds (docs/analysis.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from algd.config.identity import ADDED
from algd.errors import UsageError
from analysis.results.steps import judged, waiting
from analysis.runs.model import Run
from analysis.runs.select import canonical, check_key, differing_keys, may_differ, value_of
from analysis.statistics.estimators import (
    Estimate,
    Floats,
    Method,
    interquartile_mean,
    iqm_interval,
    median_time,
    proportion_interval,
)

ROWS, COLUMNS = ("env",), ("agent", "guidance")
SAFE_SHARE = 0.8  # default share of a cell's seeds that must be safe for the cell to be feasible


@dataclass(frozen=True)
class Spread:
    """Mean, minimum and maximum of a quantity over seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """The runs with the same values of the grouping keys, and estimates over them.

    Attributes:
        row, column: values of the row and column keys, as text; "–" for a key that the runs do not have.
        runs: all runs, by seed, with `judged_at` set.
        pooled: other keys in which the runs differ, if pooling was requested.
        mean_return: interquartile mean over the runs with a result, without an interval if runs of one seed are
            pooled, which are not independent; None without a result.
        mean_cost: mean over the runs with a result, without an interval; None without a result.
        limit: the runs' limit; None if pooled runs have different ones.
        within: whether the mean cost is at most the limit, or with several limits the mean of cost − limit at most 0;
            None without a result.
        feasible: whether the mean cost is at most the limit and at least `safe_share` of all seeds are safe; None
            without a result.
        safe_share: required share of safe seeds.
        method, bootstrap_seed: of the intervals.
        best: whether the cell is feasible and no feasible cell of the same row, limit and kind of limit has a higher
            printed return; of the same step, too, where runs of another framework have a step of their own.
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
    within: bool | None = None

    @property
    def evaluated(self) -> list[Run]:
        """Runs with a result."""
        return [run for run in self.runs if run.result is not None]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.failed]

    @property
    def waiting(self) -> list[Run]:
        """Runs that have no result and have not failed."""
        return [run for run in self.runs if waiting(run)]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.state != "finished"]

    @property
    def limit_kind(self) -> str:
        """What the limit applies to, "episode" or "discounted" cost; the same for all runs."""
        return str(self.runs[0].config["env.limit_kind"])

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def safe(self) -> int:
        """Number of safe runs; failed runs and runs without a result are not safe."""
        return sum(run.safe for run in self.runs)

    @property
    def safe_interval(self) -> Estimate:
        """Share of safe runs among all runs, with Wilson's interval unless seeds are repeated."""
        found = proportion_interval(self.safe, len(self.runs))
        return Estimate(found.value, None, None, found.count) if self.repeats_seeds else found

    @property
    def repeats_seeds(self) -> bool:
        """Whether pooled runs have a seed in common: they are not independent, and have no interval."""
        return len(set(self.seeds)) < len(self.seeds)

    def iqm(self, values: Floats) -> Estimate:
        """Return the interquartile mean of values of the cell's runs, with an interval unless seeds are repeated."""
        if self.repeats_seeds:
            return Estimate(interquartile_mean(values), None, None, len(values))
        return iqm_interval([values], self.bootstrap_seed, self.method)

    @property
    def step(self) -> int | None:
        """The step of the results; None if they have different ones."""
        steps = {run.judged_at for run in self.evaluated}
        return steps.pop() if len(steps) == 1 else None

    def singles(self, attribute: str) -> list[float]:
        """Return an attribute of each result, by seed."""
        return [float(getattr(run.result, attribute)) for run in self.evaluated]

    def spread(self, *path: str) -> Spread | None:
        """Return the spread of an attribute, such as ("result", "training", "cost_rate"), over runs that have it."""
        values = [value for run in self.runs if (value := _attribute(run, path)) is not None]
        return Spread(float(np.mean(values)), float(min(values)), float(max(values))) if values else None

    def speed(self, attribute: Literal["updates_per_second", "hours"]) -> float | None:
        """Return the mean over the runs with a result that have it; others may have stopped early."""
        values = [value for run in self.evaluated if (value := getattr(run, attribute)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def stays_feasible(self) -> tuple[float, bool] | None:
        """Median step from which runs stay feasible, and whether it is only a lower bound."""
        times = [run.stay for run in self.runs if run.stay is not None and (run.result is not None or run.failed)]
        return median_time(times) if times else None


def _attribute(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = None if value is None else getattr(value, name)
    return value


def values_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """Return a run's values of the keys, as text, the same for 1 and 1.0; "–" for a key that it does not have."""
    def text(value: Any) -> str:
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return "–" if value is None else str(int(value) if whole else value)

    return tuple(text(value_of(run, key)) for key in keys)


def sorting(values: Sequence[str]) -> tuple[Any, ...]:
    """Return a sort key: numbers by value, before other texts, so that ρ = 10 comes after ρ = 2."""
    def one(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    return tuple(one(text) for text in values)


def number(value: float) -> str:
    """Format a number with two decimals below 100, one below 1000, and none above."""
    decimals = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if text.strip("-0.") == "" else text


def percent(value: float) -> str:
    """Format a share; what is not quite 0% or 100% does not print as if it were."""
    text = f"{value:.0%}"
    if text == "0%" and value > 0:
        return "< 1%"
    return "> 99%" if text == "100%" and value < 1 else text


def with_interval(found: Estimate) -> str:
    """Format an estimate with its interval in square brackets, if it has one."""
    return number(found.value) + ("" if found.low is None or found.high is None
                                  else f" [{number(found.low)}, {number(found.high)}]")


def cells(runs: Sequence[Run], rows: Sequence[str] = ROWS, columns: Sequence[str] = COLUMNS, pool: bool = False,
          method: Method = "t", bootstrap_seed: int = 0, at_step: int | None = None,
          safe_share: float = SAFE_SHARE) -> list[Cell]:
    """Group runs into the cells of one table, sorted by row and column.

    Args:
        runs: runs of one family of tasks.
        rows, columns: grouping keys.
        pool: whether to allow runs that differ in more than the grouping keys.
        method, bootstrap_seed: of the intervals.
        at_step: step of the evaluations; None: the common step of `analysis.results.steps`.
        safe_share: share of a cell's seeds that must be safe for the cell to be feasible.

    Raises:
        UsageError: two runs have the same seed and configuration; runs differ in more than the grouping keys and `pool`
            is False; families are mixed; no run has a grouping key.
    """
    if len(families := sorted({run.family for run in runs})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} never share a table: choose one with "
                         f"--where env.family={families[0]}")
    keys = (*rows, *columns)
    for key in keys:
        check_key(runs, key)
    _refuse_twins(runs)
    if not pool:
        _refuse_differences(runs, keys, at_step)
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Run]] = {}
    for run in judged(runs, at_step, [run.config.get("total_steps") for run in runs] if "total_steps" in keys else ()):
        groups.setdefault((values_of(run, rows), values_of(run, columns)), []).append(run)
    found = [_cell(row, column, members, pool, method, bootstrap_seed, safe_share)
             for (row, column), members in sorted(
                 groups.items(), key=lambda item: (sorting(item[0][0]), sorting(item[0][1])))]
    return _with_best(found, ranked_along(columns))


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        relevant = sorted((key, canonical(value)) for key, value in (ADDED | run.config).items() if not may_differ(key))
        if (twin := seen.setdefault(repr((run.seed, relevant)), run)) is not run:
            raise UsageError(f"{twin.folder} and {run.folder} are the same run: name only one of them")


def _refuse_differences(runs: Sequence[Run], keys: Sequence[str], at_step: int | None) -> None:
    """Refuse runs that differ in more than the seed within a cell, or in more than the grouping keys within a task."""
    # The length of a run does not change what it is at an earlier step.
    lengths = () if at_step is None else ("total_steps",)
    advice = ("group by them (--rows, --columns), choose among them (--where), or pool them (--pool); runs that "
              "differ in total_steps alone can be compared at one step (--at-step)")
    inside: dict[tuple[bool, tuple[str, ...]], list[Run]] = {}
    between: dict[tuple[bool, str], list[Run]] = {}
    for run in runs:
        inside.setdefault((run.foreign, values_of(run, keys)), []).append(run)
        task = run.env if "env" in keys or "env.name" in keys else ""
        between.setdefault((run.foreign, task), []).append(run)
    for (_, values), members in inside.items():
        named = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        if differing := differing_keys([run.config for run in members], lengths):
            raise UsageError(f"the runs of one cell ({named}) differ in {spelled(members, differing)}: {advice}")
        if (True, values) in inside and (False, values) in inside:
            raise UsageError(f"one cell ({named}) has runs of this project and of another framework: {advice}")
    for (_, task), members in between.items():
        # A column of tasks covers their names: a task with two horizons or limits is two tasks.
        if differing := differing_keys([run.config for run in members],
                                       ["env.name" if key == "env" else key for key in (*keys, *lengths)]):
            place = f"the runs on {task}" if task else "the runs"
            raise UsageError(f"{place} differ in more than {', '.join(keys)}, namely in "
                             f"{spelled(members, differing)}: {advice}")


def spelled(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """Format keys with their values for a message, at most six keys and four values of each."""
    parts = []
    for key in keys[:6]:
        values = sorted({str(run.config.get(key, "–")) for run in runs}, key=lambda text: sorting([text]))
        parts.append(f"{key} ({', '.join(values[:4])}{', …' if len(values) > 4 else ''})")
    return ", ".join(parts) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def _cell(row: tuple[str, ...], column: tuple[str, ...], members: list[Run], pool: bool, method: Method,
          bootstrap_seed: int, safe_share: float) -> Cell:
    members = sorted(members, key=lambda run: (run.seed, str(run.folder)))
    for key, of in (("env.name", "returns of several tasks"), ("env.limit_kind", "costs of several kinds")):
        if len(values := sorted({str(run.config[key]) for run in members})) > 1:
            raise UsageError(f"{of} have no mean: one cell has runs with {key}={','.join(values)}; name {key} in "
                             "--rows or --columns, or choose with --where")
    limits = {run.limit for run in members}
    pooled = tuple(differing_keys([run.config for run in members])) if pool else ()
    cell = Cell(row, column, members, pooled, None, None, limits.pop() if len(limits) == 1 else None, None, safe_share,
                method, bootstrap_seed)
    results = [(run, run.result) for run in members if run.result is not None]
    if not results:
        return cell
    gains = np.array([result.mean_return for _, result in results])
    cost = float(np.mean([result.mean_cost for _, result in results]))
    over = float(np.mean([result.mean_cost - run.limit for run, result in results]))
    # Comparisons with NaN are False, so a NaN cost is not within the limit. With one limit the cost is compared with it
    # directly, since a mean of differences has rounding errors at the limit itself.
    within = cost <= cell.limit if cell.limit is not None else over <= 0
    # A run without a finite result, such as one that failed, would leave the means and might have been the worst.
    return replace(cell, mean_return=cell.iqm(gains), mean_cost=Estimate(cost, None, None, len(results)), within=within,
                   feasible=within and all(run.finite_result for run in members)
                   and cell.safe >= safe_share * len(members) - 1e-9)


def ranked_along(columns: Sequence[str]) -> Literal["row", "column"]:
    """Return where a cell's rivals are: in its column if the columns are tasks, whose returns have different units."""
    return "column" if {"env", "env.name"} & set(columns) else "row"


def _with_best(found: list[Cell], along: Literal["row", "column"]) -> list[Cell]:
    """Return the cells with `best` set; equal printed returns share it, and a return that is not finite has none."""
    foreign = any(run.foreign for cell in found for run in cell.runs)
    ranked: dict[Any, list[float]] = {}

    def rivals(cell: Cell) -> list[float]:
        return ranked.setdefault((getattr(cell, along), cell.limit, cell.limit_kind, foreign and cell.step), [])

    for cell in found:
        if cell.feasible and cell.mean_return is not None and np.isfinite(cell.mean_return.value):
            rivals(cell).append(cell.mean_return.value)
    return [replace(cell, best=bool(
        cell.feasible and cell.mean_return is not None and np.isfinite(cell.mean_return.value)
        and number(cell.mean_return.value) == number(max(rivals(cell))))) for cell in found]
