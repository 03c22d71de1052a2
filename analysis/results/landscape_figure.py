"""Figures of L beside L_A, with the same critics, λ and colour scale."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from algd.algorithm.curvature import ENERGIES
from analysis.results.style import PALETTE, STYLE, WIDTH
from analysis.results.survey import Floats, Landscape

ARROWS = 11  # arrows of the gradient field per dimension
SYMBOLS = {"plain": r"$L$", "augmented": r"$L_A$"}
PATHS, MEAN, BOUNDARY = PALETTE[0], PALETTE[1], STYLE["hatch.color"]
# From white to a grey on which black and the colours above are still distinguishable.
COLOURS = LinearSegmentedColormap.from_list("landscape", ["#FFFFFF", "#808080"])
STEEPER = 4.0  # the colour scale covers at most this many times the range of the flatter energy
HEIGHT = "energy above\nthe lowest (reward)"
# Maps have a frame on all four sides.
BOXED: Any = STYLE | {"axes.spines.top": True, "axes.spines.right": True}


def draw(landscapes: Sequence[Landscape]) -> Figure:
    """Draw L beside L_A, a row for each landscape; facts common to all rows are in the title."""
    first, flat = landscapes[0], len(landscapes[0].axes) == 1
    facts = [_facts(shown) for shown in landscapes]
    common = [fact for fact in facts[0] if all(fact in others for others in facts)]
    with matplotlib.rc_context(BOXED):
        figure, axes = plt.subplots(len(landscapes), len(ENERGIES), sharex=True, sharey=not flat, squeeze=False,
                                    figsize=(WIDTH, 1.2 * len(landscapes) + 0.9), layout="constrained")
        for number, (shown, row) in enumerate(zip(landscapes, axes, strict=True)):
            heights = {name: values - values.min() for name, values in shown.energies.items()}
            top = _top(heights)
            for axis, energy in zip(row, ENERGIES, strict=True):
                (_line if flat else _plane)(axis, shown, energy, heights[energy], top)
                if number == 0 or landscapes[number - 1].guide != shown.guide:
                    axis.set_title(SYMBOLS[energy] + (" (guides)" if shown.guide == energy else ""), pad=3)
            quantity = HEIGHT if flat else f"action {shown.dimensions[1] + 1} (env. units)"
            own = [fact for fact in facts[number] if fact not in common]
            row[0].set_ylabel("\n".join([*(own if len(landscapes) > 1 else []), quantity]))
            if not flat:
                over = max(height.max() for height in heights.values()) > top
                bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=row, fraction=0.06, pad=0.02,
                                      extend="max" if over else "neither")
                bar.locator = MaxNLocator(4)
                bar.set_label(HEIGHT)
        for axis in axes[-1]:
            axis.set_xlabel(f"action {first.dimensions[0] + 1} (env. units)")
        figure.legend(handles=_legend(first, flat), loc="outside lower center", ncols=2, frameon=False,
                      handlelength=1.8, columnspacing=1.0)
        figure.suptitle(", ".join(common), fontsize=7)
    return figure


def _facts(shown: Landscape) -> list[str]:
    """Return the facts that identify a landscape."""
    return [f"{shown.agent_name}, seed {shown.seed}", f"step {shown.step}", f"λ = {shown.lam:.3g}",
            f"ρ = {shown.rho:g}", f"state {shown.state_number}"]


def _top(heights: dict[str, Floats]) -> float:
    """Return the end of the common scale: the larger range of the two, but at most STEEPER times the smaller."""
    tops = [max(float(height.max()), 1e-12) for height in heights.values()]
    return min(max(tops), STEEPER * min(tops))


def _plane(axis: Axes, shown: Landscape, energy: str, height: Floats, top: float) -> None:
    """Draw one energy over two dimensions."""
    x, y = shown.axes
    axis.pcolormesh(x, y, height.T, vmin=0, vmax=top, cmap=COLOURS, shading="gouraud", rasterized=True)
    # Contours follow the panel's own range, so that a flat landscape shows its shape beside a steep one.
    axis.contour(x, y, height.T, levels=10, colors="0.4", linewidths=0.3)
    some = np.linspace(0, len(x) - 1, ARROWS + 2).round().astype(int)[1:-1]
    downhill = -shown.gradients[energy][np.ix_(some, some)]
    downhill /= np.linalg.norm(downhill, axis=-1, keepdims=True) + 1e-12
    axis.quiver(x[some], y[some], downhill[..., 0].T, downhill[..., 1].T, color="0.25", pivot="mid", angles="xy",
                scale=ARROWS * 1.7, width=0.005, headwidth=4, headlength=4, headaxislength=3.5)
    if shown.risk.max() > shown.threshold:
        axis.contourf(x, y, shown.risk.T, levels=[shown.threshold, np.inf], colors="none", hatches=["////"])
    if shown.risk.min() < shown.threshold < shown.risk.max():
        axis.contour(x, y, shown.risk.T, levels=[shown.threshold], colors=BOUNDARY, linewidths=1.5)
    for path in shown.paths:
        axis.plot(*path.T, color=PATHS, linewidth=0.6)
    axis.plot(*shown.paths[:, -1].T, "o", color=PATHS, markersize=2.6, markeredgecolor="white", markeredgewidth=0.3,
              clip_on=False, zorder=3)
    axis.plot(*shown.mean_path.T, color=MEAN, linewidth=1.2)
    axis.plot(*shown.mean_path[-1], "*", color=MEAN, markersize=6, markeredgecolor="black", markeredgewidth=0.4,
              clip_on=False, zorder=4)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))


def _line(axis: Axes, shown: Landscape, energy: str, height: Floats, top: float) -> None:
    """Draw one energy over one dimension, with the denoising paths from the top (level K) to the bottom (level 0)."""
    (x,) = shown.axes
    axis.fill_between(x, 0, 1, where=shown.risk > shown.threshold, transform=axis.get_xaxis_transform(), color="0.87",
                      linewidth=0)
    axis.plot(x, height, color="black", linewidth=1.4)
    axis.set(xlim=(x[0], x[-1]), ylim=(-0.05 * top, 1.05 * top))
    levels = axis.twinx()
    steps = np.arange(len(shown.mean_path))[::-1]
    for path in shown.paths:
        levels.plot(path[:, 0], steps, color=PATHS, linewidth=0.5)
    levels.plot(shown.paths[:, -1, 0], np.zeros(len(shown.paths)), "|", color=PATHS, markersize=6)
    levels.plot(shown.mean_path[:, 0], steps, color=MEAN, linewidth=1.2)
    levels.plot(shown.mean_path[-1:, 0], [0], "*", color=MEAN, markersize=6, markeredgecolor="black",
                markeredgewidth=0.4, clip_on=False)
    levels.set_ylim(-0.05 * max(steps[0], 1), 1.05 * max(steps[0], 1))
    levels.set_yticks(steps if energy == ENERGIES[-1] else [])
    if energy == ENERGIES[-1]:
        levels.set_ylabel("noise level of the paths")


def _legend(shown: Landscape, flat: bool) -> list[Any]:
    """Return the handles of the legend."""
    walks = "denoising, " if len(shown.mean_path) > 1 else ""
    samples = Line2D([], [], color=PATHS, marker="|" if flat else "o", markersize=4 if flat else 2.6, linewidth=0.8,
                     label=f"{walks}{len(shown.paths)} samples")
    mean = Line2D([], [], color=MEAN, marker="*", linewidth=1.2, markeredgecolor="black", markeredgewidth=0.4,
                  label=f"{walks}deterministic")
    budget = f"$h$ = {shown.threshold:.3g}"
    if flat:
        return [Line2D([], [], color="black", label="energy"), Patch(color="0.87", label=f"$Q_c$ > {budget}"),
                samples, mean]
    return [Line2D([], [], color="0.25", marker=r"$\rightarrow$", linewidth=0, label=r"direction of $-\nabla$ energy"),
            Patch(facecolor="white", edgecolor=BOUNDARY, hatch="////", label=f"$Q_c$ > {budget}, and its edge"),
            samples, mean]
