"""Submitting arrays so that none is ever lost or doubled, whoever else submits and whenever this process is killed.

Only one submission at a time runs in a runs_dir (`submission_lock`). Each array is written into the sweep's file before
sbatch is asked, without a job's id and with a token that SLURM keeps as the jobs' comment. sbatch holds the lock too,
and so outlives a submitter that is killed: whoever comes next looks the token up, in the queue or in what the array's
first task has left, and writes the id down (`adopt`).
"""

import contextlib
import fcntl
import getpass
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from algd.errors import UsageError
from algd.storage.files import write_atomically
from launchers.devices import threads_of
from launchers.processes import freeze
from launchers.settings import SlurmSettings
from launchers.slurm.queue import Queue, ask
from launchers.slurm.script import job_file, names_file, options_of, script_of
from launchers.slurm.status import submitted_tasks
from launchers.sweeps import Member, Sweep, load_sweep
from launchers.table import many, say

LOCK = "submission.lock"
# How long after its submitter's death an sbatch may be on its way through the controller.
SETTLE_SECONDS = 2.0
END_MINUTES = 15  # what the job may take that tells a sweep's end


@contextlib.contextmanager
def submission_lock(sweeps: Path, wait: bool = True) -> Iterator[IO[str]]:
    """The right to submit runs of a runs_dir.

    Args:
        sweeps: the runs_dir's folder of sweeps.
        wait: whether to wait for another process that has it.

    Raises:
        UsageError: the file system has no locks.
        BlockingIOError: another process has it, and it is not waited for.
    """
    sweeps.mkdir(parents=True, exist_ok=True)
    with (sweeps / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            say(f"another process submits runs of {sweeps.parent} right now, and is waited for")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(f"{sweeps / LOCK} cannot be locked ({error.strerror}): sweeps need a file system with "
                             "locks (flock), or two of them could submit one run twice") from error
        yield file


@dataclass(frozen=True)
class Array:
    """One job array to be.

    Attributes:
        settings: the launcher's keys, those of this array.
        tasks: the members of each task.
        module: what tasks execute.
    """

    settings: SlurmSettings
    tasks: list[list[Member]]
    module: str = "launchers.slurm.task"

    @property
    def cpus(self) -> int:
        """Cores of a task: as asked for, else one for every thread of its runs."""
        return self.settings.cpus or max(sum(threads_of(member.config) for member in task) for task in self.tasks)

    @property
    def names(self) -> list[str]:
        """What each task is called once it has begun."""
        return ["/".join(task[0].folder.parts[-3:]) + f" and {len(task) - 1} more" * (len(task) > 1)
                if task else "the end" for task in self.tasks]


def arrays_of(members: Sequence[Member], settings: SlurmSettings, limit: int) -> list[Array]:
    """The members by what their tasks need, packed into tasks, and these into arrays of at most `limit`."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(settings.group_of(member.config), []).append(member)
    arrays = []
    for name, group in groups.items():
        own = settings.of(name)
        arrays += [Array(own, tasks) for tasks in chunks(chunks(group, own.runs_per_task), limit)]
    return arrays


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """The items in their order, `size` at a time."""
    return [list(items[first:first + size]) for first in range(0, len(items), size)]


def lanes_of(arrays: int, max_running: int | None) -> tuple[int, int | None]:
    """How to keep `max_running` over several arrays: so many side by side, each with so many tasks at once.

    The arrays of one lane follow each other.
    """
    if max_running is None:
        return arrays, None
    lanes = min(arrays, max_running)
    return lanes, max_running // lanes


def submit(sweep: Sweep, members: Sequence[Member], settings: SlurmSettings, code: Path, limit: int,
           active: dict[str, int], lock: IO[str]) -> None:
    """Freeze the members' configurations and submit them.

    Args:
        limit: the largest array that the cluster takes.
        active: arrays of this sweep that are still in the queue ↦ how many of their tasks are.
        lock: held (`submission_lock`).

    Raises:
        UsageError: SLURM refuses; what was submitted before stays so.
    """
    arrays, first = arrays_of(members, settings, limit), after_of(settings, sweep.file.parent)
    used = in_use(sweep, active)
    # Where others leave no task to begin with, the first arrays wait for them.
    free = None if settings.max_running is None else settings.max_running - used
    waits = free is not None and free < 1
    lanes, share = lanes_of(len(arrays), settings.max_running if waits else free)
    new = {member.folder for member in members if not member.folder.exists()}
    for member in members:
        freeze(member.folder, member.config)
    folder = sweep.directory / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[str] = []
    for array in arrays:
        before = jobs[-lanes:][:1] if len(jobs) >= lanes else sorted(active) if waits else []
        try:
            jobs.append(submit_array(sweep, array, code, share, [*first, *chain(before)], before, lock))
        except UsageError:
            done = {member.folder for earlier in arrays[:len(jobs)] for task in earlier.tasks for member in task}
            for run in new - done:
                remove_frozen(run)
            raise
        say(f"submitted array {jobs[-1]}: {many(len(array.tasks), 'task')}")


def in_use(sweep: Sweep, active: dict[str, int]) -> int:
    """How many tasks of a sweep may run at once by what it has submitted before and is still in the queue."""
    records = {str(record["job"]): record for record in sweep.submissions if str(record["job"]) in active}
    return sum(min(active[job], record.get("at_once") or active[job]) for job, record in records.items()
               if not set(record.get("after") or ()) & active.keys())


def chain(jobs: Sequence[str]) -> list[str]:
    """The condition that these have ended."""
    return [":".join(["afterany", *jobs])] if jobs else []


def after_of(settings: SlurmSettings, sweeps: Path) -> list[str]:
    """The condition that jobs and sweeps have ended (`hydra.launcher.after`).

    Raises:
        UsageError: there is no such sweep, or it cannot be joined with a dependency of sbatch's.
    """
    if "?" in str(settings.sbatch.get("dependency", "")):
        raise UsageError(f"hydra.launcher.sbatch.dependency={settings.sbatch['dependency']}: conditions of which one "
                         "is enough (?) cannot be joined with the launcher's own; write them with , instead")
    jobs: list[str] = []
    for name in settings.after:
        if name.isdigit():
            jobs.append(name)
        elif (file := sweeps / f"{name}.json").exists():
            elements = submitted_tasks([load_sweep(file)]).values()
            tasks = Queue(elements).refresh(patience=1)
            # SLURM may not take the id of a job that it has forgotten.
            jobs += sorted({job for (job, _), task in tasks.items() if task.active})
        else:
            known = ", ".join(sorted(path.stem for path in sweeps.glob("*.json")))
            raise UsageError(f"hydra.launcher.after={name}: neither the id of a job nor a sweep of {sweeps}: {known}")
    return chain(jobs)


def submit_array(sweep: Sweep, array: Array, code: Path, at_once: int | None, conditions: Sequence[str],
                 before: Sequence[str], lock: IO[str]) -> str:
    """Submit one array. Returns its job's id.

    Raises:
        UsageError: SLURM refuses.
    """
    token = f"algd-{secrets.token_hex(8)}"
    runs = [[str(member.folder.relative_to(sweep.runs_dir)) for member in task] for task in array.tasks]
    file = sweep.directory / f"tasks-{token.removeprefix('algd-')}.json"
    write_atomically(file, json.dumps({"runs_dir": str(sweep.runs_dir), "code": str(code), "tasks": runs,
                                       "time": array.settings.time, "sweep": str(sweep.file),
                                       "on_end": array.settings.on_end}, indent=1).encode())
    write_atomically(names_file(file), "".join(f"{name}\n" for name in array.names).encode())
    script = sweep.directory / "slurm" / f"{file.stem}.sh"
    write_atomically(script, script_of(array.settings, sweep.directory / "slurm", file, code, array.module, len(runs),
                                       options_of(array.settings, sweep.name, token, array.cpus, at_once, conditions),
                                       ).encode())
    record = {"job": None, "token": token, "tasks": runs, "code": sweep.code, "commit": sweep.commit,
              "at_once": at_once, "after": list(before), "file": file.name}
    sweep.submissions.append(record)
    sweep.save()
    try:
        record["job"] = sbatch(script, lock)
    except KeyboardInterrupt:
        adopt(sweep)
        raise
    except UsageError:
        # sbatch may fail after the controller has taken the array, as when the answer is lost.
        adopt(sweep)
        if record not in sweep.submissions:
            raise
    sweep.save()
    return str(record["job"])


def submit_end(sweep: Sweep, settings: SlurmSettings, code: Path, jobs: Sequence[str], lock: IO[str]) -> None:
    """Submit the job that tells the sweep's end (`launchers.slurm.end`) after these have ended, in the place of others.

    Args:
        jobs: the arrays of its runs.
        lock: held (`submission_lock`).
    """
    ends = [record for record in sweep.submissions if not any(record["tasks"])]
    tasks = Queue((str(record["job"]), 0) for record in ends).refresh(patience=1)
    waiting = [record for record in ends if tasks[str(record["job"]), 0].active]
    if any(set(jobs) <= set(record["after"]) for record in waiting):
        return
    # What is for runs alone: it is small, and who lets held runs go does not think of it.
    options = {name: value for name, value in settings.sbatch.items() if name not in ("hold", "dependency")}
    own = settings.model_copy(update={"cpus": 1, "gpus": 0, "memory_gb": None, "time": END_MINUTES, "sbatch": options,
                                      "signal_seconds": 60})
    try:
        submit_array(sweep, Array(own, [[]], "launchers.slurm.end"), code, None, chain(jobs), jobs, lock)
    except UsageError as error:
        say(f"warning: hydra.launcher.on_end will not be run: {error}")
        return
    if waiting:
        ask(["scancel", *(str(record["job"]) for record in waiting)])


def sbatch(script: Path, lock: IO[str]) -> str:
    """Submit a script. Returns the job's id.

    Raises:
        UsageError: SLURM refuses.
    """
    # A session of its own and the lock: it comes to its end, and nobody else submits before, if this process is killed.
    process = subprocess.Popen(["sbatch", "--parsable", str(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, pass_fds=[lock.fileno()])
    assert process.stdout is not None and process.stderr is not None
    try:
        errors: list[str] = []
        for line in process.stderr:
            # sbatch tries again by itself, for minutes, where there are too many jobs or the controller restarts.
            if "retrying" in line and not errors:
                say(f"SLURM does not take the array yet, and sbatch tries again: {sbatch_reason(line)}")
            errors.append(line)
        answer = process.stdout.read()
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if process.returncode or not (found := re.match(r"\d+", answer)):
        raise UsageError(f"SLURM refuses the sweep: {sbatch_reason(''.join(errors) + answer)}")
    return found[0]


def sbatch_reason(text: str) -> str:
    """sbatch's reason, out of what it printed."""
    lines = [line.split("error:", 1)[1].strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(dict.fromkeys(lines)) or " ".join(text.split())


def adopt(sweep: Sweep) -> bool:
    """Settle the submissions of a sweep that have no job's id: give them theirs, or remove what SLURM never took.

    The lock must be held.

    Returns:
        Whether all are settled; if not, SLURM does not answer.
    """
    opened = [record for record in sweep.submissions if record["job"] is None]
    if not opened:
        return True
    jobs = jobs_of(sweep, opened)
    if jobs is not None and len(jobs) < len(opened):
        time.sleep(SETTLE_SECONDS)
        jobs = jobs_of(sweep, opened)
    if jobs is None:
        return False
    for record in opened:
        record["job"] = jobs.get(record["token"])
        if record["job"]:
            say(f"{sweep.name}: found array {record['job']}, whose submitter had no time to write it down")
    sweep.submissions = [record for record in sweep.submissions if record["job"] is not None]
    sweep.save()
    return True


def jobs_of(sweep: Sweep, opened: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """The jobs of submissions that have none written down, by their tokens; None if SLURM does not answer."""
    queued = ask(["squeue", "-h", "-a", "-t", "all", "-u", getpass.getuser(), "-o", "%F|%T %r|%k"])
    if queued is None:
        return None
    # SLURM keeps a record of what it refused for want of such a node, too: failed, for this reason.
    listed = {token: job for job, said, token in (line.split("|", 2) for line in queued.splitlines())
              if said != "FAILED BadConstraints"}
    found = {}
    for record in opened:
        left = job_file(sweep.directory / record["file"])
        with contextlib.suppress(OSError):
            if re.fullmatch(r"\d+\n", text := left.read_text()):
                found[record["token"]] = text.strip()
        if record["token"] in listed:
            found[record["token"]] = listed[record["token"]]
    return found


def remove_frozen(folder: Path) -> None:
    """Remove the folder of a run that has nothing but its frozen configuration, and the empty ones above it."""
    (folder / "config.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # The first that is not empty ends it.
        for path in (folder, *folder.parents[:2]):
            path.rmdir()
