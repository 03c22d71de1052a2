"""Comparisons as Markdown and JSON."""

import json
from collections.abc import Sequence
from typing import Any

from analysis.markdown import markdown_table
from analysis.results.cells import number
from analysis.results.compare import Comparison, Side, SignTest
from analysis.results.notes import code_notes
from analysis.results.steps import when
from analysis.results.table import NONE, seeds_of
from analysis.runs.gather import short, states
from analysis.statistics.comparisons import Paired
from analysis.statistics.estimators import SEEDS_FOR_INTERVAL, Estimate, proportion_interval

SIDE_HEADER = ["task", "side", "safe seeds", "mean return (seeds)", "mean cost (seeds)"]
TEST_HEADER = ["task", "first − second, by seed", "mean difference", "wins, ties, losses", "p (sign flips)",
               "p after Holm", "seeds"]


def markdown(found: Sequence[Comparison], sampler: str, remarks: Sequence[str]) -> str:
    """Format comparisons as Markdown.

    Args:
        found: all comparisons of one call, whose p-values are adjusted together.
        sampler: of the evaluations.
        remarks: sentences on runs that are missing.
    """
    parts = []
    for pair in found:
        both = (pair.first, pair.second)
        averaged = pair.first.runs[0].averaged
        of = f" last {averaged} evaluations" if averaged > 1 else " evaluation"
        parts += [
            f"## {pair.first.name} against {pair.second.name}",
            "Tasks: " + "; ".join(f"{task} at {when(run for side in both for run in side.on(task))}"
                                  for task in pair.tasks)
            + f". Results: means over the {sampler} episodes of each run's{of}.",
            markdown_table(["probability that a run of the first has", "over all tasks"],
                           [["the higher return", _estimate(pair.returns)], ["the lower cost", _estimate(pair.costs)]],
                           right=2),
            markdown_table(SIDE_HEADER, [side_row(side, task) for task in pair.tasks for side in both], right=5),
            markdown_table(TEST_HEADER, [test_row(test) for test in pair.tests], right=7),
            *_bullets(own_notes(pair))]
    tests = sum(test.p_value is not None for pair in found for test in pair.tests)
    return "\n\n".join([*parts, *_bullets([*test_notes(tests), *remarks])])


def _bullets(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def _estimate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{number(found.value)} (no interval: fewer than {SEEDS_FOR_INTERVAL} seeds)"
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def side_row(side: Side, task: str) -> list[str]:
    runs = side.on(task)
    safe = proportion_interval(sum(run.safe for run in runs), len(runs))
    cells = [f"{number(float(values.mean()))}{seeds_of(values.tolist())}" if len(values) else NONE
             for values in (side.values(task, quantity) for quantity in ("return", "cost"))]
    return [task, side.name, f"{sum(run.safe for run in runs)}/{len(runs)} [{safe.low:.2f}, {safe.high:.2f}]", *cells]


def test_row(test: SignTest) -> list[str]:
    # Four digits: the least p of six pairs, 0.03125, must not seem to be less.
    p, adjusted = ("–" if p is None else f"{p:.4g}" if p >= 0.001 else "< 0.001" for p in (test.p_value, test.adjusted))
    if test.paired is None:
        return ["all tasks", test.quantity, "–", "–", p, adjusted, "–"]
    pair = test.paired
    # No interval has its nominal coverage for costs of few seeds, nor for their differences.
    difference = _estimate(pair.difference) if test.quantity == "return" else (
        number(pair.difference.value) + seeds_of(pair.differences))
    unpaired = f"; unpaired {', '.join(map(str, pair.unpaired))}" if pair.unpaired else ""
    return [test.task, test.quantity, difference, f"{pair.wins}, {pair.ties}, {pair.losses}", p, adjusted,
            ", ".join(map(str, pair.seeds)) + unpaired]


def own_notes(found: Comparison) -> list[str]:
    notes = [f"The sides also differ {text}." for text in found.differing]
    if within := found.first.within:
        notes.append(f"Compared within {', '.join(within)}: differences are between runs with the same value and seed, "
                     "and all tasks are all of these.")
    for task in found.tasks:
        limits = [side.on(task)[0].limit for side in (found.first, found.second)]
        if limits[0] != limits[1]:
            notes.append(f"{task}: the sides have the limits {number(limits[0])} and {number(limits[1])}.")
    notes += code_notes([*found.first.runs, *found.second.runs])
    if found.left_out:
        notes.append(f"Left out, since not both sides have a result there: {', '.join(found.left_out)}.")
    tested = {test.task for test in found.tests}
    if unpaired := [task for task in found.tasks if task not in tested]:
        notes.append(f"No common seed, hence no test: {', '.join(unpaired)}.")
    for side in (found.first, found.second):
        lacking = [run for run in side.runs if not run.finite_result]
        if lacking:
            notes.append(f"{side.name}: {len(lacking)} of {len(side.runs)} runs have no result at the step "
                         f"({states(lacking)}), count as not safe and take no part in means, differences and p: "
                         + ", ".join(short(run) for run in lacking[:5]) + (", …" if len(lacking) > 5 else "") + ".")
        unfinished = [run for run in side.runs if run.result is not None and run.state != "finished"]
        if unfinished:
            notes.append(f"{side.name}: {len(unfinished)} of {len(side.runs)} runs with a result are not finished "
                         f"({states(unfinished)}).")
    return notes


def test_notes(tests: int) -> list[str]:
    return ["Probability of improvement: Mann and Whitney's statistic, averaged over tasks, with Newcombe's interval "
            "at Student's quantile; a run that failed without a result is worse than any other.",
            "Difference: the mean over common seeds, which is what is tested; of returns with Student's 95% interval, "
            "of costs with the seeds' differences in brackets. A win is a larger value: in return that is better, in "
            "cost worse.",
            "p: two-sided sign-flip test; with n seeds it cannot be below 2/2ⁿ (0.0625 for five). After Holm: over the "
            f"{tests} tests of this call, so that the chance of any false find is at most the level.",
            "All tasks: each task's differences in units of their own root mean square, so that raw returns of "
            "different tasks are never added up."]


def as_json(found: Sequence[Comparison], sampler: str, remarks: Sequence[str]) -> str:
    """Format comparisons as JSON, with the same content as the Markdown."""
    def paired(pair: Paired | None) -> dict[str, Any] | None:
        return None if pair is None else vars(pair) | {"difference": vars(pair.difference)}

    def side(shown: Side, tasks: Sequence[str]) -> dict[str, Any]:
        return {"name": shown.name, "tasks": {task: {
            "runs": len(shown.on(task)), "safe": sum(run.safe for run in shown.on(task)),
            "return": shown.by_seed(task, "return"), "cost": shown.by_seed(task, "cost"),
            "limit": shown.on(task)[0].limit,
            **next(({"step": run.result.step, "first_step": run.result.first_step} for run in shown.on(task)
                    if run.result), {})} for task in tasks}}

    return json.dumps({
        "tests": sum(test.p_value is not None for pair in found for test in pair.tests), "sampler": sampler,
        "remarks": list(remarks),
        "comparisons": [{
            "first": side(pair.first, pair.tasks), "second": side(pair.second, pair.tasks), "tasks": pair.tasks,
            "within": list(pair.first.within), "left_out": pair.left_out, "differing": pair.differing,
            "returns": vars(pair.returns), "costs": vars(pair.costs), "notes": own_notes(pair),
            "tests": [{"task": test.task or None, "quantity": test.quantity, "p": test.p_value,
                       "p_after_holm": test.adjusted, "paired": paired(test.paired)} for test in pair.tests]}
            for pair in found]}, indent=1, ensure_ascii=False)
