"""Decide what a sweep does with each member, in one way for every launcher, the dry run and `retry`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from algd.errors import UsageError
from algd.storage.run_folder import RunFolder
from launchers.states import RunState, is_held, read_state
from launchers.sweeps import Member
from launchers.table import say, shown_path


class Plan(StrEnum):
    """What a sweep does with a member."""

    SKIPPED = "skip"     # finished, with total_steps reached
    LEFT = "leave"       # failed earlier, and retry_failed=false
    AWAITED = "wait"     # in SLURM's queue, or trained by another process
    REFUSED = "refuse"   # as AWAITED, but with fresh=true
    STARTED = "start"    # from the beginning
    EXTENDED = "extend"  # finished, but total_steps is larger now
    RESUMED = "resume"   # from the last checkpoint
    RETRIED = "retry"    # as RESUMED, after a failure

    @property
    def runs(self) -> bool:
        """Whether the launcher starts the member."""
        return self in (Plan.STARTED, Plan.EXTENDED, Plan.RESUMED, Plan.RETRIED)


@dataclass(frozen=True)
class Planned:
    """A member with its state and its plan.

    Attributes:
        member: the member.
        state: as read from its folder.
        task: the SLURM task in which it is queued or running, such as "12_3".
        plan: what the sweep does with it.
    """

    member: Member
    state: RunState
    task: str | None
    plan: Plan

    @property
    def folder(self) -> Path:
        return self.member.folder

    def sentence(self) -> str | None:
        """Return the message to print before anything runs; None if the summary says enough."""
        path = shown_path(self.folder)
        if self.plan is Plan.SKIPPED:
            total = self.member.config["total_steps"]
            more = f", more than total_steps={total}" * (self.state.step > total)
            return f"already finished at step {self.state.step}{more}: {path}"
        if self.plan is Plan.LEFT:
            return f"failed before, and left so by retry_failed=false: {path}"
        if self.plan is Plan.AWAITED and self.task:
            return f"already submitted as {self.task}: {path}"
        if self.plan is Plan.AWAITED:
            return f"trained by another process right now, and waited for: {path}"
        if self.plan is Plan.RETRIED:
            return f"failed before, and tried again: {path}: {self.state.reason}"
        return None


def plan_of(member: Member, state: RunState, retry_failed: bool, task: str | None = None) -> Plan:
    """Decide what a sweep does with a member.

    Args:
        member: the member.
        state: as read from its folder.
        retry_failed: `hydra.launcher.retry_failed`.
        task: the SLURM task in which it is queued or running.
    """
    if is_done(member, state):
        return Plan.SKIPPED
    # A finished run's state does not say whether a process evaluates or extends it.
    if task is not None or state.held or (member.config["fresh"] and is_held(member.folder)):
        return Plan.REFUSED if member.config["fresh"] else Plan.AWAITED
    if member.config["fresh"]:
        return Plan.STARTED
    if state.state == "failed":
        return Plan.RETRIED if retry_failed else Plan.LEFT
    return {"finished": Plan.EXTENDED, "new": Plan.STARTED}.get(state.state, Plan.RESUMED)


def triage(members: Iterable[Member], retry_failed: bool, tasks: Mapping[Path, str] | None = None) -> list[Planned]:
    """Return the plan of every member, in order.

    Args:
        members: the sweep's members.
        retry_failed: `hydra.launcher.retry_failed`.
        tasks: the SLURM tasks in which members are queued or running, by the members' folders.

    Raises:
        UsageError: a member has taken more steps than total_steps, or is finished and its results are gone.
    """
    from algd.run.checks import check_total_steps  # imports torch, which commands such as `status` need not wait for

    tasks = tasks or {}
    planned = []
    for member in members:
        state, task = read_state(member.folder), tasks.get(member.folder)
        try:
            check_total_steps(RunFolder(member.folder), member.config)
            if is_done(member, state) and (lost := _lost(member.folder)):
                raise UsageError(f"this run is finished, but {lost}; fresh=true moves its folder aside and trains from "
                                 "scratch")
        except UsageError as error:
            raise UsageError(f"{shown_path(member.folder)}: {error}") from error
        planned.append(Planned(member, state, task, plan_of(member, state, retry_failed, task)))
    return planned


def steps_left(planned: Iterable[Planned]) -> dict[Path, int]:
    """Return the remaining environment steps by folder, without members that take no more steps."""
    return {each.folder: each.member.config["total_steps"] - (
                0 if each.member.config["fresh"] else max(each.state.step, 0))
            for each in planned if each.plan.runs or each.plan is Plan.AWAITED}


def refuse_fresh(planned: Iterable[Planned]) -> None:
    """Raise UsageError for the first member with fresh=true that is queued or running."""
    for each in planned:
        if each.plan is Plan.REFUSED:
            where = f"is submitted as {each.task}" if each.task else "is being trained right now"
            raise UsageError(f"fresh=true: {shown_path(each.folder)} {where}; cancel it first")


def is_done(member: Member, state: RunState) -> bool:
    """Return whether a member is finished, and neither total_steps nor eval.video asks for more."""
    config = member.config
    return state.state == "finished" and state.step >= config["total_steps"] and not config["fresh"] and not (
        config["eval"]["video"] and not RunFolder(member.folder).video(state.step).exists())


def _lost(folder: Path) -> str | None:
    """Return which of a finished run's results are gone; None if none is. `algd.run.checks` finds damage too."""
    run = RunFolder(folder)
    if not any(run.checkpoints.glob("*/state.json")):
        return f"{run.checkpoints} has no checkpoint"
    return next((f"{table} is gone" for table in (run.episodes, run.evals) if not table.exists()), None)


def begin_afresh(member: Member) -> Member:
    """Carry out fresh=true by moving the old folder aside. Returns the member with fresh=false.

    Raises:
        UsageError: a process is training the member.
    """
    if not member.config["fresh"]:
        return member
    if is_held(member.folder):
        raise UsageError(f"fresh=true: {shown_path(member.folder)} is being trained right now; cancel it first")
    if member.folder.exists():
        say(f"fresh=true: the folder that was there is now {shown_path(RunFolder(member.folder).move_aside())}")
    return replace(member, config=dict(member.config) | {"fresh": False})
