"""Launch a checked sweep with its launcher, or list its members."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from algd.errors import ExitCode
from algd.storage.provenance import code_version, is_ours, process_record
from algd.storage.run_folder import RunFolder
from launchers.estimate import estimate
from launchers.local import run_here
from launchers.members import is_done, steps_left, triage
from launchers.settings import LocalSettings, Settings, SlurmSettings
from launchers.slurm.launcher import check, submit_sweep, wait_for_sweep
from launchers.slurm.status import active_tasks, named
from launchers.slurm.submission import submission_lock
from launchers.snapshot import own_packages, take_snapshot
from launchers.states import read_state
from launchers.sweeps import Member, Sweep, load_sweep
from launchers.table import many, say, shown_path

SETTINGS: dict[str, type[Settings]] = {"local": LocalSettings, "slurm": SlurmSettings}


def launch(sweep: Sweep, members: Sequence[Member], settings: Settings, code: Path | None = None) -> int:
    """Snapshot the code, write the sweep's file, and start the members that are not finished.

    Args:
        sweep: the sweep, not yet written.
        members: all its members, or those to launch now.
        settings: the launcher's settings.
        code: an earlier code snapshot to use; None: take one now.

    Returns:
        The exit code.
    """
    trusted = {module for member in members for module in member.config["trusted"]}
    if isinstance(settings, SlurmSettings):
        check(settings)
    this = process_record(os.getpid())
    with submission_lock(sweep.file.parent) as lock:
        # Another process may have submitted runs since the sweep was composed, or run some at this moment.
        earlier = load_sweep(sweep.file) if sweep.file.exists() else sweep
        sweep.submissions = earlier.submissions
        sweep.drivers = [driver for driver in earlier.drivers if is_ours(driver) or driver.get("host") != this["host"]]
        if isinstance(settings, LocalSettings) and this not in sweep.drivers:
            sweep.drivers.append(this)
        code = code or take_snapshot(sweep.file.parent, own_packages(trusted))
        sweep.code, sweep.commit = str(code.relative_to(sweep.file.parent)), code_version()["commit"]
        sweep.save()
        warn_of_other_code(members, sweep.commit)
        if isinstance(settings, SlurmSettings):
            elements, skipped = submit_sweep(sweep, members, settings, code, lock)
    exit_code: int = ExitCode.FINISHED
    if isinstance(settings, LocalSettings):
        exit_code = run_here(sweep, members, settings, code)
    elif isinstance(settings, SlurmSettings) and not settings.detach:
        exit_code = wait_for_sweep(sweep, members, elements, settings, skipped)
    return exit_code


def in_wandb(member: Member, sweep: Sweep) -> Member:
    """Return the member with the sweep's W&B group, and the experiment as a tag."""
    logger = dict(member.config["logger"])
    if "group" in logger:
        logger["group"] = logger["group"] or sweep.experiment or sweep.name
        tag = sweep.experiment
        logger["tags"] = [*logger["tags"], *([tag] if tag and tag not in logger["tags"] else [])]
    return replace(member, config=dict(member.config) | {"logger": logger})


def warn_of_other_code(members: Sequence[Member], commit: str | None) -> None:
    """Warn about finished runs that were trained by another commit than the current one."""
    others: Counter[str | None] = Counter()
    for member in members:
        if is_done(member, read_state(member.folder)):
            starts = RunFolder(member.folder).meta().get("starts") or [{}]
            others[starts[-1].get("commit")] += 1
    for then, count in others.items():
        if then != commit:
            say(f"warning: {count} finished run{'s were' if count > 1 else ' was'} trained by commit {then}, the code "
                f"here is commit {commit}; fresh=true trains from scratch")


def warn_of_left_out(sweep: Sweep) -> None:
    """Say how many runs an earlier sweep of this name had that this one, which replaces it, has not."""
    earlier = load_sweep(sweep.file).runs if sweep.file.exists() else []
    if left_out := len(set(earlier) - set(sweep.runs)):
        lost = "is no longer in it (its folder stays)" if left_out == 1 else "are no longer in it (their folders stay)"
        say(f"{sweep.name} had {many(len(earlier), 'run')}, of which {left_out} {lost}")


def list_members(sweep: Sweep, members: Sequence[Member], settings: Settings) -> None:
    """Print each member's state, plan, steps, folder and overrides, then an estimate of time and cost."""
    tasks = {folder: named(element) for folder, element in active_tasks(sweep.folders, sweep.runs_dir).items()} \
        if isinstance(settings, SlurmSettings) else {}
    planned = triage(members, settings.retry_failed, tasks)
    print(f"{'state':<11} {'to do':<6} {'steps':>17}  run")
    for each in planned:
        config, state = each.member.config, each.state
        aside = config["fresh"] and each.folder.exists()
        steps = f"{0 if aside else max(state.step, 0)}/{config['total_steps']}"
        notes = [state.reason] * (state.state == "failed") + ["fresh=true: the folder will be moved aside"] * aside
        print(f"{state.state:<11} {each.plan:<6} {steps:>17}  {shown_path(each.folder)}  "
              + " ".join([*each.member.overrides, *(f" ({note})" for note in notes)]))
    counts = ", ".join(f"{count} to {plan}" for plan, count in Counter(each.plan for each in planned).items())
    print(f"{many(len(members), 'run')}: {counts}; list of members: {shown_path(sweep.file)}")
    if rest := steps_left(planned):
        print(estimate(members, rest, settings))
    print("dry run: nothing was started or written")
