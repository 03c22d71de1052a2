"""What a sweep does with each of its members: one decision for every launcher, the dry run and `retry`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from algd.errors import UsageError
from algd.storage.run_folder import RunFolder
from launchers.states import RunState, read_state
from launchers.sweeps import Member
from launchers.table import say, shown_path


class Plan(StrEnum):
    """What there is to do with a member of a sweep."""

    SKIPPED = "skip"     # finished, and asked for no more
    LEFT = "leave"       # failed before, and retry_failed=false
    AWAITED = "wait"     # in SLURM's queue, or another process trains it
    REFUSED = "refuse"   # the same, and fresh=true
    STARTED = "start"    # from its beginning
    EXTENDED = "extend"  # finished, and total_steps is larger now
    RESUMED = "resume"   # from its last checkpoint
    RETRIED = "retry"    # the same, after a failure

    @property
    def runs(self) -> bool:
        """Whether the launcher itself runs the member."""
        return self in (Plan.STARTED, Plan.EXTENDED, Plan.RESUMED, Plan.RETRIED)


@dataclass(frozen=True)
class Planned:
    """A member, how it stands, and what is done with it.

    Attributes:
        member: the member.
        state: what its folder says.
        task: the task of SLURM's that it waits or runs in, such as "12_3".
        plan: what is done.
    """

    member: Member
    state: RunState
    task: str | None
    plan: Plan

    @property
    def folder(self) -> Path:
        return self.member.folder

    def sentence(self) -> str | None:
        """What a person is told about it before anything runs; None where the summary says enough."""
        path = shown_path(self.folder)
        if self.plan is Plan.SKIPPED:
            return f"already finished at step {self.state.step}: {path}"
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
    """What a sweep does with a member.

    Args:
        member: the member.
        state: what its folder says.
        retry_failed: the launcher's key.
        task: the task of SLURM's that it waits or runs in.
    """
    if is_done(member, state):
        return Plan.SKIPPED
    if task is not None or state.held:
        return Plan.REFUSED if member.config["fresh"] else Plan.AWAITED
    if member.config["fresh"]:
        return Plan.STARTED
    if state.state == "failed":
        return Plan.RETRIED if retry_failed else Plan.LEFT
    return {"finished": Plan.EXTENDED, "new": Plan.STARTED}.get(state.state, Plan.RESUMED)


def triage(members: Iterable[Member], retry_failed: bool, tasks: Mapping[Path, str] | None = None) -> list[Planned]:
    """Every member with what is done with it, in their order.

    Args:
        members: the sweep's.
        retry_failed: the launcher's key.
        tasks: the tasks of SLURM's that members wait or run in, by the members' folders.
    """
    tasks = tasks or {}
    planned = []
    for member in members:
        state, task = read_state(member.folder), tasks.get(member.folder)
        planned.append(Planned(member, state, task, plan_of(member, state, retry_failed, task)))
    return planned


def steps_left(planned: Iterable[Planned]) -> dict[Path, int]:
    """The environment steps that members still take, by their folders; those that take none are not in it."""
    return {each.folder: each.member.config["total_steps"] - (
                0 if each.member.config["fresh"] else max(each.state.step, 0))
            for each in planned if each.plan.runs or each.plan is Plan.AWAITED}


def refuse_fresh(planned: Iterable[Planned]) -> None:
    """Raises UsageError for the first member that is to begin anew while it waits or runs somewhere."""
    for each in planned:
        if each.plan is Plan.REFUSED:
            where = f"is submitted as {each.task}" if each.task else "is being trained right now"
            raise UsageError(f"fresh=true: {shown_path(each.folder)} {where}; cancel it first")


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
        raise UsageError(f"fresh=true: {shown_path(member.folder)} is being trained right now; cancel it first")
    if member.folder.exists():
        say(f"fresh=true: the folder that was there is now {shown_path(RunFolder(member.folder).move_aside())}")
    return replace(member, config=dict(member.config) | {"fresh": False})
