"""Compare the columns of a family's table, as the command `compare` does, where that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass

from algd.errors import UsageError
from analysis.report.grids import Entry, Grid
from analysis.results.compare import Side, compare
from analysis.results.comparison_text import SIDE_HEADER, TEST_HEADER, own_notes, side_row, test_notes, test_row
from analysis.results.table import Table

ALL_PAIRS = 4  # up to so many columns; with more, only the first is compared with each other one


@dataclass(frozen=True)
class Compared:
    """A comparison of two columns: their results, the tests and notes."""

    title: str
    sides: Grid
    tests: Grid
    notes: list[str]


def comparisons(table: Table, bootstrap_seed: int, at_step: int | None, pool: bool) -> tuple[list[Compared], list[str]]:
    """Return a family's comparisons, with p-values adjusted together, and notes on all of them.

    Columns without a result are left out and named. If the others cannot be compared, return no comparisons and a note
    with the reason.
    """
    columns = list(dict.fromkeys(cell.column for cell in table.cells))
    every = [Side(" ".join(f"{key}={value}" for key, value in zip(table.columns, column, strict=True)),
                  [run for cell in table.cells if cell.column == column for run in cell.runs]) for column in columns]
    some = [side for side in every if any(run.finite_result for run in side.runs)]
    left_out = [f"Not compared, since it has no result: {side.name}." for side in every if side not in some]
    if len(some) < 2:
        return [], left_out if len(every) > 1 else []
    try:
        found = compare(some, bootstrap_seed, at_step, pool, all_pairs=len(some) <= ALL_PAIRS)
    except UsageError as error:
        return [], [f"The columns are not compared: {error}.", *left_out]
    shown = [Compared(
        f"{pair.first.name} against {pair.second.name}",
        _grid(SIDE_HEADER, [side_row(side, task) for task in pair.tasks for side in (pair.first, pair.second)]),
        _grid(TEST_HEADER, [test_row(test) for test in pair.tests]), own_notes(pair)) for pair in found]
    return shown, [*test_notes(sum(test.p_value is not None for pair in found for test in pair.tests)), *left_out]


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Grid:
    return Grid(header, [[Entry(text) for text in line] for line in lines])
