"""hydra/launcher=slurm: submit a sweep as job arrays, as few as MaxArraySize and the tasks' settings allow.

submitit writes the sbatch file. Each task executes `python -m launchers.slurm.task`, so there are no pickles, no
process must stay alive here, and the task's exit code is that of its runs.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from algd.errors import ExitCode, UsageError
from launchers.estimate import Speeds, estimate, simultaneous
from launchers.members import Plan, begin_afresh, refuse_fresh, steps_left, triage
from launchers.processes import LOG
from launchers.settings import SlurmSettings
from launchers.slurm.queue import Queue, largest_array
from launchers.slurm.status import Elements, Readings, active_tasks, lines_of, named, output_of, submitted_tasks, tell
from launchers.slurm.submission import adopt, submit, submit_end
from launchers.sweeps import Member, Sweep, sweeps_of
from launchers.table import Board, Line, many, say, shown_path, summary


def submit_sweep(sweep: Sweep, members: Sequence[Member], settings: SlurmSettings, code: Path, lock: IO[str]
                 ) -> tuple[Elements, int]:
    """Submit the members of a sweep that are not finished.

    Args:
        sweep: the sweep, already written.
        members: its members.
        settings: the launcher's settings.
        code: the code snapshot to run.
        lock: the held `submission_lock`.

    Returns:
        The tasks that its runs are in now, and the number of runs that were already finished.

    Raises:
        UsageError: SLURM is missing, does not answer or refuses the submission.
    """
    limit = check(settings)
    for other in sweeps_of(sweep.runs_dir):
        same = other.file == sweep.file
        if not adopt(sweep if same else other):
            raise UsageError("SLURM does not answer (squeue), and an earlier submission may be in its queue: the same "
                             "command submits nothing twice once it answers")
    active = active_tasks(sweep.folders, sweep.runs_dir)
    planned = triage(members, settings.retry_failed, {folder: named(element) for folder, element in active.items()})
    refuse_fresh(planned)
    for each in planned:
        if sentence := each.sentence():
            say(sentence)
    todo = [begin_afresh(each.member) for each in planned if each.plan.runs]
    skipped = sum(each.plan is Plan.SKIPPED for each in planned)
    if todo:
        queued = Counter(job for job, _ in set(active.values()))
        estimated = estimate(members, steps_left(each for each in planned if each.plan.runs), settings)
        submit(sweep, todo, settings, code, limit, dict(queued), lock)
        say(estimated)
    else:
        say(f"{sweep.name}: nothing to submit")
    elements = active | {folder: element for folder, element in submitted_tasks([sweep]).items()
                         if folder in {member.folder for member in todo}}
    if settings.on_end and elements:
        submit_end(sweep, settings, code, sorted({job for job, _ in elements.values()}), lock)
    say(f"{sweep.name}: {many(len(members), 'run')}, {skipped} already finished, {len(todo)} submitted; "
        f"list of members: {shown_path(sweep.file)}\n"
        f"  python -m launchers status {shown_path(sweep.file)} shows how they are")
    return elements, skipped


def check(settings: SlurmSettings) -> int:
    """Check the settings, and that SLURM is available. Returns the largest array size.

    Raises:
        UsageError: a setting is inconsistent, or SLURM is missing.
    """
    for group in ("", *settings.tasks):
        own = settings.of(group)
        if own.signal_seconds >= 60 * own.time:
            raise UsageError(f"hydra.launcher.signal_seconds={own.signal_seconds}: a task has only "
                             f"time={own.time} minutes; it should be less than {60 * own.time}")
    if shutil.which("sbatch") is None:
        raise UsageError("hydra/launcher=slurm: there is no sbatch here; submit from a machine of the cluster, "
                         "or use hydra/launcher=local")
    return largest_array()


def wait_for_sweep(sweep: Sweep, members: Sequence[Member], elements: Elements, settings: SlurmSettings, skipped: int
                   ) -> int:
    """Wait for a sweep as `wait`, and let Ctrl-C end the waiting but not the jobs.

    Returns:
        Exit code. 0: all finished; 1: some did not finish; 130: the user stopped waiting, and the jobs continue.
    """
    try:
        return wait(sweep, members, elements, settings, skipped)
    except KeyboardInterrupt:
        say(f"no longer waiting; the jobs continue. python -m launchers cancel {shown_path(sweep.file)} stops them")
        return ExitCode.INTERRUPTED


def wait(sweep: Sweep, members: Sequence[Member], elements: Elements, settings: SlurmSettings, skipped: int) -> int:
    """Show the sweep until none of its tasks is active. Returns the exit code."""
    queue = Queue(elements.values(), settings.poll_seconds)
    speeds = Speeds(members)
    told: set[Path] = set()
    folders, read = [member.folder for member in members], Readings()
    with Board(sweep.name) as board:
        while True:
            tasks = queue.refresh()
            lines = lines_of(folders, elements, tasks, read, [sweep])
            for line in lines:
                element = elements.get(line.folder)
                if element and not tasks[element].active and line.folder not in told:
                    told.add(line.folder)
                    tell(line, output_of(element, [sweep]), settings.tail)
            awaited = any(line.folder_state.held for line in lines if line.folder not in elements)
            if not awaited and not any(task.active for task in tasks.values()):
                board.show(lines, 0.0)
                break
            if board.due:
                board.show(lines, seconds_left(lines, members, speeds, settings))
            time.sleep(min(1.0, settings.poll_seconds))
    states = {line.folder: line.state for line in lines}
    reasons = {line.folder: line.folder_state.reason or line.note for line in lines}
    say(summary(sweep.name, states, reasons, skipped, LOG))
    return ExitCode.FINISHED if set(states.values()) <= {"finished"} else ExitCode.FAILED


def seconds_left(lines: Sequence[Line], members: Sequence[Member], speeds: Speeds,
                 settings: SlurmSettings) -> float | None:
    """Estimate the remaining seconds, from the number of tasks that run now or from max_running."""
    rest = {}
    for line, member in zip(lines, members, strict=True):
        speeds.learn(line.folder, line.folder_state)
        if line.state in ("running", "queued"):
            rest[line.folder] = member.config["total_steps"] - max(line.folder_state.step, 0)
    running = sum(line.state == "running" for line in lines)
    at_once = max(running, 1) if settings.max_running is None else simultaneous(settings, members, len(rest))
    return speeds.seconds_left(rest, at_once)
