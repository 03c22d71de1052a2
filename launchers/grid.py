"""Compose and check the runs of a grid, then launch or list them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig

from algd.cli.hydra_messages import explain
from algd.config.schema import admitted
from algd.errors import ExitCode, UsageError
from algd.logging.console import answer
from algd.run.build import resolve_device
from algd.storage.run_folder import run_path
from launchers.compose import Composer
from launchers.launch import SETTINGS, in_wandb, launch, list_members
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
    _check_place(settings, members)
    runs_dirs, experiments = ({str(m.config[key]) for m in members} for key in ("runs_dir", "experiment"))
    if len(runs_dirs) > 1:
        raise UsageError(f"runs_dir={','.join(sorted(runs_dirs))}: the runs of one sweep share one runs_dir")
    experiment = members[0].config["experiment"] if len(experiments) == 1 else None
    sweep = begin_sweep(Path(members[0].config["runs_dir"]).resolve(), settings.name, experiment, members,
                        {"kind": kind, **settings.kept()})
    if settings.dry_run:
        list_members(sweep, members, settings)
        return ExitCode.FINISHED
    code = launch(sweep, [in_wandb(member, sweep) for member in members], settings)
    answer(sweep.file)
    return code


def _check_place(settings: Settings, members: Sequence[Member]) -> None:
    """Check that the members can run here, before anything is written.

    Raises:
        UsageError: a GPU or SLURM is missing, SLURM cannot use the path of runs_dir, or tasks of a group without
            members have settings.
    """
    if isinstance(settings, SlurmSettings):
        groups = {settings.group_of(member.config) for member in members}
        if unknown := sorted(settings.tasks.keys() - groups):
            raise UsageError(f"hydra.launcher.tasks.{unknown[0]}: no run of this sweep has "
                             f"{settings.per}={unknown[0]}; they have {', '.join(sorted(groups))}")
    if isinstance(settings, SlurmSettings) and not settings.dry_run:
        check(settings)
        # SLURM replaces % in the names of output files, and a line end would break the batch script.
        place = str(Path(members[0].config["runs_dir"]).resolve())
        if "%" in place or not place.isprintable():
            raise UsageError(f"runs_dir={place!r}: on SLURM a path without % and line ends is needed")
    if isinstance(settings, LocalSettings):
        for device in sorted({str(member.config["device"]) for member in members} - {"auto", "cpu"}):
            resolve_device(device)


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
            # Overrides that the message already mentions need no repetition.
            others = [override for override in own if override.partition("=")[0] not in said]
            raise UsageError(f"{' '.join(others)}: {said}" if others else said) from error
        # The same path as `load_sweep` returns: without links and "..", up to and including runs_dir.
        folder = Path(config["runs_dir"]).resolve() / run_path(config).relative_to(config["runs_dir"])
        same = members.setdefault(folder, Member(folder, config, own))
        if differing := sorted(key for key in config if config[key] != same.config[key]):
            key = differing[0]
            raise UsageError(f"{key}={same.config[key]},{config[key]}: both are the same run, "
                             f"{shown_path(folder)}, since {key} does not determine its result; one value is needed")
    if not members:
        raise UsageError("the sweep is empty: one of its lists has no values")
    return list(members.values())
