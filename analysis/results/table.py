"""Tables of runs as papers print them: a cell's numbers as text.

One table for each family of tasks, since tasks of different families are not comparable. Every number in it is an
estimate of `analysis.statistics.estimators` over the runs of a cell (`analysis.results.cells`); what it is, the notes
below it say (`analysis.results.notes`). `analysis.results.formats` writes tables as Markdown, LaTeX, CSV and JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.results.cells import COLUMNS, ROWS, Cell, cells, number, sorting
from analysis.results.notes import notes
from analysis.runs.model import Run
from analysis.statistics.estimators import Estimate, Method

NONE = "–"
DETAILS = ("seeds", "step", "limit", "violation", "CVaR 0.1", "episodes over", "stays feasible from", "training cost",
           "cost/step", "training over", "updates/s", "hours")


@dataclass(frozen=True)
class Table:
    """The cells of one family of tasks.

    Attributes:
        family: of the tasks.
        rows, columns: the grouping keys.
        cells: by row and column.
        notes: how the numbers came about, sentence by sentence.
    """

    family: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: list[Cell]
    notes: list[str]


def tables(runs: Sequence[Run], sampler: str = "deterministic", rows: Sequence[str] = ROWS,
           columns: Sequence[str] = COLUMNS, pool: bool = False, method: Method = "t", bootstrap_seed: int = 0,
           absent: Sequence[Path] = ()) -> list[Table]:
    """A table for each family of tasks among the runs.

    Args:
        runs: any.
        sampler: that their evaluations are of, for the notes.
        rows, columns, pool, method, bootstrap_seed: see `analysis.results.cells.cells`.
        absent: members of a sweep without a folder, for the notes.

    Raises:
        UsageError: as `analysis.results.cells.cells`.
    """
    found = []
    for family in sorted({run.family for run in runs}):
        members = [run for run in runs if run.family == family]
        of_family = cells(members, rows, columns, pool, method, bootstrap_seed)
        found.append(Table(family, tuple(rows), tuple(columns), of_family,
                           notes(members, of_family, sampler, method, absent)))
    return found


def grid(table: Table, interval: str, bold: tuple[str, str], mark: str,
          escape: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table with rows × columns: return, cost and safety of each row's cells."""
    rows = list(dict.fromkeys(cell.row for cell in table.cells))
    columns = sorted({cell.column for cell in table.cells}, key=sorting)
    at = {(cell.row, cell.column): cell for cell in table.cells}
    lines = []
    for row in rows:
        here = [at.get((row, column)) for column in columns]
        limits = {cell.limit for cell in here if cell}
        shared = limits.pop() if len(limits) == 1 else None
        labels = [escape(one) for one in row]
        cost = "cost" if shared is None else f"cost (limit {number(shared)})"
        lines += [[*labels, "return", *(_return(cell, interval, bold) for cell in here)],
                  [*([""] * len(row)), cost, *(_cost(cell, interval, mark) for cell in here)],
                  [*([""] * len(row)), "seeds", *(NONE if cell is None else _safe(cell) for cell in here)]]
    header = [*map(escape, table.rows), "", *(escape(", ".join(column) or "all") for column in columns)]
    return header, lines


def _return(cell: Cell | None, interval: str, bold: tuple[str, str]) -> str:
    if cell is None:
        return NONE
    value, behind = _estimate(cell.mean_return, _singles(cell, "mean_return"), interval)
    return (f"{bold[0]}{value}{bold[1]}" if cell.best else value) + behind


def _cost(cell: Cell | None, interval: str, mark: str) -> str:
    if cell is None:
        return NONE
    value, behind = _estimate(cell.mean_cost, _singles(cell, "mean_cost"), interval)
    return value + (mark if cell.feasible is False else "") + behind


def details(cell: Cell) -> list[str]:
    """A cell's line below the header rows, columns and DETAILS."""
    return [*cell.row, *cell.column, _seeds(cell), _steps(cell), maybe(cell.limit),
            maybe(cell.mean("last", "violation")), maybe(cell.mean("last", "cvar")),
            maybe(cell.mean("last", "over"), _percent), _stays(cell),
            maybe(cell.mean("training", "total_cost"), lambda value: f"{value:.0f}"),
            maybe(cell.mean("training", "cost_rate"), lambda value: f"{value:.4f}"),
            maybe(cell.mean("training", "over"), _percent), maybe(cell.mean("updates_per_second")),
            maybe(cell.mean("hours"))]



# --- numbers as text -----------------------------------------------------------------------------------------------


def maybe(value: float | None, form: Callable[[float], str] = number) -> str:
    return NONE if value is None else form(value)


def _estimate(one: Estimate | None, singles: Sequence[float], interval: str) -> tuple[str, str]:
    """The value, and behind it the interval, or the values themselves where there are too few for one."""
    if one is None:
        return NONE, ""
    if one.low is not None and one.high is not None:
        return number(one.value), " " + interval.format(number(one.low), number(one.high))
    return number(one.value), "" if len(singles) < 2 else f" ({'; '.join(map(number, singles))})"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _seeds(cell: Cell) -> str:
    """How many runs there are, and how many of them have an evaluation or are not finished."""
    text = str(len(cell.evaluated)) if len(cell.evaluated) == len(cell.runs) else (
        f"{len(cell.evaluated)} of {len(cell.runs)}")
    return text + (f" ({len(cell.unfinished)} unfinished)" if cell.unfinished else "")


def _safe(cell: Cell) -> str:
    text = f"safe {cell.safe}/{len(cell.evaluated)}" if cell.evaluated else "no evaluation"
    return text + (f"; {len(cell.unfinished)} unfinished" if cell.unfinished else "")


def _singles(cell: Cell, attribute: str) -> list[float]:
    return [float(getattr(run.last, attribute)) for run in cell.evaluated]


def _steps(cell: Cell) -> str:
    """The steps of the last evaluations: one, or from the lowest to the highest."""
    steps = sorted({run.last.step for run in cell.evaluated if run.last})
    return NONE if not steps else f"{steps[0]}" if len(steps) == 1 else f"{steps[0]}–{steps[-1]}"


def _stays(cell: Cell) -> str:
    stays = cell.stays_feasible
    return NONE if stays is None else f"{'> ' if stays[1] else ''}{stays[0]:.0f}"
