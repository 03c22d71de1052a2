"""Two algorithms against each other, and return against budget.

A comparison has two sides, each the runs that fit a condition such as guidance=augmented. Runs of one side differ in
nothing but task and seed. Tasks that only one side has are left out, and named.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from algd.errors import UsageError
from analysis.markdown import markdown_table
from analysis.results.cells import COLUMNS, Cell, number, values_of
from analysis.results.style import DASHES, LIMIT, PALETTE, STYLE, WIDTH, look
from analysis.runs.model import Run
from analysis.runs.select import differing_keys, where
from analysis.statistics.estimators import (
    SEEDS_FOR_INTERVAL,
    Estimate,
    Floats,
    Method,
    Paired,
    paired_by_seed,
    pareto_front,
    performance_profile,
    probability_of_improvement,
)

ALGORITHM = COLUMNS
LOOKS: tuple[dict[str, Any], dict[str, Any]] = ({"color": PALETTE[0], "linestyle": DASHES[0]},
                                                {"color": PALETTE[1], "linestyle": DASHES[1]})


@dataclass(frozen=True)
class Side:
    """The runs of one algorithm, on one or more tasks, and the condition that names it."""

    name: str
    runs: list[Run]


@dataclass(frozen=True)
class PairedTask:
    """First minus second by seed on one task."""

    returns: Paired
    costs: Paired


@dataclass(frozen=True)
class Comparison:
    """What two sides come to.

    Attributes:
        first, second: their names.
        tasks: that both have evaluated runs of.
        left_out: tasks that only one has.
        unfinished: a sentence for each side with runs that are not finished or have no evaluation.
        returns: probability that a run of the first has a higher return than one of the second.
        costs: probability that it has a lower cost.
        paired: by task; only tasks with a common seed.
        values: by task, the returns and costs of both sides.
        looks: colours and dashes of both in figures.
    """

    first: str
    second: str
    tasks: list[str]
    left_out: list[str]
    unfinished: list[str]
    returns: Estimate
    costs: Estimate
    paired: dict[str, PairedTask]
    values: dict[str, tuple[Floats, Floats, Floats, Floats]]
    looks: tuple[dict[str, Any], dict[str, Any]]


def sides(runs: Sequence[Run], first: str, second: str) -> tuple[Side, Side]:
    """The runs that fit each condition, "KEY=VALUE" or several joined by spaces.

    Raises:
        UsageError: a condition is wrong or fits no run, or a run fits both.
    """
    one, other = (Side(condition, where(runs, condition.split())) for condition in (first, second))
    if both := [run for run in one.runs if any(run is rival for rival in other.runs)]:
        raise UsageError(f"{both[0].folder} is on both sides: {first} and {second}")
    return one, other


def compare(first: Side, second: Side, method: Method = "t", bootstrap_seed: int = 0) -> Comparison:
    """The first against the second, task by task and over the tasks that both have.

    Raises:
        UsageError: families are mixed, a side's runs on a task differ in more than the seed, or no task is common.
    """
    everything = first.runs + second.runs
    if len(families := sorted({run.family for run in everything})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} are never compared together: choose one with "
                         f"--where env.family={families[0]}")
    by_task = [_by_task(side) for side in (first, second)]
    tasks = sorted(by_task[0].keys() & by_task[1].keys())
    if not tasks:
        raise UsageError(f"{first.name} and {second.name} have no task in common on which both were evaluated")

    def values(side: int, task: str, attribute: str) -> Floats:
        return np.array([getattr(run.last, attribute) for run in by_task[side][task]])

    def by_seed(side: int, task: str, attribute: str) -> dict[int, float]:
        return {run.seed: float(getattr(run.last, attribute)) for run in by_task[side][task]}

    gains, spent = ([[values(side, task, attribute) for task in tasks] for side in (0, 1)]
                    for attribute in ("mean_return", "mean_cost"))
    paired = {task: PairedTask(*(paired_by_seed(by_seed(0, task, attribute), by_seed(1, task, attribute),
                                                bootstrap_seed, method) for attribute in ("mean_return", "mean_cost")))
              for task in tasks if by_seed(0, task, "mean_return").keys() & by_seed(1, task, "mean_return").keys()}
    return Comparison(
        first.name, second.name, tasks, sorted(by_task[0].keys() ^ by_task[1].keys()),
        [sentence for side in (first, second) if (sentence := _unfinished(side))],
        probability_of_improvement(gains[0], gains[1]),
        probability_of_improvement([-x for x in spent[0]], [-x for x in spent[1]]), paired,
        {task: (gains[0][i], gains[1][i], spent[0][i], spent[1][i]) for i, task in enumerate(tasks)},
        _looks(first, second))


def _looks(first: Side, second: Side) -> tuple[dict[str, Any], dict[str, Any]]:
    """The algorithms' own looks, as in all figures, where the two sides are two algorithms."""
    named = [{values_of(run, ALGORITHM) for run in side.runs} for side in (first, second)]
    if any(len(one) != 1 for one in named) or named[0] == named[1]:
        return LOOKS
    columns = sorted(named[0] | named[1])
    return look(named[0].pop(), ALGORITHM, columns), look(named[1].pop(), ALGORITHM, columns)


def _by_task(side: Side) -> dict[str, list[Run]]:
    """The evaluated runs of each task."""
    tasks: dict[str, list[Run]] = {}
    for run in side.runs:
        tasks.setdefault(run.env, []).append(run)
    for task, runs in tasks.items():
        if differing := differing_keys([run.config for run in runs]):
            raise UsageError(f"the runs of {side.name} on {task} differ in {', '.join(differing[:6])}: name them in "
                             "the side's condition, or choose among them with --where")
    evaluated = {task: [run for run in runs if run.last is not None] for task, runs in tasks.items()}
    return {task: runs for task, runs in evaluated.items() if runs}


def _unfinished(side: Side) -> str:
    missing = sum(run.last is None for run in side.runs)
    begun = sum(run.last is not None and run.state != "finished" for run in side.runs)
    parts = []
    if missing:
        parts.append(f"{missing} of {len(side.runs)} runs {'has' if missing == 1 else 'have'} no evaluation")
    if begun:
        more = "more " if missing else f"of {len(side.runs)} runs "
        parts.append(f"{begun} {more}{'is' if begun == 1 else 'are'} not finished")
    return f"{side.name}: {', '.join(parts)}" if parts else ""


# --- as text -------------------------------------------------------------------------------------------------------


def _estimate(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return f"{number(one.value)} (no interval: fewer than {SEEDS_FOR_INTERVAL} seeds)"
    return f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"


def markdown(found: Comparison) -> str:
    """The comparison for people."""
    improvement = markdown_table(["probability that a run of the first has", "over all tasks"],
                                 [["the higher return", _estimate(found.returns)],
                                  ["the lower cost", _estimate(found.costs)]], right=2)
    lines = []
    for task, both in found.paired.items():
        for name, one in (("return", both.returns), ("cost", both.costs)):
            p = "–" if one.p_value is None else f"{one.p_value:.3f}"
            unpaired = f"; unpaired {', '.join(map(str, one.unpaired))}" if one.unpaired else ""
            lines.append([task, name, _estimate(one.difference), f"{one.wins}, {one.ties}, {one.losses}", p,
                          ", ".join(map(str, one.seeds)) + unpaired])
    header = ["task", "first − second, by seed", "difference", "wins, ties, losses", "p (sign flips)", "seeds"]
    return "\n\n".join([f"## {found.first} against {found.second}", f"Tasks: {', '.join(found.tasks)}.", improvement,
                        markdown_table(header, lines, right=len(header)),
                        "\n".join(f"- {note}" for note in _notes(found))])


def _notes(found: Comparison) -> list[str]:
    notes = ["Probability of improvement: Mann and Whitney's statistic, averaged over tasks, with Newcombe's interval.",
             "Difference: interquartile mean over common seeds, with the interval of the tables. A win is a larger "
             "value: in return that is better, in cost worse.",
             "p: two-sided sign-flip test; with n seeds it cannot be below 2/2ⁿ (0.0625 for five)."]
    if found.left_out:
        notes.append(f"Left out, since only one side was evaluated there: {', '.join(found.left_out)}.")
    if unpaired := [task for task in found.tasks if task not in found.paired]:
        notes.append(f"No common seed, hence no paired comparison: {', '.join(unpaired)}.")
    return notes + [f"{sentence}." for sentence in found.unfinished]


def as_json(found: Comparison) -> str:
    """The comparison for programs."""
    def paired(one: Paired) -> dict[str, Any]:
        return vars(one) | {"difference": vars(one.difference)}

    return json.dumps({
        "first": found.first, "second": found.second, "tasks": found.tasks, "left_out": found.left_out,
        "unfinished": found.unfinished, "returns": vars(found.returns), "costs": vars(found.costs),
        "paired": {task: {"return": paired(both.returns), "cost": paired(both.costs)}
                   for task, both in found.paired.items()}}, indent=1, ensure_ascii=False)


# --- as figures ----------------------------------------------------------------------------------------------------


def draw_profile(found: Comparison, task: str, bootstrap_seed: int = 0) -> Figure:
    """Performance profiles of both sides on one task: the share of runs above each return and each cost."""
    x, y, cost_x, cost_y = found.values[task]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.9), layout="constrained", sharey=True)
        for axis, name, pair in zip(axes, ("return", "cost"), ((x, y), (cost_x, cost_y)), strict=True):
            low, high = min(map(np.min, pair)), max(map(np.max, pair))
            margin = 0.05 * (high - low) or 1.0
            thresholds = np.linspace(low - margin, high + margin, 301)
            for values, style in zip(pair, found.looks, strict=True):
                profile = performance_profile([values], thresholds, bootstrap_seed)
                axis.step(thresholds, profile.share, where="post", linewidth=1.1, **style)
                if profile.low is not None and profile.high is not None:
                    axis.fill_between(thresholds, profile.low, profile.high, step="post", alpha=0.18, linewidth=0,
                                      color=style["color"])
            axis.set_xlabel(f"{name} τ")
        axes[0].set_ylabel(f"share of runs above τ\n{task}")
        figure.legend(handles=[plt.Line2D([], [], label=name, **style) for name, style in
                               zip((found.first, found.second), found.looks, strict=True)],
                      loc="outside lower center", ncols=2, frameon=False)
    return figure


# --- return against budget -----------------------------------------------------------------------------------------


def pareto(cells: Sequence[Cell]) -> list[Cell]:
    """The evaluated cells that no other beats in mean cost and mean return, by rising cost."""
    known = [(cell, cell.mean_cost.value, cell.mean_return.value) for cell in cells
             if cell.mean_cost is not None and cell.mean_return is not None]
    front = pareto_front([cost for _, cost, _ in known], [gain for _, _, gain in known])
    return [known[index][0] for index in front]


def draw_pareto(cells: Sequence[Cell], keys: Sequence[str]) -> Figure:
    """Return against cost of every evaluated cell of one task, with intervals, the front, and each budget beside it.

    Args:
        cells: of one row.
        keys: of their columns; env.limit is written beside the points, the others tell colours apart.

    Raises:
        UsageError: no cell was evaluated.
    """
    evaluated = [cell for cell in cells if cell.mean_cost is not None and cell.mean_return is not None]
    if not evaluated:
        raise UsageError("return against budget: none of the runs has an evaluation")
    others = [index for index, key in enumerate(keys) if key != "env.limit"]
    algorithms = sorted({tuple(cell.column[index] for index in others) for cell in evaluated})
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
        handles: dict[str, Any] = {}
        for cell in evaluated:
            gain, cost = cell.mean_return, cell.mean_cost
            assert gain is not None and cost is not None
            algorithm = tuple(cell.column[index] for index in others)
            tone = look(algorithm, [keys[index] for index in others], algorithms)["color"]
            spread: dict[str, Any] = {f"{side}err": [[one.value - one.low], [one.high - one.value]]
                                      for side, one in (("x", cost), ("y", gain))
                                      if one.low is not None and one.high is not None}
            drawn = axis.errorbar(cost.value, gain.value, fmt="o", color=tone, markersize=3.5, elinewidth=0.5,
                                  markerfacecolor=tone if cell.feasible else "white", **spread)
            handles.setdefault(", ".join(algorithm), drawn)
            if cell.limit is not None:
                axis.annotate(f"≤ {cell.limit:g}", (cost.value, gain.value), (3, 3), textcoords="offset points",
                              fontsize=5.5, color=tone)
                axis.axvline(cell.limit, zorder=0, **(LIMIT | {"alpha": 0.5}))
        front = pareto(evaluated)
        axis.plot([cell.mean_cost.value for cell in front if cell.mean_cost],
                  [cell.mean_return.value for cell in front if cell.mean_return], color="0.5", linewidth=0.8, zorder=0)
        axis.set(xlabel="cost (hollow: above its limit; limits dashed)", ylabel="return",
                 title=", ".join(evaluated[0].row))
        figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=2,
                      frameon=False)
    return figure
