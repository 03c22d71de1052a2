"""Return against cost, over budgets and over training, with the Pareto front."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from algd.errors import UsageError
from analysis.results.cells import Cell
from analysis.results.notes import pooled_notes
from analysis.results.steps import when
from analysis.results.style import LIMIT, STYLE, WIDTH, layered, legend, look
from analysis.statistics.aggregates import pareto_front
from analysis.statistics.estimators import interquartile_mean

Point = tuple[float, float]


def pareto(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells on the Pareto front of mean cost and interquartile mean return, sorted by cost."""
    known = [(cell, *point) for cell in cells if (point := _result(cell)) is not None and np.isfinite(point).all()]
    front = pareto_front([cost for _, cost, _ in known], [gain for _, _, gain in known])
    return [known[index][0] for index in front]


def path(cell: Cell) -> list[Point]:
    """Return mean cost and interquartile mean return at the evaluations after step 0 common to runs with a result."""
    runs = cell.evaluated
    by_step = [{point.step: point for point in run.seen} for run in runs]
    shared = sorted(set.intersection(*(set(steps) for steps in by_step))) if by_step else []
    return [(float(np.mean([steps[step].mean_cost for steps in by_step])),
             interquartile_mean(np.array([steps[step].mean_return for steps in by_step]))) for step in shared]


def draw_tradeoff(cells: Sequence[Cell], keys: Sequence[str], training: bool = False,
                  sampler: str = "deterministic") -> Figure:
    """Draw return against cost, with the Pareto front, and beside it return against cost divided by the limit.

    Args:
        cells: cells of one row.
        keys: column keys; env.limit is written beside the points, the others determine colours and markers.
        training: whether to draw the path of training, a point for each evaluation.
        sampler: sampler of the evaluations, which the figure states.

    Raises:
        UsageError: no cell has a result.
    """
    evaluated = [cell for cell in cells if _result(cell) is not None]
    if not evaluated:
        raise UsageError("return against cost: none of the runs has a result")
    others = [index for index, key in enumerate(keys) if key != "env.limit"]
    algorithms = sorted({tuple(cell.column[index] for index in others) for cell in evaluated})
    styles = {algorithm: layered(look(algorithm, [keys[index] for index in others], algorithms), place, len(algorithms))
              for place, algorithm in enumerate(algorithms)}
    several = len({cell.limit for cell in evaluated}) > 1
    with plt.rc_context(STYLE):
        figure, (absolute, relative) = plt.subplots(1, 2, figsize=(WIDTH, 2.5), layout="constrained", sharey=True)
        for cell in evaluated:
            style = styles[tuple(cell.column[index] for index in others)]
            _cell(absolute, cell, style, 1.0, training)
            if cell.limit is not None and several:
                absolute.annotate(f"≤ {cell.limit:g}", _result(cell) or (0, 0), (3, 3), textcoords="offset points",
                                  fontsize=5.5, color=style["color"])
            if cell.limit:
                _cell(relative, cell, style, cell.limit, training)
        front = [point for cell in pareto(evaluated) if (point := _result(cell)) is not None]
        absolute.plot(*np.array(front).reshape(-1, 2).T, color="0.5", linewidth=0.8, zorder=1)
        relative.axvline(1, **LIMIT)
        absolute.set(xlabel="cost", ylabel="return")
        relative.set(xlabel="cost / limit")
        figure.suptitle(f"{', '.join(evaluated[0].row)}, {_at(evaluated)}, {sampler} evaluations\n"
                        "large: mean cost, interquartile mean return (hollow: not feasible)\nsmall: seeds"
                        + ("; lines: training, an evaluation a point" if training else ""), fontsize=6)
        handles = [Line2D([], [], label=", ".join(algorithm) or "all", **(style | {
            "linewidth": 0.6, "markersize": style["markersize"] + 1, "markerfacecolor": style["color"]}))
            for algorithm, style in styles.items()]
        handles += [Line2D([], [], color="0.5", linewidth=0.8, label="Pareto front"),
                    Line2D([], [], label="limit", **LIMIT)]
        legend(figure, handles)
    return figure


def _cell(axis: Axes, cell: Cell, style: dict[str, Any], unit: float, training: bool) -> None:
    """Draw one cell's seeds, their centre, and on request the path of training, with costs divided by `unit`."""
    tone, marker = style["color"], style["marker"]
    axis.plot(np.array(cell.singles("mean_cost")) / unit, cell.singles("mean_return"), marker, color=tone, alpha=0.55,
              markersize=1.8, markeredgewidth=0)
    if training:
        costs, gains = np.array(path(cell)).reshape(-1, 2).T
        axis.plot(costs / unit, gains, color=tone, linewidth=0.5, linestyle=style["linestyle"], marker=".",
                  markersize=1.5)
    cost, gain = _result(cell) or (np.nan, np.nan)
    axis.plot(cost / unit, gain, marker, color=tone, markersize=style["markersize"] + 1.5, zorder=style["zorder"] + 1,
              markerfacecolor=tone if cell.feasible else "white")


def _result(cell: Cell) -> Point | None:
    if cell.mean_cost is None or cell.mean_return is None:
        return None
    return cell.mean_cost.value, cell.mean_return.value


def _at(cells: Sequence[Cell]) -> str:
    counts = sorted({len({run.seed for run in cell.evaluated}) for cell in cells})
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]}–{counts[-1]}"
    at = f"{when(run for cell in cells for run in cell.runs)}, {seeds}"
    return "; ".join([at, *pooled_notes(cells)]).rstrip(".")
