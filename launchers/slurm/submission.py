"""Submit arrays so that none is lost or submitted twice, even with concurrent submitters or if this process is killed.

A lock serialises the submissions of a runs_dir (`submission_lock`). Before sbatch is called, each array is written
into the sweep's file without a job id but with a random token, which SLURM stores as the jobs' comment. sbatch has its
own session and inherits the lock, and so completes first if its submitter is killed. The next submitter looks for the
token in the queue, or for the file that the array's first task writes, and records the job id (`adopt`).
"""

import contextlib
import fcntl
import getpass
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
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
# Time that an sbatch may still need to reach the controller after its submitter has died.
SETTLE_SECONDS = 2.0
END_MINUTES = 15  # time limit of the job that runs on_end


@contextlib.contextmanager
def submission_lock(sweeps: Path, wait: bool = True) -> Iterator[IO[str]]:
    """Lock that serialises submissions to one runs_dir.

    Args:
        sweeps: the runs_dir's folder of sweep files.
        wait: whether to wait if another process holds it.

    Raises:
        UsageError: the file system does not support locks.
        BlockingIOError: another process holds it, and `wait` is false.
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
    """A job array to submit.

    Attributes:
        settings: this array's launcher settings.
        tasks: the members of each task.
        module: the module that tasks execute.
    """

    settings: SlurmSettings
    tasks: list[list[Member]]
    module: str = "launchers.slurm.task"

    @property
    def cpus(self) -> int:
        """Cores per task: the setting, else one for every thread of its runs."""
        return self.settings.cpus or max(sum(threads_of(member.config) for member in task) for task in self.tasks)

    @property
    def names(self) -> list[str]:
        """The tasks' job names once they have started."""
        return ["/".join(task[0].folder.parts[-3:]) + f" and {len(task) - 1} more" * (len(task) > 1)
                if task else "the end" for task in self.tasks]


def arrays_of(members: Sequence[Member], settings: SlurmSettings, limit: int) -> list[Array]:
    """Group members by their task settings, and pack them into tasks, and these into arrays of at most `limit`."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(settings.group_of(member.config), []).append(member)
    arrays = []
    for name, group in groups.items():
        own = settings.of(name)
        arrays += [Array(own, tasks) for tasks in chunks(chunks(group, own.runs_per_task), limit)]
    return arrays


def chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Split items into lists of `size` in order; the last may be shorter."""
    return [list(items[first:first + size]) for first in range(0, len(items), size)]


def lanes_of(arrays: int, max_running: int | None) -> tuple[int, int | None]:
    """Return (lanes, tasks per array) that keep `max_running` over several arrays; None: no limit.

    Arrays of different lanes run side by side; those of one lane follow each other.
    """
    if max_running is None:
        return arrays, None
    lanes = min(arrays, max_running)
    return lanes, max_running // lanes


def submit(sweep: Sweep, members: Sequence[Member], settings: SlurmSettings, code: Path, limit: int,
           active: dict[str, int], lock: IO[str]) -> None:
    """Freeze the members' configurations and submit them.

    Args:
        limit: the largest array size of the cluster.
        active: arrays of this sweep in the queue ↦ how many of their tasks are queued or running.
        lock: the held `submission_lock`.

    Raises:
        UsageError: SLURM refuses; arrays submitted before stay submitted.
    """
    arrays, first = arrays_of(members, settings, limit), after_of(settings, sweep.file.parent)
    used = in_use(sweep, active)
    # If earlier arrays use all of max_running, the first new arrays wait for them.
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
    """Return how many tasks of a sweep's earlier arrays in the queue may run at once."""
    records = {str(record["job"]): record for record in sweep.submissions if str(record["job"]) in active}
    return sum(min(active[job], record.get("at_once") or active[job]) for job, record in records.items()
               if not set(record.get("after") or ()) & active.keys())


def chain(jobs: Sequence[str]) -> list[str]:
    """Return the dependency on the end of these jobs."""
    return [":".join(["afterany", *jobs])] if jobs else []


def after_of(settings: SlurmSettings, sweeps: Path) -> list[str]:
    """Return the dependency on the end of the jobs and sweeps of `hydra.launcher.after`.

    Raises:
        UsageError: a sweep does not exist, or sbatch.dependency has conditions that cannot be combined with others.
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
            # SLURM may reject the id of a job that it no longer knows.
            jobs += sorted({job for (job, _), task in tasks.items() if task.active})
        else:
            known = ", ".join(sorted(path.stem for path in sweeps.glob("*.json")))
            raise UsageError(f"hydra.launcher.after={name}: neither the id of a job nor a sweep of {sweeps}: {known}")
    return chain(jobs)


def submit_array(sweep: Sweep, array: Array, code: Path, at_once: int | None, conditions: Sequence[str],
                 before: Sequence[str], lock: IO[str]) -> str:
    """Submit one array. Returns its job id.

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
    """Submit the job that runs on_end (`launchers.slurm.end`) after these arrays, replacing earlier ones that wait.

    Args:
        jobs: the job ids of the sweep's arrays.
        lock: the held `submission_lock`.
    """
    ends = [record for record in sweep.submissions if not any(record["tasks"])]
    tasks = Queue((str(record["job"]), 0) for record in ends).refresh(patience=1)
    waiting = [record for record in ends if tasks[str(record["job"]), 0].active]
    if any(set(jobs) <= set(record["after"]) and on_end_of(sweep, record) == settings.on_end for record in waiting):
        return
    # Options for runs are dropped: the job is small, and a user who releases held runs would not release this job.
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


def on_end_of(sweep: Sweep, record: Mapping[str, Any]) -> str | None:
    """Return the command that a submission runs at the end; None if its file is gone."""
    with contextlib.suppress(OSError):
        return str(json.loads((sweep.directory / record["file"]).read_bytes())["on_end"])
    return None


def sbatch(script: Path, lock: IO[str]) -> str:
    """Submit a script with sbatch. Returns the job id.

    Raises:
        UsageError: SLURM refuses.
    """
    # Its own session and the inherited lock let sbatch complete before anyone else submits if this process is killed.
    process = subprocess.Popen(["sbatch", "--parsable", str(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, pass_fds=[lock.fileno()])
    assert process.stdout is not None and process.stderr is not None
    try:
        errors: list[str] = []
        for line in process.stderr:
            # sbatch itself retries for minutes if there are too many jobs or the controller restarts.
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
    """Extract the error messages from sbatch's output."""
    lines = [line.split("error:", 1)[1].strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(dict.fromkeys(lines)) or " ".join(text.split())


def adopt(sweep: Sweep) -> bool:
    """Record the job ids of submissions that have none, and remove submissions that SLURM never accepted.

    The caller must hold `submission_lock`.

    Returns:
        Whether all are resolved; False if SLURM does not answer.
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
    """Find the job ids of submissions without one, by token; None if SLURM does not answer."""
    queued = ask(["squeue", "-h", "-a", "-t", "all", "-u", getpass.getuser(), "-o", "%F|%T %r|%k"])
    if queued is None:
        return None
    # SLURM also lists submissions that it refused because no node can run them, as failed for this reason.
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
    """Remove a run's folder if it has only the frozen configuration, and the parent folders left empty."""
    (folder / "config.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # stops at the first folder that is not empty
        for path in (folder, *folder.parents[:2]):
            path.rmdir()
