"""Start one run as a process, and find out how it ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from algd.errors import ExitCode
from algd.logging.wandb import RUN_ID
from algd.run.faults.requests import REQUESTS
from algd.storage.run_folder import RunFolder
from launchers.states import read_state, record_failure

LOG = "log.txt"
ENDINGS: dict[int, str] = {ExitCode.FINISHED: "finished", ExitCode.TERMINATED: "interrupted",
                           ExitCode.INTERRUPTED: "interrupted", ExitCode.BUSY: "busy"}


def freeze(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the resolved configuration, which the run's process will read, into the run's folder.

    A failed run becomes interrupted. Otherwise, if its process died without recording why, the reason of the earlier
    failure would be taken for the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    run.write_config(config)
    status = run.status()
    if status.get("state") == "failed":
        run.write_status(status | {"state": "interrupted", "reason": None})


def start_process(folder: Path, code: Path, variables: Mapping[str, str],
                  bound: bool = False) -> subprocess.Popen[bytes]:
    """Start the run in this folder from its frozen configuration.

    Args:
        folder: the run's folder; the process's output is appended to its log.txt.
        code: the code snapshot to run.
        variables: environment variables to add (`launchers.devices.environment`).
        bound: whether the run stops at a checkpoint when this process dies.
    """
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | dict(variables) | {"PYTHONPATH": path}
    environment.pop(RUN_ID, None)  # identifies one W&B run, and would be inherited by all
    # Blocked until the run has handlers for them: a checkpoint can be requested from its first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        with (folder / LOG).open("ab") as log:
            # Its own session, so that Ctrl-C at the terminal reaches only the launcher, which forwards it.
            command = [sys.executable, "-P", "-m", "launchers.worker", str(folder), *["--bound"] * bound,
                       f"--code={code}"]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    start_new_session=True, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(folder: Path, code: int, config: Mapping[str, Any] | None = None) -> str:
    """Return the state of a run whose process ended with this exit code, or by signal -code if it is negative.

    A killed run cannot record its own failure, so it is recorded here.

    Returns:
        "finished", "interrupted", "busy" (another process trains it) or "failed".
    """
    if code in ENDINGS:
        return ENDINGS[code]
    if read_state(folder).state != "failed" or code < 0:
        with contextlib.suppress(OSError):  # a full disk may be the cause of the failure
            record_failure(folder, death(code), config)
    return "failed"


def death(code: int) -> str:
    """Describe how a process ended."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    memory = " (the kernel does that when memory runs out)" if code == -signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{memory}"


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return last_lines(file, lines)
    except OSError:
        return []


def last_lines(file: BinaryIO, lines: int) -> list[str]:
    """Return the last lines of an open file without reading all of it; what is appended later can be read next."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * lines))
    return file.read().decode(errors="replace").splitlines()[-lines:]
