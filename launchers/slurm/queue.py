"""What SLURM says about jobs: one squeue and one sacct for all of them, and never more often than every few seconds."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algd.errors import UsageError

GONE = "GONE"        # neither the queue nor the accounting has it any more
OVER = "OVER"        # the queue has it no more, and the accounting does not answer
UNKNOWN = "UNKNOWN"  # SLURM has not been asked yet, or does not answer
# A job that is in one of these is still going to do something, as far as is known.
ACTIVE = frozenset({UNKNOWN, "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD",
                    "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
QUIET = frozenset({"COMPLETED", "CANCELLED"})  # ends of which the exit code says nothing more
SECONDS = 60
REST = -1  # in the place of an index: the tasks of an array that are not listed by themselves


@dataclass(frozen=True)
class Task:
    """One element of a job array.

    Attributes:
        state: SLURM's word for it, such as "PENDING", "RUNNING", "COMPLETED" or "CANCELLED".
        reason: why it is pending, as squeue gives it.
        node: where it runs or ran.
        exit_code: exit code and signal, as sacct gives them: "1:0", "0:9".
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
    """Whether SLURM's commands are on this machine."""
    return shutil.which("squeue") is not None


def ask(command: Sequence[str]) -> str | None:
    """A SLURM command's output; None if it did not work, which may pass: a controller restarts."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode == 0:
        return result.stdout
    # squeue's way to say that the only job that it was asked for is over.
    return "" if "Invalid job id" in result.stderr else None


def elements(listed: str) -> list[tuple[str, int]]:
    """The tasks in squeue's and sacct's notations: 12_3, 12_[1-3,7%2]; 12 is what is left of an array, `REST`."""
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
    """squeue's lines `%i|%T|%r|%N`."""
    return gathered((listed, Task(state, "" if reason == "None" else reason, node))
                    for listed, state, reason, node in fields_of(output))


def read_accounting(output: str) -> Tasks:
    """sacct's lines `JobID|State|ExitCode|NodeList`; its states may have words more, as in CANCELLED by 0."""
    return gathered((listed, Task(state.split()[0] if state else UNKNOWN, "",
                                  "" if node.startswith("None") else node, code))
                    for listed, state, code, node in fields_of(output))


def fields_of(output: str) -> list[list[str]]:
    """Lines of four fields."""
    return [[*line.split("|"), "", "", ""][:4] for line in output.splitlines()]


def gathered(lines: Iterable[tuple[str, Task]]) -> Tasks:
    """Every task once: its own line counts before one for a range, which may still name tasks that have left it."""
    tasks: Tasks = {}
    for listed, task in sorted(lines, key=lambda line: "[" not in line[0]):
        tasks |= dict.fromkeys(elements(listed), task)
    return tasks


def listed_of(wanted: Iterable[tuple[str, int]], tasks: Tasks) -> Tasks:
    """What a listing says of these tasks. An array that was cancelled as a whole is listed as one."""
    found = {element: tasks.get(element) or tasks.get((element[0], REST)) for element in wanted}
    return {element: task for element, task in found.items() if task is not None}


class Queue:
    """What is known about some tasks.

    Args:
        elements: the tasks: (id of the job array, index).
        seconds: least time between two questions.
    """

    def __init__(self, elements: Iterable[tuple[str, int]], seconds: float = 5.0):
        self.tasks: Tasks = dict.fromkeys(elements, Task(UNKNOWN))
        self.seconds = seconds
        self._missed: Counter[tuple[str, int]] = Counter()
        self._due = 0.0

    def refresh(self, patience: int = 3) -> Tasks:
        """The tasks' states, not older than `seconds` if SLURM answers.

        Args:
            patience: questions after which a task that neither the queue nor the accounting has is over. The
                accounting hears of a task's end a moment after the queue has forgotten it.
        """
        open_tasks = {element for element, task in self.tasks.items() if task.active}
        if not open_tasks or time.monotonic() < self._due:
            return self.tasks
        jobs = ",".join(sorted({job for job, _ in open_tasks}))
        queued = ask(["squeue", "-h", "-r", "-a", "-t", "all", "-o", "%i|%T|%r|%N", "-j", jobs])
        if queued is not None:
            found = listed_of(open_tasks, read_queue(queued))
            # The queue does not tell exit codes.
            failed = {element for element, task in found.items() if not task.active and task.state not in QUIET}
            if missing := (open_tasks - set(found)) | failed:
                answer = ask(["sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode,NodeList", "-j", jobs])
                recorded = listed_of(missing, read_accounting(answer or ""))
                found |= {element: task for element, task in recorded.items() if not task.active}
                lost = missing - set(found)
                self._missed.update(lost)
                # What has left the queue is over, even if the accounting cannot say how it ended.
                over = Task(OVER if answer is None else GONE)
                found |= {element: over for element in lost if self._missed[element] >= patience}
            self.tasks |= {element: found[element] for element in open_tasks & set(found)}
        self._due = time.monotonic() + self.seconds
        return self.tasks


def largest_array() -> int:
    """How many elements an array may have on this cluster.

    Raises:
        UsageError: SLURM does not answer.
    """
    answer = ask(["scontrol", "show", "config"])
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer or "", re.MULTILINE)
    if not match:
        raise UsageError("hydra/launcher=slurm: SLURM does not answer (scontrol show config); "
                         "is this a machine of the cluster?")
    return max(int(match[1]), 1)
