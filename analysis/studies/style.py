"""Style of the studies' figures: as wide as one column of a paper, with colour-blind-safe colours."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from algd.storage.files import write_atomically

WIDTH = 3.4  # one column, in inches
BLACK, ORANGE, BLUE, GREEN, RED, SKY, PINK, YELLOW, GREY = (
    "#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#B8A800", "#777777")
COLOURS = (ORANGE, BLUE, GREEN, RED, SKY, PINK, YELLOW, GREY, BLACK)
MARKERS = "osD^vPX<>"
STYLE: Any = {
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 7.5, "legend.fontsize": 6.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.1,
    "lines.markersize": 3, "figure.dpi": 100, "savefig.dpi": 220,
}


def write(folder: Path, figures: Mapping[str, Callable[[], Figure | None]]) -> None:
    """Draw each figure and write it as <name>.png, unless it is None."""
    with matplotlib.rc_context(STYLE):
        for name, draw in figures.items():
            if (figure := draw()) is not None:
                content = io.BytesIO()
                figure.savefig(content, format="png", metadata={"Software": None})
                write_atomically(folder / f"{name}.png", content.getvalue())
