"""Images embedded in the page: printed figures, landscapes, videos."""

import base64
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from algd.errors import UsageError
from analysis.report.grids import short_name
from analysis.results.curves import curvature_columns, draw, draw_curvature
from analysis.results.style import STYLE
from analysis.results.table import Table
from analysis.runs.model import Run

VIDEO_BYTES = 8_000_000  # largest embedded video
VIDEOS_BYTES = 40_000_000  # largest total of embedded videos


@dataclass(frozen=True)
class Picture:
    """An image or a video as a data: address, empty if it is too large, and its caption."""

    address: str
    caption: str


def printed_curves(table: Table, quantities: Sequence[str], smooth: int, sampler: str) -> Iterable[Picture]:
    """Draw the figures of the command `curves` for one family, for each quantity that was logged."""
    for quantity in quantities:
        try:
            figure = draw(table.cells, table.columns, quantity, smooth, sampler=sampler)
        except UsageError:
            continue  # not logged: leave it out without a message
        yield _picture(figure, f"{quantity}, family {table.family}")


def curvatures(table: Table) -> Iterable[Picture]:
    """Draw the curvature figures, one for each noise level that the family's runs logged."""
    levels = {name.split("_")[2] for name in curvature_columns(run for cell in table.cells for run in cell.runs)}
    for level in sorted(levels):
        yield _picture(draw_curvature(table.cells, level),
                       f"curvature at {level}, family {table.family}: smallest eigenvalue of the action-Hessian")


def landscapes(tables: Sequence[Table], count: int) -> Iterable[Picture]:
    """Draw landscapes of the first `count` cells with snapshots: their first seed with snapshots, at one state."""
    chosen = [run for table in tables for cell in table.cells
              for run in [next((run for run in cell.runs if any((run.folder / "snapshots").glob("step=*"))), None)]
              if run is not None]
    if count and chosen:
        # Imported here, because only landscapes need torch.
        from analysis.results.landscape import pictures

        for run in chosen[:count]:
            try:
                drawn = list(pictures(run.folder, states=1))
            except UsageError as error:  # such as an environment whose code is not trusted
                print(f"warning: no landscape of {run.folder}: {error}", file=sys.stderr)
                continue
            for figure, name in drawn:
                yield _picture(figure, name.removeprefix("landscape_"))


def videos(runs: Sequence[Run]) -> Iterable[Picture]:
    """Embed the runs' videos, up to the size limits."""
    total = 0
    for run in runs:
        for file in sorted((run.folder / "videos").glob("*.mp4")):
            if not file.is_file():
                continue
            size = file.stat().st_size
            caption = f"{short_name(run.folder)}: {file.name}"
            if size > VIDEO_BYTES or total + size > VIDEOS_BYTES:
                yield Picture("", f"{caption} is too large for this page ({size / 1e6:.1f} MB).")
                continue
            total += size
            yield Picture(data_address("video/mp4", file.read_bytes()), caption)


def _picture(figure: Figure, caption: str) -> Picture:
    data = io.BytesIO()
    with plt.rc_context(STYLE):
        figure.savefig(data, format="png", metadata={"Software": None})
    plt.close(figure)
    return Picture(data_address("image/png", data.getvalue()), caption)


def data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
