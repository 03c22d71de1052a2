"""Runs grouped into the cells of a table: what may stand in one, and what a cell comes to across its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algd.errors import UsageError
from analysis.runs.model import Run
from analysis.runs.select import canonical, check_key, differing_keys, may_differ, value_at
from analysis.statistics.estimators import Estimate, Method, iqm_interval, median_time

ROWS, COLUMNS = ("env",), ("agent", "guidance")


@dataclass(frozen=True)
class Cell:
    """The runs with the same values of the grouping keys, and what they come to.

    Attributes:
        row, column: values of the keys of rows and columns, as text; "–" for a key that the runs do not have.
        runs: all of them, by seed.
        pooled: keys in which they differ nevertheless, because the user said so.
        mean_return, mean_cost: interquartile means over the evaluated runs; None without one.
        limit: None where pooled runs have different ones.
        feasible: whether mean_cost is at most the limit; None without an evaluated run.
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
    best: bool = False

    @property
    def evaluated(self) -> list[Run]:
        return [run for run in self.runs if run.last is not None]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def safe(self) -> int:
        return sum(bool(run.feasible) for run in self.evaluated)

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.state != "finished"]

    def mean(self, *path: str) -> float | None:
        """The plain mean over the runs that have it of an attribute, such as ("training", "cost_rate")."""
        values = [value for run in self.runs if (value := _attribute(run, path)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def stays_feasible(self) -> tuple[float, bool] | None:
        """The median step from which on runs stay feasible, and whether it is only a lower bound."""
        times = [run.stay for run in self.runs if run.stay is not None]
        return median_time(times) if times else None


def _attribute(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = None if value is None else getattr(value, name)
    return value


def values_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """A run's values of the keys as text."""
    found = (value_at(run.config, key) for key in keys)
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
          method: Method = "t", bootstrap_seed: int = 0) -> list[Cell]:
    """The cells of one table, by row and then column.

    Args:
        runs: of one family of tasks.
        rows, columns: grouping keys.
        pool: whether runs that differ in more than the grouping keys may stand in one table and cell.
        method, bootstrap_seed: of the intervals.

    Raises:
        UsageError: two runs are the same seed of the same configuration; runs differ in more than the grouping keys
            and must not be pooled; families are mixed; no run has a grouping key.
    """
    if len(families := sorted({run.family for run in runs})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} never stand in one table: choose one with "
                         f"--where env.family={families[0]}")
    keys = (*rows, *columns)
    for key in keys:
        check_key(runs, key)
    _refuse_twins(runs)
    if not pool:
        _refuse_differences(runs, keys)
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Run]] = {}
    for run in runs:
        groups.setdefault((values_of(run, rows), values_of(run, columns)), []).append(run)
    found = [_cell(row, column, members, pool, method, bootstrap_seed) for (row, column), members in sorted(
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
            raise UsageError(f"the runs of one cell ({named}) differ in {_spelled(members, differing)}: {advice}")
    for (_, task), members in between.items():
        if differing := differing_keys([run.config for run in members], keys):
            place = f"the runs on {task}" if task else "the runs"
            raise UsageError(f"{place} differ in more than {', '.join(keys)}, namely in "
                             f"{_spelled(members, differing)}: {advice}")


def _spelled(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """The keys with their values, as far as a sentence holds them."""
    parts = []
    for key in keys[:6]:
        values = sorted({str(run.config.get(key, "–")) for run in runs}, key=lambda text: sorting([text]))
        parts.append(f"{key} ({', '.join(values[:4])}{', …' if len(values) > 4 else ''})")
    return ", ".join(parts) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def _cell(row: tuple[str, ...], column: tuple[str, ...], members: list[Run], pool: bool, method: Method,
          bootstrap_seed: int) -> Cell:
    members = sorted(members, key=lambda run: (run.seed, str(run.folder)))
    evaluated = [run for run in members if run.last is not None]
    limits = {run.limit for run in members}
    limit = limits.pop() if len(limits) == 1 else None
    pooled = tuple(differing_keys([run.config for run in members])) if pool else ()
    if not evaluated:
        return Cell(row, column, members, pooled, None, None, limit, None)
    tasks = sorted({run.env for run in evaluated})

    def estimate(attribute: str, minus_limit: bool = False) -> Estimate:
        strata = [np.array([getattr(run.last, attribute) - (run.limit if minus_limit else 0.0)
                            for run in evaluated if run.env == task]) for task in tasks]
        return iqm_interval(strata, bootstrap_seed, method)

    cost = estimate("mean_cost")
    feasible = cost.value <= limit if limit is not None else estimate("mean_cost", minus_limit=True).value <= 0
    return Cell(row, column, members, pooled, estimate("mean_return"), cost, limit, bool(feasible))


def _with_best(found: list[Cell]) -> list[Cell]:
    """The same cells with `best` set; returns that print alike share it."""
    marked = []
    for cell in found:
        rivals = [other.mean_return.value for other in found if other.row == cell.row and other.limit == cell.limit
                  and other.feasible and other.mean_return is not None]
        best = bool(cell.feasible and cell.mean_return is not None
                    and number(cell.mean_return.value) == number(max(rivals)))
        marked.append(Cell(**(vars(cell) | {"best": best})))
    return marked
