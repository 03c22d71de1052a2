"""How all figures of results look: sizes, palette, an algorithm's colour and dashes, and how a figure is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from algd.errors import UsageError

WIDTH = 3.4  # inches, one column of a paper
# Okabe and Ito's palette, which people of every kind of colour vision tell apart, without its yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)))
# An algorithm looks the same in every figure, whoever else is in it: the colour is its guidance, the dashes its agent.
GUIDANCES = {"augmented": PALETTE[0], "plain": PALETTE[1], "pid": PALETTE[2], "none": PALETTE[6]}
AGENTS = {"vesde": DASHES[0], "ddpm": DASHES[1], "gaussian": DASHES[2]}
UNKNOWN = PALETTE[3:6]
LIMIT: Any = {"color": "0.35", "linewidth": 0.8, "linestyle": (0, (2, 2))}
STYLE: Any = {
    "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "figure.dpi": 100, "savefig.dpi": 250, "pdf.fonttype": 42,
    "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5, "hatch.color": PALETTE[3],
}


def look(column: Sequence[str], keys: Sequence[str], columns: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A line's colour and dashes: the algorithm's own where the keys name one, else by its place among the columns."""
    named = dict(zip(keys, column, strict=True))
    agent, guidance = named.get("agent", "vesde"), named.get("guidance")
    if set(keys) <= {"agent", "guidance"} and guidance in GUIDANCES and agent in AGENTS:
        return {"color": GUIDANCES[guidance], "linestyle": AGENTS[agent]}
    palette = UNKNOWN if "guidance" in named and "agent" in named else PALETTE
    place = list(columns).index(column)
    return {"color": palette[place % len(palette)], "linestyle": DASHES[place // len(palette) % len(DASHES)]}


def write(figure: Figure, name: str, out: Path) -> list[Path]:
    """The figure as PNG and PDF in a folder, which is made if it is not there; without dates in it.

    Raises:
        UsageError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: this folder cannot be made ({error.strerror})") from error
    files = [out / f"{name}.{ending}" for ending in ("png", "pdf")]
    with plt.rc_context(STYLE):
        for file in files:
            figure.savefig(file, metadata={"Software": None} if file.suffix == ".png" else {"CreationDate": None})
    plt.close(figure)
    return files
