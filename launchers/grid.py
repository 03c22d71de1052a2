"""Compose and check the runs of a grid, then launch or list them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gymnasium.spaces import Box
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig

from algd.budget import Budget
from algd.cli.hydra_messages import explain
from algd.config.schema import admitted
from algd.envs.task import Task
from algd.errors import ExitCode, UsageError
from algd.logging.console import answer
from algd.run.build import build_agent, build_task, resolve_device
from algd.storage.run_folder import run_path
from launchers.compose import Composer
from launchers.launch import SETTINGS, in_wandb, launch, list_members, warn_of_left_out
from launchers.settings import LocalSettings, Settings, SlurmSettings, checked
from launchers.slurm.launcher import check
from launchers.sweeps import Member, begin_sweep
from launchers.table import shown_path


def launch_grid(kind: str, given: Mapping[str, Any], context: HydraContext, master: DictConfig,
                grid: Sequence[Sequence[str]]) -> int:
    """Launch every member of a grid, or list them in a dry run.

    Args:
        kind: "local" or "slurm".
        given: the launcher's settings (`hydra.launcher.*`), unchecked.
        context, master: Hydra's context and configuration, for composing members.
        grid: the overrides of each member.

    Returns:
        The exit code: 0 if all runs finished or were submitted, 1 if a run failed.

    Raises:
        UsageError: a setting or a member is invalid; nothing has been started or written.
    """
    settings = checked(SETTINGS[kind], given)
    members = compose_members(context, master, grid)
    check_place(settings, members)
    experiments = {str(member.config["experiment"]) for member in members}
    experiment = members[0].config["experiment"] if len(experiments) == 1 else None
    sweep = begin_sweep(Path(members[0].config["runs_dir"]).resolve(), settings.name, experiment, members,
                        {"kind": kind, **settings.kept()})
    warn_of_left_out(sweep)
    if settings.dry_run:
        list_members(sweep, members, settings)
        return ExitCode.FINISHED
    make_runs_dir(sweep.runs_dir)
    code = launch(sweep, [in_wandb(member, sweep) for member in members], settings)
    answer(sweep.file)
    return code


def check_place(settings: Settings, members: Sequence[Member]) -> None:
    """Check that the members can be built and run here, before anything is written.

    Raises:
        UsageError: a GPU or SLURM is missing, runs_dir cannot be used, parts of a member do not fit together, or tasks
            of a group without members have settings.
    """
    if len(places := sorted({str(member.config["runs_dir"]) for member in members})) > 1:
        raise UsageError(f"runs_dir={','.join(places)}: the runs of one sweep share one runs_dir")
    _check_runs_dir(Path(places[0]), members)
    _check_parts(members)
    if isinstance(settings, SlurmSettings):
        groups = {settings.group_of(member.config) for member in members}
        if unknown := sorted(settings.tasks.keys() - groups):
            raise UsageError(f"hydra.launcher.tasks.{unknown[0]}: no run of this sweep has "
                             f"{settings.per}={unknown[0]}; they have {', '.join(sorted(groups))}")
    if isinstance(settings, SlurmSettings) and not settings.dry_run:
        check(settings)
        # SLURM replaces % in the names of output files, and a line end would break the batch script.
        place = str(Path(places[0]).resolve())
        if "%" in place or not place.isprintable():
            raise UsageError(f"runs_dir={place!r}: on SLURM a path without % and line ends is needed")
    if isinstance(settings, LocalSettings):
        for device in sorted({str(member.config["device"]) for member in members} - {"auto", "cpu"}):
            resolve_device(device)


def make_runs_dir(runs_dir: Path) -> None:
    """Make the folder. Raises UsageError if that is not possible."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"runs_dir={runs_dir} cannot be made ({error.strerror})") from error


def _check_runs_dir(place: Path, members: Sequence[Member]) -> None:
    """Raise UsageError if a runs_dir cannot be used."""
    if os.pathsep in str(place.absolute()):
        raise UsageError(f"runs_dir={place}: Python would take {os.pathsep!r} in the path of the code's copy for the "
                         "end of it; a path without it is needed")
    above = place.absolute()
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise UsageError(f"runs_dir={place} cannot be made ({above} is not a folder)")
    top = place.resolve()
    for folder in dict.fromkeys(member.folder.parent for member in members):
        if top not in folder.resolve().parents:
            raise UsageError(f"{shown_path(folder)} leads out of runs_dir={place} by a link; only runs_dir itself can "
                             "be one")


def _check_parts(members: Sequence[Member]) -> None:
    """Build each kind of agent and guidance of this project once, for spaces of any size, and environments of others.

    Raises:
        UsageError: they cannot be built, with the overrides that asked for them.
    """
    spaces = SimpleNamespace(observation_space=Box(-1, 1, (4,)), action_space=Box(-1, 1, (2,)),
                             budget=Budget(1.0, "episode", 10))
    seen: set[object] = set()
    for member in members:
        config = member.config
        agent, guidance, env = config["agent"], config["guidance"], config["env"]
        targets = tuple(part["_target_"] for part in (agent, agent.get("policy"), guidance, guidance.get("dual"))
                        if part and "_target_" in part)
        kind = (*targets, agent.get("cost_backup"))
        try:
            if kind not in seen and all(target.startswith("algd.") for target in targets):
                seen.add(kind)
                build_agent(config, cast(Task, spaces))
            if "id" in env and env["_target_"].startswith("algd.") and (other := repr(env)) not in seen:
                seen.add(other)
                build_task(config).close()
        except UsageError as error:
            raise UsageError(_of_the_run(member.overrides, str(error))) from error


def _of_the_run(overrides: Sequence[str], said: str) -> str:
    """A sentence on a member of a sweep, with its overrides unless the sentence has the keys of all of them."""
    known = all(override.partition("=")[0] in said for override in overrides)
    return said if known else f"in the run {' '.join(overrides)}: {said}"


def compose_members(context: HydraContext, master: DictConfig, grid: Sequence[Sequence[str]]) -> list[Member]:
    """Return the checked members of a grid without duplicates.

    Raises:
        UsageError: a member is invalid, with the overrides that asked for it.
    """
    setup_globals()
    composer = Composer(context.config_loader, master)
    members: dict[Path, Member] = {}
    common = set(grid[0]).intersection(*grid) if grid else set()
    for overrides in grid:
        own = tuple(override for override in overrides if override not in common)
        try:
            config = admitted(composer.compose(overrides))
            if config["mode"] != "train":
                raise UsageError(f"mode={config['mode']}: a sweep is over runs that train (mode=train)")
        except (UsageError, HydraException) as error:
            said = str(error) if isinstance(error, UsageError) else explain(error, overrides)
            raise UsageError(_of_the_run(own, said)) from error
        # The same path as `load_sweep` returns: without links and "..", up to and including runs_dir.
        try:
            top = Path(config["runs_dir"]).resolve()
            top.exists()
        except (OSError, RuntimeError) as error:
            raise UsageError(f"runs_dir={config['runs_dir']} cannot be made ({error})") from error
        folder = top / run_path(config).relative_to(config["runs_dir"])
        same = members.setdefault(folder, Member(folder, config, own))
        if differing := sorted(key for key in config if config[key] != same.config[key]):
            key = differing[0]
            raise UsageError(f"{key}={same.config[key]},{config[key]}: both are the same run, "
                             f"{shown_path(folder)}, since {key} does not determine its result; one value is needed")
    if not members:
        raise UsageError("the sweep is empty: one of its lists has no values")
    return list(members.values())
