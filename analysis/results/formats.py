"""Tables as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from algd.errors import UsageError
from analysis.markdown import markdown_table
from analysis.results.cells import Cell, number, percent, ranked_along
from analysis.results.notes import interval_of, pooled_notes
from analysis.results.steps import when
from analysis.results.table import NONE, Table, details, grid
from analysis.runs.model import Run

Format = Literal["markdown", "latex", "csv", "json"]
# Name in CSV and JSON ↦ attributes of a run, as in `Cell.spread`.
SPREADS = {"violation": ("result", "violation"), "cvar": ("result", "cvar"), "episodes_over": ("result", "over"),
           "evaluations_over": ("result", "evaluations_over"),
           "training_cost": ("result", "training", "total_cost"),
           "training_cost_rate": ("result", "training", "cost_rate"), "training_over": ("result", "training", "over")}


def render(found: Sequence[Table], form: Format, each_run: bool = False) -> str:
    """Format tables as text.

    Args:
        found: a table for each family of tasks.
        form: output format.
        each_run: whether Markdown has a line for each run too.

    Raises:
        UsageError: CSV is requested for several families.
    """
    if form == "markdown":
        return "\n\n".join(markdown(table, each_run) for table in found)
    if form == "latex":
        return "\n\n".join(latex(table) for table in found)
    if form == "json":
        text = json.dumps([as_json(table) for table in found], indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode(errors="backslashreplace").decode()  # JSON's escapes for a folder's name that is not UTF-8
    if len(found) > 1:
        raise UsageError(f"a CSV file holds one table, and these runs are of the families "
                         f"{', '.join(table.family for table in found)}: choose one with --where env.family=...")
    return as_csv(found[0])


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(table: Table, each_run: bool = False) -> str:
    """Format the main table, a table of details, on request a table of runs, and the notes."""
    parts = [f"## Family: {table.family}", markdown_table(*grid(table, "[{}, {}]", ("**", "**"), " †"),
                                                    right=len(table.rows) + 1),
             markdown_table(*details(table), right=len(table.rows) + len(table.columns))]
    if each_run:
        parts.append(markdown_table(
            [*table.rows, *table.columns, "seed", "state", "step", "return", "cost", "limit", "episodes over",
             "stays feasible from", "safe"],
            [_run(cell, run) for cell in table.cells for run in cell.runs],
            right=len(table.rows) + len(table.columns)))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in table.notes)])


def _run(cell: Cell, run: Run) -> list[str]:
    row, result = [*cell.row, *cell.column, str(run.seed), run.state], run.result
    if result is None:
        last = "no evaluation" if run.last is None else f"no result (last evaluated at step {run.last.step})"
        return [*row, NONE, NONE, NONE, number(run.limit), NONE, NONE, last]
    stay = run.stay
    return [*row, str(result.step), number(result.mean_return), number(result.mean_cost), number(run.limit),
            NONE if result.over is None else f"{percent(result.over)} of {result.episodes}",
            NONE if stay is None else f"{'> ' if stay.censored else ''}{stay.step}", "yes" if run.safe else "no"]


# --- LaTeX ---------------------------------------------------------------------------------------------------------

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "λ": r"$\lambda$", "†": r"$^\dagger$",
         "ρ": r"$\rho$", "≤": r"$\le$", "·": r"$\cdot$", "…": r"\dots{}", "×": r"$\times$", "√": r"$\surd$",
         "⌊": r"$\lfloor$", "⌋": r"$\rfloor$"}
NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")  # the sign of a number, not a hyphen in a name


def escaped(text: str) -> str:
    """Return text with the special characters of LaTeX escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    """Format the main table for a paper, with a caption that defines its numbers; it needs the package booktabs."""
    header, lines = grid(table, r"{{\scriptsize[{}, {}]}}", (r"\textbf{", "}"), r"$^\dagger$", escaped)
    labels = len(table.rows) + 1
    body = []
    for index, line in enumerate(lines):
        if index and index % 3 == 0:
            body.append(r"\midrule")
        body.append(" & ".join([*line[:labels], *(_typeset(cell) for cell in line[labels:])]) + r" \\")
    return "\n".join([
        r"% needs \usepackage{booktabs}", *(f"% {' '.join(note.split())}" for note in table.notes), r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(table)}}}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(header) - labels)}}}", r"\toprule",
        " & ".join(header) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _typeset(cell: str) -> str:
    """Convert minus signs, dashes and dots of a cell to LaTeX."""
    return NEGATIVE.sub("$-$", cell).replace("–", "--").replace("…", r"\dots{}")


def _caption(table: Table) -> str:
    """Return the caption: definitions of the numbers, step, number of seeds, and interval."""
    counts = sorted({len(set(cell.seeds)) for cell in table.cells})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    steps, first = when(run for cell in table.cells for run in cell.runs), table.cells[0]
    at = f" at {steps}" if steps else ""
    averaged = first.runs[0].averaged
    results = "evaluation" if averaged == 1 else f"mean over the last {averaged} evaluations,"
    return escaped(
        f"Family {table.family}: {results}{at}, n = {seeds} seeds. Return: interquartile mean over seeds (IQM, the "
        f"mean without the ⌊n/4⌋ lowest and highest), in square brackets the {interval_of(first.method)}. Cost: mean "
        "over seeds, in brackets the seeds; †: above the limit. Safe seeds: those whose mean cost is at most the "
        f"limit, of n, with Wilson's 95% interval. Bold: highest return of the {ranked_along(table.columns)} among "
        "cells whose runs all have a result, with the mean cost within the limit and at least "
        f"{100 * first.safe_share:g}% of the seeds safe." + "".join(f" {note}" for note in pooled_notes(table.cells)))


# --- CSV and JSON --------------------------------------------------------------------------------------------------


def as_json(table: Table) -> dict[str, Any]:
    """Return all values of a table for JSON; unknown and non-finite values are null."""
    return {"family": table.family, "rows": list(table.rows), "columns": list(table.columns),
            "cells": [_record(table, cell) | {"each_run": [_run_record(run) for run in cell.runs]}
                      for cell in table.cells], "notes": table.notes}


def _record(table: Table, cell: Cell) -> dict[str, Any]:
    stays, safe = cell.stays_feasible, cell.safe_interval
    record: dict[str, Any] = dict(zip((*table.rows, *table.columns), (*cell.row, *cell.column), strict=True))
    for name, mean in (("return", cell.mean_return), ("cost", cell.mean_cost)):
        record |= {name: mean and mean.value, f"{name}_low": mean and mean.low, f"{name}_high": mean and mean.high,
                   f"{name}_seeds": " ".join(map(repr, cell.singles(f"mean_{name}")))}
    record |= {"step": cell.step, "limit": cell.limit, "feasible": cell.feasible, "best_feasible": cell.best,
               "runs": len(cell.runs), "evaluated": len(cell.evaluated), "unfinished": len(cell.unfinished),
               "failed": len(cell.failed), "without_result": len(cell.waiting), "safe": cell.safe,
               "safe_low": safe.low, "safe_high": safe.high}
    for name, path in SPREADS.items():
        spread = cell.spread(*path)
        record |= {name: spread and spread.mean, f"{name}_min": spread and spread.low,
                   f"{name}_max": spread and spread.high}
    record |= {"stays_feasible_from": stays and stays[0], "stays_feasible_censored": stays and stays[1],
               "updates_per_second": cell.speed("updates_per_second"), "hours": cell.speed("hours"),
               "pooled": " ".join(cell.pooled)}
    return {key: _finite(value) for key, value in record.items()}


def _run_record(run: Run) -> dict[str, Any]:
    result, last = run.result, run.last
    record = {"folder": str(run.folder), "seed": run.seed, "state": run.state, "reason": run.reason,
              "step": result and result.step, "first_step": result and result.first_step,
              "return": result and result.mean_return, "cost": result and result.mean_cost, "safe": run.safe,
              "last_step": last and last.step,
              "incomplete": {str(step): count for step, count in run.incomplete.items()},
              "source": run.source or None}
    return {key: _finite(value) for key, value in record.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def as_csv(table: Table) -> str:
    """Format a table as CSV, one line for each cell, at full precision."""
    records = [_record(table, cell) for cell in table.cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in record.items()} for record in records)
    return text.getvalue().rstrip("\n")


def harmless(value: Any) -> Any:
    """Return a CSV cell that no spreadsheet executes as a formula, since names may come from somebody else's run."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
