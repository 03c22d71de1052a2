"""Learning curves: return, cost, λ, the value of the constraint, and curvature, over environment steps.

There is one figure for each quantity, with a panel for each row of the grouping. As in the tables, the line of a return
is the interquartile mean over the seeds with a value at that step, with its interval if there are at least three; that
of any other quantity is the mean, with the range of the seeds. Values of seeds that stopped early are not extended: the
line continues with the remaining seeds, and is faint where it has fewer seeds than the cell.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from algd.errors import UsageError
from analysis.results.cells import Cell, sorting
from analysis.results.notes import pooled_notes
from analysis.results.style import LIMIT, PALETTE, STYLE, WIDTH, layered, legend, look
from analysis.runs.episodes import evaluations, rows
from analysis.runs.model import Floats, Run, Series
from analysis.statistics.estimators import Estimate, Method, iqm_interval

PANEL = 1.55  # height of a panel, in inches
FAINT = 0.5
CROWDED = 30  # number of evaluations above which markers shrink
EVALUATED = ("return", "cost", "training_cost", "critic_error")  # quantities with a value at each evaluation
LABELS = {"return": "return", "cost": "cost", "training_cost": "cost of all training episodes so far", "lam": "λ",
          "constraint": "constraint value (Qc − h)", "critic_error": "Qc − discounted cost, from the start"}


@dataclass(frozen=True)
class Curve:
    """A quantity across seeds; all arrays are (n,).

    Attributes:
        steps: steps at which at least one seed has a value.
        centre: interquartile mean or mean at each step.
        low, high: ends of the interval or of the seeds' range; NaN if there are too few seeds.
        count: number of seeds at each step.
    """

    steps: Floats
    centre: Floats
    low: Floats
    high: Floats
    count: Floats


def curve(series: Sequence[Series],
          iqm: Callable[[Floats], Estimate] = lambda values: iqm_interval([values])) -> Curve:
    """Return the interquartile mean at each step at which a seed has a value, with its interval."""
    return _curve(series, iqm)


def range_curve(series: Sequence[Series], geometric: bool = False) -> Curve:
    """Return the mean at each step at which a seed has a value, with the minimum and maximum over seeds.

    Args:
        series: one for each seed.
        geometric: take the geometric mean, of positive values.
    """
    def spread(values: Floats) -> Estimate:
        mean, several = float(np.exp(np.log(values).mean()) if geometric else values.mean()), len(values) > 1
        return Estimate(mean, float(values.min()) if several else None, float(values.max()) if several else None,
                        len(values))

    return _curve(series, spread)


def _curve(series: Sequence[Series], estimate: Callable[[Floats], Estimate]) -> Curve:
    by_step: dict[float, list[float]] = {}
    for single in series:
        for step, value in zip(single.steps, single.values, strict=True):
            if np.isfinite(value):
                by_step.setdefault(float(step), []).append(float(value))
    steps = sorted(by_step)
    found = [estimate(np.array(by_step[step])) for step in steps]
    return Curve(np.array(steps), np.array([point.value for point in found]),
                 np.array([np.nan if point.low is None else point.low for point in found]),
                 np.array([np.nan if point.high is None else point.high for point in found]),
                 np.array([point.count for point in found]))


def smoothed(series: Series, window: int) -> Series:
    """Return the moving average over the last `window` finite values, or over as many as there are."""
    if window == 1:
        return series
    finite = np.isfinite(series.values)
    sums = np.concatenate([[0.0], np.cumsum(series.values[finite])])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return Series(series.steps[finite], (sums[ends] - sums[starts]) / (ends - starts))


def series_of(run: Run, quantity: str, sampler: str = "deterministic") -> Series:
    """Return a run's values of a quantity in `EVALUATED`, or of a column of metrics.csv.

    With guidance=none λ is always 0, and the series is empty.

    Args:
        sampler: sampler of the evaluations with which the run was read.

    Raises:
        UsageError: metrics.csv or evals.csv is damaged.
    """
    try:
        return _series_of(run, quantity, sampler)
    except (ValueError, KeyError, OSError) as error:
        raise UsageError(f"{run.folder}: {quantity} cannot be drawn, since a table is damaged ({error})") from error


def _series_of(run: Run, quantity: str, sampler: str) -> Series:
    if quantity == "critic_error":
        return critic_error(run, sampler)
    if quantity == "training_cost":
        spent = [(point.step, point.training.total_cost) for point in run.evaluations if point.training is not None]
        return Series(*np.array(spent, dtype=float).reshape(-1, 2).T)
    if quantity in EVALUATED:
        return Series(run.steps.astype(float), run.returns if quantity == "return" else run.costs)
    empty = Series(np.array([]), np.array([]))
    if run.metrics:
        found = run.metrics.get(quantity, empty)
    else:
        read = [(float(row["step"]), float(row[quantity])) for row in rows(run.folder / "metrics.csv")
                if row.get(quantity)]
        found = Series(*np.array(read, dtype=float).reshape(-1, 2).T)
    unconstrained = quantity == "lam" and run.config["guidance.name"] == "none" and not found.values.any()
    return empty if unconstrained else found


def critic_error(run: Run, sampler: str) -> Series:
    """Return the error of the cost critics: the mean over an evaluation's episodes of Qc at the first step minus the
    discounted cost. Far below 0, the critics still underestimate the constraint.

    Empty for agent.cost_backup=reach, whose critics predict another quantity.
    """
    if run.config.get("agent.cost_backup") == "reach":
        return Series(np.array([]), np.array([]))
    errors = [(step, np.mean([float(row["predicted_cost"]) - float(row["discounted_cost"]) for row in episodes]))
              for step, episodes in evaluations(rows(run.folder / "evals.csv"), sampler).items()
              if len(episodes) == run.config["eval.episodes"] and all(row.get("predicted_cost") for row in episodes)]
    return Series(*np.array(errors, dtype=float).reshape(-1, 2).T)


def draw(cells: Sequence[Cell], keys: Sequence[str], quantity: str, window: int = 1, raw: bool = False,
         sampler: str = "deterministic", between: tuple[float, float] | None = None) -> Figure:
    """Draw one quantity: a panel for each row of the cells, a line for each column.

    Args:
        cells: from `analysis.results.cells.cells`; their method and seed are used for the intervals.
        keys: column keys, for the legend and the colours.
        quantity: one of `EVALUATED`, or a column of metrics.csv.
        window: number of values in the moving average; 1: none. The figure states it.
        raw: whether to draw each seed as a thin line too.
        sampler: of the evaluations, which the figure names.
        between: ends of the quantity's axis; None: all that is drawn fits. The figure states how far values beyond
            them reach.

    Raises:
        UsageError: no run has the quantity, or an axis of decades cannot begin there.
    """
    panels = list(dict.fromkeys(cell.row for cell in cells))
    columns = sorted({cell.column for cell in cells}, key=sorting)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(WIDTH, PANEL * down + 0.85), squeeze=False,
                                    layout="constrained")
        drawn: dict[tuple[str, ...], None] = {}
        faint = geometric = False
        seeds: set[int] = set()
        shown: list[Floats] = []
        for row, axis in zip(panels, grid.flat, strict=False):
            here = [cell for cell in cells if cell.row == row]
            having = [(cell, found) for cell in here if (found := [
                (run.seed, smoothed(values, window)) for run in cell.runs
                if len((values := series_of(run, quantity, sampler)).steps)])]
            decades = spans_decades(quantity, [values for _, found in having for _, values in found])
            geometric |= decades
            for cell, found in having:
                drawn[cell.column] = None
                seeds.add(len({seed for seed, _ in found}))
                series = [values for _, values in found]
                over = curve(series, cell.iqm) if quantity == "return" else range_curve(series, decades)
                shown += [over.centre, over.low, over.high, *[single.values for single in series if raw]]
                style = layered(look(cell.column, keys, columns), columns.index(cell.column), len(columns))
                faint |= _lines(axis, over, series if raw else [], len(cell.runs), style, quantity in EVALUATED)
            if quantity == "cost":
                for limit in {cell.limit for cell in here if cell.limit is not None}:
                    axis.axhline(limit, **LIMIT)
            if quantity == "constraint" and having:
                axis.axhline(0, **LIMIT)
            if quantity == "critic_error" and having:
                axis.axhline(0, color="0.35", linewidth=0.6)
            if decades:
                axis.set_yscale("log")
            if between is not None:
                if decades and between[0] <= 0:
                    plt.close(figure)
                    raise UsageError(f"--range {quantity}={between[0]:g}:{between[1]:g}: the values span decades, and "
                                     "both ends of a logarithmic axis must be above 0")
                axis.set_ylim(*between)
            if not having:
                axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color="0.4")
                axis.set(xticks=[], yticks=[])
            axis.set_title(", ".join(row))
        if not drawn:
            plt.close(figure)
            raise UsageError(f"{quantity}: none of the runs has values of it; {', '.join(EVALUATED)} come from "
                             "evals.csv and episodes.csv, others are columns of metrics.csv")
        _finish(figure, grid, len(panels), LABELS.get(quantity, quantity))
        handles = [Line2D([], [], label=", ".join(column) or "all",
                          **layered(look(column, keys, columns), place, len(columns)))
                   for place, column in enumerate(columns) if column in drawn]
        if quantity in ("cost", "constraint"):
            handles.append(Line2D([], [], label="limit", **LIMIT))
        if faint:
            handles.append(Line2D([], [], color="0.5", alpha=FAINT, linewidth=0.8, label="faint: not all seeds"))
        legend(figure, handles)
        said = "; ".join([_said(quantity, sorted(seeds), window, raw, sampler, cells[0].method, geometric),
                          *pooled_notes(cells)]).rstrip(".")
        if between is not None:
            said += _beyond(np.concatenate(shown), *between)
        figure.suptitle("\n".join(wrap(said, 78)), fontsize=6)
    return figure


def _beyond(values: Floats, low: float, high: float) -> str:
    """Say how far values reach beyond the ends of their axis; "" if none does."""
    least, most = np.nanmin(values), np.nanmax(values)
    reach = [f"down to {least:.4g}"] * bool(least < low) + [f"up to {most:.4g}"] * bool(most > high)
    return f"; values beyond the axis, {' and '.join(reach)}, are not shown" if reach else ""


def spans_decades(quantity: str, found: Sequence[Series]) -> bool:
    """Return whether a quantity is λ, all values are positive, and they span more than three decades.

    It then needs a logarithmic axis, and the geometric mean: the mean of such values is about the largest alone.
    """
    if quantity != "lam" or not found:
        return False
    values = np.concatenate([series.values[np.isfinite(series.values)] for series in found])
    return bool(len(values) and (values > 0).all() and values.max() > 1000 * values.min())


def _said(quantity: str, seeds: Sequence[int], window: int, raw: bool, sampler: str, method: Method,
          geometric: bool) -> str:
    """Describe the figure: sampler, number of seeds, line and band."""
    parts = [f"{sampler} evaluations (markers)" if quantity in ("return", "cost", "critic_error") else "training"]
    parts.append(f"n = {seeds[0]} seed{'s' * (seeds[0] != 1)}" if len(seeds) == 1 else
                 f"n = {seeds[0]}–{seeds[-1]} seeds")
    if seeds[-1] == 1:
        parts.append("line: that seed")
    elif quantity == "return":
        kind = "t" if method == "t" else "percentile"
        parts += ["line: interquartile mean", f"band: 95% bootstrap {kind} interval, from 3 seeds on"]
    else:
        parts += [f"line: mean{' (geometric on a logarithmic axis)' * geometric}", "band: lowest to highest seed"]
    if raw:
        parts.append("thin: each seed")
    if window > 1:
        parts.append(f"each point averages {window} values")
    return "; ".join(parts)


def _finish(figure: Figure, grid: Any, panels: int, label: str) -> None:
    """Hide unused panels and label the outer axes."""
    across = grid.shape[1]
    for number, axis in enumerate(grid.flat):
        axis.set_visible(number < panels)
        if number + across >= panels:
            axis.set_xlabel("environment steps")
        if axis.lines:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    figure.supylabel(label, fontsize=7)


def _lines(axis: Axes, curve: Curve, singles: Sequence[Series], runs: int, style: dict[str, Any],
           evaluated: bool) -> bool:
    """Draw one cell's line and band. Return whether a part of the line has fewer seeds than there are runs."""
    for single in singles:
        axis.plot(single.steps, single.values, linewidth=0.4, alpha=0.5, color=style["color"])
    axis.fill_between(curve.steps, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    whole = curve.count == runs
    count = len(curve.steps)
    # A marker at each evaluation, or a few markers on a long record of metrics, to distinguish lines.
    every: Any = 1 if evaluated else (0.1 + style["zorder"] % 1 / 10, 0.2)
    if evaluated and count > CROWDED:
        style = style | {"markersize": style["markersize"] * CROWDED / count}
    # A segment is drawn in full colour if both of its ends have all seeds.
    if whole.any():
        axis.plot(curve.steps, np.where(whole, curve.centre, np.nan), markevery=every, **style)
    if not whole.all():
        near = np.where(with_neighbours(~whole), curve.centre, np.nan)
        faint = style | {"alpha": FAINT, "linewidth": 0.7 * style["linewidth"]}
        axis.plot(curve.steps, near, markevery=every, **faint)
    return not bool(whole.all())


def with_neighbours(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the marked points and their neighbours, so that the faint line joins the full one without a gap."""
    wide = marked.copy()
    wide[1:] |= marked[:-1]
    wide[:-1] |= marked[1:]
    return wide


def curvature_columns(runs: Iterable[Run]) -> list[str]:
    """Return the columns of curvature quantiles that the runs have, such as curvature_plain_s1_q50."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(name for name in run.metrics if name.startswith("curvature_"))
        file = run.folder / "metrics.csv"
        if file.exists():
            with file.open(encoding="utf-8") as lines:
                found |= dict.fromkeys(name for name in lines.readline().strip().split(",")
                                       if name.startswith("curvature_"))
    return list(found)


def draw_curvature(cells: Sequence[Cell], level: str) -> Figure:
    """Draw quantiles of the smallest Hessian eigenvalue of L and L_A at a noise level: a panel for each cell.

    The line is the median over states and the band the 10% to 90% quantiles over states, both interquartile means over
    seeds. The band is not a confidence interval.

    Args:
        level: "raw" or "s1" … "sK".

    Raises:
        UsageError: no run has the columns.
    """
    having: list[tuple[Cell, dict[str, dict[str, Curve]]]] = []
    for cell in cells:
        found: dict[str, dict[str, Curve]] = {}
        for energy in ("plain", "augmented"):
            names = {q: f"curvature_{energy}_{level}_q{q}" for q in ("10", "50", "90")}
            all_series = {q: [series for run in cell.runs if len((series := series_of(run, name)).steps)]
                          for q, name in names.items()}
            if all(all_series.values()):
                found[energy] = {q: curve(series) for q, series in all_series.items()}
        if found:
            having.append((cell, found))
    if not having:
        raise UsageError(f"curvature at {level}: none of the runs has it; curvature.states=64 logs it in training")
    across = min(2, len(having))
    down = -(-len(having) // across)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(WIDTH, PANEL * down + 0.65), squeeze=False, sharey=True,
                                    layout="constrained")
        for (cell, found), axis in zip(having, grid.flat, strict=False):
            for energy, quantiles in found.items():
                middle, line = quantiles["50"], PALETTE[0 if energy == "augmented" else 1]
                axis.plot(middle.steps, middle.centre, color=line, linewidth=1.1)
                axis.fill_between(middle.steps, quantiles["10"].centre, quantiles["90"].centre, color=line, alpha=0.18,
                                  linewidth=0)
            axis.axhline(0, color="0.35", linewidth=0.6)
            axis.set_title(f"{', '.join(cell.row)}\n{', '.join(cell.column)}")
        _finish(figure, grid, len(having), f"smallest eigenvalue of ∇²E, {level}")
        figure.legend(handles=[Line2D([], [], color=PALETTE[1], label=r"$L$: median, 10–90% of states"),
                               Line2D([], [], color=PALETTE[0], label=r"$L_A$")],
                      loc="outside lower center", ncols=2, frameon=False)
    return figure
