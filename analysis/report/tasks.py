"""How SLURM tasks ended whose runs recorded no reason: node, exit code and last lines of output."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from algd.storage.sweep_file import SWEEPS
from launchers.processes import tail
from launchers.slurm.queue import UNKNOWN, Queue, Task, available
from launchers.slurm.status import Readings, lines_of, output_of, submitted_tasks
from launchers.sweeps import readable_sweeps

QUOTED = 10  # number of output lines to show


@dataclass(frozen=True)
class TaskEnd:
    """What SLURM knows of a run beyond the run's own files.

    Attributes:
        state: as shown by `python -m launchers status`.
        why: the end of its task, if SLURM answers here, and the last lines of the task's output.
    """

    state: str
    why: str


class TaskEnds:
    """Looks up how tasks ended; SLURM is asked about a task only until it has ended."""

    def __init__(self) -> None:
        self._queue = Queue(())

    def of(self, folders: Iterable[Path]) -> dict[Path, TaskEnd]:
        """Return what is known of the runs that a sweep has submitted to SLURM."""
        by_place: dict[Path, dict[Path, Path]] = {}
        for folder in folders:
            resolved = folder.resolve()
            if len(resolved.parents) > 3 and (resolved.parents[2] / SWEEPS).is_dir():
                by_place.setdefault(resolved.parents[2], {})[resolved] = folder
        return {folder: end for runs_dir, members in by_place.items()
                for folder, end in self._ends(runs_dir, members).items()}

    def _ends(self, runs_dir: Path, members: dict[Path, Path]) -> dict[Path, TaskEnd]:
        sweeps, _ = readable_sweeps(runs_dir)
        elements = {run: element for run, element in submitted_tasks(sweeps).items() if run in members}
        if available():
            for element in elements.values():
                self._queue.tasks.setdefault(element, Task(UNKNOWN))
            self._queue.refresh(patience=1)
        ends = {}
        for line in lines_of(elements, elements, self._queue.tasks, Readings()):
            output = output_of(elements[line.folder], sweeps)
            # A symbolic link could expose a file outside the sweep's folder.
            own = output is not None and output.resolve() == output
            ends[members[line.folder]] = TaskEnd(line.state, "\n".join(
                [*filter(None, [line.note]), *(tail(output, QUOTED) if output and own else [])]))
        return ends
