"""Runs' states from their folders and from SLURM together, and what a task that failed has left to read."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from algd.errors import ExitCode
from launchers.processes import LOG, tail
from launchers.slurm.queue import GONE, OVER, UNKNOWN, Queue, Task, Tasks
from launchers.states import RunState, read_state
from launchers.sweeps import Sweep, sweeps_of
from launchers.table import Line, say, shown_path

Elements = dict[Path, tuple[str, int]]
# SLURM's own exit code 53 in the place of a signal: the node could not open the task's output.
NO_OUTPUT = "0:53"


def named(element: tuple[str, int]) -> str:
    """A task as SLURM's commands call it, such as 12_3."""
    return f"{element[0]}_{element[1]}"


def submitted_tasks(sweeps: Iterable[Sweep]) -> Elements:
    """The newest task that each run was submitted in: (id of the job array, index)."""
    found: Elements = {}
    for sweep in sweeps:
        for submission in sweep.submissions:
            for index, runs in enumerate(submission["tasks"] if submission["job"] is not None else ()):
                found |= {sweep.runs_dir / run: (str(submission["job"]), index) for run in runs}
    return found


def output_of(folder: Path, element: tuple[str, int], sweeps: Iterable[Sweep]) -> Path | None:
    """The file with the output of the task that a run was submitted in; None if no sweep knows it."""
    return next((sweep.directory / "slurm" / f"{named(element)}_0_log.out" for sweep in sweeps
                 if any(str(record["job"]) == element[0] for record in sweep.submissions)), None)


def active_tasks(folders: Iterable[Path], runs_dir: Path) -> Elements:
    """The tasks in which these runs are queued or run now, whichever sweep submitted them."""
    wanted = set(folders)
    submitted = {folder: element for folder, element in submitted_tasks(sweeps_of(runs_dir)).items()
                 if folder in wanted}
    tasks = Queue(submitted.values()).refresh(patience=1)
    return {folder: element for folder, element in submitted.items() if tasks[element].active}


def joined(state: RunState, task: Task | None) -> tuple[str, str]:
    """A run's state from its folder and SLURM together, and what SLURM has to add."""
    if task is None:
        return state.state, ""
    if task.state == UNKNOWN:
        # It was submitted, and nobody has said that it is over.
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
    # Neither the run nor its task could say what happened: killed from outside, out of memory, a node that is gone.
    return "lost", end_of(task)


def end_of(task: Task) -> str:
    """How a task ended, in words: SLURM's state, its node, and its exit code."""
    code, _, number = task.exit_code.partition(":")
    how = {str(int(ExitCode.CANNOT_BEGIN)): "its node cannot run it"}.get(code, f"exit code {code}") \
        if code not in ("", "0") else ""
    if task.exit_code == NO_OUTPUT:
        how = "its node could not write the task's output"
    elif number not in ("", "0"):
        how = f"signal {number}"
    return f"{task.state}{f' on {task.node}' * bool(task.node)}{f', {how}' * bool(how)}"


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
             readings: Readings, sweeps: Iterable[Sweep] = ()) -> list[Line]:
    """The table's lines: folders joined with what SLURM knows.

    Args:
        elements: the tasks that runs were submitted in.
        tasks: what SLURM says of them.
        readings: what the folders said before.
        sweeps: those whose tasks' output is quoted where a run is lost.
    """
    lines = []
    for folder in folders:
        element = elements.get(folder)
        task = tasks.get(element) if element else None
        found = readings.state(folder, task)
        state, note = joined(found, task)
        if element and state in ("lost", "interrupted") and task and not task.active:
            output = output_of(folder, element, sweeps)
            last = [line for line in tail(output, 5) if line.strip()] if output else []
            note += f": {last[-1].strip()}" if last and not (folder / LOG).exists() else ""
        lines.append(Line(folder, state, found, "".join(c if c.isprintable() else " " for c in note)))
    return lines


def tell(line: Line, output: Path | None, count: int) -> None:
    """Say how a run ended, with the last lines of its log, or of its task's output, if it failed."""
    reason = line.folder_state.reason if line.state == "failed" else line.note
    say(f"{line.state}: {shown_path(line.folder)}" + (f": {reason}" if reason else ""))
    if line.state in ("failed", "lost"):
        log = line.folder / LOG
        for text in tail(log if log.exists() or output is None else output, count):
            say(f"    | {text}")
