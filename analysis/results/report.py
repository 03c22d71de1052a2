"""One HTML file about a set of runs that needs nothing else: no network, no scripts, no other file.

Whatever comes from the runs (names, reasons of failure, commands) is escaped, and the page's own policy forbids it to
load or run anything.
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from algd.errors import UsageError
from analysis.results.curves import curvature_columns, draw, draw_curvature
from analysis.results.style import STYLE
from analysis.results.table import DETAILS, Table, details, grid, number
from analysis.runs.model import Run
from analysis.runs.select import differing_keys

VIDEO_BYTES = 8_000_000  # of one video that is put into the page
VIDEOS_BYTES = 40_000_000  # of all of them
CURVES = ("return", "cost", "lam", "constraint")
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
COLOURS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; border-bottom: 1px solid #ccc; margin-top: 2.5rem; }
h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; font-size: .87rem; }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
td.long { white-space: normal; }
img { max-width: 34rem; width: 100%; } video { width: 16rem; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; } figcaption { font-size: .85rem; color: #444; }
.finished { color: #00653f; } .failed { color: #a02c00; font-weight: bold; } .running, .starting { color: #0059a0; }
.interrupted, .unknown, .absent { color: #6b5900; }
code { font-size: .85rem; white-space: pre-wrap; word-break: break-all; }
ul.notes { font-size: .87rem; color: #333; }
"""


@dataclass(frozen=True)
class Pictured:
    """A figure as PNG, and the words below it."""

    png: bytes
    caption: str


def page(title: str, runs: Sequence[Run], tables: Sequence[Table], absent: Sequence[Path],
         landscapes: Sequence[Pictured], sweep: dict[str, Any] | None = None, smooth: int = 1) -> str:
    """The whole page.

    Args:
        title: what the runs are.
        runs: all of them.
        tables: of `analysis.results.table.tables` over them.
        absent: members of a sweep without a folder.
        landscapes: pictures of trained agents.
        sweep: the content of the sweep's file, if the runs are one's.
        smooth: values that curves average.
    """
    parts = [
        _overview(runs, absent, sweep),
        "<h2>Tables</h2>" + "".join(_table(one) for one in tables),
        "<h2>Curves</h2>" + "".join(_figure(one) for one in curves(tables, smooth)),
        "<h2>Landscapes</h2>" + ("".join(_figure(one) for one in landscapes) or
                                 _p("None of the runs has networks to draw them from, or none was asked for.")),
        "<h2>Videos</h2>" + _videos(runs),
        "<h2>What failed</h2>" + _failures(runs),
        "<h2>Configurations</h2>" + _configurations(runs),
        "<h2>Versions and commands</h2>" + _provenance(runs, sweep),
        "<h2>How the numbers were computed</h2>" + "".join(
            f"<h3>Family: {_e(one.family)}</h3><ul class=notes>" + "".join(f"<li>{_e(note)}</li>" for note in one.notes)
            + "</ul>" for one in tables) + _p(
            "Interquartile mean: the mean without the ⌊n/4⌋ lowest and as many highest of n seeds. Interval: the "
            "bootstrap's standard error (2000 seeded resamples, stratified by task), times √(n/(n − tasks)) and "
            "Student's quantile for n − tasks degrees of freedom, unless the note says percentile. CVaR 0.1: the mean "
            "of the worst tenth of an evaluation's episode costs."),
    ]
    return ("<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            f"<title>{_e(title)}</title><style>{COLOURS}</style></head><body><h1>{_e(title)}</h1>"
            + "\n".join(parts) + "</body></html>\n")


def curves(tables: Sequence[Table], smooth: int = 1) -> Iterable[Pictured]:
    """The curves that the runs have, family by family."""
    for table in tables:
        for quantity in CURVES:
            try:
                figure = draw(table.cells, table.columns, quantity, smooth)
            except UsageError:
                continue  # nobody logged it, and a page says nothing of what there never was
            yield _pictured(figure, f"{quantity}, family {table.family}")
        levels = {name.split("_")[2] for name in curvature_columns(run for cell in table.cells for run in cell.runs)}
        for level in sorted(levels):
            yield _pictured(draw_curvature(table.cells, level),
                            f"curvature at {level}, family {table.family}: smallest eigenvalue of the action-Hessian")


def landscapes(tables: Sequence[Table], count: int) -> Iterable[Pictured]:
    """Landscapes of the first `count` cells that have snapshots: their first seed at one state."""
    chosen = [run for table in tables for cell in table.cells
              for run in [next((one for one in cell.runs if any((one.folder / "snapshots").glob("step=*"))), None)]
              if run is not None]
    if count and chosen:
        from analysis.results.landscape import pictures

        for run in chosen[:count]:
            for figure, name in pictures(run.folder, 1, None, None, False, None, None, None, 12):
                yield _pictured(figure, name.removeprefix("landscape_"))


def _pictured(figure: Figure, caption: str) -> Pictured:
    data = io.BytesIO()
    with plt.rc_context(STYLE):
        figure.savefig(data, format="png", metadata={"Software": None})
    plt.close(figure)
    return Pictured(data.getvalue(), caption)


# --- parts of the page ---------------------------------------------------------------------------------------------


def _e(text: object) -> str:
    return html.escape(str(text))


def _p(text: str) -> str:
    return f"<p>{_e(text)}</p>"


def _rows(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already."""
    return ("<div class=wide><table><tr>" + "".join(f"<th>{one}</th>" for one in header) + "</tr>" + "".join(
        "<tr>" + "".join(f"<td>{one}</td>" for one in line) + "</tr>" for line in lines) + "</table></div>")


def _state(state: str) -> str:
    return f"<span class='{_e(state)}'>{_e(state)}</span>"


def _name(run: Run) -> str:
    return "/".join(run.folder.parts[-3:])


def _overview(runs: Sequence[Run], absent: Sequence[Path], sweep: dict[str, Any] | None) -> str:
    """The grid and its state."""
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    said = ", ".join(f"{count} {_state(state)}" for state, count in sorted(counts.items()))
    head = f"<p>{len(runs)} runs: {said}" + (f", {len(absent)} <span class=absent>not started</span>" if absent else "")
    if sweep:
        head += f". Sweep {_e(sweep.get('name', ''))}, started {_e(sweep.get('time', ''))}"
    lines = [[_e(_name(run)), _state(run.state), _e(f"{run.step if run.step is not None else '–'} of "
                                                   f"{run.config.get('total_steps', '–')}"),
              _e("–" if run.last is None else number(run.last.mean_return)),
              _e("–" if run.last is None else number(run.last.mean_cost)), _e(number(run.limit)),
              {True: "yes", False: "no", None: "–"}[run.feasible]] for run in runs]
    lines += [[_e("/".join(one.parts[-3:])), _state("absent"), "–", "–", "–", "–", "–"] for one in absent]
    return head + ".</p>" + _rows(["run", "state", "step", "return", "cost", "limit", "feasible"], lines)


def _table(table: Table) -> str:
    header, lines = grid(table, "[{}, {}]", ("<b>", "</b>"), " †", _e)
    more = [[_e(one) for one in details(cell)] for cell in table.cells]
    return (f"<h3>Family: {_e(table.family)}</h3>" + _rows(header, lines)
            + _rows([_e(one) for one in (*table.rows, *table.columns, *DETAILS)], more))


def _figure(one: Pictured) -> str:
    data = base64.b64encode(one.png).decode()
    return (f'<figure><img alt="{_e(one.caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_e(one.caption)}</figcaption></figure>")


def _videos(runs: Sequence[Run]) -> str:
    parts, total = [], 0
    for run in runs:
        for file in sorted((run.folder / "videos").glob("*.mp4")):
            if not file.is_file():
                continue
            size = file.stat().st_size
            caption = _e(f"{_name(run)}: {file.name}")
            if size > VIDEO_BYTES or total + size > VIDEOS_BYTES:
                parts.append(f"<p>{caption} is too large for this page ({size / 1e6:.1f} MB).</p>")
                continue
            total += size
            data = base64.b64encode(file.read_bytes()).decode()
            parts.append(f'<figure><video controls muted src="data:video/mp4;base64,{data}"></video>'
                         f"<figcaption>{caption}</figcaption></figure>")
    return "".join(parts) or _p("The runs have none; eval.video=true records them.")


def _failures(runs: Sequence[Run]) -> str:
    failed = [run for run in runs if run.state == "failed"]
    if not failed:
        return _p("Nothing.")
    return _rows(["run", "reason"], [[_e(_name(run)), f"<code>{_e(run.reason or 'not recorded')}</code>"]
                                     for run in failed])


def _configurations(runs: Sequence[Run]) -> str:
    keys = ["seed", *differing_keys([run.config for run in runs])]
    lines = [[_e(_name(run)), *(_e(run.config.get(key, "–")) for key in keys)] for run in runs]
    return _p("The keys in which the runs differ.") + _rows(["run", *map(_e, keys)], lines)


def _provenance(runs: Sequence[Run], sweep: dict[str, Any] | None) -> str:
    """Each distinct set of versions, commit and host once, with how many starts had it; then every command."""
    found: dict[tuple[str, str, str], int] = {}
    commands: dict[str, None] = {}
    if sweep and sweep.get("command"):
        commands[str(sweep["command"])] = None
    for run in runs:
        for start in _starts(run):
            versions = start.get("versions") if isinstance(start.get("versions"), dict) else {}
            assert isinstance(versions, dict)
            commit = str(start.get("commit") or "unknown")[:12] + (" with changes" if start.get("diff") else "")
            spelled = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
            key = (commit, str(start.get("host", "")), f"python {start.get('python', '')}, {spelled}")
            found[key] = found.get(key, 0) + 1
            if start.get("command"):
                commands[str(start["command"])] = None
    lines = [[str(count), *map(_e, key)] for key, count in sorted(found.items())]
    return (_rows(["starts", "commit", "host", "versions"], lines).replace("<td>python", "<td class=long>python")
            + "".join(f"<p><code>{_e(command)}</code></p>" for command in commands))


def _starts(run: Run) -> list[dict[str, Any]]:
    try:
        starts = json.loads((run.folder / "meta.json").read_bytes())["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not isinstance(starts, list):
        return []
    return [start for start in starts if isinstance(start, dict)]
