"""From the grid that a command line asks for to a sweep: composed, checked, listed, and handed to its launcher."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from algd.cli.hydra_messages import explain
from algd.config.schema import resolve
from algd.errors import UsageError
from algd.storage.provenance import code_version
from algd.storage.run_folder import RunFolder, run_path
from launchers.settings import LocalSettings, Settings, SlurmSettings, checked
from launchers.snapshot import take_snapshot
from launchers.states import RunState, Speeds, read_state
from launchers.sweeps import Member, Sweep, begin_sweep
from launchers.table import duration, say, shown_path

SETTINGS: dict[str, type[Settings]] = {"local": LocalSettings, "slurm": SlurmSettings}


def launch_grid(kind: str, given: Mapping[str, Any], context: HydraContext, master: DictConfig,
                grid: Sequence[Sequence[str]]) -> int:
    """Run every member of a grid, or list them.

    Args:
        kind: "local" or "slurm".
        given: the launcher's keys.
        context, master: Hydra's, to compose configurations with.
        grid: the overrides of each member.

    Returns:
        The exit code: 0 if all is well, 1 if a run failed.

    Raises:
        UsageError: something is wrong with a key or a member; nothing has been started or written.
    """
    settings = checked(SETTINGS[kind], given)
    members = compose_members(context, master, grid)
    _check_place(settings, members)
    runs_dirs, experiments = ({str(m.config[key]) for m in members} for key in ("runs_dir", "experiment"))
    if len(runs_dirs) > 1:
        raise UsageError(f"runs_dir={','.join(sorted(runs_dirs))}: the runs of one sweep share one runs_dir")
    experiment = members[0].config["experiment"] if len(experiments) == 1 else None
    sweep = begin_sweep(Path(members[0].config["runs_dir"]).absolute(), settings.name, experiment, members,
                        {"kind": kind, **settings.model_dump()})
    if settings.dry_run:
        list_members(sweep, members, settings)
        return 0
    return launch(sweep, [in_wandb(member, sweep) for member in members], settings)


def _check_place(settings: Settings, members: Sequence[Member]) -> None:
    """Whether the members can run where they are to run, before anything is written.

    Raises:
        UsageError: a GPU, or SLURM, is not here.
    """
    if isinstance(settings, SlurmSettings) and not settings.dry_run:
        from launchers.slurm import check

        check(settings)
        # In the names of what a job writes SLURM reads % as the job's number, and a script is made of lines.
        place = str(Path(members[0].config["runs_dir"]).absolute())
        if "%" in place or not place.isprintable():
            raise UsageError(f"runs_dir={place!r}: on SLURM a path without % and line ends is needed")
    devices = {str(member.config["device"]) for member in members} - {"auto", "cpu"}
    if isinstance(settings, LocalSettings) and devices:
        from algd.run.build import resolve_device

        for device in sorted(devices):
            resolve_device(device)


def compose_members(context: HydraContext, master: DictConfig, grid: Sequence[Sequence[str]]) -> list[Member]:
    """The checked members of a grid, each once.

    Raises:
        UsageError: the first that is wrong, with what it was asked for with.
    """
    setup_globals()
    members: dict[Path, Member] = {}
    common = set(grid[0]).intersection(*grid) if grid else set()
    for overrides in grid:
        own = tuple(override for override in overrides if override not in common)
        try:
            composed = context.config_loader.load_sweep_config(master, list(overrides))
            with open_dict(composed):
                del composed["hydra"]
            config = resolve(composed)
            if config["mode"] != "train":
                raise UsageError(f"mode={config['mode']}: a sweep is over runs that train (mode=train)")
        except (UsageError, HydraException) as error:
            said = str(error) if isinstance(error, UsageError) else explain(error, overrides)
            # What the sentence speaks of itself need not stand before it.
            others = [override for override in own if override.partition("=")[0] not in said]
            raise UsageError(f"{' '.join(others)}: {said}" if others else said) from error
        folder = run_path(config).absolute()
        members.setdefault(folder, Member(folder, config, own))
    if not members:
        raise UsageError("the sweep is empty: one of its lists has no values")
    return list(members.values())


def in_wandb(member: Member, sweep: Sweep) -> Member:
    """The member with what makes a sweep findable in W&B: one group for all, and the experiment as a tag."""
    logger = dict(member.config["logger"])
    if "group" in logger:
        logger["group"] = logger["group"] or sweep.experiment or sweep.name
        tag = sweep.experiment
        logger["tags"] = [*logger["tags"], *([tag] if tag and tag not in logger["tags"] else [])]
    return Member(member.folder, dict(member.config) | {"logger": logger}, member.overrides)


def launch(sweep: Sweep, members: Sequence[Member], settings: Settings) -> int:
    """Keep the code and the list of members, then start whatever is not finished. Returns the exit code."""
    code = take_snapshot(sweep.file.parent)
    sweep.code, sweep.commit = str(code.relative_to(sweep.file.parent)), code_version()["commit"]
    sweep.save()
    warn_of_other_code(members, sweep.commit)
    if isinstance(settings, SlurmSettings):
        from launchers.slurm import run_on_slurm

        return run_on_slurm(sweep, members, settings, code)
    assert isinstance(settings, LocalSettings)
    from launchers.local import run_here

    return run_here(sweep, members, settings, code)


def is_done(member: Member, state: RunState) -> bool:
    """Whether a member is finished and asked for no more."""
    return state.state == "finished" and state.step >= member.config["total_steps"] and not member.config["fresh"]


def begin_afresh(member: Member) -> Member:
    """Do what fresh=true asks for, once: move the folder aside. Returns the member without that wish.

    Raises:
        UsageError: somebody trains it right now.
    """
    if not member.config["fresh"]:
        return member
    if read_state(member.folder).held:
        raise UsageError(f"fresh=true: {member.folder} is being trained right now; cancel it first")
    if member.folder.exists():
        say(f"fresh=true: the folder that was there is now {shown_path(RunFolder(member.folder).move_aside())}")
    return Member(member.folder, dict(member.config) | {"fresh": False}, member.overrides)


def warn_of_other_code(members: Sequence[Member], commit: str | None) -> None:
    """Say which finished runs were trained by another commit than the one here."""
    others: Counter[str | None] = Counter()
    for member in members:
        if is_done(member, read_state(member.folder)):
            starts = RunFolder(member.folder).meta().get("starts") or [{}]
            others[starts[-1].get("commit")] += 1
    for then, count in others.items():
        if then != commit:
            say(f"warning: {count} finished run{'s were' if count > 1 else ' was'} trained by commit {then}, the code "
                f"here is commit {commit}; fresh=true trains anew")


def list_members(sweep: Sweep, members: Sequence[Member], settings: Settings) -> None:
    """Print every member with its state, its folder and what it was asked for with, and an estimate of the time."""
    states = {member.folder: read_state(member.folder) for member in members}
    submitted: Mapping[Path, object] = {}
    if isinstance(settings, SlurmSettings):
        from launchers.slurm import active_tasks

        submitted = active_tasks(sweep)
    plans: Counter[str] = Counter()
    rest: dict[Path, int] = {}
    for member in members:
        state = states[member.folder]
        queued = member.folder in submitted and state.state != "finished"
        plan = "awaited" if queued else planned(member, state, settings)
        plans[plan] += 1
        if plan not in ("skipped", "left"):
            done = 0 if member.config["fresh"] else max(state.step, 0)
            rest[member.folder] = member.config["total_steps"] - done
        print(f"{state.state:<11} {plan:<8} {max(state.step, 0):>8}/{member.config['total_steps']:<8} "
              f"{shown_path(member.folder)}  {' '.join(member.overrides)}"
              + (f"  ({state.reason})" if state.state == "failed" else ""))
    speeds = Speeds()
    speeds.learn_neighbours(states)
    at_once = simultaneous(settings, len(rest))
    seconds = speeds.seconds_left(rest, at_once)
    counts = ", ".join(f"{count} {plan}" for plan, count in plans.items())
    print(f"{len(members)} run{'s' * (len(members) != 1)}: {counts}; list of members: {shown_path(sweep.file)}")
    if rest:
        guess = "unknown: no run of each kind has any steps behind it yet" if seconds is None else duration(seconds)
        print(f"time left, {at_once} at once: {guess}")
    print("dry run: nothing was started")


def planned(member: Member, state: RunState, settings: Settings) -> str:
    """What a sweep does with a member: skipped, left, awaited, started, extended, resumed or retried."""
    if is_done(member, state):
        return "skipped"
    if state.held:
        return "awaited"
    if member.config["fresh"]:
        return "started"
    if state.state == "failed":
        return "retried" if settings.retry_failed else "left"
    return {"finished": "extended", "new": "started"}.get(state.state, "resumed")


def simultaneous(settings: Settings, count: int) -> int:
    """How many runs there are at once, at most."""
    if isinstance(settings, SlurmSettings):
        return min(count, (settings.max_running or count) * settings.runs_per_task)
    assert isinstance(settings, LocalSettings)
    from launchers.local import cores

    return min(count, settings.jobs or cores())
