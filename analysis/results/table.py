"""Tables of runs as papers print them, and as programs read them.

One table for each family of tasks, since tasks of different families are not comparable. Every number in it is an
estimate of `analysis.statistics.estimators` over the runs of a cell (`analysis.results.cells`);
what it is, the notes below it say.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from algd.errors import UsageError
from analysis.results.cells import COLUMNS, ROWS, Cell, cells, number, sorting
from analysis.runs.read import Run
from analysis.statistics.estimators import SEEDS_FOR_INTERVAL, Estimate, Method

Format = Literal["markdown", "latex", "csv", "json"]
FORMATS: tuple[Format, ...] = ("markdown", "latex", "csv", "json")
FEW_EPISODES = 20
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
                           _notes(members, of_family, sampler, method, absent)))
    return found


def render(found: Sequence[Table], form: Format, each_run: bool = False) -> str:
    """The tables as text.

    Raises:
        UsageError: CSV for several families.
    """
    if form == "markdown":
        return "\n\n".join(markdown(one, each_run) for one in found)
    if form == "latex":
        return "\n\n".join(latex(one) for one in found)
    if form == "json":
        return json.dumps([as_json(one) for one in found], indent=1, ensure_ascii=False, allow_nan=False)
    if len(found) > 1:
        raise UsageError(f"a CSV file holds one table, and these runs are of the families "
                         f"{', '.join(one.family for one in found)}: choose one with --where env.family=...")
    return as_csv(found[0])


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


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(table: Table, each_run: bool = False) -> str:
    """What papers print, then everything else about the cells, on request the runs, and the notes."""
    parts = [f"## Family: {table.family}", _aligned(*grid(table, "[{}, {}]", ("**", "**"), " †"),
                                                    left=len(table.rows) + 1),
             _aligned([*table.rows, *table.columns, *DETAILS],
                      [details(cell) for cell in table.cells], left=len(table.rows) + len(table.columns))]
    if each_run:
        parts.append(_aligned(
            [*table.rows, *table.columns, "seed", "state", "step", "return", "cost", "limit", "episodes over",
             "stays feasible from", "feasible"],
            [_run(cell, run) for cell in table.cells for run in cell.runs],
            left=len(table.rows) + len(table.columns)))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in table.notes)])


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


def _run(cell: Cell, run: Run) -> list[str]:
    row = [*cell.row, *cell.column, str(run.seed), run.state]
    if run.last is None or run.stay is None:
        return [*row, NONE, NONE, NONE, number(run.limit), NONE, NONE, "no evaluation"]
    return [*row, str(run.last.step), number(run.last.mean_return), number(run.last.mean_cost), number(run.limit),
            NONE if run.last.over is None else f"{run.last.over:.0%} of {run.last.different}",
            f"{'> ' if run.stay.censored else ''}{run.stay.step}", "yes" if run.feasible else "no"]


def _aligned(header: list[str], lines: list[list[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are flush left and the others flush right."""
    header, *lines = [[cell.replace("|", r"\|") for cell in line] for line in [header, *lines]]
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        padded = [cell.ljust(w) if i < left else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(row) for row in [header, rule, *lines])


# --- LaTeX ---------------------------------------------------------------------------------------------------------

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "λ": r"$\lambda$", "†": r"$^\dagger$",
         "ρ": r"$\rho$", "≤": r"$\le$", "·": r"$\cdot$", "…": r"\dots{}", "×": r"$\times$", "√": r"$\surd$"}


def escaped(text: str) -> str:
    """Text as LaTeX prints it, whatever names the user gave."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    """The table that papers print: needs only the package booktabs."""
    header, lines = grid(table, r"{{\scriptsize[{}, {}]}}", (r"\textbf{", "}"), r"$^\dagger$", escaped)
    labels = len(table.rows) + 1
    body = []
    for index, line in enumerate(lines):
        if index and index % 3 == 0:
            body.append(r"\midrule")
        body.append(" & ".join(cell.replace("–", "--") for cell in line) + r" \\")
    notes = "\n".join(f"% {note}" for note in table.notes)
    return "\n".join([
        r"% needs \usepackage{booktabs}", notes, r"\begin{table}", r"\centering",
        r"\caption{Return and cost of the last evaluation, family " + escaped(table.family)
        + r". $^\dagger$: cost above the limit. Bold: highest return among those within it.}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(header) - labels)}}}", r"\toprule",
        " & ".join(header) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


# --- for programs --------------------------------------------------------------------------------------------------


def as_json(table: Table) -> dict[str, Any]:
    """Everything that is known, in plain values; what is not known, or not a number, is null."""
    return {"family": table.family, "rows": list(table.rows), "columns": list(table.columns),
            "cells": [_record(table, cell) | {"each_run": [_run_record(run) for run in cell.runs]}
                      for cell in table.cells], "notes": table.notes}


def _record(table: Table, cell: Cell) -> dict[str, Any]:
    stays = cell.stays_feasible
    record: dict[str, Any] = dict(zip((*table.rows, *table.columns), (*cell.row, *cell.column), strict=True))
    for name, one in (("return", cell.mean_return), ("cost", cell.mean_cost)):
        record |= {name: one and one.value, f"{name}_low": one and one.low, f"{name}_high": one and one.high}
    record |= {"limit": cell.limit, "feasible": cell.feasible, "best_feasible": cell.best, "runs": len(cell.runs),
               "evaluated": len(cell.evaluated), "unfinished": len(cell.unfinished), "safe": cell.safe,
               "violation": cell.mean("last", "violation"), "cvar": cell.mean("last", "cvar"),
               "episodes_over": cell.mean("last", "over"), "stays_feasible_from": stays and stays[0],
               "stays_feasible_censored": stays and stays[1], "training_cost": cell.mean("training", "total_cost"),
               "training_cost_rate": cell.mean("training", "cost_rate"), "training_over": cell.mean("training", "over"),
               "updates_per_second": cell.mean("updates_per_second"), "hours": cell.mean("hours"),
               "pooled": " ".join(cell.pooled)}
    return {key: _finite(value) for key, value in record.items()}


def _run_record(run: Run) -> dict[str, Any]:
    last = run.last
    record = {"folder": str(run.folder), "seed": run.seed, "state": run.state, "reason": run.reason,
              "step": last and last.step, "return": last and last.mean_return, "cost": last and last.mean_cost,
              "feasible": run.feasible, "source": run.source or None}
    return {key: _finite(value) for key, value in record.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def as_csv(table: Table) -> str:
    """One line for each cell, at full precision."""
    records = [_record(table, cell) for cell in table.cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in record.items()} for record in records)
    return text.getvalue().rstrip("\n")


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, which a name out of somebody's run could be."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


# --- notes ---------------------------------------------------------------------------------------------------------


def _notes(runs: Sequence[Run], of_family: Sequence[Cell], sampler: str, method: Method,
           absent: Sequence[Path]) -> list[str]:
    """How the numbers came about, and what is not as it should be."""
    interval = ("95% interval of a stratified bootstrap's standard error and Student's t" if method == "t"
                else "95% percentile interval of a stratified bootstrap")
    notes = [f"Return and cost: means over the {sampler} episodes of each run's last complete evaluation in training; "
             f"across seeds the interquartile mean, with the {interval}.",
             "†: cost above the limit. Bold: the highest return of the row among cells within the limit, a rank and "
             "not a test (`python -m analysis compare`); returns that print alike share it.",
             "Safe: seeds whose mean cost is at most the limit. Violation, CVaR 0.1 (mean of the worst tenth of "
             "episode costs), episodes over, training and compute: means over seeds.",
             "Stays feasible from: median over seeds of the first step from which on every evaluation was feasible; "
             "'>': half of them or more were not yet. Training counts episodes after the initial steps."]
    if few := [cell for cell in of_family if 0 < len(cell.evaluated) < SEEDS_FOR_INTERVAL]:
        notes.append(f"Fewer than {SEEDS_FOR_INTERVAL} seeds, hence values and no interval: {_names(few)}.")
    if tasks := sorted({run.env for run in runs if run.config["env.limit_kind"] == "discounted"}):
        notes.append(f"Cost and limit are discounted sums in {', '.join(tasks)}; training cost is not.")
    if repeated := [run.last for run in runs if run.last and run.last.different < run.last.episodes]:
        worst = min(repeated, key=lambda one: one.different)
        notes.append(f"Identical evaluation episodes count once: in {len(repeated)} of {len(runs)} runs there were "
                     f"some (at worst {worst.different} different of {worst.episodes}).")
    if cut := [run for run in runs if run.last is not None and run.last.cut]:
        notes.append(f"The simulator ended evaluation episodes early in {len(cut)} of {len(runs)} runs ("
                     f"{sum(run.last.cut for run in cut if run.last)} in all); they count with what they had until "
                     "then.")
    if short := [run for run in runs if run.last and run.last.over is not None and run.last.episodes < FEW_EPISODES]:
        notes.append(f"Fewer than {FEW_EPISODES} evaluation episodes in {len(short)} of {len(runs)} runs.")
    if unfinished := [run for run in runs if run.state != "finished"]:
        states = sorted({run.state for run in unfinished})
        notes.append(f"Not finished: {len(unfinished)} of {len(runs)} runs ("
                     + ", ".join(f"{sum(run.state == state for run in unfinished)} {state}" for state in states)
                     + "); they stand with what they have.")
    if lacking := [cell for cell in of_family if len(cell.evaluated) < len(cell.runs)]:
        notes.append(f"Runs without an evaluation are counted but have no numbers: {_names(lacking)}.")
    if uneven := [cell for cell in of_family if len({run.last.step for run in cell.evaluated if run.last}) > 1]:
        notes.append(f"Seeds evaluated at different steps stand together in {_names(uneven)}.")
    notes += _missing_seeds(of_family)
    if absent:
        notes.append(f"The sweep has {len(absent)} more runs that have not started.")
    for keys in sorted({cell.pooled for cell in of_family if cell.pooled}):
        notes.append(f"Pooled although different in {', '.join(keys)}: "
                     f"{_names([cell for cell in of_family if cell.pooled == keys])}.")
    if sources := sorted({run.source for run in runs if run.source}):
        notes += [f"Imported from {source}." for source in sources]
    return notes


def _names(some: Sequence[Cell]) -> str:
    names = [" ".join((*cell.row, *cell.column)) for cell in some]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _missing_seeds(of_family: Sequence[Cell]) -> list[str]:
    """Seeds that other cells of the row have, and a cell has not."""
    missing = []
    for cell in of_family:
        others = {seed for other in of_family if other.row == cell.row for seed in other.seeds}
        if lacking := sorted(others - set(cell.seeds)):
            missing.append(f"{_names([cell])} lacks {', '.join(map(str, lacking))}")
    return [f"Missing seeds: {'; '.join(missing)}."] if missing else []
