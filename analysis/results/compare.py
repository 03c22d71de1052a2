"""Comparisons of algorithms on their common tasks.

A comparison has two sides, each the runs that fit a condition such as guidance=augmented. Runs of one side may differ
only in task and seed, and the two sides only in the keys of the conditions. Both are compared at one step of each task.
Tasks on which not both have a result are left out and named; a failed run counts as one here, since it is worse than
any other.

With keys such as `agent` to compare within, the runs of a task with each value are compared apart, like tasks of their
own: every difference is between two runs with the same value and seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from algd.errors import UsageError
from analysis.results.cells import COLUMNS, spelled, values_of
from analysis.results.steps import check_step, judged
from analysis.results.style import DASHES, MARKERS, PALETTE, look
from analysis.runs.gather import short
from analysis.runs.model import Run
from analysis.runs.select import STATE, check_key, differing_keys, where
from analysis.statistics.comparisons import Paired, holm, paired_by_seed, probability_of_improvement, sign_flip
from analysis.statistics.estimators import Estimate, Floats

LOOKS = tuple({"color": PALETTE[index], "marker": MARKERS[index], "linestyle": DASHES[index]} for index in (0, 1))
QUANTITIES = {"return": "mean_return", "cost": "mean_cost"}
# Keys that are compared with runs of another framework, whose other keys have no counterpart here.
COMPARABLE = ("env.limit", "env.limit_kind", "total_steps")


@dataclass(frozen=True)
class Side:
    """The runs of one algorithm on one or more tasks; `name` is the condition that selects them.

    A task's name is followed by the values of the keys `within`.
    """

    name: str
    runs: list[Run]
    within: tuple[str, ...] = ()

    @property
    def named(self) -> set[str]:
        """The keys of its condition."""
        return {condition.partition("=")[0] for condition in self.name.split()}

    def task(self, run: Run) -> str:
        return ", ".join((run.env, *values_of(run, self.within)))

    def on(self, task: str) -> list[Run]:
        return [run for run in self.runs if self.task(run) == task]

    def values(self, task: str, quantity: str) -> Floats:
        """Return the "return" or "cost" of each run with a finite result on a task, (n,), by seed."""
        return np.array(list(self.by_seed(task, quantity).values()))

    def ranked(self, task: str, quantity: str) -> Floats:
        """Return the same for rank comparisons: a run that failed without a result, or whose result is not a number, is
        worse than any other."""
        worst = np.full(sum(map(lost, self.on(task))), -np.inf if quantity == "return" else np.inf)
        return np.append(self.values(task, quantity), worst)

    def by_seed(self, task: str, quantity: str) -> dict[int, float]:
        return {run.seed: float(getattr(run.result, QUANTITIES[quantity])) for run in
                sorted(self.on(task), key=lambda run: run.seed) if run.finite_result}


def lost(run: Run) -> bool:
    """Return whether a run failed without a result, or its result is not a number."""
    return run.failed if run.result is None else not run.result.finite


@dataclass(frozen=True)
class SignTest:
    """Sign-flip test of the hypothesis that two sides have equal returns or costs.

    Attributes:
        task: name of the task, as `Side.task`; "" for the test over all tasks.
        quantity: "return" or "cost".
        paired: differences by seed; None over several tasks, whose differences have different units.
        p_value: two-sided; None with fewer than three differences.
        adjusted: p-value after Holm's adjustment over all tests of one call.
    """

    task: str
    quantity: str
    paired: Paired | None
    p_value: float | None
    adjusted: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two sides.

    Attributes:
        first, second: the sides; their runs have `judged_at` set.
        tasks: tasks on which both sides have a result or a failed run, and one a result.
        left_out: the other tasks.
        differing: texts on other keys in which the sides differ, if pooling was requested.
        returns: probability that a run of the first has a higher return than one of the second; a run that failed
            without a result, or whose result is not a number, has the lowest.
        costs: probability that it has a lower cost; such a run has the highest.
        tests: of return and cost on each task with a common seed, then over all such tasks if there are several.
        looks: line styles of the two sides in figures.
    """

    first: Side
    second: Side
    tasks: list[str]
    left_out: list[str]
    differing: list[str]
    returns: Estimate
    costs: Estimate
    tests: list[SignTest]
    looks: tuple[dict[str, Any], ...]


def sides(runs: Sequence[Run], conditions: Sequence[str], within: Sequence[str] = ()) -> list[Side]:
    """Return a side for each condition, "KEY=VALUE" or several separated by spaces.

    Args:
        runs: all runs.
        conditions: one for each side.
        within: keys for whose values the sides are compared apart.

    Raises:
        UsageError: a condition is malformed or fits no run, a run fits two conditions, or no run has a key of `within`.
    """
    for key in within:
        check_key(runs, key)
        if any(condition.partition("=")[0] == key for text in conditions for condition in text.split()):
            raise UsageError(f"--within {key}: the sides differ in this key, so that no value is on both")
    if state := next((text for text in conditions if any(
            condition.partition("=")[0] == STATE for condition in text.split())), None):
        raise UsageError(f"{state}: the sides are methods, and a state is none; --where {STATE}=... chooses among the "
                         "runs of both")
    found = [Side(condition, where(runs, condition.split(), "--second" if place else "--first"), tuple(within))
             for place, condition in enumerate(conditions)]
    for index, side in enumerate(found):
        for other in found[:index]:
            if both := [run for run in side.runs if any(run is rival for rival in other.runs)]:
                raise UsageError(f"{both[0].folder} is on both sides: {other.name} and {side.name}")
    return found


def compare(some: Sequence[Side], bootstrap_seed: int = 0, at_step: int | None = None, pool: bool = False,
            all_pairs: bool = False) -> list[Comparison]:
    """Compare the first side with each other side, or all pairs; p-values are adjusted over all comparisons.

    Args:
        some: at least two sides.
        bootstrap_seed: seed of the random signs of large tests.
        at_step: step of the evaluations; None: the common step of `analysis.results.steps`.
        pool: whether sides may differ in more than the keys of their conditions; differences are then listed.
        all_pairs: whether to compare all pairs.

    Raises:
        UsageError: families or kinds of cost are mixed, runs of a side differ in more than the seed, the sides differ
            in more than the keys of their conditions, or they have no common task.
    """
    everything = [run for side in some for run in side.runs]
    if len(families := sorted({run.family for run in everything})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} are never compared together: choose one with "
                         f"--where env.family={families[0]}")
    check_step(everything, at_step)
    for task in dict.fromkeys(run.env for run in everything):
        if len(kinds := sorted({str(run.config["env.limit_kind"]) for run in everything if run.env == task})) > 1:
            raise UsageError(f"the costs on {task} are of the kinds {' and '.join(kinds)} (env.limit_kind), which "
                             "cannot be compared: choose one with --where")
    lengths = () if at_step is None else ("total_steps",)  # as in a table
    for side in some:
        _refuse_mixed(side, pool, lengths)
    by = [(*values_of(run, side.within), run.config.get("total_steps") if "total_steps" in side.named else None)
          for side in some for run in side.runs]
    remaining = iter(judged(everything, at_step, by))
    ready = [replace(side, runs=[next(remaining) for _ in side.runs]) for side in some]
    pairs = [(i, j) for i in range(len(ready)) for j in range(i + 1, len(ready)) if all_pairs or i == 0]
    found = [_compare(ready[i], ready[j], bootstrap_seed, pool, lengths) for i, j in pairs]
    adjusted = iter(holm([test.p_value for pair in found for test in pair.tests]))
    return [replace(pair, tests=[replace(test, adjusted=next(adjusted)) for test in pair.tests]) for pair in found]


def _compare(first: Side, second: Side, seed: int, pool: bool, lengths: Sequence[str]) -> Comparison:
    named = sorted(first.named | second.named)
    differing = _differing(first, second, named, lengths)
    if differing and not pool:
        raise UsageError(f"{first.name} and {second.name} differ in more than {', '.join(named)}, namely "
                         f"{differing[0]}: name it in the conditions, choose with --where, or list it (--pool)")
    have = [{side.task(run) for run in side.runs if run.finite_result} for side in (first, second)]
    ended = [{side.task(run) for run in side.runs if run.finite_result or lost(run)} for side in (first, second)]
    tasks = sorted(ended[0] & ended[1] & (have[0] | have[1]))
    if not tasks:
        raise UsageError(f"{first.name} and {second.name} have no task in common on which both have a result at one "
                         "step; --at-step N chooses another")
    gains, costs = ([[side.ranked(task, quantity) for task in tasks] for side in (first, second)]
                    for quantity in QUANTITIES)
    return Comparison(
        first, second, tasks, sorted({side.task(run) for side in (first, second) for run in side.runs} - set(tasks)),
        differing, probability_of_improvement(gains[0], gains[1]),
        probability_of_improvement([-x for x in costs[0]], [-x for x in costs[1]]), _tests(first, second, tasks, seed),
        _looks(first, second))


def _tests(first: Side, second: Side, tasks: Sequence[str], seed: int) -> list[SignTest]:
    shared = [task for task in tasks if first.by_seed(task, "return").keys() & second.by_seed(task, "return").keys()]
    tests = []
    for task in shared:
        for quantity in QUANTITIES:
            paired = paired_by_seed(first.by_seed(task, quantity), second.by_seed(task, quantity), seed)
            tests.append(SignTest(task, quantity, paired, paired.p_value))
    if len(shared) > 1:
        for quantity in QUANTITIES:
            strata = [np.array(test.paired.differences) for test in tests if test.quantity == quantity and test.paired]
            tests.append(SignTest("", quantity, None, sign_flip(strata, seed)))
    return tests


def _refuse_mixed(side: Side, pool: bool, lengths: Sequence[str]) -> None:
    """Refuse a side whose runs differ in more than the seed on a task, or that has a seed twice."""
    for task in dict.fromkeys(map(side.task, side.runs)):
        runs = side.on(task)
        if (differing := differing_keys([run.config for run in runs], lengths)) and not pool:
            raise UsageError(f"the runs of {side.name} on {task} differ in {spelled(runs, differing)}: name them in "
                             "the side's condition or in --within, or choose among them with --where")
        seeds = [run.seed for run in runs]
        if twice := next((run for run in runs if seeds.count(run.seed) > 1), None):
            raise UsageError(f"{side.name} has seed {twice.seed} on {task} more than once, such as {short(twice)}: "
                             "choose among them with --where")


def _differing(first: Side, second: Side, named: Sequence[str], lengths: Sequence[str]) -> list[str]:
    """Describe, for each common task, the keys in which the runs of both differ besides those of the conditions."""
    found = []
    for task in sorted(set(map(first.task, first.runs)) & set(map(second.task, second.runs))):
        runs = [*first.on(task), *second.on(task)]
        # What a condition covers between the sides must not hide that the pooled runs of one side differ.
        keys = sorted({*differing_keys([run.config for run in runs], [*named, *lengths]), *(
            key for side in (first, second)
            for key in differing_keys([run.config for run in side.on(task)], lengths))})
        if any(run.foreign for run in runs):
            keys = [key for key in keys if key in COMPARABLE]
        if keys:
            found.append(f"on {task} in {spelled(runs, keys)}")
    return found


def _looks(first: Side, second: Side) -> tuple[dict[str, Any], ...]:
    """Return the algorithms' usual line styles if the sides are two different algorithms, else generic ones."""
    named = [{values_of(run, COLUMNS) for run in side.runs} for side in (first, second)]
    if any(len(values) != 1 for values in named) or named[0] == named[1]:
        return LOOKS
    columns = sorted(named[0] | named[1])
    return look(named[0].pop(), COLUMNS, columns), look(named[1].pop(), COLUMNS, columns)
