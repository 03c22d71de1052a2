"""Figures of performance profiles: the share of runs above each value."""

from collections.abc import Sequence
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.results.compare import Comparison
from analysis.results.steps import waiting, when
from analysis.results.style import DASHES, STYLE, WIDTH, layered, legend
from analysis.statistics.aggregates import performance_profile


def draw_profile(found: Comparison, task: str, sampler: str, bootstrap_seed: int = 0) -> Figure:
    """Draw the performance profiles of both sides on one task: the share of runs above each return and each cost.

    A run that failed without a result is below every return and above every cost; one that may still get a result is
    not drawn, and the figure says so.
    """
    pairs = [[side.ranked(task, quantity) for side in (found.first, found.second)] for quantity in ("return", "cost")]
    looks = [layered(style, place, 2) | {"marker": "", "linestyle": DASHES[place]}
             for place, style in enumerate(found.looks)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.9), layout="constrained", sharey=True)
        bands = []
        for axis, name, pair in zip(axes, ("return", "cost"), pairs, strict=True):
            finite = np.concatenate([values[np.isfinite(values)] for values in pair])
            low, high = finite.min(), finite.max()
            margin = 0.05 * (high - low) or 1.0
            thresholds = np.linspace(low - margin, high + margin, 301)
            for values, style in zip(pair, looks, strict=True):
                profile = performance_profile([values], thresholds, bootstrap_seed)
                axis.step(thresholds, profile.share, where="post", **style)
                known = values[np.isfinite(values)]
                axis.plot(known, np.full(len(known), -0.03), "|", markersize=4, color=style["color"], clip_on=False)
                bands.append(profile.low is not None)
                if profile.low is not None and profile.high is not None:
                    axis.fill_between(thresholds, profile.low, profile.high, step="post", alpha=0.18, linewidth=0,
                                      color=style["color"])
            axis.set_xlabel(f"{name} τ")
        axes[0].set_ylabel(f"share of runs above τ\n{task}")
        legend(figure, [Line2D([], [], label=f"{side.name}, n = {len(side.ranked(task, 'return'))}", **style)
                        for side, style in zip((found.first, found.second), looks, strict=True)], 2)
        failed = sum(int(np.isinf(values).sum()) for values in pairs[0])
        unfinished = sum(map(waiting, [*found.first.on(task), *found.second.on(task)]))
        parts = [f"{sampler} evaluations, {when([*found.first.on(task), *found.second.on(task)])}", "ticks: runs",
                 *[f"without a result: {failed}, below every return and above every cost"] * bool(failed),
                 *[f"unfinished and not drawn: {unfinished}"] * bool(unfinished), band_said(bands)]
        figure.suptitle("\n".join(wrap("; ".join(parts), 78)), fontsize=6)
    return figure


def band_said(bands: Sequence[bool]) -> str:
    """Say what the bands of profiles are, and whether all lines have one."""
    if not any(bands):
        return "no band: fewer than 10 runs"
    return "band: 95% percentile bootstrap" + ("" if all(bands) else "; none for fewer than 10 runs")
