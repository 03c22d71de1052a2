"""The job that runs after all tasks of a sweep: python -m launchers.slurm.end FILE

It runs `hydra.launcher.on_end` (`launchers.ending`), even if no launcher is waiting for the sweep any more.
"""

import json
import sys
from pathlib import Path

from launchers.ending import tell_end
from launchers.processes import LOG
from launchers.slurm.queue import Queue
from launchers.slurm.status import Readings, lines_of, submitted_tasks
from launchers.sweeps import load_sweep
from launchers.table import summary


def main(file: Path) -> int:
    """Run on_end with the summary of the sweep that the file names. Returns 0."""
    content = json.loads(file.read_bytes())
    sweep = load_sweep(Path(content["sweep"]))
    wanted = set(sweep.folders)
    elements = {folder: element for folder, element in submitted_tasks([sweep]).items() if folder in wanted}
    tasks = Queue(elements.values()).refresh(patience=1)
    lines = lines_of(sweep.folders, elements, tasks, Readings(), [sweep])
    text = summary(sweep.name, {line.folder: line.state for line in lines},
                   {line.folder: line.folder_state.reason or line.note for line in lines}, 0, LOG)
    print(text, flush=True)
    tell_end(content["on_end"], sweep.file, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
