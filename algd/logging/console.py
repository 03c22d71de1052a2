"""The console output of a run: a live panel on a terminal, plain lines elsewhere."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from algd.budget import Budget
from algd.secrets import redacted
from algd.streams import discard_output

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

REDRAW_SECONDS = 0.25
WIDEST = 100
SEPARATOR = "  "
PLAIN_WORDS = {"λ": "lambda", "≤": "<=", "━": "#", "─": "-", "…": "..."}
KINDS = {"episode": "per episode", "discounted": "discounted"}


# step, updates per second, return, cost in the budget's kind, λ, seconds left; a tuple, since one is made at every step
Values = tuple[int, float | None, float | None, float | None, float | None, float | None]


def is_live(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown", "")


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream's encoding has the few characters beyond ASCII that the console uses."""
    try:
        "".join(PLAIN_WORDS).encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def spelled(text: str, stream: TextIO) -> str:
    """The text in the stream's encoding; other characters become words or question marks."""
    if not speaks_unicode(stream):
        for character, word in PLAIN_WORDS.items():
            text = text.replace(character, word)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def number(value: float | None) -> str:
    """A value in about four significant digits; "-" if there is none yet."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss, with days in front where there are any; "-" if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"


def flow(fields: Sequence[str], width: int) -> list[str]:
    """The fields in order in as few lines as possible; a field is cut only if it alone is too wide."""
    lines: list[str] = []
    for field in fields:
        if lines and len(lines[-1]) + len(SEPARATOR) + len(field) <= width:
            lines[-1] += SEPARATOR + field
        else:
            lines.append(field[:width])
    return lines


def answer(path: Path) -> None:
    """Print a command's only line on standard output, for programs; messages for people go to standard error."""
    try:
        print(path, flush=True)
    except OSError:
        # The reader is gone, or the disk is full: the command should not fail for that.
        discard_output()


class Console:
    """Shows a run while it trains.

    On a terminal a panel is redrawn in place, a few times a second at most. Anywhere else (a pipe, a file, TERM=dumb)
    plain lines without control codes are written: at the first update, then every `every_seconds`, and at every
    evaluation. A reader that goes away (`| head`) silences the console; it never ends the run.

    Args:
        total_steps: environment steps that the run will take.
        budget: the allowed cost.
        stream: where to write; standard error by default.
        every_seconds: seconds between two plain lines.
    """

    def __init__(self, total_steps: int, budget: Budget, stream: TextIO | None = None, every_seconds: float = 30.0):
        self.total_steps, self.budget = total_steps, budget
        self.stream = sys.stderr if stream is None else stream
        self._seconds = REDRAW_SECONDS if is_live(self.stream) else every_seconds
        self._due = -math.inf
        self._latest: Values = (0, None, None, None, None, None)
        self._shown = True
        self._closed = False
        self._live = start_panel(self) if is_live(self.stream) else None

    def update(self, step: int, updates_per_second: float | None = None, episode_return: float | None = None,
               episode_cost: float | None = None, lam: float | None = None, seconds_left: float | None = None) -> None:
        """Take the newest values; draw them if the last drawing is old enough. Cheap enough for every step.

        Args:
            step: environment steps taken so far; at most 0 while the initial steps last.
            updates_per_second: gradient updates per second.
            episode_return: return of the last training episode.
            episode_cost: its cost in the budget's kind (`Budget.spent`).
            lam: the multiplier λ.
            seconds_left: estimated seconds to the end.

        A value that does not exist (yet) is None.
        """
        self._latest = (step, updates_per_second, episode_return, episode_cost, lam, seconds_left)
        self._shown = False
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._seconds
            self._draw()

    def evaluation(self, step: int, sampler: str, mean_return: float, mean_spent: float, feasible: bool) -> None:
        """Print a line that stays: the means over one evaluation's episodes, the cost in the budget's kind."""
        self.say(f"step {step}: evaluation, {sampler}: return {number(mean_return)}, {self._cost(mean_spent)}, "
                 f"{'feasible' if feasible else 'over the budget'}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._line(text, style="")

    def warn(self, text: str) -> None:
        """Print a warning as a line that stays."""
        self._line(f"warning: {redacted(text)}", style="yellow")  # a sweep keeps the output in the run's folder

    def close(self) -> None:
        """Show the last values and leave the terminal as it was. A second call does nothing."""
        if self._closed:
            return
        if not self._shown:
            self._draw()
        self._closed = True
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()

    def fields(self) -> list[str]:
        """The newest values as text, field by field."""
        step, updates_per_second, episode_return, episode_cost, lam, seconds_left = self._latest
        fields = [f"step {step}/{self.total_steps} {math.floor(100 * self._share())}%",
                  f"{number(updates_per_second)} updates/s", f"return {number(episode_return)}",
                  self._cost(episode_cost)]
        if lam is not None:
            fields.append(f"λ {number(lam)}")
        if step < self.total_steps:
            fields.append(f"{duration(seconds_left)} left")
        return fields

    def panel(self, width: int) -> "Text":
        """The live panel: the fields over a bar of the share of steps taken, within `width` columns.

        The bar is red while the last episode's cost is over the budget.
        """
        from rich.text import Text

        columns = max(min(width - 1, WIDEST), 1)
        text = Text(no_wrap=True, overflow="crop")
        for line in flow([spelled(field, self.stream) for field in self.fields()], columns):
            text.append(line + "\n")
        done = round(columns * self._share())
        spent = self._latest[3]
        over = spent is not None and spent > self.budget.limit
        text.append(spelled("━", self.stream) * done, style="red" if over else "green")
        return text.append(spelled("─", self.stream) * (columns - done), style="dim")

    def _share(self) -> float:
        return min(max(self._latest[0], 0) / max(self.total_steps, 1), 1.0)

    def _cost(self, spent: float | None) -> str:
        relation = "of" if spent is None or math.isnan(spent) else "≤" if spent <= self.budget.limit else ">"
        return f"cost {number(spent)} {relation} {number(self.budget.limit)} {KINDS[self.budget.kind]}"

    def _draw(self) -> None:
        self._shown = True
        if self._live is None:
            self._line(SEPARATOR.join(self.fields()), style="")
        elif not self._closed:
            with contextlib.suppress(OSError, ValueError):  # The reader went away, or the stream was closed.
                self._live.update(self.panel(self._live.console.width), refresh=True)

    def _line(self, text: str, style: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._live is None or self._closed:
                self.stream.write(spelled(text, self.stream) + "\n")
                self.stream.flush()
            else:
                self._live.console.print(spelled(text, self.stream), style=style, markup=False, highlight=False,
                                         soft_wrap=True)


def start_panel(console: Console) -> "Live":
    """A live display on the console's stream, redrawn only on demand."""
    from rich.console import Console as Terminal
    from rich.live import Live
    from rich.text import Text

    terminal = Terminal(file=console.stream, force_terminal=True, highlight=False)
    # Output to the same terminal moves above the panel; output to a file must stay there.
    live = Live(Text("starting"), console=terminal, auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty())
    live.start()
    terminal.show_cursor(True)  # Live hides it, and a killed run would leave the terminal without a cursor.
    return live
