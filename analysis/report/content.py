"""Assemble the content of a report before it is written as HTML."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from algd.config.values import printable
from algd.errors import UsageError
from analysis.report.comparisons import Compared, comparisons
from analysis.report.figures import Column, Figure, columns_of, curve_figure, trade_off_figure
from analysis.report.grids import (
    UNREADABLE,
    WAITING,
    Grid,
    Link,
    configurations_grid,
    provenance_grid,
    rank,
    runs_grid,
    shown,
    stalled,
    time_constants_grid,
    trouble_grid,
)
from analysis.report.pictures import Picture, curvatures, landscapes, printed_curves, videos
from analysis.report.search import Search, search_of
from analysis.report.tasks import TaskEnd, TaskEnds
from analysis.results.cells import COLUMNS, ROWS, SAFE_SHARE
from analysis.results.table import Table, tables
from analysis.runs.gather import Gathered
from analysis.statistics.estimators import Method
from launchers.search.record import read_record

QUANTITIES = ("return", "cost", "training_cost", "lam", "constraint", "critic_error")


@dataclass(frozen=True)
class Options:
    """Options of tables and figures, as the arguments of `analysis.results.table.tables`.

    Attributes:
        at_step, safe_share: see `analysis.results.cells.cells`.
        last: number of evaluations over which the result of a run is the mean.
        smooth: number of values that curves average; 1: no smoothing.
        landscapes: number of algorithms whose landscape is drawn.
    """

    sampler: str = "deterministic"
    rows: Sequence[str] = ROWS
    columns: Sequence[str] = COLUMNS
    pool: bool = False
    method: Method = "t"
    bootstrap_seed: int = 0
    at_step: int | None = None
    safe_share: float = SAFE_SHARE
    last: int = 1
    smooth: int = 1
    landscapes: int = 0


@dataclass(frozen=True)
class Family:
    """Figures and comparisons of one family of tasks.

    Attributes:
        name: the family's name.
        columns, seeds: what its figures can show and hide.
        tasks: (title, interactive figures) of each row.
        printed: the same curves as printed figures.
        curvatures: figures of the smallest eigenvalue.
        comparisons, comparison_notes: comparisons of its columns.
    """

    name: str
    columns: list[Column]
    seeds: list[int]
    tasks: list[tuple[str, list[Figure]]]
    printed: list[Picture]
    curvatures: list[Picture]
    comparisons: list[Compared]
    comparison_notes: list[str]


@dataclass(frozen=True)
class Content:
    """The content of a report. `refusal` says why there are no tables, if the runs cannot share one."""

    title: str
    made: str
    live: bool
    states: list[tuple[str, int]]
    total: int
    sweep: Mapping[str, Any]
    search: Search | None
    runs: Grid
    trouble: Grid
    tables: list[Table]
    refusal: str
    families: list[Family]
    landscapes: list[Picture]
    videos: list[Picture]
    configurations: Grid
    time_constants: Grid
    provenance: Grid
    commands: list[str]

    @property
    def figures(self) -> list[Figure]:
        searched = [self.search.figure] if self.search and self.search.figure else []
        return searched + [figure for family in self.families for _, figures in family.tasks for figure in figures]


def assemble(title: str, gathered: Gathered, options: Options, link: Link, sweep: Mapping[str, Any] | None = None,
             refusal: str = "", live: bool = False, ends: Mapping[Path, TaskEnd] | None = None) -> Content:
    """Assemble the content of a report.

    Args:
        title: the page's title.
        gathered: the runs, and the folders that could not be read.
        options: options of tables and figures.
        link: returns the address of a run's folder.
        sweep: result of `analysis.runs.find.sweep_content`, if the runs are one sweep's.
        refusal: why there are no runs, if known.
        live: whether the page is made repeatedly; it then has no printed figures, landscapes and videos.
        ends: how the SLURM tasks of stalled runs ended; None: ask SLURM.

    If runs cannot share a table, a live page and the page of a search, which has a table of trials, show the reason
    instead.

    Raises:
        UsageError: as `analysis.results.table.tables`, unless the page shows the reason.
    """
    found: list[Table] = []
    search = _search(sweep, link)
    try:
        found = tables(gathered.runs, options.sampler, options.rows, options.columns, options.pool, options.method,
                       options.bootstrap_seed, gathered.remarks, options.at_step, options.safe_share)
    except UsageError as error:
        if not live and search is None:
            raise
        refusal = str(error)
    if ends is None:
        ends = TaskEnds().of(run.folder for run in gathered.runs if stalled(run))
    runs = sorted((shown(run, ends.get(run.folder)) for run in gathered.runs),
                  key=lambda member: (rank(member.state), member.run.folder))
    counts = Counter([member.state for member in runs])
    counts.update({WAITING: len(gathered.absent), UNREADABLE: len(gathered.unreadable)})
    provenance, commands = provenance_grid(gathered.runs)
    if sweep and sweep.get("command"):
        commands = list(dict.fromkeys([printable(str(sweep["command"])), *commands]))
    numbers = {member.run.folder: place for place, member in enumerate(runs)}
    return Content(
        title, datetime.now(UTC).isoformat(timespec="seconds"), live,
        [(state, counts[state]) for state in sorted(counts, key=rank) if counts[state]], counts.total(), sweep or {},
        search,
        runs_grid(runs, gathered.absent, gathered.unreadable, link), trouble_grid(runs, gathered.unreadable, link),
        found, refusal, [_family(table, options, numbers, live) for table in found],
        [] if live else list(landscapes(found, options.landscapes)), [] if live else list(videos(gathered.runs)),
        configurations_grid(gathered.runs), time_constants_grid(gathered.runs), provenance, commands)


def _search(sweep: Mapping[str, Any] | None, link: Link) -> Search | None:
    file = sweep["file"] if sweep else None
    record = read_record(file.with_suffix("")) if file else None
    return search_of(record, file.parent.parent, link) if file and record else None


def _family(table: Table, options: Options, numbers: Mapping[Path, int], live: bool) -> Family:
    columns = columns_of(table.cells, table.columns)
    tasks = []
    for row in dict.fromkeys(cell.row for cell in table.cells):
        here = [cell for cell in table.cells if cell.row == row]
        drawn = [curve_figure(table.family, row, here, columns, quantity, numbers, options.smooth, options.sampler)
                 for quantity in QUANTITIES]
        drawn.append(trade_off_figure(table.family, row, here, columns, numbers))
        tasks.append((", ".join(row) or "all", [figure for figure in drawn if figure]))
    return Family(
        table.family, list(columns.values()), sorted({seed for cell in table.cells for seed in cell.seeds}), tasks,
        [] if live else list(printed_curves(table, QUANTITIES, options.smooth, options.sampler)),
        [] if live else list(curvatures(table)),
        *comparisons(table, options.bootstrap_seed, options.at_step, options.pool))
