"""Tables of results, and the numbers of their cells as text.

There is one table for each family of tasks, since tasks of different families are not comparable. `results.cells`
computes the estimates over the runs of a cell, `results.notes` the notes below a table that define its numbers, and
`results.formats` writes tables as Markdown, LaTeX, CSV and JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.results.cells import COLUMNS, ROWS, SAFE_SHARE, Cell, cells, number, percent, ranked_along, sorting
from analysis.results.notes import notes
from analysis.results.steps import check_step
from analysis.runs.model import Run
from analysis.statistics.estimators import Method

NONE = "–"
SHOWN_SEEDS = 10  # the costs of up to this many seeds are all printed


@dataclass(frozen=True)
class Table:
    """The table of one family of tasks.

    Attributes:
        family: name of the family.
        rows, columns: grouping keys.
        cells: sorted by row and column.
        notes: see `analysis.results.notes`.
    """

    family: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: list[Cell]
    notes: list[str]


def tables(runs: Sequence[Run], sampler: str = "deterministic", rows: Sequence[str] = ROWS,
           columns: Sequence[str] = COLUMNS, pool: bool = False, method: Method = "t", bootstrap_seed: int = 0,
           remarks: Sequence[str] = (), at_step: int | None = None, safe_share: float = SAFE_SHARE) -> list[Table]:
    """Return a table for each family of tasks.

    Args:
        runs: runs of any families.
        sampler: sampler of the evaluations, for the notes.
        rows, columns, pool, method, bootstrap_seed, at_step, safe_share: see `analysis.results.cells.cells`.
        remarks: sentences on runs that are missing, for the notes.

    Raises:
        UsageError: no run has an evaluation at `at_step`, or an error of `analysis.results.cells.cells`.
    """
    check_step(runs, at_step)
    found = []
    for family in sorted({run.family for run in runs}):
        of_family = cells([run for run in runs if run.family == family], rows, columns, pool, method, bootstrap_seed,
                          at_step, safe_share)
        said = notes(of_family, ranked_along(columns), sampler, remarks)
        found.append(Table(family, tuple(rows), tuple(columns), of_family, said))
    return found


def grid(table: Table, interval: str, bold: tuple[str, str], mark: str,
         escape: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of the main table: for each row return, cost and safe seeds of its cells.

    Args:
        interval: format string of an interval, with two placeholders.
        bold: text before and after the best return.
        mark: text after a cost above the limit.
        escape: applied to every text that comes from a configuration.
    """
    rows = list(dict.fromkeys(cell.row for cell in table.cells))
    columns = sorted({cell.column for cell in table.cells}, key=sorting)
    at = {(cell.row, cell.column): cell for cell in table.cells}
    lines = []
    for row in rows:
        here = [at.get((row, column)) for column in columns]
        limits = {(cell.limit, cell.limit_kind) for cell in here if cell}
        shared = limits.pop()[0] if len(limits) == 1 else None
        labels = [escape(label) for label in row]
        cost = "cost" if shared is None else f"cost (limit {number(shared)})"
        lines += [[*labels, "return", *(_return(cell, interval, bold) for cell in here)],
                  [*([""] * len(row)), cost, *(_cost(cell, mark) for cell in here)],
                  [*([""] * len(row)), "safe seeds", *(NONE if cell is None else safety(cell) for cell in here)]]
    header = [*map(escape, table.rows), "", *(escape(", ".join(column) or "all") for column in columns)]
    return header, lines


def _return(cell: Cell | None, interval: str, bold: tuple[str, str]) -> str:
    if cell is None or cell.mean_return is None:
        return NONE
    found = cell.mean_return
    value = f"{bold[0]}{number(found.value)}{bold[1]}" if cell.best else number(found.value)
    if found.low is not None and found.high is not None:
        return f"{value} {interval.format(number(found.low), number(found.high))}"
    singles = cell.singles("mean_return")
    return value + (f" ({'; '.join(map(number, singles))})" if len(singles) > 1 else "")


def _cost(cell: Cell | None, mark: str) -> str:
    """Format the mean cost with the values of the seeds, since no interval is reliable and the worst seed matters."""
    if cell is None or cell.mean_cost is None:
        return NONE
    return number(cell.mean_cost.value) + ("" if cell.within else mark) + seeds_of(cell.singles("mean_cost"))


def seeds_of(values: Sequence[float]) -> str:
    """Format the seeds' values in brackets, in the seeds' order; of more than ten the minimum, median and maximum;
    nothing for one value."""
    if len(values) < 2:
        return ""
    if len(values) <= SHOWN_SEEDS:
        return f" ({'; '.join(map(number, values))})"
    shown = sorted(values, key=lambda value: (np.isnan(value), value))
    return f" ({number(shown[0])} … {number(float(np.median(shown)))} … {number(shown[-1])})"


def safety(cell: Cell) -> str:
    """Format the number of safe seeds with Wilson's interval, and the numbers of failed runs and of missing results."""
    if not cell.evaluated and not cell.failed:
        return f"{len(cell.runs)} without a result"
    interval = cell.safe_interval
    parts = [f"{cell.safe}/{len(cell.runs)}" + (
        "" if interval.low is None else f" [{interval.low:.2f}, {interval.high:.2f}]")]
    if cell.failed:
        parts.append(f"{len(cell.failed)} failed")
    if cell.waiting:
        parts.append(f"{len(cell.waiting)} without a result")
    return "; ".join(parts)


def details(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of the table of details, a line for each cell."""
    lines = [dict(zip((*table.rows, *table.columns), (*cell.row, *cell.column), strict=True)) | _details(cell)
             for cell in table.cells]
    return list(lines[0]), [list(line.values()) for line in lines]


def _details(cell: Cell) -> dict[str, str]:
    several = {"evaluations over": _spread(cell, "result", "evaluations_over", form=percent)}
    return {"seeds": _seeds(cell), "step": _steps(cell), "limit": maybe(cell.limit),
            "safe": f"{cell.safe}/{len(cell.runs)}", "violation": _spread(cell, "result", "violation"),
            "CVaR 0.1": _spread(cell, "result", "cvar"),
            "episodes over": _spread(cell, "result", "over", form=percent),
            **(several if cell.runs[0].averaged > 1 else {}), "stays feasible from": _stays(cell),
            "training cost": _spread(cell, "result", "training", "total_cost", form=lambda value: f"{value:.0f}"),
            "cost/step": _spread(cell, "result", "training", "cost_rate", form=lambda value: f"{value:.4f}"),
            "training over": _spread(cell, "result", "training", "over", form=percent),
            "updates/s": maybe(cell.speed("updates_per_second")), "hours": maybe(cell.speed("hours"))}


# --- numbers as text -----------------------------------------------------------------------------------------------


def maybe(value: float | None) -> str:
    """Format a number, or a dash for None."""
    return NONE if value is None else number(value)


def _spread(cell: Cell, *path: str, form: Callable[[float], str] = number) -> str:
    """Format the mean over seeds, with minimum and maximum unless they print alike."""
    if (spread := cell.spread(*path)) is None:
        return NONE
    low, high = form(spread.low), form(spread.high)
    return form(spread.mean) + ("" if low == high else f" ({low} … {high})")


def _seeds(cell: Cell) -> str:
    """Format the numbers of runs with a result, of all runs, and of unfinished runs."""
    text = str(len(cell.evaluated)) if len(cell.evaluated) == len(cell.runs) else (
        f"{len(cell.evaluated)} of {len(cell.runs)}")
    if cell.repeats_seeds:
        text = f"{len(set(cell.seeds))}, in {text} runs"
    return text + (f" ({len(cell.unfinished)} unfinished)" if cell.unfinished else "")


def _steps(cell: Cell) -> str:
    """Format the step of the results, or their range, since runs of another framework may have another step."""
    steps = sorted({run.result.step for run in cell.runs if run.result})
    return NONE if not steps else f"{steps[0]}" if len(steps) == 1 else f"{steps[0]}–{steps[-1]}"


def _stays(cell: Cell) -> str:
    stays = cell.stays_feasible
    return NONE if stays is None else f"{'> ' if stays[1] else ''}{stays[0]:.0f}"
