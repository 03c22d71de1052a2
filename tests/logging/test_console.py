"""Console output: plain lines in a pipe, a panel in a real pseudo-terminal."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from algd.budget import Budget
from algd.logging.console import Console, duration, flow, number

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import sys, time
from algd.budget import Budget
from algd.logging.console import Console

console = Console(1000, Budget(limit=25.0, kind="episode", horizon=400))
print("first words")
for step in range(0, 501):
    console.update(step=step, updates_per_second=123.4, episode_return=7.25, episode_cost=30.0, lam=0.693,
                   seconds_left=3725.0)
console.evaluation(500, "deterministic", 9.5, 20.0, True)
console.warn("the server [does] not answer")
print("printed meanwhile")
time.sleep(0.3)
console.update(step=1000, updates_per_second=123.4, episode_return=8.25, episode_cost=12.5, lam=0.693, seconds_left=0.0)
console.close()
console.close()
console.say("said at the end")
print("last words")
"""
BUDGET = Budget(limit=25.0, kind="episode", horizon=400)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Stream(io.StringIO):
    """A pipe whose output is kept, which has an encoding and can break."""

    encoding = "utf-8"
    broken = False

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)} | changes


def in_terminal(columns: int, **changes: str) -> str:
    """Return what the session writes to a pseudo-terminal with this number of columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", SESSION], stdin=theirs, stdout=theirs, stderr=theirs,
                               env=environment(**changes))
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            written += os.read(ours, 65536)
        except OSError:  # Linux's error when the other end is closed.
            break
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


def screen(written: str) -> list[str]:
    """Return a terminal's final lines, from line feeds, carriage returns, cursor movements and erased lines."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece.endswith("A") and piece[0] == "\x1b":
            row -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece):]
            column += len(piece)
    return lines


@pytest.mark.parametrize("columns", [60, 120])
def test_terminal_shows_one_panel_and_the_lines_that_stay(columns: int) -> None:
    written = in_terminal(columns)
    shown = screen(written)
    text = "\n".join(shown)
    assert text.count("updates/s") == 1, "one panel, redrawn in place"
    for field in ("step 1000/1000 100%", "123.4 updates/s", "return 8.25", "cost 12.5 ≤ 25 per episode", "λ 0.693"):
        assert field in text
    assert "left" not in text, "a run at its end has no time left"
    assert "step 500: evaluation, deterministic: return 9.5, cost 20 ≤ 25 per episode, feasible" in text
    assert "warning: the server [does] not answer" in text
    assert shown.index("printed meanwhile") < next(n for n, line in enumerate(shown) if "updates/s" in line)
    assert shown[-3:-1] == ["said at the end", "last words"]
    panel = [line for line in shown if "updates/s" in line or "λ" in line or "━" in line]
    assert all(len(line) < columns for line in panel)
    assert written.count("\x1b[?25l") <= written.count("\x1b[?25h"), "the cursor is back"
    # While it ran the panel also showed earlier values above the budget.
    assert "cost 30 > 25 per episode" in ESCAPE.sub("", written) and "1:02:05 left" in ESCAPE.sub("", written)


def test_no_color_is_heeded() -> None:
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", in_terminal(80))
    colourless = in_terminal(80, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", colourless) and "cost 12.5 ≤ 25" in colourless


def test_dumb_terminal_gets_plain_lines() -> None:
    written = in_terminal(80, TERM="dumb")
    assert "\x1b" not in written and "updates/s" in written and "last words" in written


def test_output_to_a_file_stays_out_of_the_panel(tmp_path: Path) -> None:
    """With standard error on a terminal and standard output in a file, each gets only its own output."""
    ours, theirs = pty.openpty()
    with (tmp_path / "out.txt").open("w") as out:
        subprocess.run([sys.executable, "-c", SESSION], stdout=out, stderr=theirs, env=environment(), check=True,
                       timeout=60)
    os.close(theirs)
    os.close(ours)
    assert (tmp_path / "out.txt").read_text().splitlines() == ["first words", "printed meanwhile", "last words"]


@pytest.mark.parametrize(("encoding", "cost", "lam"), [("utf-8", "cost 30 > 25 per episode  λ 0.693", "≤"),
                                                       ("ascii", "cost 30 > 25 per episode  lambda 0.693", "<=")])
def test_pipe_gets_plain_lines(encoding: str, cost: str, lam: str) -> None:
    done = subprocess.run([sys.executable, "-c", SESSION], capture_output=True, check=True, timeout=60,
                          env=environment(PYTHONIOENCODING=encoding))
    text = done.stderr.decode(encoding)
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 5 and lines[4] == "said at the end"
    assert lines[0] == f"step 0/1000 0%  123.4 updates/s  return 7.25  {cost}  1:02:05 left"
    assert lines[1] == f"step 500: evaluation, deterministic: return 9.5, cost 20 {lam} 25 per episode, feasible"
    assert lines[2] == "warning: the server [does] not answer"
    assert lines[3].startswith("step 1000/1000 100%")


def test_values_that_do_not_exist_yet_are_dashes_and_no_multiplier_is_no_field() -> None:
    stream = Stream()
    Console(1000, Budget(limit=2.5, kind="discounted", horizon=1000), stream).update(step=-300)
    assert stream.getvalue() == "step -300/1000 0%  - updates/s  return -  cost - of 2.5 discounted  - left\n"


def test_lines_come_at_most_as_often_as_asked() -> None:
    stream = Stream()
    console = Console(10**6, BUDGET, stream, every_seconds=3600)
    for step in range(10_000):
        console.update(step=step)
    assert stream.getvalue().count("\n") == 1
    console.close()  # the newest values are not lost
    assert stream.getvalue().splitlines()[1].startswith("step 9999/")
    stream = Stream()
    console = Console(10**6, BUDGET, stream, every_seconds=0)
    for step in range(3):
        console.update(step=step)
    assert stream.getvalue().count("\n") == 3


def test_reader_that_goes_away_silences_the_console() -> None:
    stream = Stream()
    console = Console(10, BUDGET, stream, every_seconds=0)
    console.update(step=1)
    stream.broken = True
    console.update(step=2)
    console.warn("nobody hears this")
    console.close()


def test_fields_flow_into_lines_without_breaking() -> None:
    assert flow(["aaa", "bbb", "cc", "dddd"], 8) == ["aaa  bbb", "cc  dddd"]
    assert flow(["0123456789"], 4) == ["0123"]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (float("nan"), "-"), (0.0, "0"), (1234.56, "1235"),
                                             (0.00012346, "0.0001235"), (-12.345, "-12.35"), (1.5e9, "1.5e+09")])
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (3725, "1:02:05"), (90061, "1 d 1:01:01"),
                                               (None, "-"), (float("inf"), "-"), (-3.0, "0:00:00")])
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
