"""At which training step runs are compared: one for all cells of a task, never whatever each run happens to have.

A run that stopped early, with an evaluation of an almost untrained policy, must not stand beside runs that were trained
to the end. So the step is chosen first, and a run without a complete evaluation at it has no result.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from algd.errors import UsageError
from analysis.runs.model import Run


def judged(runs: Sequence[Run], at_step: int | None = None, by: Sequence[Hashable] = ()) -> list[Run]:
    """The runs, each with the step that it is judged at.

    Runs of one task are judged at one step; those of another framework, which evaluates at steps of its own, apart.

    Args:
        runs: any.
        at_step: this step for all of them; None: see `common_step`.
        by: for each run, what it need not be compared across, such as its total_steps where a table has a column for
            each; empty: nothing.
    """
    if at_step is not None:
        return [replace(run, judged_at=at_step) for run in runs]
    groups: dict[Hashable, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.env, run.foreign, by[index] if by else None), []).append(index)
    steps_of = {index: step for members in groups.values()
                for step in [common_step([runs[index] for index in members])] for index in members}
    return [replace(run, judged_at=steps_of[index]) for index, run in enumerate(runs)]


def check_step(runs: Sequence[Run], at_step: int | None) -> None:
    """Raises UsageError where none of the runs has an evaluation at this step."""
    if at_step is None or any(point.step == at_step for run in runs for point in run.evaluations):
        return
    steps = sorted({point.step for run in runs for point in run.evaluations if point.step > 0})
    shown = [str(step) for step in steps]
    there = f"there are {', '.join(shown if len(shown) <= 8 else [*shown[:4], '…', *shown[-3:]])}"
    raise UsageError(f"--at-step {at_step}: no run has a complete evaluation at this step; "
                     + (there if steps else "there is none after step 0"))


def common_step(runs: Sequence[Run]) -> int | None:
    """The step at which runs of one task are compared; None where there is none. Step 0 is never one.

    The last one of the finished runs; while none is finished, the last one that all have that have not failed and were
    evaluated after step 0.
    """
    if finished := [run.evaluations[-1].step for run in runs if run.state == "finished" and run.evaluations]:
        return max(finished) or None
    steps = [{point.step for point in run.evaluations if point.step > 0} for run in runs if not run.failed]
    shared = set.intersection(*begun) if (begun := [some for some in steps if some]) else set()
    return max(shared, default=None)


def earlier_step(runs: Sequence[Run]) -> int | None:
    """The last step after 0 at which every run was evaluated that was evaluated after step 0 at all."""
    begun = [steps for run in runs if (steps := {point.step for point in run.evaluations if point.step > 0})]
    return max(set.intersection(*begun), default=None) if begun else None


def waiting(run: Run) -> bool:
    """Whether a run has no result and has not failed: it may still come to one."""
    return run.result is None and not run.failed
