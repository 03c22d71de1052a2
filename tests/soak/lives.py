"""Lives of runs: processes that do what `python run.py` does, forked from one that has imported everything.

A life ends by SIGKILL at a chosen operation on files, at a chosen time, or by itself; the next life of the same command
continues with its folder.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.soak.faults import Fault, Injector, Operation, inject

KILLED = -signal.SIGKILL
# Starting a process polls the exit codes of all others, and a fork server reports each only once: of two threads that
# poll at the same time the second gets 255.
ASKING = threading.Lock()


@dataclass
class Life:
    """A process that trains a run.

    Attributes:
        process: the process; negative exit codes are signals.
        folder: folder of its output and its list of operations on files.
    """

    process: BaseProcess
    folder: Path

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most this long. Returns whether it has ended."""
        if not connection.wait([self.process.sentinel], seconds):
            return False
        with ASKING:
            self.process.join()
        return True

    @property
    def code(self) -> int:
        """The exit code, after the end."""
        self.wait()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def said(self) -> str:
        """Its standard error and output."""
        self.wait()
        return (self.folder / "said.txt").read_text(errors="replace")

    @property
    def operations(self) -> list[Operation]:
        """The operations on files that it began; the last one may not have been carried out."""
        self.wait()
        lines = (self.folder / "operations.txt").read_text().splitlines()
        return [Operation(*line.split("\t")) for line in lines]

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()


@cache
def server() -> ForkServerContext:
    """Return the process that has imported everything, from which lives are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.soak.warm"])
    return context


def start(process: BaseProcess) -> None:
    """Start a process from the server."""
    with ASKING:
        process.start()


def begin(config: Mapping[str, Any], scratch: Path, fault: Fault | None = None, clock: float = 0.0) -> Life:
    """Start a life.

    Args:
        config: composed and checked configuration (`tests.support.command.compose`).
        scratch: new folder for its output.
        fault: fault in the files below `runs_dir`.
        clock: error of the system's clock at every second call, in seconds, see `_unsteady`.
    """
    scratch.mkdir(parents=True)
    process = server().Process(target=_live, args=(dict(config), str(scratch), fault or Fault(), clock), daemon=True)
    start(process)
    return Life(process, scratch)


def lived(config: Mapping[str, Any], scratch: Path, fault: Fault | None = None, clock: float = 0.0) -> Life:
    """Start a life and wait for its end."""
    life = begin(config, scratch, fault, clock)
    life.wait()
    return life


def _live(config: dict[str, Any], scratch: str, fault: Fault, clock: float) -> None:
    """Train the run, in the process."""
    said = os.open(os.path.join(scratch, "said.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["run.py"]
    operations = os.open(os.path.join(scratch, "operations.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write  # before it is watched

    def record(operation: Operation) -> None:
        write(operations, f"{operation.function}\t{operation.place}\n".encode())

    inject(Injector(Path(config["runs_dir"]), fault, record))
    if clock:
        _unsteady(clock)
    code = 70
    try:
        from omegaconf import OmegaConf

        from algd.cli.main import carry_out

        code = carry_out(OmegaConf.create(config))
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _unsteady(jump: float) -> None:
    """Let the system's clock jump back and forth by `jump` seconds at every call."""
    real, looks = time.time, [0]

    def unsteady() -> float:
        looks[0] += 1
        return real() - jump * (looks[0] % 2)

    time.time = unsteady


def listing(folder: Path) -> dict[str, Any]:
    """Return the content of a status file; empty without one."""
    try:
        return json.loads((folder / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Return the names of the files that differ."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
