"""The page's tables: runs, unfinished runs, differences of configurations, and provenance."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from algd.algorithm.time_constants import configured
from algd.config.values import printable
from algd.logging.console import duration
from algd.storage.run_folder import UNKNOWN, RunFolder
from analysis.report.tasks import TaskEnd
from analysis.results.cells import number, sorting
from analysis.runs.model import Run
from analysis.runs.select import canonical, differing_keys, may_differ
from launchers.states import LOST, is_held

NONE = "–"
WAITING, UNREADABLE = "waiting", "unreadable"
# The meaning of each state, and what to do about it.
MEANING = {
    "failed": "The run ended with an error. The same command starts it again from its last checkpoint.",
    "lost": "Its process ended without reporting why: it was killed, ran out of memory or lost its machine. The same "
            "command resumes from the last checkpoint.",
    "interrupted": "It was stopped on request, at a checkpoint. The same command resumes from there.",
    UNKNOWN: "Its status.json is missing or damaged.",
    "cancelled": "It was taken out of SLURM's queue. The same command submits it again.",
    UNREADABLE: "The folder cannot be read as a run; it is in no table and no figure.",
    "pruned": "A search stopped it at a rung, where others were better. The same settings as a plain run finish it.",
    "starting": "It is being built, or takes its initial steps.",
    "running": "It trains.",
    WAITING: "A sweep lists it, and it has not started. If its SLURM task has any output, the last lines are shown.",
}
ORDER = ("running", "starting", "failed", "lost", UNREADABLE, "interrupted", "cancelled", UNKNOWN, WAITING, "pruned",
         "finished")
Link = Callable[[Path], str]


@dataclass(frozen=True)
class Entry:
    """An entry of a table.

    Attributes:
        text: the text shown.
        by: the sort key, if it is not the text.
        link: the address that it links to, if any.
        style: a class of the style sheet.
        time: ISO 8601; the page adds how long ago that was.
        share: 0 to 1, drawn as a bar behind the text.
    """

    text: str
    by: float | str | None = None
    link: str = ""
    style: str = ""
    time: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        header, lines: the columns' names, and the lines' entries.
        identifiers: names of the first lines, by which figures find them.
        filtered: whether the page offers to filter it.
        numeric: indices of right-aligned columns.
        choices: names of the columns whose values the filter offers.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[Entry]]
    identifiers: Sequence[str] = ()
    filtered: bool = False
    numeric: frozenset[int] = frozenset()
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Shown:
    """A run as the page shows it.

    Attributes:
        run: the run.
        state: its recorded state; "lost" if it is recorded as running but its lock is free, or if its SLURM task ended
            before the run began.
        why: why it did not finish, as recorded by the run or its task.
        warnings: the warnings in status.json, a sentence each.
        written: the time of its last write, ISO 8601; "" if unknown.
    """

    run: Run
    state: str
    why: str
    warnings: list[str]
    written: str


def stalled(run: Run) -> bool:
    """Return whether no process trains a run that has neither finished nor recorded why it failed."""
    # A copied folder has no lock, so only its recorded state is known.
    left = run.state in ("running", "starting") and (run.folder / "lock").exists() and not is_held(run.folder)
    return not run.source and (left or run.state in ("interrupted", UNKNOWN))


def shown(run: Run, end: TaskEnd | None = None) -> Shown:
    """Return a run as the page shows it, with what its folder holds beyond the analysed numbers.

    Args:
        run: the run.
        end: how its SLURM task ended, if known.
    """
    state, why = run.state, [run.reason or ""]
    if state in ("running", "starting") and stalled(run):
        state = LOST
    elif state == UNKNOWN and not (run.reason or run.evaluations):
        # A sweep has written the configuration, and the run has not started.
        state = end.state if end and end.state in (LOST, "cancelled") else WAITING
    if end and state != "cancelled":
        why.append(end.why)
    status = {} if run.source else RunFolder(run.folder).status()
    warnings = status.get("warnings")
    texts = [printable(str(text)) for text in warnings] if isinstance(warnings, list) else []
    return Shown(run, state, "\n".join(filter(None, why)), texts, _written(run.folder))


def _written(folder: Path) -> str:
    newest = 0.0
    for name in ("status.json", "metrics.csv", "evals.csv", "episodes.csv"):
        try:
            newest = max(newest, (folder / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds") if newest else ""


def short_name(folder: Path) -> str:
    """Return the last three parts of a run's folder, which identify it within a study."""
    return printable("/".join(folder.parts[-3:]))


def value_entry(value: float | None, text: Callable[[float], str] = number, style: str = "") -> Entry:
    """Return an entry for a number, sorted by value; unknown values and NaN sort last."""
    if value is None or math.isnan(value):
        return Entry(NONE if value is None else "NaN", math.inf)
    return Entry(text(value), value, style=style)


def rank(state: str) -> int:
    """Return a state's sort key: active runs first, then those that need attention, then the rest."""
    return ORDER.index(state) if state in ORDER else len(ORDER)


def state_entry(state: str) -> Entry:
    return Entry(state, rank(state), style=f"state {state}")


def runs_grid(runs: Sequence[Shown], waiting: Sequence[Path], unreadable: Mapping[Path, str], link: Link) -> Grid:
    """Return a table of all runs, with the keys in which runs of one task and algorithm differ."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for item in runs:
        config = item.run.config
        groups.setdefault((item.run.env, str(config["agent.name"]), str(config["guidance.name"])), []).append(item.run)
    keys = sorted({key for members in groups.values() for key in differing_keys([run.config for run in members])})
    header = ["run", "state", "step", "return", "cost", "limit", "feasible", "evaluated at", "warnings", "time left",
              "last wrote", "updates/s", "hours", "task", "agent", "guidance", "seed", *keys]
    lines, identifiers = [], []
    for place, item in enumerate(runs):
        run, last = item.run, item.run.last
        lines.append([
            Entry(short_name(run.folder), link=link(run.folder)), state_entry(item.state), _progress(run),
            value_entry(last.mean_return if last else None),
            value_entry(last.mean_cost if last else None, style="over" if run.feasible is False else ""),
            value_entry(run.limit), Entry({True: "yes", False: "no", None: NONE}[run.feasible]),
            value_entry(last.step if last else None, lambda step: f"{step:.0f}"),
            Entry(str(len(item.warnings)) if item.warnings else NONE, len(item.warnings)), _time_left(item),
            Entry(item.written or NONE, item.written, time=item.written), value_entry(run.updates_per_second),
            value_entry(run.hours), Entry(run.env), Entry(str(run.config["agent.name"])),
            Entry(str(run.config["guidance.name"])), Entry(str(run.seed), run.seed),
            *(_config_entry(run.config.get(key)) for key in keys)])
        identifiers.append(f"run-{place}")
    empty = [Entry(NONE, math.inf)] * (len(header) - 2)
    for folder, state in [*((folder, UNREADABLE) for folder in unreadable), *((folder, WAITING) for folder in waiting)]:
        lines.append([Entry(short_name(folder), link=link(folder) if state == UNREADABLE else ""), state_entry(state),
                      *empty])
    numeric = ("step", "return", "cost", "limit", "evaluated at", "warnings", "time left", "updates/s", "hours", "seed")
    return Grid(header, lines, identifiers, True, frozenset(map(header.index, numeric)),
                ("state", "task", "agent", "guidance", "feasible"))


def _progress(run: Run) -> Entry:
    total = run.config.get("total_steps")
    if run.step is None or not isinstance(total, int | float) or total <= 0:
        return Entry(NONE if run.step is None else str(run.step), -math.inf if run.step is None else run.step)
    return Entry(f"{run.step} of {total:.0f}", run.step / total, share=min(max(run.step / total, 0.0), 1.0))


def _time_left(item: Shown) -> Entry:
    """Return a running run's estimated time left, at its average seconds per step so far."""
    run = item.run
    total = run.config.get("total_steps")
    if item.state != "running" or not run.step or run.step <= 0 or not run.hours or not isinstance(total, int | float):
        return Entry(NONE, math.inf)
    seconds = run.hours * 3600 / run.step * max(total - run.step, 0)
    return Entry(duration(seconds), seconds)


def _config_entry(value: Any) -> Entry:
    return Entry(NONE if value is None else str(value),
                 float(value) if isinstance(value, int | float) and math.isfinite(value) else None)


def trouble_grid(runs: Sequence[Shown], unreadable: Mapping[Path, str], link: Link) -> Grid:
    """Return a table of runs that did not finish, with the reason, of unreadable runs, and of runs with warnings."""
    lines = []
    for item in runs:
        quiet = item.state in ("finished", "pruned", "running", "starting") or (item.state == WAITING and not item.why)
        if quiet and not item.warnings:
            continue
        reason = item.why or ("not recorded" if item.state in ("failed", "interrupted", UNKNOWN) else "")
        why = "\n".join([*([reason] if reason else []), *(f"warning: {warning}" for warning in item.warnings)])
        lines.append([Entry(short_name(item.run.folder), link=link(item.run.folder)), state_entry(item.state),
                      _progress(item.run), Entry(why, style="long code")])
    lines += [[Entry(short_name(folder), link=link(folder)), state_entry(UNREADABLE), Entry(NONE, math.inf),
               Entry(reason, style="long code")] for folder, reason in unreadable.items()]
    lines.sort(key=lambda line: line[1].by if isinstance(line[1].by, int | float) else 0)
    return Grid(["run", "state", "step", "why"], lines, numeric=frozenset({2}))


def configurations_grid(runs: Sequence[Run]) -> Grid:
    """Return a table of the distinct configurations, ignoring seeds, by the keys in which they differ."""
    keys = differing_keys([run.config for run in runs])
    groups: dict[str, list[Run]] = {}
    for run in runs:
        said = repr(sorted((key, canonical(value)) for key, value in run.config.items() if not may_differ(key)))
        groups.setdefault(said, []).append(run)
    lines = [[Entry(f"{members[0].env} {members[0].config['agent.name']}-{members[0].config['guidance.name']}"),
              Entry(str(len(members)), len(members)),
              Entry(", ".join(map(str, sorted({run.seed for run in members}))), style="long"),
              *(_config_entry(members[0].config.get(key)) for key in keys)] for members in groups.values()]
    lines.sort(key=lambda line: sorting([entry.text for entry in (line[0], *line[3:])]))
    return Grid(["configuration", "runs", "seeds", *keys], lines, filtered=True, numeric=frozenset({1}))


def time_constants_grid(runs: Sequence[Run]) -> Grid:
    """Return a table of runs with a constraint: their updates, and the updates until the constraint takes effect."""
    groups: dict[tuple[Any, ...], int] = {}
    for run in runs:
        if found := configured(run.config):
            name = f"{run.env} {run.config['agent.name']}-{run.config['guidance.name']}"
            groups[name, found] = groups.get((name, found), 0) + 1

    def count(value: float) -> Entry:
        return Entry(f"{value:,.0f}", value)

    lines = [[Entry(name), count(runs_of), count(found.run), count(found.critics),
              Entry(NONE, math.inf) if found.multiplier is None else count(found.multiplier), count(found.hold),
              count(found.needed), Entry("yes") if found.run >= found.needed else Entry("no", style="over")]
             for (name, found), runs_of in groups.items()]
    lines.sort(key=lambda line: sorting([entry.text for entry in line]))
    header = ["configuration", "runs", "updates", "cost critics settle in", "λ moves by a factor e in", "λ is held for",
              "needed", "long enough"]
    return Grid(header, lines, numeric=frozenset(range(1, 7)))


def provenance_grid(runs: Iterable[Run]) -> tuple[Grid, list[str]]:
    """Return a table of distinct (versions, commit, host) with their number of starts, and the distinct commands."""
    found: dict[tuple[str, ...], int] = {}
    commands: dict[str, None] = {}
    for run in runs:
        for start in _starts(run):
            versions = start.get("versions")
            spelled = ", ".join(f"{name} {version}" for name, version in versions.items() if version) if isinstance(
                versions, dict) else ""
            commit = str(start.get("commit") or "unknown")[:12] + (" with changes" if start.get("diff") else "")
            key = tuple(map(printable, (commit, str(start.get("host", "")),
                                        f"python {start.get('python', '')}, {spelled}")))
            found[key] = found.get(key, 0) + 1
            if start.get("command"):
                commands[printable(str(start["command"]))] = None
    lines = [[Entry(str(count), count), Entry(commit), Entry(host), Entry(versions, style="long")]
             for (commit, host, versions), count in sorted(found.items())]
    return Grid(["starts", "commit", "host", "versions"], lines, numeric=frozenset({0})), list(commands)


def _starts(run: Run) -> list[dict[str, Any]]:
    try:
        starts = json.loads((run.folder / "meta.json").read_bytes())["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
