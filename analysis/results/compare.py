"""Algorithms against each other on the tasks that they share.

A comparison has two sides, each the runs that fit a condition such as guidance=augmented. Runs of one side differ in
nothing but task and seed, and the two sides in nothing but what the conditions name. Both are judged at one step of
each task. Tasks that only one side has are left out, and named.
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
from analysis.runs.select import differing_keys, where
from analysis.statistics.comparisons import Paired, holm, paired_by_seed, probability_of_improvement, sign_flip
from analysis.statistics.estimators import Estimate, Floats

LOOKS = tuple({"color": PALETTE[index], "marker": MARKERS[index], "linestyle": DASHES[index]} for index in (0, 1))
QUANTITIES = {"return": "mean_return", "cost": "mean_cost"}
# Of runs of another framework, whose other keys mean nothing here.
COMPARABLE = ("env.limit", "env.limit_kind", "total_steps")


@dataclass(frozen=True)
class Side:
    """The runs of one algorithm, on one or more tasks, and the condition that names it."""

    name: str
    runs: list[Run]

    def on(self, task: str) -> list[Run]:
        return [run for run in self.runs if run.env == task]

    def values(self, task: str, quantity: str) -> Floats:
        """Return or cost of every run with a result on a task, by seed."""
        return np.array(list(self.by_seed(task, quantity).values()))

    def ranked(self, task: str, quantity: str) -> Floats:
        """The same for comparing ranks, where a run that failed and has no result is worse than any other."""
        lost = sum(run.failed and run.result is None for run in self.on(task))
        return np.append(self.values(task, quantity), np.full(lost, -np.inf if quantity == "return" else np.inf))

    def by_seed(self, task: str, quantity: str) -> dict[int, float]:
        return {run.seed: float(getattr(run.result, QUANTITIES[quantity])) for run in
                sorted(self.on(task), key=lambda run: run.seed) if run.result is not None and run.result.finite}


@dataclass(frozen=True)
class SignTest:
    """That two sides do not differ in return or cost, on one task or (task "") over all of them.

    Attributes:
        paired: the differences by seed; None over several tasks, whose differences are in different units.
        p_value: two-sided, of flipping signs.
        adjusted: the same after Holm, over all tests of one call.
    """

    task: str
    quantity: str
    paired: Paired | None
    p_value: float | None
    adjusted: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What two sides come to.

    Attributes:
        first, second: the sides, with judged runs.
        tasks: that both have runs with a result of.
        left_out: tasks that only one has.
        differing: what the sides differ in beside what their conditions name, where it was pooled, as a sentence.
        returns: probability that a run of the first has a higher return than one of the second; one that failed has
            the lowest.
        costs: probability that it has a lower cost; one that failed has the highest.
        tests: for each task with a common seed return and cost, then both over all such tasks if there are several.
        looks: colours and dashes of both in figures.
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


def sides(runs: Sequence[Run], conditions: Sequence[str]) -> list[Side]:
    """The runs that fit each condition, "KEY=VALUE" or several joined by spaces.

    Raises:
        UsageError: a condition is wrong or fits no run, or a run fits two.
    """
    found = [Side(condition, where(runs, condition.split())) for condition in conditions]
    for index, side in enumerate(found):
        for other in found[:index]:
            if both := [run for run in side.runs if any(run is rival for rival in other.runs)]:
                raise UsageError(f"{both[0].folder} is on both sides: {other.name} and {side.name}")
    return found


def compare(some: Sequence[Side], bootstrap_seed: int = 0, at_step: int | None = None, pool: bool = False,
            all_pairs: bool = False) -> list[Comparison]:
    """The first side against each other one, or each against each; p-values are adjusted over all of them.

    Args:
        some: at least two sides.
        bootstrap_seed: of signs that are drawn.
        at_step: the step whose evaluations count; None: see `analysis.results.steps`.
        pool: whether sides may differ in more than their conditions name; what they differ in is listed then.
        all_pairs: each against each.

    Raises:
        UsageError: families are mixed, runs of a side differ in more than the seed, the sides in more than their
            conditions name, or no task is common.
    """
    everything = [run for side in some for run in side.runs]
    if len(families := sorted({run.family for run in everything})) > 1:
        raise UsageError(f"tasks of the families {' and '.join(families)} are never compared together: choose one with "
                         f"--where env.family={families[0]}")
    check_step(everything, at_step)
    named = sorted({condition.partition("=")[0] for side in some for condition in side.name.split()})
    for side in some:
        _refuse_mixed(side, pool)
    by = [run.config.get("total_steps") for run in everything] if "total_steps" in named else ()
    remaining = iter(judged(everything, at_step, by))
    ready = [Side(side.name, [next(remaining) for _ in side.runs]) for side in some]
    pairs = [(i, j) for i in range(len(ready)) for j in range(i + 1, len(ready)) if all_pairs or i == 0]
    found = [_compare(ready[i], ready[j], named, bootstrap_seed, pool) for i, j in pairs]
    adjusted = iter(holm([test.p_value for pair in found for test in pair.tests]))
    return [replace(pair, tests=[replace(test, adjusted=next(adjusted)) for test in pair.tests]) for pair in found]


def _compare(first: Side, second: Side, named: Sequence[str], seed: int, pool: bool) -> Comparison:
    differing = _differing(first, second, named)
    if differing and not pool:
        raise UsageError(f"{first.name} and {second.name} differ in more than {', '.join(named)}, namely "
                         f"{differing[0]}: name it in the conditions, choose with --where, or list it (--pool)")
    have = [{run.env for run in side.runs if run.result is not None and run.result.finite} for side in (first, second)]
    tasks = sorted(have[0] & have[1])
    if not tasks:
        raise UsageError(f"{first.name} and {second.name} have no task in common on which both were evaluated at one "
                         "step; --at-step N chooses another")
    gains, costs = ([[side.ranked(task, quantity) for task in tasks] for side in (first, second)]
                    for quantity in QUANTITIES)
    return Comparison(
        first, second, tasks, sorted(have[0] ^ have[1]), differing, probability_of_improvement(gains[0], gains[1]),
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


def _refuse_mixed(side: Side, pool: bool) -> None:
    """Runs of a side differ in the seed only, task by task; the same seed twice is two runs in one place."""
    for task in dict.fromkeys(run.env for run in side.runs):
        runs = side.on(task)
        if (differing := differing_keys([run.config for run in runs])) and not pool:
            raise UsageError(f"the runs of {side.name} on {task} differ in {spelled(runs, differing)}: name them in "
                             "the side's condition, or choose among them with --where")
        seeds = [run.seed for run in runs]
        if twice := next((run for run in runs if seeds.count(run.seed) > 1), None):
            raise UsageError(f"{side.name} has seed {twice.seed} on {task} more than once, such as {short(twice)}: "
                             "choose among them with --where")


def _differing(first: Side, second: Side, named: Sequence[str]) -> list[str]:
    """For each task that both sides have, what they differ in beside what their conditions name."""
    found = []
    for task in sorted({run.env for run in first.runs} & {run.env for run in second.runs}):
        runs = [first.on(task)[0], second.on(task)[0]]
        keys = differing_keys([run.config for run in runs], named)
        if any(run.foreign for run in runs):
            keys = [key for key in keys if key in COMPARABLE]
        if keys:
            found.append(f"on {task} in {spelled(runs, keys)}")
    return found


def _looks(first: Side, second: Side) -> tuple[dict[str, Any], ...]:
    """The algorithms' own looks, as in all figures, where the two sides are two algorithms."""
    named = [{values_of(run, COLUMNS) for run in side.runs} for side in (first, second)]
    if any(len(values) != 1 for values in named) or named[0] == named[1]:
        return LOOKS
    columns = sorted(named[0] | named[1])
    return look(named[0].pop(), COLUMNS, columns), look(named[1].pop(), COLUMNS, columns)
