"""Interactive figures, as the JSON that plotly.js draws.

The "meta" of each trace lets the page switch columns, seeds, bands and single lines on and off: {"kind": "line" |
"band" | "seed" | "point", "column": index, "seed": number, "run": index}. Statistics are computed as for the printed
figures (`analysis.results.curves`); the browser computes nothing.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from algd.errors import UsageError
from analysis.results.cells import Cell, number, sorting
from analysis.results.curves import (
    LABELS,
    Curve,
    curve,
    range_curve,
    series_of,
    smoothed,
    spans_decades,
    with_neighbours,
)
from analysis.results.steps import when
from analysis.results.style import look
from analysis.runs.gather import listed, short
from analysis.runs.model import Floats, Run, Series

POINTS = 200  # most points of a seed's line; longer ones are thinned evenly
BAND_POINTS = 100  # most points of a line over seeds; each point costs a bootstrap
# Matplotlib's markers: plotly.js's name, and the letter in the page's key.
SYMBOLS = {"o": ("circle", "●"), "s": ("square", "■"), "^": ("triangle-up", "▲"), "D": ("diamond", "◆"),
           "v": ("triangle-down", "▼"), "P": ("cross", "✚"), "X": ("x", "✖")}
MARKERS = 15  # per line
WIDEST, THINNEST = 3.6, 1.6  # line widths: earlier lines are wider, to stay visible below later ones
GREY = "#555555"
LIMIT: Mapping[str, Any] = {"color": GREY, "width": 1.5, "dash": "dash"}


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        key: identifies the plot, the same each time the page is made.
        group: plots of one group share their horizontal axis and zoom together; "" for none.
        title, alternative: the title, and a text for readers who cannot see the plot.
        data, layout: traces and layout for plotly.js.
    """

    key: str
    group: str
    title: str
    alternative: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the data for the page's script."""
        return vars(self)


@dataclass(frozen=True)
class Column:
    """A column of a table, such as an algorithm, with its style in every plot."""

    name: str
    color: str
    dash: str
    symbol: str
    letter: str
    width: float


def columns_of(cells: Sequence[Cell], keys: Sequence[str]) -> dict[tuple[str, ...], Column]:
    """Return the columns of a family's cells with their styles, the same in all figures."""
    columns = sorted({cell.column for cell in cells}, key=sorting)
    found = {}
    for place, column in enumerate(columns):
        style = look(column, keys, columns)
        width = WIDEST - (WIDEST - THINNEST) * place / max(len(columns) - 1, 1)
        found[column] = Column(", ".join(column) or "all", style["color"], dash(style["linestyle"]),
                               *SYMBOLS[style["marker"]], round(width, 2))
    return found


def dash(linestyle: Any) -> str:
    """Convert Matplotlib's dashes, in line widths, to those of plotly.js and SVG, at 2 pixels per line width."""
    if isinstance(linestyle, str):
        return {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}[linestyle]
    return ",".join(f"{2 * length:g}px" for length in linestyle[1]) if linestyle[1] else "solid"


def curve_figure(family: str, row: tuple[str, ...], cells: Sequence[Cell], columns: Mapping[tuple[str, ...], Column],
                 quantity: str, numbers: Mapping[Path, int], window: int = 1,
                 sampler: str = "deterministic") -> Figure | None:
    """Plot a quantity against environment steps on one row's task: a line, a band and seeds for each cell.

    Args:
        family, row: the family and the row of the cells.
        cells: the row's cells.
        columns: result of `columns_of`.
        quantity: as for `analysis.results.curves.draw`.
        numbers: index of each run by folder, by which the page finds a line's run.
        window: number of values to average; 1: no smoothing.
        sampler: the evaluations' sampler.

    Returns:
        The figure; None if no run has the quantity.
    """
    data: list[dict[str, Any]] = []
    last: list[str] = []
    shown: dict[tuple[str, ...], list[tuple[Run, Series]]] = {}
    damaged: list[Run] = []
    for cell in cells:
        for run in cell.runs:
            try:
                found = series_of(run, quantity, sampler)
            except UsageError:
                damaged.append(run)
                continue
            if np.isfinite(found.values).any():
                shown.setdefault(cell.column, []).append((run, smoothed(found, window)))
    decades = spans_decades(quantity, [values for having in shown.values() for _, values in having])
    mean, band = ("interquartile mean", "95% interval") if quantity == "return" else (
        "geometric mean" if decades else "mean", "lowest to highest seed")
    for cell in cells:
        if cell.column not in shown:
            continue
        column, having = columns[cell.column], shown[cell.column]
        place = list(columns).index(cell.column)
        series = thinned_alike([values for _, values in having], BAND_POINTS)
        middle = curve(series, cell.iqm) if quantity == "return" else range_curve(series, decades)
        data += [*_band(middle, column, place), *_seeds(having, column, place, numbers),
                 *_line(middle, len(cell.runs), column, place, mean)]
        last.append(f"{column.name} {number(middle.centre[-1])} ({int(middle.count[-1])} of {len(cell.runs)} runs)")
    if not data:
        return None
    label = LABELS.get(quantity, quantity)
    limits = sorted({cell.limit for cell in cells if cell.limit is not None}) if quantity == "cost" else \
        [0.0] if quantity == "constraint" else []
    # Draw all bands first, then seeds, then lines, so that no band hides a line.
    data.sort(key=lambda trace: ("band", "seed", "line").index(trace["meta"]["kind"]))
    task = ", ".join(row)
    limit_said = f". Limit {', '.join(f'{limit:g}' for limit in limits)}" if quantity == "cost" else ""
    smoothing = f", each point the mean of {window} values" if window > 1 else ""
    if damaged:
        smoothing += f", without {listed(list(map(short, damaged)))}, whose tables are damaged"
    return Figure(
        f"{family}/{task}/{quantity}", f"{family}/{task}", f"{label}: {mean}, {band}{smoothing}",
        f"{label} against environment steps on {task}{smoothing}. At the end of each line, the {mean} over seeds: "
        + "; ".join(last) + limit_said + ".",
        data, plain_layout("environment steps", label, [limit_line("y", limit) for limit in limits], decades))


def trade_off_figure(family: str, row: tuple[str, ...], cells: Sequence[Cell],
                     columns: Mapping[tuple[str, ...], Column], numbers: Mapping[Path, int]) -> Figure | None:
    """Plot return against cost on one row's task: a point for each seed's result, hollow if it is not safe."""
    data: list[dict[str, Any]] = []
    said: list[str] = []
    for cell in cells:
        if not cell.evaluated or cell.mean_cost is None or cell.mean_return is None:
            continue
        column, place = columns[cell.column], list(columns).index(cell.column)
        for run in cell.evaluated:
            assert run.result is not None
            data.append({
                "type": "scatter", "mode": "markers", "x": rounded([run.result.mean_cost]),
                "y": rounded([run.result.mean_return]), "name": html.escape(f"{column.name}, seed {run.seed}"),
                "marker": {"color": column.color, "size": 8,
                           "symbol": column.symbol + ("" if run.safe else "-open")},
                "hovertemplate": "return %{y}<br>cost %{x}",
                "meta": {"kind": "point", "column": place, "seed": run.seed, "run": numbers.get(run.folder)}})
        said.append(f"{column.name}: return {number(cell.mean_return.value)}, cost {number(cell.mean_cost.value)}, "
                    f"safe {cell.safe} of {len(cell.runs)}")
    if not data:
        return None
    limits = sorted({cell.limit for cell in cells if cell.limit is not None})
    task, at = ", ".join(row), when(run for cell in cells for run in cell.evaluated)
    return Figure(
        f"{family}/{task}/trade-off", "", f"return against cost at {at}",
        f"Return against cost of each seed's evaluation at {at} on {task}. " + "; ".join(said) + ".", data,
        plain_layout("cost (hollow: not safe)", "return", [limit_line("x", limit) for limit in limits]))


def thinned(series: Series, most: int) -> Series:
    """Thin a series evenly to about `most` points, keeping its last; equal steps give equal points."""
    if len(series.steps) <= most:
        return series
    every = -(-len(series.steps) // most)
    chosen = np.unique([*range(0, len(series.steps), every), len(series.steps) - 1])
    return Series(series.steps[chosen], series.values[chosen])


def thinned_alike(some: Sequence[Series], most: int) -> list[Series]:
    """Thin series to about `most` of all their steps, the same for each: a step keeps all seeds that have it."""
    steps = np.unique(np.concatenate([series.steps for series in some]))
    kept = thinned(Series(steps, steps), most).steps
    return [Series(series.steps[chosen], series.values[chosen]) for series in some
            for chosen in [np.isin(series.steps, kept)]]


def rounded(values: Floats | Sequence[float]) -> list[float | None]:
    """Round values to five significant digits; None, which draws a gap, for non-finite values."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


# --- traces and layout ---------------------------------------------------------------------------------------------


def _trace(kind: str, place: int, x: Sequence[float | None], y: Sequence[float | None], **more: Any) -> dict[str, Any]:
    meta = {"kind": kind, "column": place} | more.pop("meta", {})
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "meta": meta, **more}


def _line(middle: Curve, runs: int, column: Column, place: int, mean: str) -> list[dict[str, Any]]:
    """Return the line over seeds; where it stands for fewer seeds than runs it is a separate, faint trace."""
    whole = middle.count == runs
    near = with_neighbours(~whole)
    found = []
    for chosen, opacity in ((whole, 1.0), (near & (middle.count > 0), 0.45)):
        if not chosen.any() or (opacity < 1 and whole.all()):
            continue
        found.append(_trace(
            "line", place, [int(step) for step in middle.steps], rounded(np.where(chosen, middle.centre, np.nan)),
            mode="lines+markers", opacity=opacity, name=html.escape(column.name),
            line={"color": column.color, "width": column.width, "dash": column.dash},
            marker={"symbol": column.symbol, "size": 4 + 1.5 * column.width, "color": column.color,
                    "maxdisplayed": MARKERS},
            customdata=[int(count) for count in middle.count],
            hovertemplate=f"%{{y:.4g}} at step %{{x}}<br>{mean} of %{{customdata}} of {runs} runs"))
    return found


def _band(middle: Curve, column: Column, place: int) -> list[dict[str, Any]]:
    """Return the band, as one closed outline for each stretch of steps with finite bounds."""
    known = np.isfinite(middle.low) & np.isfinite(middle.high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    x: list[float | None] = []
    y: list[float | None] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        steps = [int(step) for step in middle.steps[start:end]]
        gap: list[None] = [None] if x else []
        x += [*gap, *steps, *steps[::-1]]
        y += [*gap, *rounded(middle.high[start:end]), *rounded(middle.low[start:end][::-1])]
    return [_trace("band", place, x, y, fill="toself", fillcolor=_transparent(column.color), line={"width": 0},
                   hoverinfo="skip", name=html.escape(column.name))] if x else []


def _seeds(having: Sequence[tuple[Run, Series]], column: Column, place: int,
           numbers: Mapping[Path, int]) -> list[dict[str, Any]]:
    found = []
    for run, values in having:
        shown = thinned(values, POINTS)
        found.append(_trace(
            "seed", place, [int(step) for step in shown.steps], rounded(shown.values),
            name=html.escape(f"{column.name}, seed {run.seed}"), opacity=0.55,
            mode="lines+markers" if len(shown.steps) == 1 else "lines", marker={"size": 4, "color": column.color},
            line={"color": column.color, "width": 1, "dash": column.dash}, hovertemplate="%{y:.4g} at step %{x}",
            meta={"seed": run.seed, "run": numbers.get(run.folder)}))
    return found


def _transparent(color: str) -> str:
    red, green, blue = (int(color[place:place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def limit_line(axis: str, limit: float) -> dict[str, Any]:
    """Return a labelled straight line across the plot at a limit on one axis."""
    other = "x" if axis == "y" else "y"
    return {"type": "line", f"{axis}0": limit, f"{axis}1": limit, f"{other}0": 0, f"{other}1": 1,
            f"{other}ref": "paper", "line": dict(LIMIT), "layer": "above",
            "label": {"text": f"limit {limit:g}", "textposition": "end", "font": {"size": 11, "color": GREY}}}


def plain_layout(x: str, y: str, shapes: list[dict[str, Any]], logarithmic: bool = False) -> dict[str, Any]:
    """Return the layout of a figure with these axis titles, and whether the second axis is logarithmic."""
    axis = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#888", "ticks": "outside", "automargin": True}
    return {"height": 290, "margin": {"l": 56, "r": 14, "t": 26, "b": 44}, "showlegend": False, "hovermode": "closest",
            "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "font": {"size": 12, "color": "#1a1a1a"},
            "xaxis": axis | {"title": {"text": html.escape(x)}, "exponentformat": "SI"},
            "yaxis": axis | {"title": {"text": html.escape(y)}}
                     | ({"type": "log", "exponentformat": "power"} if logarithmic else {}), "shapes": shapes,
            "uirevision": "kept"}  # keeps the zoom when data is refreshed
