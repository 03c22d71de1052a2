"""Run a search's trials: compose their runs, train them with a launcher, and read the results."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from algd.budget import budget_of
from algd.config.messages import validated
from algd.config.schema import check
from algd.errors import UsageError
from algd.logging.console import answer
from algd.run.schedule import snapshot_steps
from algd.storage.run_folder import RunFolder
from algd.storage.sweep_file import SWEEPS
from launchers.ending import tell_end
from launchers.grid import check_place, compose_members, make_runs_dir
from launchers.launch import SETTINGS, in_wandb, launch
from launchers.members import is_done
from launchers.search.halving import Result
from launchers.search.loop import STOPPED, run
from launchers.search.settings import SearchSettings
from launchers.search.space import Space, parse
from launchers.search.study import Study, locked
from launchers.search.summary import describe, record
from launchers.settings import Settings, checked
from launchers.states import read_state
from launchers.sweeps import Member, begin_sweep, load_sweep
from launchers.table import say, shown_path


def search(kind: str, given: Mapping[str, Any], given_search: Mapping[str, Any], context: HydraContext,
           master: DictConfig, overrides: Sequence[Override]) -> int:
    """Start or resume a search.

    Args:
        kind: "local" or "slurm".
        given: the launcher's settings.
        given_search: the search's settings (`hydra.sweeper.*`).
        context, master: Hydra's context and configuration, for composing runs.
        overrides: swept and fixed keys of the command line and the experiment.

    Returns:
        The exit code. 0: all trials have a result; 1: some failed; above 128: stopped.

    Raises:
        UsageError: a setting, the space or a trial's configuration is invalid; nothing has been started.
    """
    settings = checked(SETTINGS[kind], given)
    plain = OmegaConf.to_container(OmegaConf.create(dict(given_search)), resolve=True)
    assert isinstance(plain, dict)
    options = SearchSettings(**validated(SearchSettings, {str(k): v for k, v in plain.items()}, "hydra.sweeper"))
    space = parse(overrides)
    compose = partial(_members, space, context, master)
    corners = _corners(space)
    first, *others = [compose(params) for params in corners]
    check_place(settings, [member for members in (first, *others) for member in members])
    for params, members in zip(corners, (first, *others), strict=True):
        _check(members[0].config, settings, options)
        changed = [f"{key}={value}" for key, value in params.items() if value != corners[0][key]]
        if changed and members[0].folder == first[0].folder:
            raise UsageError(f"{changed[0]}: this key does not determine a run's result, so that trials with different "
                             "values of it would be the same run")
        if members[0].config["total_steps"] != first[0].config["total_steps"]:
            raise UsageError(f"{changed[0]}: trials are compared at one step, and with this value total_steps would be "
                             f"{members[0].config['total_steps']} instead of {first[0].config['total_steps']}; "
                             "total_steps=N sets it for all")
    runs_dir, experiment = Path(first[0].config["runs_dir"]).resolve(), first[0].config["experiment"]
    name = settings.name or f"{experiment or 'search'}-{space.digest}"
    journal = runs_dir / SWEEPS / f"{name}.journal"
    if settings.dry_run:
        _list(space, options, first, journal)
        return 0
    make_runs_dir(runs_dir)
    with locked(journal):
        study = Study(journal, space, options)
        # on_end runs once for the search, not for each batch.
        quiet = settings.model_copy(update={"on_end": None})
        runs = Runs(study, compose, quiet, {"kind": kind, **settings.kept()}, first[0], name)
        code = run(study, runs)
        runs.note()
        say(found := describe(study))
        if settings.on_end and code < STOPPED:
            tell_end(settings.on_end, journal.with_suffix(".json"), found)
    answer(runs_dir / SWEEPS / f"{name}.json")
    return code


def _members(space: Space, context: HydraContext, master: DictConfig, params: Mapping[str, Any]) -> list[Member]:
    """Compose and check the runs of these values, one per seed.

    Raises:
        UsageError: they are not a valid configuration.
    """
    own = tuple(f"{key}={value}" for key, value in params.items())
    found = compose_members(context, master, space.members(params))
    return [replace(member, overrides=(*own, f"seed={member.config['seed']}")) for member in found]


def _corners(space: Space) -> list[dict[str, Any]]:
    """Return points of the space, used to check the configuration before anything starts.

    The first has the first value of each key, each other one another choice or the upper end of one key.
    """
    ends = {key: list(distribution.choices) if isinstance(distribution, CategoricalDistribution)
            else [distribution.low, distribution.high]  # type: ignore[attr-defined]
            for key, distribution in space.distributions.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [first, *(first | {key: value} for key, values in ends.items() for value in values[1:])]


def _check(config: Mapping[str, Any], settings: Settings, options: SearchSettings) -> None:
    """Raise UsageError if the search's settings do not fit each other or the runs."""
    if budget_of(config) is None:
        raise UsageError(f"env={config['env']['name']}: a search compares costs with the limit, so that it needs "
                         "env.limit and env.limit_kind")
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
        raise UsageError("fresh=true: a search always resumes from its journal; hydra.launcher.name=... starts another")


class Runs:
    """Trains the trials' runs with a launcher (a `Trainer`).

    Args:
        study: the search.
        compose: values ↦ the runs of a trial, one per seed; raises UsageError.
        settings: the launcher's settings.
        launcher: the launcher's settings, as stored in the sweep's file.
        first: a run of the search, for the values that all runs share.
        name: the sweep's name.
    """

    def __init__(self, study: Study, compose: Callable[[Mapping[str, Any]], list[Member]], settings: Settings,
                 launcher: Mapping[str, Any], first: Member, name: str):
        self.study, self.settings = study, settings
        self.total_steps: int = first.config["total_steps"]
        self.members: dict[int, list[Member]] = {}
        self._compose, self._launcher, self._name = compose, launcher, name
        self._runs_dir, self._experiment = Path(first.config["runs_dir"]).resolve(), first.config["experiment"]

    def prepare(self, trials: Sequence[FrozenTrial]) -> dict[int, str]:
        """Compose and check the runs of new trials. Returns why a trial cannot be trained, by its number."""
        wrong = {}
        for trial in trials:
            if trial.number not in self.members:
                try:
                    self.members[trial.number] = self._compose(trial.params)
                except UsageError as error:
                    wrong[trial.number] = str(error)
        return wrong

    def train(self, trials: Sequence[FrozenTrial], step: int) -> int:
        """Train trials up to a step, and retry failed runs once."""
        everything = [member for members in self.members.values() for member in members]
        sweep = begin_sweep(self._runs_dir, self._name, self._experiment, everything, self._launcher)
        # All trials use the code of the first, even if it is edited during the search.
        kept = load_sweep(sweep.file).code if sweep.file.exists() else None
        code = sweep.file.parent / kept if kept else None
        runs = {member.folder: in_wandb(up_to(member, step), sweep)
                for trial in trials for member in self.members[trial.number]}
        for _ in range(2):  # the machine may have caused the failure
            ended = launch(sweep, list(runs.values()), self.settings, code if code and code.exists() else None)
            if ended == 0 or ended >= STOPPED:
                return ended
        return 0

    def result(self, trial: FrozenTrial, step: int) -> Result | None:
        """Return the means over a trial's seeds; None if one has no result."""
        results = [result_of(member, step, self.study.settings.judged_by) for member in self.members[trial.number]]
        known = [(result.gain, result.cost, result.limit) for result in results if result is not None]
        return Result(*np.mean(known, axis=0).tolist()) if len(known) == len(results) else None

    def prune(self, trial: FrozenTrial, step: int) -> None:
        """Record in the folders that the runs were pruned, with their full length. They can be finished later.

        A run that has its full length already, by another sweep or trial, stays finished.
        """
        for member in self.members[trial.number]:
            if is_done(member, read_state(member.folder)):
                continue
            folder = RunFolder(member.folder)
            folder.write_config(member.config)
            folder.write_status(folder.status() | {"state": "pruned", "total_steps": self.total_steps,
                                             "reason": f"trial {trial.number} of {self._name}, at step {step}"})

    def note(self) -> None:
        """Write search.json with the results so far."""
        record(self.study, self.members).write(self._runs_dir / SWEEPS / self._name)


def up_to(member: Member, step: int) -> Member:
    """Return the member as trained up to a step. Before the last step it keeps its replay and takes only the snapshots
    of the whole run, so that continuing is exact."""
    config = dict(member.config)
    if step == config["total_steps"]:
        return member
    taken = [taken for taken in snapshot_steps(config) if taken <= step]
    return replace(member, config=check(config | {"total_steps": step, "snapshots": taken,
                                                  "checkpoint": config["checkpoint"] | {"keep_replay": True}}))


def result_of(member: Member, step: int, sampler: str) -> Result | None:
    """Return a run's result at a step; None if it has not reached it or has failed."""
    state = read_state(member.folder)
    if state.state != "finished" or state.step < step:
        return None
    budget = budget_of(member.config)
    assert budget is not None, "checked in `_check`"
    with RunFolder(member.folder).evals.open(newline="") as file:
        rows = [row for row in csv.DictReader(file)
                if (row["step"], row["sampler"], row["source"]) == (str(step), sampler, "train")]
    if not rows:
        return None
    spent = [budget.spent(float(row["cost"]), float(row["discounted_cost"])) for row in rows]
    return Result(float(np.mean([float(row["return"]) for row in rows])), float(np.mean(spent)), float(budget.limit))


def _list(space: Space, options: SearchSettings, first: Sequence[Member], journal: Path) -> None:
    """Print what the search would do."""
    for key, distribution in space.distributions.items():
        print(f"{key}: {distribution}")
    seeds = f", each with seeds {', '.join(map(str, space.seeds))}" if space.seeds else ""
    print(f"{options.n_trials} trials{seeds}, {options.batch} at a time, up to {first[0].config['total_steps']} steps"
          + (f", with rungs at {', '.join(map(str, options.rungs))}" if options.rungs else "")
          + f"; journal: {shown_path(journal)}\ndry run: nothing was started")
