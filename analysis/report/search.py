"""A search's part of the report: its trials, its history, and the importance of each key."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from analysis.report.figures import LIMIT, Figure, limit_line, plain_layout, rounded
from analysis.report.grids import NONE, Entry, Grid, Link
from launchers.search.record import SearchRecord, TrialRecord

FEASIBLE, OVER, OTHER = "#0072b2", "#d55e00", "#777777"
SYMBOLS = {"pruned": "x", "running": "triangle-right-open", "failed": "square-x-open"}  # of trials that did not end
STATES = ("running", "complete", "pruned", "failed")


@dataclass(frozen=True)
class Search:
    """A search's part of the page.

    Attributes:
        sentence: what was searched, and its progress.
        importances: a line per key; no lines if unknown.
        trials: a line per trial.
        figure: the history, or return against cost with two objectives; None before the first result.
    """

    sentence: str
    importances: Grid
    trials: Grid
    figure: Figure | None


def search_of(record: SearchRecord, runs_dir: Path, link: Link) -> Search:
    """Return a search's part of the page.

    Args:
        record: search.json of the sweep's folder.
        runs_dir: the folder that contains the trials' runs.
        link: returns the address of a run's folder.
    """
    counts = {state: sum(trial.state == state for trial in record.trials) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    what = "return within the limit" if record.objectives == "return" else "return against cost"
    sentence = (f"{len(record.trials)} of {record.n_trials} trials ({said}), {record.steps:,} environment steps; "
                f"{what}, {record.judged_by} evaluations, sampler {record.sampler}.")
    return Search(sentence, _importances(record.importances), _trials(record, runs_dir, link), _figure(record))


def _importances(shares: Mapping[str, float]) -> Grid:
    lines = [[Entry(key), Entry(f"{share:.0%}", by=share, share=min(max(share, 0.0), 1.0))]
             for key, share in shares.items()]
    return Grid(("key", "importance"), lines, numeric=frozenset({1}))


def _trials(record: SearchRecord, runs_dir: Path, link: Link) -> Grid:
    keys = list(dict.fromkeys(key for trial in record.trials for key in trial.params))
    header = ("trial", "state", "step", "return", "cost", "limit", "feasible", *keys, "runs")
    lines = []
    for trial in record.trials:
        folder = runs_dir / trial.runs[0] if trial.runs else None
        inside = folder is not None and runs_dir.resolve() in folder.resolve().parents
        lines.append([
            Entry(str(trial.number) + " (best)" * (trial.number in record.best), by=trial.number),
            Entry(trial.state, by=STATES.index(trial.state), style=f"state {trial.state}"),
            *(_value(value) for value in (trial.step, trial.gain, trial.cost, trial.limit)),
            Entry(NONE if trial.cost is None else "yes" if trial.feasible else "no"),
            *(_value(trial.params.get(key)) for key in keys),
            Entry(f"{len(trial.runs)}", link=link(folder) if folder is not None and inside else "")])
    numeric = frozenset({0, 2, 3, 4, 5, *(7 + place for place, key in enumerate(keys) if all(
        not isinstance(trial.params.get(key), str) for trial in record.trials)), len(header) - 1})
    return Grid(header, lines, filtered=True, numeric=numeric, choices=("state", "feasible"))


def _value(value: float | str | None) -> Entry:
    if isinstance(value, str):
        return Entry(value)
    return Entry(NONE, by="") if value is None else Entry(f"{value:.4g}" if isinstance(value, float) else str(value),
                                                          by=value)


def _figure(record: SearchRecord) -> Figure | None:
    known = [trial for trial in record.trials if trial.gain is not None and trial.cost is not None]
    if not known:
        return None
    history = record.objectives == "return"
    complete = [trial for trial in known if trial.state == "complete"]
    kinds = {"feasible": ([trial for trial in complete if trial.feasible], FEASIBLE, "circle"),
             "over the limit": ([trial for trial in complete if not trial.feasible], OVER, "circle-open")}
    kinds |= {state: ([trial for trial in known if trial.state == state], OTHER, symbol)
              for state, symbol in SYMBOLS.items()}
    data = [_points(name, trials, color, symbol, history) for name, (trials, color, symbol) in kinds.items() if trials]
    counted = ", ".join(f"{len(trials)} {name}" for name, (trials, _, _) in kinds.items() if trials)
    said = "; ".join(f"trial {trial.number}: return {trial.gain:.4g}, cost {trial.cost:.4g}" for trial in known
                     if trial.number in record.best)
    ending = f"{counted}. Best: {said or 'none is within the limit'}."
    limits = sorted({trial.limit for trial in known if trial.limit is not None})
    if not history:
        return Figure("search/front", "", "return against cost of each trial", f"Return against cost. {ending}", data,
                      _layout("cost", [limit_line("x", limit) for limit in limits]))
    data += _best_so_far(known)
    return Figure("search/history", "", "return of each trial, and the best within the limit so far",
                  f"Return of the trials in their order. {ending}", data, _layout("trial", []))


def _layout(x: str, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return plain_layout(x, "return", shapes) | {
        "showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}}


def _points(name: str, trials: Sequence[TrialRecord], color: str, symbol: str, history: bool) -> dict[str, Any]:
    x = [float(trial.number) if history else trial.cost or 0.0 for trial in trials]
    texts = [f"trial {trial.number}, cost {trial.cost:.4g}<br>" + "<br>".join(
        html.escape(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
        for key, value in trial.params.items()) for trial in trials]
    gains = rounded([trial.gain or 0.0 for trial in trials])
    return {"type": "scatter", "mode": "markers", "x": rounded(x), "y": gains, "name": name, "showlegend": True,
            "marker": {"color": color, "symbol": symbol, "size": 8}, "text": texts,
            "hovertemplate": "return %{y}<br>%{text}", "meta": {"kind": "point"}}


def _best_so_far(known: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Return a step curve of the greatest return within the limit, over the complete trials so far."""
    complete = [trial for trial in known if trial.state == "complete" and trial.feasible]
    if not complete:
        return []
    gains = list(accumulate((trial.gain or 0.0 for trial in complete), max))
    x = [*(float(trial.number) for trial in complete), float(known[-1].number)]
    return [{"type": "scatter", "mode": "lines", "x": rounded(x), "y": rounded([*gains, gains[-1]]),
             "name": "best so far", "showlegend": True, "line": dict(LIMIT) | {"shape": "hv", "color": FEASIBLE},
             "hoverinfo": "skip", "meta": {"kind": "line"}}]
