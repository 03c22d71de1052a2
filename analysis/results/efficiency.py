"""Sample efficiency: steps until a return is reached within the limit, average return, and cost of training."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from algd.errors import UsageError
from analysis.markdown import markdown_table
from analysis.results.cells import Cell, number, percent, ranked_along, with_interval
from analysis.results.notes import interval_of, pooled_notes, result_notes
from analysis.runs.model import Run
from analysis.statistics.estimators import Floats, StayTime, median_time


def reached(run: Run, wanted: float) -> StayTime | None:
    """Return the first evaluation after step 0 whose return is at least `wanted` and whose cost is within the limit.

    Only evaluations up to `run.judged_at` count. The time is censored if none fits; None without any.
    """
    seen = run.seen
    if not seen and not run.failed:
        return None
    step = next((point.step for point in seen if point.mean_return >= wanted and point.mean_cost <= run.limit), None)
    return run.never if step is None else StayTime(step, False)


def average_return(run: Run) -> float | None:
    """Return the area under the learning curve divided by its steps, from the first evaluation to the result.

    The integral uses the trapezoidal rule; None without a result or with a single evaluation.
    """
    seen = [point for point in run.evaluations if run.judged_at is not None and point.step <= run.judged_at]
    if run.result is None or len(seen) < 2:
        return None
    steps = np.array([point.step for point in seen], dtype=float)
    returns: Floats = np.array([point.mean_return for point in seen])
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def feasible_share(run: Run) -> float | None:
    """Return the share of evaluations after step 0 and up to the result that are within the limit."""
    seen = run.seen
    return float(np.mean([point.mean_cost <= run.limit for point in seen])) if seen else None


def wanted_returns(options: Sequence[str], tasks: Collection[str]) -> dict[str, float]:
    """Parse options such as "12.5" and "point_button1=12.5" to a return by task, with "" for all other tasks.

    Raises:
        UsageError: an option has another form, or names a task that none of these is.
    """
    found = {}
    for option in options:
        task, equals, value = option.rpartition("=")
        try:
            found[task if equals else ""] = float(value)
            finite = math.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            raise UsageError(f"--return {option}: a finite number is needed, or TASK=NUMBER")
        if equals and task not in tasks:
            raise UsageError(f"--return {option}: no run is on {task}, but on {', '.join(sorted(tasks))}")
    return found


def markdown(cells: Sequence[Cell], rows: Sequence[str], columns: Sequence[str], wanted: Mapping[str, float],
             sampler: str, remarks: Sequence[str]) -> str:
    """Format the sample efficiency as Markdown, with a line for each cell.

    Args:
        cells: cells of one family of tasks.
        rows, columns: grouping keys.
        wanted: see `wanted_returns`; for other tasks no steps are given.
        sampler: of the evaluations.
        remarks: sentences on runs that are missing.
    """
    header = [*rows, *columns, "seeds", "step", "return wanted", "steps to it, feasible", "reached", "average return",
              "evaluations feasible", "training cost"]
    notes = [f"Of the {sampler} evaluations up to the step given. Steps to a return: the first evaluation after step 0 "
             "that has it at a cost within the limit; the median of Kaplan and Meier's curve over seeds, in which an "
             "interrupted run counts up to its end, '>': half or more had not by then. Reached: of all seeds.",
             "Average return: the area under the curve of evaluations divided by its steps, interquartile mean over "
             f"seeds, with the {interval_of(cells[0].method)}. Evaluations feasible: share of those after step 0. "
             "Training cost: of all episodes after the initial steps. Both: means over seeds, in brackets the ends."]
    return "\n\n".join([f"## Sample efficiency, family {cells[0].runs[0].family}",
                        markdown_table(header, [_line(cell, wanted) for cell in cells], right=len(rows) + len(columns)),
                        "\n".join(f"- {note}" for note in [*notes, *result_notes(cells, ranked_along(columns)),
                                                            *pooled_notes(cells), *remarks])])


def _line(cell: Cell, wanted: Mapping[str, float]) -> list[str]:
    aims = {wanted.get(run.env, wanted.get("")) for run in cell.runs}
    aim = aims.pop() if len(aims) == 1 else None
    steps, share = "–", "–"
    if aim is not None:
        times = [time for run in cell.runs if (time := reached(run, aim)) is not None]
        if times:
            median, censored = median_time(times)
            steps = f"{'> ' if censored else ''}{median:.0f}"
        share = f"{sum(not time.censored for time in times)}/{len(cell.runs)}"
    averages = [value for run in cell.runs if (value := average_return(run)) is not None]
    average = "–"
    if averages:
        average = with_interval(cell.iqm(np.array(averages)))
    shares = [value for run in cell.runs if (value := feasible_share(run)) is not None]
    spent = cell.spread("result", "training", "total_cost")
    return [*cell.row, *cell.column, f"{len(cell.evaluated)} of {len(cell.runs)}", str(cell.step or "–"),
            "–" if aim is None else number(aim), steps, share, average,
            f"{percent(float(np.mean(shares)))} ({percent(min(shares))} … {percent(max(shares))})" if shares else "–",
            "–" if spent is None else f"{spent.mean:.0f} ({spent.low:.0f} … {spent.high:.0f})"]
