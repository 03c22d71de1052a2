"""Performance profiles as figures: the share of runs above each value."""


import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.results.compare import Comparison
from analysis.results.style import STYLE, WIDTH
from analysis.statistics.aggregates import performance_profile


def draw_profile(found: Comparison, task: str, bootstrap_seed: int = 0) -> Figure:
    """Performance profiles of both sides on one task: the share of runs above each return and each cost."""
    pairs = [[side.values(task, quantity) for side in (found.first, found.second)] for quantity in ("return", "cost")]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.9), layout="constrained", sharey=True)
        for axis, name, pair in zip(axes, ("return", "cost"), pairs, strict=True):
            low, high = min(map(np.min, pair)), max(map(np.max, pair))
            margin = 0.05 * (high - low) or 1.0
            thresholds = np.linspace(low - margin, high + margin, 301)
            for values, style in zip(pair, found.looks, strict=True):
                profile = performance_profile([values], thresholds, bootstrap_seed)
                axis.step(thresholds, profile.share, where="post", linewidth=1.1, **style)
                if profile.low is not None and profile.high is not None:
                    axis.fill_between(thresholds, profile.low, profile.high, step="post", alpha=0.18, linewidth=0,
                                      color=style["color"])
            axis.set_xlabel(f"{name} τ")
        axes[0].set_ylabel(f"share of runs above τ\n{task}")
        figure.legend(handles=[Line2D([], [], label=f"{side.name}, n = {len(side.values(task, 'return'))}", **style)
                               for side, style in zip((found.first, found.second), found.looks, strict=True)],
                      loc="outside lower center", ncols=2, frameon=False)
    return figure
