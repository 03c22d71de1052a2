"""Optuna's study in a journal beside the sweep's file, safe against a kill at any moment.

A proposal is drawn in a copy in memory and then recorded with all its values in one write, so a trial exists either
completely or not at all. Proposals depend only on the seed, the trial's number and the journal, so a search that was
killed makes the same proposals as one that was not.
"""

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from algd.errors import UsageError
from algd.seeding import stream
from launchers.search.halving import Result
from launchers.search.settings import SearchSettings
from launchers.search.space import Space

COST = "cost"
DIRECTIONS: dict[str, list[Literal["maximize", "minimize"]]] = {
    "return": ["maximize"], "return_and_cost": ["maximize", "minimize"]}


class HeldAlready(JournalFileOpenLock):
    """Replaces Optuna's lock for each write, since `locked` holds the whole journal during the search."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Lock a journal for this process; the lock ends with the process, even after a kill.

    An incomplete last line, left by a kill during a write, is removed.

    Raises:
        UsageError: another process holds the lock.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{journal}: another process is running this search; wait for it, or stop it "
                             "first") from error
        file.seek(0)
        content = file.read()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
        yield


class Study:
    """A search's trials. The process must hold the journal's lock (`locked`).

    Args:
        journal: the journal's file.
        space: the search space.
        settings: the search's settings.

    Raises:
        UsageError: the journal belongs to another search.
    """

    def __init__(self, journal: Path, space: Space, settings: SearchSettings):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.settings = space, settings
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=HeldAlready(str(journal))))
        try:
            self.study = optuna.create_study(storage=storage, study_name=journal.stem, load_if_exists=True,
                                             directions=DIRECTIONS[settings.objectives], sampler=RandomSampler(seed=0))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{journal} is damaged ({type(error).__name__}: {error}); hydra.launcher.name=... begins "
                             "another search") from error
        mine = {"space": space.digest, "objectives": settings.objectives, "judged_by": settings.judged_by}
        for key, value in mine.items():
            found = self.study.user_attrs.get(key)
            if found is None:
                self.study.set_user_attr(key, value)
            elif found != value:
                raise UsageError(f"{journal} is of a search with another {key} ({found} instead of {value}); "
                                 "hydra.launcher.name=... gives this one a name of its own")

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def open_trials(self) -> list[FrozenTrial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def propose(self) -> None:
        """Propose and record one trial."""
        copy = optuna.create_study(directions=DIRECTIONS[self.settings.objectives], sampler=self._sampler())
        copy.add_trials(self.trials)
        drawn = copy.ask(dict(self.space.distributions))
        self.study.add_trial(optuna.create_trial(state=TrialState.RUNNING, params=drawn.params,
                                                 distributions=drawn.distributions))

    def _sampler(self) -> BaseSampler:
        seed = stream(self.settings.seed, "search", len(self.trials)) % 2**32
        if self.settings.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(n_startup_trials=self.settings.n_startup_trials, seed=seed, constant_liar=True,
                              multivariate=True)

    def report(self, trial: FrozenTrial, step: int, result: Result) -> None:
        """Record a trial's result at a step."""
        handle = optuna.trial.Trial(self.study, trial._trial_id)
        if self.settings.objectives == "return" and step not in self.trials[trial.number].intermediate_values:
            handle.report(result.gain, step)
        # Written last: `result` reads it, so it marks the report as complete.
        handle.set_user_attr(f"at {step}", [result.gain, result.cost, result.limit])

    def result(self, trial: FrozenTrial, step: int) -> Result | None:
        """Return a trial's recorded result at a step; None if there is none."""
        values = self.trials[trial.number].user_attrs.get(f"at {step}")
        return Result(*values) if values is not None else None

    @staticmethod
    def last_result(trial: FrozenTrial) -> tuple[int, Result] | None:
        """Return the last step at which a trial has a recorded result, and the result; None if there is none."""
        steps = [int(key.removeprefix("at ")) for key in trial.user_attrs if key.startswith("at ")]
        return (max(steps), Result(*trial.user_attrs[f"at {max(steps)}"])) if steps else None

    def end(self, trial: FrozenTrial, state: TrialState, result: Result | None = None) -> None:
        """Record a trial's end.

        Args:
            trial: the trial.
            state: COMPLETE, PRUNED or FAIL.
            result: its last result; None for FAIL.
        """
        if result is not None and self.settings.objectives == "return":
            handle = optuna.trial.Trial(self.study, trial._trial_id)
            if COST not in handle.constraints:
                handle.set_constraint(COST, result.violation)
        values = None
        if state == TrialState.COMPLETE and result is not None:
            values = [result.gain] if self.settings.objectives == "return" else [result.gain, result.cost]
        self.study.tell(trial.number, values, state=state)

    def best(self) -> list[FrozenTrial]:
        """Return the feasible trial with the greatest return, if any; with two objectives the Pareto front."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.trials):
            return []
        if self.settings.objectives == "return_and_cost":
            return self.study.best_trials
        try:
            return [self.study.best_trial]
        except ValueError:  # none is feasible
            return []
