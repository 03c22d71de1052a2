"""Figures of performance profiles: the share of runs above each value."""


import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.results.compare import Comparison
from analysis.results.steps import when
from analysis.results.style import DASHES, STYLE, WIDTH, layered, legend
from analysis.statistics.aggregates import performance_profile


def draw_profile(found: Comparison, task: str, bootstrap_seed: int = 0) -> Figure:
    """Draw the performance profiles of both sides on one task: the share of runs above each return and each cost.

    A run that failed without a result is below every return and above every cost.
    """
    pairs = [[side.ranked(task, quantity) for side in (found.first, found.second)] for quantity in ("return", "cost")]
    looks = [layered(style, place, 2) | {"marker": "", "linestyle": DASHES[place]}
             for place, style in enumerate(found.looks)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.9), layout="constrained", sharey=True)
        few = False
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
                few |= profile.low is None
                if profile.low is not None and profile.high is not None:
                    axis.fill_between(thresholds, profile.low, profile.high, step="post", alpha=0.18, linewidth=0,
                                      color=style["color"])
            axis.set_xlabel(f"{name} τ")
        axes[0].set_ylabel(f"share of runs above τ\n{task}")
        legend(figure, [Line2D([], [], label=f"{side.name}, n = {len(side.ranked(task, 'return'))}", **style)
                        for side, style in zip((found.first, found.second), looks, strict=True)], 2)
        failed = sum(int(np.isinf(values).sum()) for values in pairs[0])
        parts = [when(found.first.on(task)), "ticks: runs",
                 *[f"without a result: {failed}, below every return and above every cost"] * bool(failed),
                 "no band: fewer than 10 runs" if few else "band: 95% percentile bootstrap, point by point"]
        figure.suptitle("; ".join(parts), fontsize=6)
    return figure
