"""Query the state of jobs: one squeue and one sacct call for all of them, at most once every few seconds."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algd.errors import UsageError

GONE = "GONE"        # neither in the queue nor in the accounting any more
OVER = "OVER"        # not in the queue any more, and the accounting does not answer
UNKNOWN = "UNKNOWN"  # SLURM has not been asked yet, or does not answer
# States of jobs that may still do something.
ACTIVE = frozenset({UNKNOWN, "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD",
                    "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
QUIET = frozenset({"COMPLETED", "CANCELLED"})  # final states whose exit code adds no information
SECONDS = 60
REST = -1  # index that stands for all tasks of an array that are not listed individually


@dataclass(frozen=True)
class Task:
    """One element of a job array.

    Attributes:
        state: SLURM's job state, such as "PENDING", "RUNNING", "COMPLETED" or "CANCELLED".
        reason: why it is pending, as squeue gives it.
        node: where it runs or ran.
        exit_code: exit code and signal, as given by sacct: "1:0", "0:9".
    """

    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


Tasks = dict[tuple[str, int], Task]


def available() -> bool:
    """Return whether SLURM's commands are installed on this machine."""
    return shutil.which("squeue") is not None


def ask(command: Sequence[str]) -> str | None:
    """Return a SLURM command's output; None if it failed, which may be temporary, as when a controller restarts."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode == 0:
        return result.stdout
    # squeue's answer when the only requested job is over.
    return "" if "Invalid job id" in result.stderr else None


def elements(listed: str) -> list[tuple[str, int]]:
    """Parse task ids of squeue and sacct: 12_3, 12_[1-3,7%2]; 12 is the rest of an array, `REST`."""
    match = re.fullmatch(r"(\d+)(?:_\[?([\d,\-]+)(?:%\d+)?\]?)?", listed)
    if not match:
        return []
    if match[2] is None:
        return [(match[1], REST)]
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += [(match[1], index) for index in range(int(first), int(last or first) + 1)]
    return found


def read_queue(output: str) -> Tasks:
    """Parse squeue's lines `%i|%T|%r|%N`."""
    return gathered((listed, Task(state, "" if reason == "None" else reason, node))
                    for listed, state, reason, node in fields_of(output))


def read_accounting(output: str) -> Tasks:
    """Parse sacct's lines `JobID|State|ExitCode|NodeList`; a state may have further words: CANCELLED by 0."""
    return gathered((listed, Task(state.split()[0] if state else UNKNOWN, "",
                                  "" if node.startswith("None") else node, code))
                    for listed, state, code, node in fields_of(output))


def fields_of(output: str) -> list[list[str]]:
    """Split lines into four fields each."""
    return [[*line.split("|"), "", "", ""][:4] for line in output.splitlines()]


def gathered(lines: Iterable[tuple[str, Task]]) -> Tasks:
    """Merge lines into one state per task; a task's own line overrides a range, which may list tasks that left it."""
    tasks: Tasks = {}
    for listed, task in sorted(lines, key=lambda line: "[" not in line[0]):
        tasks |= dict.fromkeys(elements(listed), task)
    return tasks


def listed_of(wanted: Iterable[tuple[str, int]], tasks: Tasks) -> Tasks:
    """Select the listed tasks among those wanted. An array that was cancelled as a whole is listed as one."""
    found = {element: tasks.get(element) or tasks.get((element[0], REST)) for element in wanted}
    return {element: task for element, task in found.items() if task is not None}


class Queue:
    """The known states of some tasks.

    Args:
        elements: tasks as (job id of the array, index).
        seconds: minimum time between two queries.
    """

    def __init__(self, elements: Iterable[tuple[str, int]], seconds: float = 5.0):
        self.tasks: Tasks = dict.fromkeys(elements, Task(UNKNOWN))
        self.seconds = seconds
        self._missed: Counter[tuple[str, int]] = Counter()
        self._due = 0.0

    def refresh(self, patience: int = 3) -> Tasks:
        """Return the tasks' states, at most `seconds` old if SLURM answers.

        Args:
            patience: number of queries after which a task that is in neither the queue nor the accounting is over. The
                accounting records a task's end a moment after the queue has dropped it.
        """
        open_tasks = {element for element, task in self.tasks.items() if task.active}
        if not open_tasks or time.monotonic() < self._due:
            return self.tasks
        jobs = ",".join(sorted({job for job, _ in open_tasks}))
        queued = ask(["squeue", "-h", "-r", "-a", "-t", "all", "-o", "%i|%T|%r|%N", "-j", jobs])
        if queued is not None:
            found = listed_of(open_tasks, read_queue(queued))
            # squeue does not give exit codes.
            failed = {element for element, task in found.items() if not task.active and task.state not in QUIET}
            if missing := (open_tasks - set(found)) | failed:
                answer = ask(["sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode,NodeList", "-j", jobs])
                recorded = listed_of(missing, read_accounting(answer or ""))
                found |= {element: task for element, task in recorded.items() if not task.active}
                lost = missing - set(found)
                self._missed.update(lost)
                # A task that has left the queue is over, even if the accounting cannot say how it ended.
                over = Task(OVER if answer is None else GONE)
                found |= {element: over for element in lost if self._missed[element] >= patience}
            self.tasks |= {element: found[element] for element in open_tasks & set(found)}
        self._due = time.monotonic() + self.seconds
        return self.tasks


def largest_array() -> int:
    """Return the largest number of tasks that an array may have on this cluster.

    Raises:
        UsageError: SLURM does not answer.
    """
    answer = ask(["scontrol", "show", "config"])
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer or "", re.MULTILINE)
    if not match:
        raise UsageError("hydra/launcher=slurm: SLURM does not answer (scontrol show config); "
                         "is this a machine of the cluster?")
    return max(int(match[1]), 1)
