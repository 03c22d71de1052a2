"""Show a sweep's progress: a live table in a terminal, plain lines elsewhere, and a summary at the end."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from algd.logging.console import duration, is_live, number, spelled
from launchers.states import RunState

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"running": "green", "finished": "dim", "failed": "red", "lost": "red", "queued": "yellow"}
REDRAW_SECONDS, PLAIN_SECONDS = 1.0, 30.0
ROWS = 30


@dataclass(frozen=True)
class Line:
    """A row of the table: a run, its state according to the launcher, and the state in its folder."""

    folder: Path
    state: str
    folder_state: RunState
    note: str = ""


def say(text: str) -> None:
    """Print a line to standard error; a closed stream is not an error."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(spelled(text, sys.stderr) + "\n")
        sys.stderr.flush()


def shown_path(path: Path) -> str:
    """Return a path relative to the working directory if possible, and safe to print."""
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    # File names may contain terminal control characters.
    return str(path) if str(path).isprintable() else ascii(str(path))


def cells(line: Line) -> list[str]:
    """Return a row's cells: run, state, step, updates/s, time left, and a note or the reason of a failure."""
    state = line.folder_state
    share = f"{max(state.step, 0)}/{state.total_steps}" if state.total_steps else "-"
    running = line.state == "running"
    left = None
    if running and state.seconds_per_step and state.total_steps:
        left = state.seconds_per_step * (state.total_steps - state.step)
    return ["/".join(line.folder.parts[-3:]), line.state, share, number(state.updates_per_second),
            duration(left), line.note or (state.reason or "" if line.state in ("failed", "lost") else "")]


HEADINGS = ("run", "state", "step", "updates/s", "time left", "")


def as_text(lines: Sequence[Line]) -> str:
    """Format the table as plain text, one run per line."""
    rows = [list(HEADINGS), *(cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def as_data(line: Line) -> dict[str, Any]:
    """Return a row as JSON data."""
    state = line.folder_state
    return {"run": str(line.folder), "state": line.state, "step": state.step, "total_steps": state.total_steps,
            "updates_per_second": state.updates_per_second, "seconds": state.seconds, "reason": state.reason,
            "note": line.note}


def many(count: int, noun: str) -> str:
    """Format a count with its noun: "1 run", "2 runs"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def counted(states: Sequence[str]) -> str:
    """Format the number of runs in each state."""
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))


class Board:
    """A context manager that shows a sweep's progress.

    Args:
        title: the sweep's name.
    """

    def __init__(self, title: str):
        self.title = title
        self._live: Any = None
        self._due = 0.0
        self._seconds = REDRAW_SECONDS if is_live(sys.stderr) else PLAIN_SECONDS

    def __enter__(self) -> "Board":
        if is_live(sys.stderr):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=sys.stderr, highlight=False), auto_refresh=False,
                              redirect_stdout=False, redirect_stderr=True)
            self._live.start()
            self._live.console.show_cursor(True)  # Live hides it; after a kill it would stay hidden.
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()

    @property
    def due(self) -> bool:
        """Whether it is time to draw again."""
        return time.monotonic() >= self._due

    def show(self, lines: Sequence[Line], seconds_left: float | None) -> None:
        """Draw the sweep's current state."""
        self._due = time.monotonic() + self._seconds
        left = f"; {duration(seconds_left)} left" if seconds_left else ""
        summary = f"{self.title}: {counted([line.state for line in lines])}{left}"
        if self._live is None:
            say(summary)
            return
        with contextlib.suppress(OSError, ValueError):
            self._live.update(drawn(lines, summary), refresh=True)


def drawn(lines: Sequence[Line], title: str) -> "Table":
    """Return the live table: running and failed runs first, as many rows as fit."""
    from rich.table import Table
    from rich.text import Text

    order = {"running": 0, "failed": 1, "lost": 1, "interrupted": 2, "queued": 3, "new": 4}
    chosen = sorted(lines, key=lambda line: order.get(line.state, 5))[:max(min(ROWS, terminal_rows() - 6), 3)]
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for line in chosen:
        table.add_row(*(Text(cell) for cell in cells(line)), style=STYLES.get(line.state, ""))
    if len(chosen) < len(lines):
        table.add_row(f"and {len(lines) - len(chosen)} more")
    return table


def terminal_rows() -> int:
    """Return the height of the terminal in lines."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).lines
    except (OSError, ValueError):
        return 24


def summary(title: str, states: Mapping[Path, str], reasons: Mapping[Path, str | None], skipped: int,
            log: str) -> str:
    """Return a sweep's final summary: the number of runs in each state, and the reasons of failures."""
    count = counted(list(states.values()))
    before = f" ({skipped} already finished)" if skipped else ""
    lines = [f"{title}: {many(len(states), 'run')}: {count}{before}"]
    for folder, state in states.items():
        if state not in ("finished", "queued"):
            lines.append(f"  {state}: {shown_path(folder)}" + (f": {reasons[folder]}" if reasons.get(folder) else ""))
            if state in ("failed", "lost"):
                lines.append(f"    log: {shown_path(folder / log)}")
    return "\n".join(lines)
