"""The loop of a search: propose, train and record trials, rung by rung, until there are enough."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from optuna.trial import FrozenTrial, TrialState

from launchers.search.halving import Result, going_on
from launchers.search.study import Study
from launchers.table import say

STOPPED = 128  # exit codes from here on mean a stop by a signal


class Trainer(Protocol):
    """Interface to what trains trials."""

    total_steps: int

    def prepare(self, trials: Sequence[FrozenTrial]) -> Mapping[int, str]:
        """Check that these trials can be trained, before any of them is. Returns why one cannot, by its number."""
        ...

    def train(self, trials: Sequence[FrozenTrial], step: int) -> int:
        """Train these trials up to a step, resuming them where possible. Returns 0, or the exit code of a stop."""
        ...

    def result(self, trial: FrozenTrial, step: int) -> Result | None:
        """Return the result at a step of a trial that was trained to it; None if it failed."""
        ...

    def prune(self, trial: FrozenTrial, step: int) -> None:
        """Mark a trial's runs as pruned; may be called twice."""
        ...

    def note(self) -> None:
        """Save the results; called after each batch."""
        ...


def run(study: Study, trainer: Trainer) -> int:
    """Start or resume a search from its journal.

    The process may be killed at any line: what has been done is in the journal or in the runs' folders and is not
    repeated, and what has not is decided again from the same results.

    Returns:
        Exit code. 0: every trial has a result; 1: some failed; above 128: stopped.
    """
    options = study.settings
    while True:
        # Batches must not depend on kills: an incomplete batch is filled up first, and the next one begins when all
        # trials of it have ended.
        while len(study.trials) < options.n_trials and (len(study.trials) % options.batch or not study.open_trials()):
            study.propose()
        wrong = trainer.prepare(study.trials)
        for trial in study.open_trials():
            if trial.number in wrong:
                study.end(trial, TrialState.FAIL)
                say(f"trial {trial.number} cannot be trained: {wrong[trial.number]}")
        if not study.open_trials():
            if len(study.trials) < options.n_trials:
                continue  # no trial of this batch can be trained
            return 1 if any(trial.state == TrialState.FAIL for trial in study.trials) else 0
        for step in (*options.rungs, trainer.total_steps):
            if (code := _to(study, trainer, step)) >= STOPPED:
                return code
        trainer.note()


def _to(study: Study, trainer: Trainer, step: int) -> int:
    """Train the open trials to a step, and end those that do not continue. Returns 0, or the exit code of a stop."""
    waiting = [trial for trial in study.open_trials() if study.result(trial, step) is None]
    if waiting and (code := trainer.train(waiting, step)) >= STOPPED:
        return code
    for trial in waiting:
        result = trainer.result(trial, step)
        if result is None:
            study.end(trial, TrialState.FAIL)
            say(f"trial {trial.number} failed: {typed(trial)}")
            continue
        study.report(trial, step, result)
        verdict = "feasible" if result.violation <= 0 else "over the limit"
        say(f"trial {trial.number} at step {step}: return {result.gain:.4g}, cost {result.cost:.4g} of "
            f"{result.limit:g}, {verdict}: {typed(trial)}")
    reached = {trial.number: result for trial in study.trials if (result := study.result(trial, step)) is not None}
    still = study.open_trials()
    last = step == trainer.total_steps
    staying = going_on({trial.number: reached[trial.number] for trial in still}, reached,
                       study.settings.reduction_factor)
    for trial in still:
        if last:
            study.end(trial, TrialState.COMPLETE, reached[trial.number])
        elif trial.number not in staying:
            trainer.prune(trial, step)
            study.end(trial, TrialState.PRUNED, reached[trial.number])
    return 0


def typed(trial: FrozenTrial) -> str:
    """Format a trial's values briefly."""
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in trial.params.items())
