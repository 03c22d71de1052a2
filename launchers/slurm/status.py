"""Combine runs' states from their folders with SLURM's, and find the output of failed tasks."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from algd.config.values import printable
from algd.errors import ExitCode
from launchers.processes import LOG, tail
from launchers.slurm.queue import GONE, OVER, UNKNOWN, Queue, Task, Tasks
from launchers.states import RunState, read_state
from launchers.sweeps import Sweep, sweeps_of
from launchers.table import Line, say, shown_path

Elements = dict[Path, tuple[str, int]]
# SLURM's exit code 53 in place of a signal: the node could not open the task's output file.
NO_OUTPUT = "0:53"


def named(element: tuple[str, int]) -> str:
    """Return a task's name in SLURM's commands, such as 12_3."""
    return f"{element[0]}_{element[1]}"


def submitted_tasks(sweeps: Iterable[Sweep]) -> Elements:
    """Return the newest task that each run was submitted in: (job id of the array, index).

    The newest is that with the largest job id: a sweep's file is also written again when it submits nothing.
    """
    found: Elements = {}
    submissions = [(int(record["job"]), sweep.runs_dir, record["tasks"]) for sweep in sweeps
                   for record in sweep.submissions if record["job"] is not None]
    for job, runs_dir, tasks in sorted(submissions, key=lambda each: each[0]):
        for index, runs in enumerate(tasks):
            found |= {runs_dir / run: (str(job), index) for run in runs}
    return found


def output_of(element: tuple[str, int], sweeps: Iterable[Sweep]) -> Path | None:
    """Return the output file of a task; None if no sweep has submitted it."""
    return next((sweep.directory / "slurm" / f"{named(element)}_0_log.out" for sweep in sweeps
                 if any(str(record["job"]) == element[0] for record in sweep.submissions)), None)


def active_tasks(folders: Iterable[Path], runs_dir: Path) -> Elements:
    """Return the tasks in which these runs are queued or running, whichever sweep submitted them."""
    wanted = set(folders)
    submitted = {folder: element for folder, element in submitted_tasks(sweeps_of(runs_dir)).items()
                 if folder in wanted}
    tasks = Queue(submitted.values()).refresh(patience=1)
    return {folder: element for folder, element in submitted.items() if tasks[element].active}


def joined(state: RunState, task: Task | None) -> tuple[str, str]:
    """Return a run's state from its folder and SLURM combined, and a note with what SLURM adds."""
    if task is None:
        return state.state, ""
    if task.state == UNKNOWN:
        # The run was submitted, and its end is not known.
        return "queued" if state.state == "new" else state.state, "SLURM does not answer"
    if task.active:
        if task.state == "PENDING" or task.state.startswith("REQUEUE"):
            return ("finished" if state.state == "finished" else "queued"), task.reason
        return (state.state if state.state in ("finished", "failed") else "running"), \
            "" if state.held or not task.node else f"on {task.node}"
    if state.held or state.state in ("finished", "failed"):
        return state.state, ""
    if task.state == OVER:
        return "lost" if state.state == "new" else state.state, \
            "its task is over; SLURM's accounting does not answer how it ended"
    if task.state == GONE:
        return state.state, "SLURM no longer lists its task"
    if task.state == "CANCELLED":
        return "cancelled", ""
    if state.state == "interrupted":
        return "interrupted", end_of(task)
    # Neither the run nor its task recorded a reason: it was killed, ran out of memory or lost its node.
    return "lost", end_of(task)


def end_of(task: Task) -> str:
    """Describe how a task ended: SLURM's state, the node, and the exit code or signal."""
    code, _, number = task.exit_code.partition(":")
    how = {str(int(ExitCode.CANNOT_BEGIN)): "its node cannot run it"}.get(code, f"exit code {code}") \
        if code not in ("", "0") else ""
    if task.exit_code == NO_OUTPUT:
        how = "its node could not write the task's output"
    elif number not in ("", "0"):
        how = f"signal {number}"
    return f"{task.state}{f' on {task.node}' * bool(task.node)}{f', {how}' * bool(how)}"


class Readings:
    """Cache of folders' states: a folder whose task is pending or over is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Task | None, RunState]] = {}

    def state(self, folder: Path, task: Task | None) -> RunState:
        """Return the run's state, given the current state of its SLURM task."""
        before, state = self._known.get(folder, (None, None))
        if state is None or task != before or state.held or (
                task is not None and task.active and task.state != "PENDING"):
            state = read_state(folder)
            self._known[folder] = task, state
        return state


def lines_of(folders: Iterable[Path], elements: Mapping[Path, tuple[str, int]], tasks: Tasks,
             readings: Readings, sweeps: Iterable[Sweep] = ()) -> list[Line]:
    """Return the table's rows, which combine folders with SLURM's states.

    Args:
        elements: the task that each run was submitted in.
        tasks: SLURM's states of the tasks.
        readings: cache of the folders' states.
        sweeps: sweeps whose tasks' output is quoted for lost and interrupted runs without a log.
    """
    lines = []
    for folder in folders:
        element = elements.get(folder)
        task = tasks.get(element) if element else None
        found = readings.state(folder, task)
        state, note = joined(found, task)
        if element and state in ("lost", "interrupted") and task and not task.active:
            output = output_of(element, sweeps)
            last = [line for line in tail(output, 5) if line.strip()] if output else []
            note += f": {last[-1].strip()}" if last and not (folder / LOG).exists() else ""
        lines.append(Line(folder, state, found, printable(note)))
    return lines


def tell(line: Line, output: Path | None, count: int) -> None:
    """Print how a run ended, and if it failed the last lines of its log or its task's output."""
    reason = line.folder_state.reason if line.state == "failed" else line.note
    say(f"{line.state}: {shown_path(line.folder)}" + (f": {reason}" if reason else ""))
    if line.state in ("failed", "lost"):
        log = line.folder / LOG
        for text in tail(log if log.exists() or output is None else output, count):
            say(f"    | {text}")
