"""Tables as Markdown and LaTeX for people, as CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from algd.errors import UsageError
from analysis.markdown import markdown_table
from analysis.results.cells import Cell, number
from analysis.results.table import DETAILS, NONE, Table, details, grid
from analysis.runs.model import Run

Format = Literal["markdown", "latex", "csv", "json"]
FORMATS: tuple[Format, ...] = ("markdown", "latex", "csv", "json")


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


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(table: Table, each_run: bool = False) -> str:
    """What papers print, then everything else about the cells, on request the runs, and the notes."""
    parts = [f"## Family: {table.family}", markdown_table(*grid(table, "[{}, {}]", ("**", "**"), " †"),
                                                    right=len(table.rows) + 1),
             markdown_table([*table.rows, *table.columns, *DETAILS],
                      [details(cell) for cell in table.cells], right=len(table.rows) + len(table.columns))]
    if each_run:
        parts.append(markdown_table(
            [*table.rows, *table.columns, "seed", "state", "step", "return", "cost", "limit", "episodes over",
             "stays feasible from", "feasible"],
            [_run(cell, run) for cell in table.cells for run in cell.runs],
            right=len(table.rows) + len(table.columns)))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in table.notes)])


def _run(cell: Cell, run: Run) -> list[str]:
    row = [*cell.row, *cell.column, str(run.seed), run.state]
    if run.last is None or run.stay is None:
        return [*row, NONE, NONE, NONE, number(run.limit), NONE, NONE, "no evaluation"]
    return [*row, str(run.last.step), number(run.last.mean_return), number(run.last.mean_cost), number(run.limit),
            NONE if run.last.over is None else f"{run.last.over:.0%} of {run.last.different}",
            f"{'> ' if run.stay.censored else ''}{run.stay.step}", "yes" if run.feasible else "no"]


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
