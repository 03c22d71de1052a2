"""Normalised scores, and aggregates of algorithms over tasks.

    score = (return − zero-cost reference) / (unconstrained reference − zero-cost reference)

so that 1 is the return of an agent without a constraint and 0 that of one without any cost. Raw returns of different
tasks are never aggregated. Scores are averaged over tasks on which every algorithm has a result; safe runs are counted,
and profiles drawn, also on tasks on which all runs of an algorithm failed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from algd.errors import UsageError
from analysis.markdown import markdown_table
from analysis.results.cells import Cell, number, with_interval
from analysis.results.compare import lost
from analysis.results.notes import interval_of, pooled_notes
from analysis.results.profiles import band_said
from analysis.results.steps import when
from analysis.results.style import DASHES, LIMIT, STYLE, WIDTH, layered, legend, look
from analysis.runs.gather import listed, short
from analysis.runs.model import Run
from analysis.runs.select import where
from analysis.statistics.aggregates import optimality_gaps, performance_profile
from analysis.statistics.estimators import (
    Estimate,
    Floats,
    interquartile_means,
    means,
    proportion_interval,
    stratified_interval,
)


@dataclass(frozen=True)
class Reference:
    """The returns of a task that have the scores 1 (`unconstrained`) and 0 (`zero_cost`)."""

    unconstrained: float
    zero_cost: float

    def score(self, gain: float) -> float:
        return (gain - self.zero_cost) / (self.unconstrained - self.zero_cost)


@dataclass(frozen=True)
class Scored:
    """Aggregates of an algorithm over tasks.

    Attributes:
        column: values of the column keys.
        tasks: the tasks on which every algorithm has a result, or failed with all runs.
        shared: those of them on which every algorithm has a result.
        runs: all runs on `tasks`, including failed ones and those without a result.
        scores: scores of the runs with a finite result, (n_s,) by task.
        ratios: costs of the same runs divided by the limit, (n_s,) by task with a limit above 0.
        iqm, mean, gap: interquartile mean, mean and optimality gap of the scores on `shared`; without an interval if
            runs of one seed are pooled.
        safe_score: mean score with 0 for runs that are not safe, failed or have no result; without an interval, which
            would not have its nominal coverage for values that are 0 for a few seeds.
        safe: number of safe runs.
    """

    column: tuple[str, ...]
    tasks: list[str]
    shared: list[str]
    runs: list[Run]
    scores: dict[str, Floats]
    ratios: dict[str, Floats]
    iqm: Estimate
    mean: Estimate
    gap: Estimate
    safe_score: float
    safe: int

    @property
    def repeats_seeds(self) -> bool:
        """Whether runs of one seed are pooled on a task: they are not independent, and have no interval."""
        return len({(run.env, run.seed) for run in self.runs}) < len(self.runs)


def references(cells: Sequence[Cell], unconstrained: str, zero_cost: str) -> dict[str, Reference]:
    """Return the references of each task: mean returns of the runs that fit a condition, or a number for all tasks.

    Args:
        cells: cells of one family of tasks.
        unconstrained, zero_cost: "KEY=VALUE", several separated by spaces, or a number.

    Raises:
        UsageError: no run with a result on a task fits a condition, or the unconstrained reference is not the higher.
    """
    runs = [run for cell in cells for run in cell.runs]

    def of(task: str, option: str, said: str) -> float:
        try:
            number = float(said)
        except ValueError:
            found = [run.finite_result.mean_return for run in where(runs, said.split(), option)
                     if run.env == task and run.finite_result]
        else:
            if not math.isfinite(number):
                raise UsageError(f"{option} {said}: a finite number is needed, or KEY=VALUE")
            return number
        if not found:
            raise UsageError(f"{option} {said}: no run on {task} has a result; choose tasks with --where, or give a "
                             "number")
        return float(np.mean(found))

    found = {}
    for task in sorted({run.env for run in runs}):
        ends = Reference(of(task, "--unconstrained", unconstrained), of(task, "--zero-cost", zero_cost))
        if not ends.unconstrained > ends.zero_cost:
            raise UsageError(f"{task}: the unconstrained reference, {number(ends.unconstrained)}, must be above the "
                             f"zero-cost one, {number(ends.zero_cost)}")
        found[task] = ends
    return found


def scored(cells: Sequence[Cell], reference: dict[str, Reference]) -> list[Scored]:
    """Aggregate each algorithm (column) over the tasks on which all algorithms have a result.

    Raises:
        UsageError: there is no such task.
    """
    columns = list(dict.fromkeys(cell.column for cell in cells))

    def all_have(task: str, fits: Callable[[Run], bool]) -> bool:
        return all(any(run.env == task and fits(run) for run in _runs(cells, column)) for column in columns)

    shared = [task for task in sorted(reference) if all_have(task, lambda run: run.finite_result is not None)]
    if not shared:
        raise UsageError("there is no task on which all algorithms have a result: choose among them with --where")
    # To fail with every run of a task must not be better than to fail with most.
    tasks = [task for task in sorted(reference) if all_have(task, lambda run: bool(run.finite_result) or lost(run))]
    return [_scored(column, [run for run in _runs(cells, column) if run.env in tasks], tasks, shared, reference,
                    cells[0]) for column in columns]


def _runs(cells: Sequence[Cell], column: tuple[str, ...]) -> list[Run]:
    return [run for cell in cells if cell.column == column for run in cell.runs]


def _scored(column: tuple[str, ...], runs: list[Run], tasks: list[str], shared: list[str],
            reference: dict[str, Reference], like: Cell) -> Scored:
    scores, ratios, safe = {}, {}, []
    for task in tasks:
        here = [run for run in runs if run.env == task]
        results = [(run, run.finite_result) for run in here if run.finite_result]
        scores[task] = np.array([reference[task].score(result.mean_return) for _, result in results])
        if all(run.limit > 0 for run in here):
            ratios[task] = np.array([result.mean_cost / run.limit for run, result in results])
        safe.append(np.array([reference[task].score(run.result.mean_return) if run.safe and run.result else 0.0
                              for run in here]))

    iqm, mean, gap = (stratified_interval([scores[task] for task in shared], statistic, like.bootstrap_seed,
                                          like.method) for statistic in (interquartile_means, means, optimality_gaps))
    if gap.low is not None:
        gap = replace(gap, low=max(0.0, gap.low))  # a gap is never negative
    found = Scored(column, tasks, shared, runs, scores, ratios, iqm, mean, gap, float(np.concatenate(safe).mean()),
                   sum(run.safe for run in runs))
    if found.repeats_seeds:
        iqm, mean, gap = (replace(estimate, low=None, high=None) for estimate in (iqm, mean, gap))
    return replace(found, iqm=iqm, mean=mean, gap=gap)


def markdown(found: Sequence[Scored], reference: dict[str, Reference], keys: Sequence[str], cells: Sequence[Cell],
             unconstrained: str, zero_cost: str, sampler: str, remarks: Sequence[str]) -> str:
    """Format the aggregates, their references, and notes as Markdown."""
    header = [*keys, "runs", "IQM", "mean", "optimality gap", "safe score", "safe runs", "cost / limit"]
    lines = []
    for score in found:
        safe = proportion_interval(score.safe, len(score.runs))
        ratios = [score.ratios[task].mean() for task in score.shared if task in score.ratios]
        ratio = number(float(np.mean(ratios))) if ratios else "–"
        scored_runs = sum(map(len, score.scores.values()))
        runs = f"{scored_runs} of {len(score.runs)}" if scored_runs < len(score.runs) else str(scored_runs)
        lines.append([*score.column, runs, *map(with_interval, (score.iqm, score.mean, score.gap)),
                      number(score.safe_score), f"{score.safe}/{len(score.runs)}"
                      + ("" if score.repeats_seeds else f" [{safe.low:.2f}, {safe.high:.2f}]"), ratio])
    tasks, shared = found[0].tasks, found[0].shared
    averaged = cells[0].runs[0].averaged
    of = "evaluation" if averaged == 1 else f"last {averaged} evaluations,"
    steps = when(run for score in found for run in score.runs)
    notes = ["Score: (return − zero-cost reference) / (unconstrained − zero-cost reference), of the "
             f"{sampler} episodes of each run's {of} at {steps}; unconstrained: {_said(unconstrained)}, zero cost: "
             f"{_said(zero_cost)}. Raw returns of different tasks are never put together.",
             f"In square brackets the {interval_of(cells[0].method)}, stratified by task. Optimality gap: mean of "
             "max(0, 1 − score). Safe score: the mean where a run that is not safe, failed or has no result counts 0, "
             "and a safe one below the zero-cost reference less; the other three and the cost are of the runs with a "
             "finite result. Cost / limit: mean over tasks of the mean over seeds.",
             "Safe runs: those whose mean cost is at most the limit, of all on these tasks, with Wilson's interval."]
    if lost_all := sorted(set(tasks) - set(shared)):
        notes.append("Only in safe score, safe runs and profiles, since all runs of an algorithm failed there: "
                     f"{', '.join(lost_all)}.")
    if left := sorted(set(reference) - set(tasks)):
        notes.append(f"Left out, since not every algorithm has a result there: {', '.join(left)}.")
    if lacking := [run for cell in cells for run in cell.runs if not run.finite_result or run.failed]:
        notes.append(f"Failed or without a finite result: {listed([short(run) for run in lacking])}.")
    if free := [task for task in tasks if any(run.env == task and not run.limit > 0 for run in found[0].runs)]:
        notes.append(f"Cost / limit: without {', '.join(free)}, whose limit is 0.")
    return "\n\n".join([
        f"## Over {len(shared)} tasks", markdown_table(header, lines, right=len(keys)),
        markdown_table(["task", "unconstrained reference", "zero-cost reference"],
                       [[task, number(reference[task].unconstrained), number(reference[task].zero_cost)]
                        for task in tasks]),
        "\n".join(f"- {note}" for note in [*notes, *pooled_notes(cells), *remarks])])


def _said(option: str) -> str:
    try:
        return f"{float(option):g} on every task"
    except ValueError:
        return f"mean return of {option}"


def draw_profiles(found: Sequence[Scored], keys: Sequence[str], sampler: str, seed: int = 0) -> Figure:
    """Draw performance profiles over tasks: the share of runs above each score, and above each ratio of cost to limit.

    A run without a result counts as below every score and above every cost.
    """
    columns = [score.column for score in found]
    with plt.rc_context(STYLE):
        height = 1.8 + 0.15 * -(-len(found) // 2)  # the legend has two algorithms per line
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, height), layout="constrained", sharey=True)
        looks = [layered(look(score.column, keys, columns), place, len(found)) | {
            "marker": "", "linestyle": DASHES[place % len(DASHES)]} for place, score in enumerate(found)]
        bands = []
        for axis, label, worst in ((axes[0], "score τ", -np.inf), (axes[1], "cost / limit τ", np.inf)):
            values = [_with_missing(score, score.scores if axis is axes[0] else score.ratios, worst) for score in found]
            known = np.concatenate([part[np.isfinite(part)] for strata in values for part in strata] or [np.zeros(1)])
            margin = 0.05 * float(np.ptp(known)) or 0.1
            thresholds = np.linspace(known.min() - margin, known.max() + margin, 301)
            for score, strata, style in zip(found, values, looks, strict=True):
                if not strata:
                    continue
                profile = performance_profile(strata, thresholds, seed)
                axis.step(thresholds, profile.share, where="post", **style)
                banded = profile.low is not None and not score.repeats_seeds
                bands.append(banded)
                if banded and profile.low is not None and profile.high is not None:
                    axis.fill_between(thresholds, profile.low, profile.high, step="post", alpha=0.15, linewidth=0,
                                      color=style["color"])
            axis.set_xlabel(label)
        axes[1].axvline(1, **LIMIT)
        axes[0].set_ylabel("share of runs above τ")
        figure.suptitle(f"{len(found[0].tasks)} tasks; {sampler} evaluations; {band_said(bands)}", fontsize=6)
        legend(figure, [Line2D([], [], label=f"{', '.join(score.column)}, n = {len(score.runs)}", **style)
                        for score, style in zip(found, looks, strict=True)], 2)
    return figure


def _with_missing(score: Scored, strata: dict[str, Floats], worst: float) -> list[Floats]:
    """Return the values of each task, with the worst value for each run without a result."""
    return [np.concatenate([values, np.full(sum(run.env == task for run in score.runs) - len(values), worst)])
            for task, values in strata.items()] if len(strata) == len(score.tasks) else []
