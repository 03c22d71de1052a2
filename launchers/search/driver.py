"""A search from its first proposal to its last result: batches of trials through the launchers."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from algd.budget import Budget
from algd.config.messages import validated
from algd.config.schema import check
from algd.errors import UsageError
from algd.storage.run_folder import RunFolder
from launchers.grid import SETTINGS, compose_members, in_wandb, launch
from launchers.search.halving import Result, going_on
from launchers.search.settings import SearchSettings
from launchers.search.space import Space, parse
from launchers.search.study import Study, locked
from launchers.search.summary import describe, write_summary
from launchers.settings import Settings, checked
from launchers.states import read_state
from launchers.sweeps import SWEEPS, Member, begin_sweep
from launchers.table import say, shown_path

STOPPED = 128  # exit codes from here on are signals'


def search(kind: str, given: Mapping[str, Any], given_search: Mapping[str, Any], context: HydraContext,
           master: DictConfig, overrides: Sequence[Override]) -> int:
    """Search, from wherever the journal stands.

    Args:
        kind: "local" or "slurm".
        given: the launcher's keys.
        given_search: the sweeper's keys.
        context, master: Hydra's, to compose configurations with.
        overrides: what the command line and the experiment sweep and fix.

    Returns:
        The exit code: 0 all trials have a result, 1 some failed, above 128 stopped.

    Raises:
        UsageError: something is wrong with a key, the space or a trial's configuration; nothing has been started.
    """
    settings = checked(SETTINGS[kind], given)
    plain = OmegaConf.to_container(OmegaConf.create(dict(given_search)), resolve=True)
    assert isinstance(plain, dict)
    options = SearchSettings(**validated(SearchSettings, {str(k): v for k, v in plain.items()}, "hydra.sweeper"))
    space = parse(overrides)
    compose = Composer(space, context, master)
    first = compose.members(_corner(space))
    _check(first[0].config, settings, options)
    runs_dir, experiment = Path(first[0].config["runs_dir"]).absolute(), first[0].config["experiment"]
    name = settings.name or f"{experiment or 'search'}-{space.digest}"
    journal = runs_dir / SWEEPS / f"{name}.journal"
    if settings.dry_run:
        _list(space, options, first, journal)
        return 0
    with locked(journal):
        study = Study(journal, space, options)
        driver = Driver(study, compose, settings, {"kind": kind, **settings.model_dump()}, runs_dir, name, experiment)
        code = driver.run()
        write_summary(study, driver.members, runs_dir / SWEEPS / f"{name}.search.json")
        say(describe(study))
    return code


class Composer:
    """The runs of trials, composed and checked, each once.

    Args:
        space: what is searched.
        context, master: Hydra's.
    """

    def __init__(self, space: Space, context: HydraContext, master: DictConfig):
        self.space, self._context, self._master = space, context, master

    def members(self, params: Mapping[str, Any]) -> list[Member]:
        """The runs of these values, one a seed.

        Raises:
            UsageError: they do not make a run.
        """
        own = tuple(f"{key}={value}" for key, value in params.items())
        found = compose_members(self._context, self._master, self.space.members(params))
        return [replace(member, overrides=(*own, f"seed={member.config['seed']}")) for member in found]


def _corner(space: Space) -> dict[str, Any]:
    """Some values of the space: what is wrong with a key is told before anything starts."""
    return {key: one.choices[0] if hasattr(one, "choices") else one.low  # type: ignore[attr-defined]
            for key, one in space.distributions.items()}


def _check(config: Mapping[str, Any], settings: Settings, options: SearchSettings) -> None:
    """Raises UsageError where the search's keys do not fit each other or the runs'."""
    every, total = config["eval"]["every"], config["total_steps"]
    for rung in options.rungs:
        if rung >= total or rung % every:
            raise UsageError(f"hydra.sweeper.rungs={options.rungs}: a rung is a step with an evaluation before the "
                             f"end: a multiple of eval.every={every}, less than total_steps={total}")
    if options.rungs != sorted(set(options.rungs)):
        raise UsageError(f"hydra.sweeper.rungs={options.rungs}: they should grow")
    if options.rungs and options.objectives != "return":
        raise UsageError("hydra.sweeper.rungs: trials are compared by return within the limit; with "
                         "objectives=return_and_cost none is better than all others, and rungs should be []")
    if getattr(settings, "detach", False):
        raise UsageError("hydra.launcher.detach=true: a search waits for results before it proposes more")
    if config["fresh"]:
        raise UsageError("fresh=true: a search goes on with its journal; hydra.launcher.name=... begins another")


class Driver:
    """The loop of one search.

    Args:
        study: its trials.
        compose: makes their runs.
        settings: the launcher's keys.
        launcher: the same as the sweep's file has them.
        runs_dir, name, experiment: of the sweep.
    """

    def __init__(self, study: Study, compose: Composer, settings: Settings, launcher: Mapping[str, Any],
                 runs_dir: Path, name: str, experiment: str | None):
        self.study, self.options, self.settings = study, study.settings, settings
        self._compose, self._launcher = compose, launcher
        self._runs_dir, self._name, self._experiment = runs_dir, name, experiment
        self.members: dict[int, list[Member]] = {}

    def run(self) -> int:
        """Propose, train, record, until there are as many trials as asked for. Returns the exit code."""
        while True:
            while len(self.study.open_trials()) < self.options.batch and len(self.study.trials) < self.options.n_trials:
                self.study.propose()
            for trial in self.study.trials:
                if trial.number not in self.members:
                    self.members[trial.number] = self._compose.members(trial.params)
            if not self.study.open_trials():
                failed = any(trial.state == TrialState.FAIL for trial in self.study.trials)
                return 1 if failed else 0
            if (code := self._batch()) >= STOPPED:
                return code

    def _batch(self) -> int:
        """Bring the open trials to their ends, rung by rung. Returns 0, or a stop's exit code."""
        total = next(iter(self.members.values()))[0].config["total_steps"]
        for step in (*self.options.rungs, total):
            waiting = [trial for trial in self.study.open_trials() if self.study.result(trial, step) is None]
            if waiting and (code := self._train(waiting, step, total)) >= STOPPED:
                return code
            for trial in waiting:
                self._take(trial, step)
            decided = {trial.number: self._result(trial, step) for trial in self.study.open_trials()}
            staying = decided.keys() if step == total else going_on(decided, self._reached(step),
                                                                    self.options.reduction_factor)
            for trial in self.study.open_trials():
                if step == total:
                    self.study.end(trial, TrialState.COMPLETE, decided[trial.number])
                elif trial.number not in staying:
                    for member in self.members[trial.number]:
                        mark_pruned(member, f"trial {trial.number} of {self._name} was pruned at step {step}")
                    self.study.end(trial, TrialState.PRUNED, decided[trial.number])
            write_summary(self.study, self.members, self._runs_dir / SWEEPS / f"{self._name}.search.json")
        return 0

    def _train(self, trials: Sequence[FrozenTrial], step: int, total: int) -> int:
        """Train these trials up to a step; those that fail once more. Returns 0, or a stop's exit code."""
        everything = [member for members in self.members.values() for member in members]
        sweep = begin_sweep(self._runs_dir, self._name, self._experiment, everything, self._launcher)
        runs = {member.folder: in_wandb(up_to(member, step, total), sweep)
                for trial in trials for member in self.members[trial.number]}
        # A failed run is tried once more: what killed it may have been the machine's.
        for _ in range(2):
            code = launch(sweep, list(runs.values()), self.settings)
            if code == 0 or code >= STOPPED:
                return code
        return 0

    def _take(self, trial: FrozenTrial, step: int) -> None:
        """Record how a trial stands at a step, or that it failed."""
        results = [result_of(member, step, self.options.judged_by) for member in self.members[trial.number]]
        known = [result for result in results if result is not None]
        if len(known) < len(results):
            self.study.end(trial, TrialState.FAIL)
            say(f"trial {trial.number} failed: {_typed(trial)}")
            return
        mean = Result(*np.mean([(one.gain, one.cost, one.limit) for one in known], axis=0).tolist())
        self.study.report(trial, step, mean)
        verdict = "feasible" if mean.violation <= 0 else "over the limit"
        say(f"trial {trial.number} at step {step}: return {mean.gain:.4g}, cost {mean.cost:.4g} of {mean.limit:g}, "
            f"{verdict}: {_typed(trial)}")

    def _result(self, trial: FrozenTrial, step: int) -> Result:
        found = self.study.result(trial, step)
        return found if found is not None else _never(trial)

    def _reached(self, step: int) -> dict[int, Result]:
        """How every trial stood that reached a step."""
        found = {trial.number: self.study.result(trial, step) for trial in self.study.trials}
        return {number: result for number, result in found.items() if result is not None}


def _never(trial: FrozenTrial) -> NoReturn:
    raise AssertionError(f"trial {trial.number} is open without a result")


def _typed(trial: FrozenTrial) -> str:
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in trial.params.items())


def up_to(member: Member, step: int, total: int) -> Member:
    """The member as it is trained up to a step: before the end it keeps its replay, so that going on is exact."""
    if step == total:
        return member
    config = dict(member.config)
    return replace(member, config=check(config | {"total_steps": step,
                                                  "checkpoint": config["checkpoint"] | {"keep_replay": True}}))


def mark_pruned(member: Member, reason: str) -> None:
    """Let a run's folder say that it was pruned, and what its whole length would be. It can be finished later."""
    run = RunFolder(member.folder)
    run.write_config(member.config)
    run.write_status(run.status() | {"state": "pruned", "total_steps": member.config["total_steps"], "reason": reason})


def result_of(member: Member, step: int, sampler: str) -> Result | None:
    """How a run stands at a step; None: it did not come so far, or has failed."""
    state = read_state(member.folder)
    if state.state != "finished" or state.step < step:
        return None
    env = member.config["env"]
    budget = Budget(env["limit"], env["limit_kind"], env["horizon"])
    with RunFolder(member.folder).evals.open(newline="") as file:
        rows = [row for row in csv.DictReader(file)
                if (row["step"], row["sampler"], row["source"]) == (str(step), sampler, "train")]
    if not rows:
        return None
    spent = [budget.spent(float(row["cost"]), float(row["discounted_cost"])) for row in rows]
    return Result(float(np.mean([float(row["return"]) for row in rows])), float(np.mean(spent)), float(budget.limit))


def _list(space: Space, options: SearchSettings, first: Sequence[Member], journal: Path) -> None:
    """What a search would do."""
    for key, distribution in space.distributions.items():
        print(f"{key}: {distribution}")
    seeds = f", each with seeds {', '.join(map(str, space.seeds))}" if space.seeds else ""
    print(f"{options.n_trials} trials{seeds}, {options.batch} at a time, up to {first[0].config['total_steps']} steps"
          + (f", with rungs at {', '.join(map(str, options.rungs))}" if options.rungs else "")
          + f"; journal: {shown_path(journal)}\ndry run: nothing was started")
