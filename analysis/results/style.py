"""The style of all figures of results: sizes, palette, the line style of an algorithm, and writing to files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from algd.errors import UsageError
from algd.storage.files import write_atomically

WIDTH = 3.4  # one column of a paper, in inches
# Okabe and Ito's colour-blind-safe palette without its yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2)))
MARKERS = "os^DvPX"
# An algorithm has the same style in every figure: colour and marker for the guidance, dashes for the agent. Markers are
# needed because the colours are nearly the same in greyscale.
GUIDANCES = {"augmented": 0, "plain": 1, "pid": 2, "none": 6}
AGENTS = {"vesde": DASHES[0], "ddpm": DASHES[1], "gaussian": DASHES[2]}
UNKNOWN = (3, 4, 5)
LIMIT: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (2, 2)), "zorder": 5,
              "path_effects": [withStroke(linewidth=1.8, foreground="white")]}
STYLE: Any = {
    "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "figure.dpi": 100, "savefig.dpi": 250, "pdf.fonttype": 42,
    "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5, "hatch.color": PALETTE[3],
}


LINE = 0.14  # height of a line of a legend, in inches
LINES = 4  # lines of a legend for which figures have room


def look(column: Sequence[str], keys: Sequence[str], columns: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a line's colour, marker and dashes: fixed for a known algorithm, else by its position in the columns.

    Args:
        column: values of the column keys.
        keys: column keys.
        columns: all columns of the figure.
    """
    named = dict(zip(keys, column, strict=True))
    agent, guidance = named.get("agent", "vesde"), named.get("guidance")
    if set(keys) <= {"agent", "guidance"} and guidance in GUIDANCES and agent in AGENTS:
        index, dashes = GUIDANCES[guidance], AGENTS[agent]
    else:
        places = UNKNOWN if "guidance" in named and "agent" in named else range(len(PALETTE))
        place = list(columns).index(column)
        index, dashes = places[place % len(places)], DASHES[place // len(places) % len(DASHES)]
    return {"color": PALETTE[index], "marker": MARKERS[index], "linestyle": dashes}


def layered(style: dict[str, Any], place: int, count: int) -> dict[str, Any]:
    """Adapt the style of the `place`-th of `count` lines: earlier ones are wider, with larger, hollow markers, so that
    they remain visible below later ones.
    """
    above = (count - 1 - place) * min(1.0, 3 / max(count - 1, 1))
    return style | {"linewidth": 0.9 + 0.5 * above, "markersize": 2.2 + 0.9 * above, "markeredgewidth": 0.6,
                    "markerfacecolor": "white" if above else style["color"], "zorder": 2 + place / max(count, 1)}


def legend(figure: Figure, handles: Sequence[Any], most: int = 3) -> None:
    """Add a legend below the panels, with as many columns as fit, at most `most`.

    A long one makes the figure higher.
    """
    longest = max(len(str(handle.get_label())) for handle in handles)
    across = max(1, min(most, len(handles), int(WIDTH * 20) // (longest + 8)))
    lines = -(-len(handles) // across)
    figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - LINES))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False, handlelength=2.6,
                  columnspacing=1.0)


def write(figure: Figure, name: str, out: Path) -> list[Path]:
    """Write a figure as PNG and PDF, without dates, into a folder, which is created if necessary; return the files.

    Raises:
        UsageError: the folder cannot be created.
        OSError: a file cannot be written; an earlier one of this name is left as it is.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: this folder cannot be made ({error.strerror})") from error
    # The name has that of a task or a family, which another program may have written.
    files = [out / f"{name.replace('/', '-')}.{ending}" for ending in ("png", "pdf")]
    with plt.rc_context(STYLE):
        for file in files:
            drawn, kind = io.BytesIO(), file.suffix[1:]
            figure.savefig(drawn, format=kind, metadata={"Software": None} if kind == "png" else {"CreationDate": None})
            write_atomically(file, drawn.getvalue())
    plt.close(figure)
    return files
