"""The training step at which the runs of a task are compared, the same for all cells.

A run that stopped early must not be compared with runs that were trained to the end. The step is therefore chosen
first, and a run without a complete evaluation at it has no result.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from algd.errors import UsageError
from analysis.runs.model import Run

STEPS = 5  # steps that a sentence lists


def judged(runs: Sequence[Run], at_step: int | None = None, by: Sequence[Hashable] = ()) -> list[Run]:
    """Return the runs with `judged_at` set, the same for all runs of a task.

    Runs of another framework have a step of their own, since it evaluates at other steps.

    Args:
        runs: runs of any tasks.
        at_step: the step for all runs; None: see `common_step`.
        by: a value for each run; only runs with equal values need a common step. An example is total_steps in a table
            that has it as a column. Empty: all runs of a task have one step.

    Raises:
        UsageError: results are means over several evaluations, which cover different numbers of steps on a task.
    """
    found = _judged(runs, at_step, by)
    for task in dict.fromkeys(run.env for run in found):
        spans = sorted({run.result.step - run.result.first_step for run in found if run.env == task and run.result})
        if len(spans) > 1:
            raise UsageError(f"--last {found[0].averaged}: on {task} these evaluations cover {spans[0]} to {spans[-1]} "
                             "steps, since runs were not evaluated equally often: choose among them with --where")
    return found


def _judged(runs: Sequence[Run], at_step: int | None, by: Sequence[Hashable]) -> list[Run]:
    if at_step is not None:
        return [replace(run, judged_at=at_step) for run in runs]
    groups: dict[Hashable, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.env, run.foreign, by[index] if by else None), []).append(index)
    steps_of = {index: step for members in groups.values()
                for step in [common_step([runs[index] for index in members])] for index in members}
    return [replace(run, judged_at=steps_of[index]) for index, run in enumerate(runs)]


def check_step(runs: Sequence[Run], at_step: int | None) -> None:
    """Raise UsageError if no run has an evaluation at this step, or as many as are to be averaged."""
    most = max((sum(0 < point.step <= (at_step or point.step) for point in run.evaluations) for run in runs), default=0)
    if runs and most < runs[0].averaged > 1:
        raise UsageError(f"--last {runs[0].averaged}: no run has more than {most} complete evaluations after step 0"
                         + (f" and up to step {at_step}" if at_step else ""))
    if at_step is None or any(point.step == at_step for run in runs for point in run.evaluations):
        return
    steps = sorted({point.step for run in runs for point in run.evaluations if point.step > 0})
    shown = [str(step) for step in steps]
    there = f"there are {', '.join(shown if len(shown) <= 8 else [*shown[:4], '…', *shown[-3:]])}"
    raise UsageError(f"--at-step {at_step}: no run has a complete evaluation at this step; "
                     + (there if steps else "there is none after step 0"))


def common_step(runs: Sequence[Run]) -> int | None:
    """Return the step at which runs of one task are compared; None if there is none after step 0.

    It is the last evaluation of the finished runs. While no run is finished, it is the last evaluation common to all
    runs that have not failed and were evaluated after step 0.
    """
    if finished := [run.evaluations[-1].step for run in runs if run.state == "finished" and run.evaluations]:
        return max(finished) or None
    steps = [{point.step for point in run.evaluations if point.step > 0} for run in runs if not run.failed]
    shared = set.intersection(*begun) if (begun := [some for some in steps if some]) else set()
    return max(shared, default=None)


def earlier_step(runs: Sequence[Run]) -> int | None:
    """Return the last step at which all runs with an evaluation after step 0 were evaluated; None if there is none."""
    begun = [steps for run in runs if (steps := {point.step for point in run.evaluations if point.step > 0})]
    return max(set.intersection(*begun), default=None) if begun else None


def when(runs: Iterable[Run]) -> str:
    """Return when the results of runs are from.

    That is "step 200"; "step 100, 200" if they differ; "steps 100 to 200" for means over several evaluations; and ""
    if there is no result.
    """
    spans = sorted({(run.result.step, run.result.first_step) for run in runs if run.result})
    shown = [f"{step}" if first == step else f"{first} to {step}" for step, first in spans[:STEPS]]
    several = any(first != step for step, first in spans)
    return f"step{'s' * several} {', '.join(shown)}{', …' * (len(spans) > STEPS)}" if spans else ""


def waiting(run: Run) -> bool:
    """Return whether a run has no result and has not failed, so that it may still get one."""
    return run.result is None and not run.failed
