"""Run one task of a job array on its node: python -m launchers.slurm.task TASKS_FILE

It runs the task's runs side by side, each in its own process, and handles SLURM's signals:

    SIGUSR2 (time limit, preemption)   write checkpoints, then requeue the task, which continues later
    SIGTERM (scancel)                  write checkpoints without a requeue, since the user cancelled the task; after a
                                       preemption, wait for the requeue that SLURM does itself
    exit code                          0: all finished; 1: a run failed; 143: stopped
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from algd.errors import ExitCode, UsageError
from algd.storage.files import write_atomically
from algd.storage.run_folder import RunFolder
from launchers.devices import Gpus, assigned_gpus, environment
from launchers.members import is_done
from launchers.processes import how_it_ended, start_process
from launchers.states import is_held, progress, read_state, record_failure
from launchers.sweeps import Member

REQUEUES = "requeues.json"
POLL_SECONDS = 0.2
QUESTION_SECONDS = 2.0
# SLURM ends this process after a requeue; if it does not within this time, the requeue did not work.
REQUEUE_SECONDS = 120


class Orders:
    """What SLURM has requested by signals.

    Attributes:
        stop: write checkpoints and end.
        requeue: write checkpoints and requeue the task.
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
    states: dict[Path, str] = {}
    for folder in folders:
        # An unreadable folder of one run must not end the others.
        try:
            if state := settled(folder, restarts):
                states[folder] = state
        except (OSError, UsageError) as error:
            states[folder] = "failed"
            print(f"failed: {folder}: {error}", flush=True)
    states |= run_all([folder for folder in folders if folder not in states], Path(content["code"]), orders)
    for folder, state in states.items():
        print(f"{state}: {folder}", flush=True)
    interrupted = "interrupted" in states.values()
    if interrupted and orders.any:
        for folder in (folder for folder, state in states.items() if state == "interrupted"):
            remember_stop(folder)
    if interrupted and orders.requeue and not orders.stop:
        requeue(orders)
    elif interrupted and orders.stop:
        wait_while_preempted()
    if "failed" in states.values():
        return ExitCode.FAILED
    return ExitCode.TERMINATED if interrupted else ExitCode.FINISHED


def job_name() -> str:
    """Return this task's id for scontrol."""
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def settled(folder: Path, restarts: int) -> str | None:
    """Return how a run ended if nothing is left to do for it; None otherwise."""
    found = read_state(folder)
    if found.state == "finished" and is_done(Member(folder, RunFolder(folder).config()), found):
        return "finished"
    # Submitting marks failed runs as interrupted (`launchers.processes.freeze`): this failure is of an earlier start.
    if found.state == "failed" and restarts:
        return "failed"
    if reason := why_stuck(folder, restarts, found.step):
        record_failure(folder, reason)
        return "failed"
    return None


def earlier_start(folder: Path) -> dict[str, Any]:
    """Return what the run's previous start in this task recorded (`why_stuck`); empty if there was none."""
    try:
        earlier = json.loads((folder / REQUEUES).read_bytes())
    except (OSError, ValueError):
        return {}
    return earlier if isinstance(earlier, dict) and earlier.get("job") == job_name() and "node" in earlier else {}


def why_stuck(folder: Path, restarts: int, step: int) -> str | None:
    """Return why a run is stuck, if its newest checkpoint is still that of an earlier restart of this task.

    Args:
        step: the environment step of its newest checkpoint.
    """
    earlier, reached = earlier_start(folder), list(progress(folder))
    further = not earlier or reached > earlier["progress"]
    # A start that did not record an orderly stop was lost with its node, or killed as a whole.
    died = [] if further else [*earlier.get("died", []), *([] if earlier.get("stopped") else [earlier["node"]])]
    now = {"job": job_name(), "restarts": restarts, "progress": reached, "died": died,
           "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename}
    write_atomically(folder / REQUEUES, json.dumps(now).encode())
    if further or not 1 <= earlier["restarts"] < restarts:
        return None
    if not died:
        return ("no progress between two requeues: each time it was stopped before it was further than its checkpoint "
                f"at step {step}; give it more time or checkpoint more often")
    return (f"no progress between two requeues: its task vanished on {' and then on '.join(died)} before it was "
            f"further than its checkpoint at step {step}: the node died, or memory ran out; checkpoint more often, or "
            "leave nodes out with hydra.launcher.exclude")


def remember_stop(folder: Path) -> None:
    """Record that this start was stopped in an orderly way, and not lost with its node."""
    with contextlib.suppress(OSError):
        if earlier := earlier_start(folder):
            write_atomically(folder / REQUEUES, json.dumps(earlier | {"stopped": True}).encode())


def run_all(folders: list[Path], code: Path, orders: Orders) -> dict[Path, str]:
    """Run these runs side by side until they end or SLURM asks to stop. Returns how each ended."""
    states: dict[Path, str] = {}
    waiting, running, told = list(folders), dict[Path, tuple[subprocess.Popen[bytes], str | None]](), False
    # Without assigned GPUs there is nothing to share: the node's other GPUs are not this task's.
    gpus = Gpus(assigned_gpus() or [])
    while running or (waiting and not orders.any):
        # Another sweep may be training the same run: wait for its lock.
        for folder in [folder for folder in waiting if not is_held(folder) and not orders.any]:
            waiting.remove(folder)
            gpu = None
            try:
                config = RunFolder(folder).config()
                gpu = gpus.take(config)
                running[folder] = start_process(folder, code, environment(config, gpu), bound=True), gpu
            except (OSError, UsageError) as error:
                gpus.give_back(gpu)
                states[folder] = "failed"
                print(f"failed: {folder}: {error}", flush=True)
                with contextlib.suppress(OSError):
                    record_failure(folder, str(error))
        if orders.any and not told:
            told = True
            for process, _ in running.values():
                process.send_signal(signal.SIGTERM)
        for folder, (process, gpu) in list(running.items()):
            if (ended := process.poll()) is not None:
                del running[folder]
                gpus.give_back(gpu)
                state = how_it_ended(folder, ended)
                if state == "busy":
                    waiting.append(folder)
                else:
                    states[folder] = state
        time.sleep(POLL_SECONDS)
    return states | dict.fromkeys(waiting, "interrupted")


def requeue(orders: Orders) -> None:
    """Ask SLURM to requeue this task, and wait for the SIGTERM that follows."""
    print(f"requeue {job_name()}", flush=True)
    answer = subprocess.run(["scontrol", "requeue", job_name()], capture_output=True, text=True)
    if answer.returncode:
        print(f"SLURM did not requeue this task: {answer.stderr.strip()}", flush=True)
        return
    patience = time.monotonic() + REQUEUE_SECONDS
    while not orders.stop and time.monotonic() < patience:
        time.sleep(POLL_SECONDS)


def wait_while_preempted() -> None:
    """If the stop is a preemption, wait until its grace time is over.

    SLURM requeues a preempted task only if it is still running then: one that ends earlier counts as failed.
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
