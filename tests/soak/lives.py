"""Lives of runs: each a process that does what `python run.py` does, forked from one that has imported everything.

A life can end by SIGKILL at a chosen operation on files, at a chosen time, or by itself; the next life of the same
command continues with the folder that it left.
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
# Every start of a process asks for the exit codes of all others, and a fork server tells each only once: whoever of
# two threads that ask at the same time comes second is told 255.
ASKING = threading.Lock()


@dataclass
class Life:
    """A process that trains a run.

    Attributes:
        process: the process; negative exit codes are signals.
        folder: where it leaves what it says, and its operations on files.
    """

    process: BaseProcess
    folder: Path

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most so long. Returns whether it has ended."""
        if not connection.wait([self.process.sentinel], seconds):
            return False
        with ASKING:
            self.process.join()
        return True

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        self.wait()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def said(self) -> str:
        """What it wrote to standard error and standard output."""
        self.wait()
        return (self.folder / "said.txt").read_text(errors="replace")

    @property
    def operations(self) -> list[Operation]:
        """The operations on files that it began, the last one possibly not carried out."""
        self.wait()
        lines = (self.folder / "operations.txt").read_text().splitlines()
        return [Operation(*line.split("\t")) for line in lines]

    def kill(self) -> None:
        """SIGKILL, now."""
        self.process.kill()


@cache
def server() -> ForkServerContext:
    """The process that has imported everything, and from which lives are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.soak.warm"])
    return context


def start(process: BaseProcess) -> None:
    """Start a process of the server's."""
    with ASKING:
        process.start()


def begin(config: Mapping[str, Any], scratch: Path, fault: Fault | None = None, clock: float = 0.0) -> Life:
    """Start a life.

    Args:
        config: a composed and checked configuration (`tests.support.command.compose`).
        scratch: a folder for what it leaves beside the run; made.
        fault: what goes wrong with the files below `runs_dir`.
        clock: seconds that the system's clock is wrong by at every second look, see `_unsteady`.
    """
    scratch.mkdir(parents=True)
    process = server().Process(target=_live, args=(dict(config), str(scratch), fault or Fault(), clock), daemon=True)
    start(process)
    return Life(process, scratch)


def lived(config: Mapping[str, Any], scratch: Path, fault: Fault | None = None, clock: float = 0.0) -> Life:
    """A life from its beginning to its end."""
    life = begin(config, scratch, fault, clock)
    life.wait()
    return life


def _live(config: dict[str, Any], scratch: str, fault: Fault, clock: float) -> None:
    """What happens in the process."""
    said = os.open(os.path.join(scratch, "said.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["run.py"]
    operations = os.open(os.path.join(scratch, "operations.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write  # as it is before it is watched

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
    """Let the system's clock jump to and fro: at every look it is `jump` seconds from where it was the time before."""
    real, looks = time.time, [0]

    def unsteady() -> float:
        looks[0] += 1
        return real() - jump * (looks[0] % 2)

    time.time = unsteady


def listing(folder: Path) -> dict[str, Any]:
    """What a status file says; empty without one."""
    try:
        return json.loads((folder / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """The names of the files that are not the same."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
