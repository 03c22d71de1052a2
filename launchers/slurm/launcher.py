"""hydra/launcher=slurm: one job array through submitit, or as few as the cluster's MaxArraySize lets.

submitit writes the sbatch file and submits it. What a task then executes is `python -m launchers.slurm.task`: no
pickles, no process that must stay alive here, and an exit code that is the runs' own.
"""

import contextlib
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from algd.errors import ExitCode, UsageError
from algd.storage.files import write_atomically
from launchers.members import Plan, begin_afresh, refuse_fresh, triage
from launchers.processes import LOG, freeze, tail, with_threads
from launchers.settings import SlurmSettings
from launchers.slurm.queue import GONE, UNKNOWN, Queue, Task, Tasks, largest_array
from launchers.states import RunState, Speeds, read_state
from launchers.sweeps import Member, Sweep, sweeps_of
from launchers.table import Board, Line, say, shown_path, summarise

Elements = dict[Path, tuple[str, int]]


class Arrays(submitit.SlurmExecutor):
    """submitit's executor for a command instead of a pickled function."""

    def submit_command(self, command: str, count: int) -> str:
        """Submit an array of `count` tasks that execute the command. Returns the job's id."""
        self.parameters["map_count"] = count
        return str(self._submit_command(command).job_id)


def run_on_slurm(sweep: Sweep, members: Sequence[Member], settings: SlurmSettings, code: Path) -> int:
    """Submit what is not finished of a sweep, and wait for it unless `detach`.

    Args:
        sweep: the sweep, already written.
        members: its members.
        settings: the launcher's keys.
        code: the snapshot that the runs use.

    Returns:
        0: all are finished, or submitted; 1: some are not; 130: the user left, and the jobs go on.

    Raises:
        UsageError: there is no SLURM, or it refuses.
    """
    limit = check(settings)
    active = active_elements(sweep)
    planned = triage(members, settings.retry_failed, {folder: named(element) for folder, element in active.items()})
    refuse_fresh(planned)
    for each in planned:
        if sentence := each.sentence():
            say(sentence)
    todo = [begin_afresh(each.member) for each in planned if each.plan.runs]
    skipped = sum(each.plan is Plan.SKIPPED for each in planned)
    if todo:
        submit(sweep, todo, settings, code, limit)
    else:
        say(f"{sweep.name}: nothing to submit")
    say(f"{sweep.name}: {len(members)} runs, {skipped} finished before, {len(todo)} submitted; list of members: "
        f"{shown_path(sweep.file)}\n  python -m launchers status {shown_path(sweep.file)} shows how they are")
    if settings.detach:
        return ExitCode.FINISHED
    elements = active | {folder: element for folder, element in submitted_tasks([sweep]).items()
                         if folder in {member.folder for member in todo}}
    try:
        return wait(sweep, members, elements, settings, skipped)
    except KeyboardInterrupt:
        say(f"not waiting any longer; the jobs go on. python -m launchers cancel {shown_path(sweep.file)} stops them")
        return ExitCode.INTERRUPTED


def check(settings: SlurmSettings) -> int:
    """Whether the keys go together, and SLURM is here. Returns the largest array that it takes.

    Raises:
        UsageError: they do not, or it is not.
    """
    if settings.signal_seconds >= 60 * settings.time:
        raise UsageError(f"hydra.launcher.signal_seconds={settings.signal_seconds}: a task has only "
                         f"time={settings.time} minutes; it should be less than {60 * settings.time}")
    if shutil.which("sbatch") is None:
        raise UsageError("hydra/launcher=slurm: there is no sbatch here; submit from a machine of the cluster, "
                         "or use hydra/launcher=local")
    return largest_array()


def submitted_tasks(sweeps: Iterable[Sweep]) -> Elements:
    """The newest task that each run was submitted in: (id of the job array, index)."""
    found: Elements = {}
    for sweep in sweeps:
        for submission in sweep.submissions:
            for index, runs in enumerate(submission["tasks"]):
                found |= {sweep.runs_dir / run: (str(submission["job"]), index) for run in runs}
    return found


def named(element: tuple[str, int]) -> str:
    """A task as SLURM's commands call it, such as 12_3."""
    return f"{element[0]}_{element[1]}"


def active_tasks(sweep: Sweep) -> dict[Path, str]:
    """The same as `active_elements`, by SLURM's names."""
    return {folder: named(element) for folder, element in active_elements(sweep).items()}


def active_elements(sweep: Sweep) -> Elements:
    """The tasks of a sweep's runs that are queued or run now, whichever sweep submitted them."""
    wanted = set(sweep.folders)
    submitted = {folder: element for folder, element in submitted_tasks(sweeps_of(sweep.runs_dir)).items()
                 if folder in wanted}
    tasks = Queue(submitted.values()).refresh_once()
    return {folder: element for folder, element in submitted.items() if tasks[element].active}


def submit(sweep: Sweep, members: Sequence[Member], settings: SlurmSettings, code: Path, limit: int) -> None:
    """Freeze the members' configurations and submit them.

    Args:
        limit: the largest array that the cluster takes.

    Raises:
        UsageError: SLURM refuses; what was submitted before stays so.
    """
    threads = max(1, settings.cpus // settings.runs_per_task)
    new = {str(member.folder.relative_to(sweep.runs_dir)) for member in members if not member.folder.exists()}
    for member in members:
        freeze(member.folder, with_threads(member.config, member.folder, threads))
    runs = [str(member.folder.relative_to(sweep.runs_dir)) for member in members]
    tasks = chunks(runs, settings.runs_per_task)
    arrays = chunks(tasks, limit)
    lanes, share = lanes_of(len(arrays), settings.max_running)
    (sweep.directory / "slurm").mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays):
        file = sweep.directory / f"tasks-{len(sweep.submissions)}.json"
        write_atomically(file, json.dumps({"runs_dir": str(sweep.runs_dir), "code": str(code), "threads": threads,
                                           "tasks": array}, indent=1).encode())
        before = sweep.submissions[-lanes]["job"] if number >= lanes else None
        executor = Arrays(sweep.directory / "slurm", python=shlex.quote(sys.executable))
        executor.update_parameters(**sbatch_parameters(sweep.name, settings, share, before))
        # Between here and the task's own handler the signal is ignored instead of deadly.
        command = "trap '' USR2; " + shlex.join(["exec", "env", f"PYTHONPATH={code}", sys.executable, "-P", "-u", "-m",
                                                 "launchers.slurm.task", str(file)])
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises.
                job = executor.submit_command(shlex.join(["bash", "-c", command]), len(array))
        except (FailedJobError, FailedSubmissionError) as error:
            new -= {run for earlier in arrays[:number] for packed in earlier for run in packed}
            for run in new:
                remove_frozen(sweep.runs_dir / run)
            raise UsageError(f"SLURM refuses the sweep: {sbatch_reason(str(error))}") from error
        sweep.submissions.append({"job": job, "tasks": array, "code": sweep.code, "commit": sweep.commit})
        sweep.save()
        say(f"submitted array {job}: {len(array)} tasks")


def remove_frozen(folder: Path) -> None:
    """Remove the folder of a run that has nothing but its frozen configuration, and the empty ones above it."""
    (folder / "config.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # The first that is not empty ends it.
        for path in (folder, *folder.parents[:2]):
            path.rmdir()


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


def sbatch_parameters(name: str, settings: SlurmSettings, at_once: int | None, after: str | None) -> dict[str, Any]:
    """What submitit is told, in its own names.

    Args:
        at_once: tasks of the array that run at once; None: no limit.
        after: the array that must have ended before.
    """
    more: dict[str, Any] = {"requeue": True, "signal": f"USR2@{settings.signal_seconds}"}
    if after is not None:
        more["dependency"] = f"afterany:{after}"
    if settings.memory_gb is not None:
        more["mem"] = f"{round(settings.memory_gb * 1024)}M"
    wanted: dict[str, Any] = {
        "job_name": name, "partition": settings.partition, "account": settings.account, "qos": settings.qos,
        "constraint": settings.constraint, "time": settings.time, "cpus_per_task": settings.cpus,
        "gpus_per_node": settings.gpus or None, "array_parallelism": at_once or 10**6,
        # A step of its own: of a preemption SLURM tells steps alone. Since 22.05 they do not inherit the cores.
        "use_srun": True, "srun_args": [f"--cpus-per-task={settings.cpus}"],
        "stderr_to_stdout": True, "setup": settings.setup or None, "wckey": None,
        "additional_parameters": more | settings.sbatch}
    return wanted


def sbatch_reason(text: str) -> str:
    """sbatch's reason, out of what it printed and what submitit says around it."""
    lines = [line.split("error:", 1)[1].strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(dict.fromkeys(lines)) or " ".join(text.split())


def joined(state: RunState, task: Task | None) -> tuple[str, str]:
    """A run's state from its folder and SLURM together, and what SLURM has to add."""
    if task is None or task.state == UNKNOWN:
        return state.state, "" if task is None else "SLURM does not answer"
    if task.active:
        if task.state == "PENDING" or task.state.startswith("REQUEUE"):
            return ("finished" if state.state == "finished" else "queued"), task.reason
        return ("finished" if state.state == "finished" else "failed" if state.state == "failed" else "running"), ""
    if state.held or state.state in ("finished", "failed"):
        return state.state, ""
    if task.state == GONE:
        return state.state, "SLURM knows its task no more"
    if task.state == "CANCELLED":
        return "cancelled", ""
    if state.state == "interrupted":
        return "interrupted", task.state
    # Neither the run nor its task could say what happened: killed from outside, out of memory, a node that is gone.
    return "lost", task.state


def wait(sweep: Sweep, members: Sequence[Member], elements: Elements, settings: SlurmSettings, skipped: int) -> int:
    """Show the sweep until none of its tasks will do anything more. Returns the exit code."""
    queue = Queue(elements.values(), settings.poll_seconds)
    speeds = Speeds()
    told: set[Path] = set()
    folders, read = [member.folder for member in members], Readings()
    with Board(sweep.name) as board:
        while True:
            tasks = queue.refresh()
            lines = lines_of(folders, elements, tasks, read)
            for line in lines:
                element = elements.get(line.folder)
                if element and not tasks[element].active and line.folder not in told:
                    told.add(line.folder)
                    tell(line, settings.tail)
            awaited = any(line.folder_state.held for line in lines if line.folder not in elements)
            if not awaited and not any(task.active for task in tasks.values()):
                board.show(lines, 0.0)
                break
            if board.due:
                board.show(lines, seconds_left(lines, members, speeds, settings))
            time.sleep(min(1.0, settings.poll_seconds))
    states = {line.folder: line.state for line in lines}
    reasons = {line.folder: line.folder_state.reason or line.note for line in lines}
    summarise(sweep.name, states, reasons, skipped, LOG)
    return ExitCode.FINISHED if set(states.values()) <= {"finished"} else ExitCode.FAILED


class Readings:
    """Folders' states, read again only where something may have changed: what waits or is over stays as it is."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Task | None, RunState]] = {}

    def state(self, folder: Path, task: Task | None) -> RunState:
        """The run's state, given what SLURM says of its task now."""
        before, state = self._known.get(folder, (None, None))
        if state is None or task != before or state.held or (
                task is not None and task.active and task.state != "PENDING"):
            state = read_state(folder)
            self._known[folder] = task, state
        return state


def lines_of(folders: Iterable[Path], elements: Mapping[Path, tuple[str, int]], tasks: Tasks,
             readings: Readings) -> list[Line]:
    """The table's lines: folders joined with what SLURM knows."""
    lines = []
    for folder in folders:
        element = elements.get(folder)
        task = tasks.get(element) if element else None
        found = readings.state(folder, task)
        state, note = joined(found, task)
        lines.append(Line(folder, state, found, note))
    return lines


def tell(line: Line, lines: int) -> None:
    """Say how a run ended, with the tail of its log if it failed."""
    reason = line.folder_state.reason if line.state == "failed" else line.note
    say(f"{line.state}: {shown_path(line.folder)}" + (f": {reason}" if reason else ""))
    if line.state in ("failed", "lost"):
        for text in tail(line.folder / LOG, lines):
            say(f"    | {text}")


def seconds_left(lines: Sequence[Line], members: Sequence[Member], speeds: Speeds,
                 settings: SlurmSettings) -> float | None:
    """How long the sweep still takes, if tasks start at once as those did that run now."""
    rest = {}
    for line, member in zip(lines, members, strict=True):
        speeds.learn(line.folder, line.folder_state)
        if line.state in ("running", "queued"):
            rest[line.folder] = member.config["total_steps"] - max(line.folder_state.step, 0)
    running = sum(line.state == "running" for line in lines)
    most = (settings.max_running or len(rest)) * settings.runs_per_task
    return speeds.seconds_left(rest, max(running, 1) if settings.max_running is None else most)
