"""One task of a job array on its node: python -m launchers.slurm.task TASKS_FILE

It runs the runs of its index side by side, each a process of its own, and answers SLURM:

    SIGUSR2 (time limit, preemption)   checkpoints, then the task is requeued and goes on later
    SIGTERM (scancel)                  checkpoints, and no requeue: who cancels does not want it back; if it came from a
                                       preemption, the task waits for the requeue that SLURM does itself
    exit code                          0: all finished; 1: a run failed; 143: stopped
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from algd.errors import ExitCode
from algd.storage.files import write_atomically
from algd.storage.run_folder import RunFolder
from launchers.processes import how_it_ended, start_process
from launchers.states import is_held, progress, read_state, record_failure

REQUEUES = "requeues.json"
POLL_SECONDS = 0.2
QUESTION_SECONDS = 2.0
# After a requeue SLURM ends this process; should it not, something is wrong with the requeue.
REQUEUE_SECONDS = 120


class Orders:
    """What SLURM has asked for, by signals.

    Attributes:
        stop: a checkpoint and an end.
        requeue: the same, and a return.
    """

    def __init__(self) -> None:
        self.stop = self.requeue = False
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR2:
            self.requeue = True
        else:
            self.stop = True

    @property
    def any(self) -> bool:
        return self.stop or self.requeue


def main(file: Path) -> int:
    """Run this task's runs. Returns the exit code."""
    orders = Orders()
    content = json.loads(file.read_bytes())
    runs = content["tasks"][int(os.environ["SLURM_ARRAY_TASK_ID"])]
    folders = [Path(content["runs_dir"]) / run for run in runs]
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    print(f"job {job_name()} on {os.uname().nodename}, restarted {restarts} times: {', '.join(runs)}", flush=True)
    states = {folder: state for folder in folders if (state := settled(folder, restarts))}
    states |= run_all([folder for folder in folders if folder not in states], Path(content["code"]),
                      content["threads"], orders)
    for folder, state in states.items():
        print(f"{state}: {folder}", flush=True)
    interrupted = "interrupted" in states.values()
    if interrupted and orders.requeue and not orders.stop:
        requeue(orders)
    elif interrupted and orders.stop:
        wait_while_preempted()
    if "failed" in states.values():
        return ExitCode.FAILED
    return ExitCode.TERMINATED if interrupted else ExitCode.FINISHED


def job_name() -> str:
    """This task as scontrol calls it."""
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def settled(folder: Path, restarts: int) -> str | None:
    """How a run ended if there is nothing more to do for it here; None otherwise."""
    found = read_state(folder)
    if found.state == "finished" and found.step >= RunFolder(folder).config()["total_steps"]:
        return "finished"
    # What failed is submitted as interrupted (`launchers.processes.freeze`): this failure was in an earlier start.
    if found.state == "failed" and restarts:
        return "failed"
    if restarts and is_stuck(folder, restarts):
        record_failure(folder, "no progress between two requeues: each time it was stopped before it was further than "
                               f"its checkpoint at step {found.step}; give it more time or checkpoint more often")
        return "failed"
    return None


def is_stuck(folder: Path, restarts: int) -> bool:
    """Whether the newest checkpoint is still the one that was there at an earlier restart of this job."""
    reached: dict[str, Any] = {"job": job_name(), "restarts": restarts, "progress": list(progress(folder))}
    try:
        earlier = json.loads((folder / REQUEUES).read_bytes())
    except (OSError, ValueError):
        earlier = {}
    write_atomically(folder / REQUEUES, json.dumps(reached).encode())
    return (earlier.get("job") == reached["job"] and earlier["restarts"] < restarts
            and reached["progress"] <= earlier["progress"])


def run_all(folders: list[Path], code: Path, threads: int, orders: Orders) -> dict[Path, str]:
    """Run these runs side by side to their ends, or until SLURM asks to stop. Returns how each ended."""
    states: dict[Path, str] = {}
    waiting, running, told = list(folders), dict[Path, subprocess.Popen[bytes]](), False
    while running or (waiting and not orders.any):
        # A run of two sweeps may be on its way elsewhere: its lock is waited for.
        for folder in [folder for folder in waiting if not is_held(folder) and not orders.any]:
            waiting.remove(folder)
            running[folder] = start_process(folder, code, threads, bound=True)
        if orders.any and not told:
            told = True
            for process in running.values():
                process.send_signal(signal.SIGTERM)
        for folder, process in list(running.items()):
            if (ended := process.poll()) is not None:
                del running[folder]
                state = how_it_ended(folder, ended)
                if state == "busy":
                    waiting.append(folder)
                else:
                    states[folder] = state
        time.sleep(POLL_SECONDS)
    return states | dict.fromkeys(waiting, "interrupted")


def requeue(orders: Orders) -> None:
    """Ask SLURM to run this task again, and wait for the SIGTERM that comes with it."""
    print(f"requeue {job_name()}", flush=True)
    answer = subprocess.run(["scontrol", "requeue", job_name()], capture_output=True, text=True)
    if answer.returncode:
        print(f"SLURM did not requeue this task: {answer.stderr.strip()}", flush=True)
        return
    patience = time.monotonic() + REQUEUE_SECONDS
    while not orders.stop and time.monotonic() < patience:
        time.sleep(POLL_SECONDS)


def wait_while_preempted() -> None:
    """Stay until the time of grace is over, if it is a preemption that asked to stop.

    SLURM requeues a preempted task only if that is still there then: one that ends earlier counts as failed.
    """
    told = False
    while True:
        answer = subprocess.run(["scontrol", "show", "job", job_name()], capture_output=True, text=True).stdout
        said = dict(field.split("=", 1) for field in answer.split() if "=" in field)
        if said.get("JobState") != "RUNNING" or said.get("PreemptTime", "None") == "None":
            return
        if not told:
            print("preempted: waiting for SLURM's requeue", flush=True)
        told = True
        time.sleep(QUESTION_SECONDS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
