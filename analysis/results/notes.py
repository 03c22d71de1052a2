"""Notes below a table: definitions of its numbers, and runs that are missing, failed or unusual."""

from collections.abc import Sequence

from analysis.results.cells import Cell
from analysis.results.steps import common_step, earlier_step, when
from analysis.runs.gather import listed, short, states
from analysis.runs.model import Run
from analysis.statistics.estimators import SEEDS_FOR_INTERVAL, Method

FEW_EPISODES = 20
REASON = 80  # characters of the reason of a failure


def notes(cells: Sequence[Cell], along: str, sampler: str, remarks: Sequence[str] = ()) -> list[str]:
    """Return the notes of a table.

    Args:
        cells: cells of one family of tasks.
        along: "row" or "column": see `analysis.results.cells.ranked_along`.
        sampler: sampler of the evaluations.
        remarks: sentences on runs that are missing, which are appended.
    """
    runs = [run for cell in cells for run in cell.runs]
    return [*_how(cells, along, sampler), *result_notes(cells, along), *_episodes(runs), *pooled_notes(cells),
            *[f"Imported from {source}." for source in sorted({run.source for run in runs if run.source})], *remarks]


def interval_of(method: Method) -> str:
    """Return the description of an interval."""
    return ("95% interval from a stratified bootstrap's standard error and Student's t" if method == "t"
            else "95% percentile interval of a stratified bootstrap")


def _how(cells: Sequence[Cell], along: str, sampler: str) -> list[str]:
    share, averaged = cells[0].safe_share, cells[0].runs[0].averaged
    from_each = "evaluation" if averaged == 1 else f"last {averaged} evaluations,"
    several = "" if averaged == 1 else (
        " Evaluations over: share of these evaluations whose mean cost is above the limit. CVaR: the mean of the "
        "evaluations' own.")
    return [
        f"Results: means over the {sampler} episodes of each run's {from_each} {_at(cells)}. Return: the interquartile "
        f"mean over seeds (without the ⌊n/4⌋ lowest and as many highest), with the {interval_of(cells[0].method)}. "
        "Cost: the plain mean, and in brackets the seeds; no interval holds for it with so few.",
        "†: mean cost above the limit. Safe seeds: those whose mean cost is at most the limit, of all; a run that "
        "failed or has no result is not safe; in brackets Wilson's 95% interval.",
        f"Bold: the highest return among the cells of the {along} with the same limit whose runs all have a result, "
        f"whose mean cost is within the limit and of whose seeds at least {100 * share:g}% are safe; a rank and not a "
        "test (`python -m analysis compare`). Returns that print alike share it.",
        "Violation, CVaR 0.1 (mean of the worst tenth of episode costs), episodes over and training: means over seeds, "
        "in brackets the lowest and the highest. Training counts episodes after the initial steps, up to the step of "
        f"the results.{several} updates/s and hours: means of the runs with a result.",
        "Stays feasible from: median, over the seeds with a result or a failure, of the first step from which on every "
        "evaluation was feasible; '>': half of them or more were not yet."]


def _at(cells: Sequence[Cell]) -> str:
    runs = [run for cell in cells for run in cell.runs]
    if not (steps := when(runs)):
        return "at a common step, which there is none of yet"
    same = len({run.result.step for run in runs if run.result}) == 1
    return f"at {steps}" if same else f"at the step given ({steps.partition(' ')[2]})"


def result_notes(cells: Sequence[Cell], along: str) -> list[str]:
    """Return notes on runs without a result, and why they have none, and on missing seeds; `along` as for `notes`."""
    runs = [run for cell in cells for run in cell.runs]
    found = []
    if failed := [run for run in runs if run.failed]:
        found.append("Failed, hence not safe: " + listed([
            f"{short(run)} ({_reason(run)})" for run in failed])
            + ".")
    for env in dict.fromkeys(run.env for run in runs):
        here = [run for run in runs if run.env == env and not run.foreign]
        lacking = [run for run in here if run.result is None and not run.failed]
        found += _held_back(env, here)
        steps = sorted({run.judged_at for run in here if run.judged_at is not None})
        if lacking and steps:
            at = ", ".join(map(str, steps))
            needed = "no complete evaluation" if here[0].averaged == 1 else (
                f"not {here[0].averaged} complete evaluations up to and")
            text = f"{env}: {len(lacking)} of {len(here)} runs have {needed} at step {at} " \
                   f"({states(lacking)}), hence no result: {_runs(lacking)}."
            earlier = earlier_step(here) if here[0].averaged == 1 else None
            if earlier is not None and earlier < steps[0]:
                text += f" All that were evaluated were so at step {earlier} (--at-step {earlier})."
            found.append(text)
        elif lacking:
            found.append(f"{env}: no result, since no evaluation after step 0 is shared by the runs: {_runs(lacking)}.")
    if torn := [(run, step) for run in runs for step in run.incomplete
                if step >= (run.judged_at or 0) or step > (run.last.step if run.last else -1)
                or (run.averaged > 1 and run.window and step > run.window[0].step)]:
        found.append("Incomplete evaluations, which are not used: " + listed(
            [f"{short(run)} at step {step} ({run.incomplete[step]} of {run.config['eval.episodes']} episodes)"
             for run, step in torn]) + ".")
    if odd := [run for run in runs if run.result is not None and not run.result.finite]:
        found.append(f"Return or cost is not a number, hence not safe and never the best: {_runs(odd)}.")
    if unfinished := [run for run in runs if run.state != "finished" and run.result is not None and not run.failed]:
        found.append(f"Not finished, but evaluated at the step of the results: {len(unfinished)} of {len(runs)} runs "
                     f"({states(unfinished)}).")
    if few := [cell for cell in cells if 0 < len(cell.evaluated) < SEEDS_FOR_INTERVAL]:
        found.append(f"Fewer than {SEEDS_FOR_INTERVAL} seeds, hence values and no interval: {_cells(few)}.")
    return found + _missing_seeds(cells, along) + code_notes(runs)


def _held_back(env: str, runs: Sequence[Run]) -> list[str]:
    """Return a note on the run that limits the common step of a task without finished runs."""
    common = common_step(runs)
    if any(run.state == "finished" for run in runs) or any(run.judged_at != common for run in runs):
        return []  # the common step is the end of training, or the user's choice
    last = {run.evaluations[-1].step: run for run in runs if run.evaluations and not run.failed}
    behind, furthest = min((step for step in last if step > 0), default=0), max(last, default=0)
    if common is None or common >= furthest:
        return []
    return [f"{env}: compared at step {common}, the last that all runs share while none is finished; "
            f"{short(last[behind])} is the furthest behind, others were evaluated up to step {furthest} (--at-step)."]


def _episodes(runs: Sequence[Run]) -> list[str]:
    """Return notes on the evaluation episodes."""
    found, results = [], [run.result for run in runs if run.result]
    kinds = sorted({(run.env, str(run.config["env.limit_kind"])) for run in runs})
    if tasks := [task if (task, "episode") not in kinds else f"{task} with env.limit_kind=discounted"
                 for task, kind in kinds if kind == "discounted"]:
        found.append(f"Cost and limit are discounted sums in {', '.join(tasks)}; training cost is not.")
    if repeated := [result for result in results if result.different < result.episodes]:
        worst = min(repeated, key=lambda result: result.different)
        found.append(f"In {len(repeated)} of {len(runs)} runs some evaluation episodes are identical (at worst "
                     f"{worst.different} different of {worst.episodes}); all of them count.")
    if cut := [result.cut for result in results if result.cut]:
        found.append(f"The simulator ended evaluation episodes early in {len(cut)} of {len(runs)} runs ({sum(cut)} in "
                     "all); they count with what they had until then.")
    if short_ones := [result for result in results if result.over is not None and result.episodes < FEW_EPISODES]:
        found.append(f"Fewer than {FEW_EPISODES} evaluation episodes in {len(short_ones)} of {len(runs)} runs.")
    return found


def pooled_notes(cells: Sequence[Cell]) -> list[str]:
    """Return notes on runs that are pooled although they differ, and on repeated seeds."""
    found = []
    for keys in sorted({cell.pooled for cell in cells if cell.pooled}):
        found.append(f"Pooled although different in {', '.join(keys)}: "
                     f"{_cells([cell for cell in cells if cell.pooled == keys])}.")
    if repeating := [cell for cell in cells if cell.repeats_seeds]:
        found.append(f"Several runs of one seed, which are not independent, hence no interval: {_cells(repeating)}.")
    return found


def code_notes(runs: Sequence[Run]) -> list[str]:
    """Return a note on each module of the user's that runs were trained with different code of."""
    found = []
    for module in sorted({module for run in runs for module in run.code}):
        versions: dict[tuple[str, ...], list[Run]] = {}
        for run in runs:
            versions.setdefault(tuple(run.code.get(module, ())), []).append(run)
        versions.pop((), None)  # of another environment or agent
        if len(versions) > 1 or any(len(hashes) > 1 for hashes in versions):
            found.append(f"Trained with different code of {module}: " + "; ".join(
                f"{' and '.join(hashes)} ({_runs(some)})" for hashes, some in sorted(versions.items())) + ".")
    return found


def _missing_seeds(cells: Sequence[Cell], along: str) -> list[str]:
    """Return a note on seeds that a cell lacks and other cells of its row or column have."""
    missing = []
    for cell in cells:
        others = {seed for other in cells if getattr(other, along) == getattr(cell, along) for seed in other.seeds}
        if lacking := sorted(others - set(cell.seeds)):
            missing.append(f"{_cells([cell])} lacks {', '.join(map(str, lacking))}")
    return [f"Missing seeds: {'; '.join(missing)}."] if missing else []


def _reason(run: Run) -> str:
    """Return the beginning of a failure's reason in one line: errors of torch have several."""
    return " ".join((run.reason or "no reason recorded").split())[:REASON]


def _cells(some: Sequence[Cell]) -> str:
    return listed([" ".join((*cell.row, *cell.column)) for cell in some])


def _runs(some: Sequence[Run]) -> str:
    return listed([short(run) for run in some])
