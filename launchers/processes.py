"""One run as a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.errors import ExitCode
from algd.logging.wandb import RUN_ID
from algd.storage.run_folder import RunFolder
from launchers.states import read_state, record_failure

LOG = "log.txt"
# Blocked until the run can answer them: a checkpoint can be asked for from its first instruction on.
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ENDINGS: dict[int, str] = {ExitCode.FINISHED: "finished", ExitCode.TERMINATED: "interrupted",
                           ExitCode.INTERRUPTED: "interrupted", ExitCode.BUSY: "busy"}


def freeze(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the run's resolved configuration into its folder: this is what its process will read.

    A run that failed before is from now on one that was interrupted: should its process die without a word, the old
    reason must not pass for the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    run.write_config(config)
    status = run.status()
    if status.get("state") == "failed":
        run.write_status(status | {"state": "interrupted", "reason": None})


def start_process(folder: Path, code: Path, variables: Mapping[str, str],
                  bound: bool = False) -> subprocess.Popen[bytes]:
    """Start the run of this folder, from its frozen configuration.

    Args:
        folder: the run's folder; what the process says is appended to its log.txt.
        code: the snapshot that it runs.
        variables: environment variables of its own (`launchers.devices.environment`).
        bound: whether it stops, with a checkpoint, when this process dies.
    """
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | dict(variables) | {"PYTHONPATH": path}
    environment.pop(RUN_ID, None)  # it names one run at W&B, not every member of a sweep
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        with (folder / LOG).open("ab") as log:
            # A session of its own: what is typed at the terminal reaches the launcher, which passes it on.
            command = [sys.executable, "-P", "-m", "launchers.worker", str(folder), *["--bound"] * bound]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    start_new_session=True, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(folder: Path, code: int, config: Mapping[str, Any] | None = None) -> str:
    """The state of a run whose process ended with this exit code, or by this signal if it is negative.

    A run that was killed could not say so itself: it is marked as failed here.

    Returns:
        "finished", "interrupted", "busy" (another process trains it) or "failed".
    """
    if code in ENDINGS:
        return ENDINGS[code]
    if read_state(folder).state != "failed" or code < 0:
        with contextlib.suppress(OSError):  # its disk may be what it failed for
            record_failure(folder, death(code), config)
    return "failed"


def death(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    memory = " (the kernel does that when memory runs out)" if code == -signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{memory}"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, however long it is."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 400 * lines))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
