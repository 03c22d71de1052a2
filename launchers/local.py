"""hydra/launcher=local: run a few runs at a time on this machine, each in its own process.

The end of one run, even a crash, does not affect the others. Ctrl-C, SIGTERM and a closed terminal stop all runs at
a checkpoint, and the same command resumes them. If this process is killed, the runs that it started continue.
"""

import contextlib
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from algd.errors import ExitCode
from launchers.devices import Gpus, default_jobs, environment, visible_gpus
from launchers.ending import tell_end
from launchers.estimate import Speeds
from launchers.members import Plan, begin_afresh, plan_of, refuse_fresh, triage
from launchers.processes import LOG, death, freeze, how_it_ended, start_process, tail
from launchers.settings import LocalSettings
from launchers.states import RunState, is_held, read_state
from launchers.sweeps import Member, Sweep
from launchers.table import Board, Line, many, say, shown_path, summary

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.1


class StopRequests:
    """The signals received that ask this process to stop.

    A closed terminal may send SIGHUP twice, from its shell and when that ends, and `cancel` may be typed twice. Only a
    second Ctrl-C means that the runs are not to write a checkpoint.
    """

    def __init__(self) -> None:
        self.received: list[int] = []

    @property
    def at_once(self) -> bool:
        """Whether the runs are to end without a checkpoint."""
        return self.received.count(signal.SIGINT) > 1

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequests"]:
        """Record stop signals inside this context, and restore the earlier handlers after it."""
        def receive(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT or number not in self.received:
                self.received.append(number)

        # nohup has made this process ignore SIGHUP.
        heard = [number for number in STOPPING
                 if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, receive) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Running:
    """A running member: its process, and its GPU if it was assigned one."""

    member: Member
    process: subprocess.Popen[bytes]
    gpu: str | None


@dataclass
class Pool:
    """The members of a sweep by what happens to them next.

    Attributes:
        todo: members to start.
        elsewhere: members that another process is training.
        running: members that this process runs.
        states: final states of members that have ended or are not run.
        found: the state last read from each folder.
    """

    todo: deque[Member] = field(default_factory=deque)
    elsewhere: list[Member] = field(default_factory=list)
    running: dict[Path, Running] = field(default_factory=dict)
    states: dict[Path, str] = field(default_factory=dict)
    found: dict[Path, RunState] = field(default_factory=dict)


def run_here(sweep: Sweep, members: Sequence[Member], settings: LocalSettings, code: Path) -> int:
    """Run the members of a sweep that are not finished.

    Args:
        sweep: the sweep, already written.
        members: its members.
        settings: the launcher's settings.
        code: the code snapshot to run.

    Returns:
        Exit code. 0: all finished; 1: a run failed or was stopped; 128 + signal (130, 143 or 129): stopped on request.
    """
    pool = distribute(members, settings.retry_failed)
    skipped = sum(state == "finished" for state in pool.states.values())
    gpus = Gpus(visible_gpus())
    at_once = min(settings.jobs or default_jobs([member.config for member in members], gpus.names),
                  max(len(pool.todo) + len(pool.elsewhere), 1))
    share = f" on {many(len(gpus.names), 'GPU')}" * bool(gpus.names)
    say(f"{sweep.name}: {many(len(members), 'run')}, {skipped} already finished, {at_once} at once{share}; "
        f"list of members: {shown_path(sweep.file)}")
    with StopRequests().listening() as stop, Board(sweep.name) as board:
        speeds = Speeds(members)
        speeds.learn_neighbours()
        told = 0
        while pool.running or (not stop.received and (pool.todo or pool.elsewhere)):
            if len(stop.received) > told:
                told = len(stop.received)
                pass_on(pool, stop)
            if not stop.received:
                start_runs(pool, settings.retry_failed, at_once, gpus, code)
            collect(pool, gpus, settings.tail, stop.at_once)
            if board.due:
                show(board, members, pool, speeds, at_once)
            time.sleep(POLL_SECONDS)
        show(board, members, pool, speeds, at_once)
    for member in (*pool.todo, *pool.elsewhere):
        pool.states[member.folder] = read_state(member.folder).state
    states = {member.folder: pool.states[member.folder] for member in members}
    text = summary(sweep.name, states, {folder: read_state(folder).reason for folder in states}, skipped, LOG)
    say(text)
    if stop.received:
        say("stopped; the same command resumes from here")
        return 128 + stop.received[0]
    if settings.on_end:
        tell_end(settings.on_end, sweep.file, text)
    return ExitCode.FINISHED if set(states.values()) <= {"finished"} else ExitCode.FAILED


def distribute(members: Sequence[Member], retry_failed: bool) -> Pool:
    """Sort the members by what to do with them.

    Raises:
        UsageError: a member has fresh=true while another process trains it.
    """
    planned = triage(members, retry_failed)
    refuse_fresh(planned)
    pool = Pool()
    for each in planned:
        if sentence := each.sentence():
            say(sentence)
        pool.found[each.folder] = each.state
        if each.plan.runs:
            pool.todo.append(begin_afresh(each.member))
        elif each.plan is Plan.AWAITED:
            pool.elsewhere.append(each.member)
        else:
            pool.states[each.folder] = each.state.state
    return pool


def start_runs(pool: Pool, retry_failed: bool, at_once: int, gpus: Gpus, code: Path) -> None:
    """Start runs up to the limit, and decide again about members that another process has released."""
    for member in [member for member in pool.elsewhere if not is_held(member.folder)]:
        pool.elsewhere.remove(member)
        state = pool.found[member.folder] = read_state(member.folder)
        plan = plan_of(member, state, retry_failed)
        if plan.runs:
            pool.todo.append(member)
        elif plan is Plan.AWAITED:
            pool.elsewhere.append(member)
        else:
            pool.states[member.folder] = state.state
    while pool.todo and len(pool.running) < at_once:
        member = pool.todo.popleft()
        if is_held(member.folder):
            pool.elsewhere.append(member)
            continue
        gpu = None
        try:
            freeze(member.folder, member.config)
            gpu = gpus.take(member.config)
            process = start_process(member.folder, code, environment(member.config, gpu))
            pool.running[member.folder] = Running(member, process, gpu)
        except OSError as error:
            gpus.give_back(gpu)
            pool.states[member.folder] = "failed"
            say(f"failed: {shown_path(member.folder)}: {error.filename or 'a file'} cannot be used: {error.strerror}")


def collect(pool: Pool, gpus: Gpus, lines: int, at_once: bool) -> None:
    """Record and report the runs that have ended.

    Args:
        pool, gpus: of the sweep.
        lines: how many of a failed run's log to show.
        at_once: whether this process has killed them.
    """
    for folder, running in list(pool.running.items()):
        code = running.process.poll()
        if code is None:
            continue
        del pool.running[folder]
        gpus.give_back(running.gpu)
        killed = at_once and code == -signal.SIGKILL
        state = "interrupted" if killed else how_it_ended(folder, code, running.member.config)
        if state == "busy":
            pool.elsewhere.append(running.member)
            continue
        pool.states[folder] = state
        reason = (found := read_state(folder)).reason
        pool.found[folder] = found
        reason = reason or ("its folder is gone" if not folder.exists() else death(code))
        say(f"{state}: {shown_path(folder)}" + (f": {reason}" if state == "failed" else ""))
        if state == "failed":
            for line in tail(folder / LOG, lines):
                say(f"    | {line}")


def pass_on(pool: Pool, stop: StopRequests) -> None:
    """Forward a stop request: the first asks runs to write a checkpoint and stop, a second Ctrl-C kills them."""
    if len(stop.received) == 1:
        say(f"{signal.Signals(stop.received[0]).name}: {many(len(pool.running), 'run')} to write a checkpoint and stop "
            f"(Ctrl-C {'again' if stop.received[0] == signal.SIGINT else 'twice'}: they are ended at once)")
    for running in pool.running.values():
        # Always SIGTERM, since a run treats a second SIGINT differently from the first.
        running.process.send_signal(signal.SIGKILL if stop.at_once else signal.SIGTERM)


def show(board: Board, members: Sequence[Member], pool: Pool, speeds: Speeds, at_once: int) -> None:
    """Draw the sweep's table."""
    lines, rest, elsewhere = [], {}, {member.folder for member in pool.elsewhere}
    for member in members:
        folder = member.folder
        if folder in pool.running or folder in elsewhere:
            pool.found[folder] = read_state(folder)
            speeds.learn(folder, pool.found[folder])
        state = "running" if folder in pool.running else "elsewhere" if folder in elsewhere else \
            pool.states.get(folder, "queued")
        if folder not in pool.states:
            rest[folder] = member.config["total_steps"] - max(pool.found[folder].step, 0)
        lines.append(Line(folder, state, pool.found[folder]))
    board.show(lines, speeds.seconds_left(rest, at_once))
