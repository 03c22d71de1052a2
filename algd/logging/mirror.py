"""The training side of a mirror: starts the mirroring process, reads its messages, ends it in bounded time.

Training never waits for it. The process gets the run's folder and reads the rest from there
(`algd.logging.follower`); between start and close the trainer only checks, without blocking, for its messages.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from algd.errors import ExitCode

# Sent to whole process groups or job steps to stop the training, after which the mirror still has rows to send.
TRAINERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Child:
    """The mirroring process and the ends of its two pipes."""

    process: subprocess.Popen[bytes]
    orders: IO[bytes]
    reports: IO[bytes]

    def part(self) -> None:
        """Close both pipes."""
        for pipe in (self.orders, self.reports):
            with contextlib.suppress(OSError):
                pipe.close()


class Mirror:
    """A mirroring process beside the training.

    Args:
        module: module that is run with `--beside`, the options (JSON) and the folder; run from the command line with
            the folder alone, it sends the remaining rows.
        title: name of the destination in messages.
        directory: name of its directory in the run's folder.
        options: of the module; no secrets, since command lines are public.
        finish_seconds: seconds that it gets at the end of the run.
    """

    def __init__(self, module: str, title: str, directory: str, options: Mapping[str, Any], finish_seconds: float):
        self.module, self.title, self.directory, self.options = module, title, directory, dict(options)
        self.finish_seconds = finish_seconds
        self._child: Child | None = None
        self._folder = Path()
        self._warnings: list[str] = []
        self._heard = b""

    def start(self, folder: Path) -> None:
        """Start mirroring a folder; returns at once."""
        self._folder = folder.resolve()
        directory = self._folder / self.directory
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", self.module, "--beside", json.dumps(self.options), str(self._folder)]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / "mirror.log").open("ab") as log:
                # Blocked signals stay blocked in the process and in what it starts, from their first instruction.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, TRAINERS_SIGNALS)
                try:
                    process = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except OSError as error:
            self._warnings.append(f"{self.title} does not mirror this run: its process did not start ({error})")
            return
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._child = Child(process, process.stdin, process.stdout)

    def warnings(self) -> list[str]:
        """New warnings for the user, each text once. Never blocks."""
        if self._child is not None:
            self._listen(self._child)
            code = self._child.process.poll()
            if code is not None:
                child, self._child = self._child, None
                self._listen(child)
                child.part()
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                self._warnings.append(f"the mirror to {self.title} ended {how}; training continues and its CSV files "
                                      f"are complete (see {self._log()}{self._remedy()})")
        told, self._warnings = self._warnings, []
        return told

    def lacks(self, folder: Path) -> bool:
        """Whether a finished run's rows have to be sent to a destination that has none of them."""
        return False

    def hand_over(self, folder: Path) -> None:
        """Send a finished run's folder, and wait for the start too."""
        self.start(folder)
        self.close("finished", self.options.get("start_seconds", 0.0))

    def close(self, state: str, more_seconds: float = 0.0) -> None:
        """Send the process the run's final state, and wait until it has sent the rest.

        Args:
            state: "finished", "interrupted" or "failed".
            more_seconds: seconds that it has in addition to `finish_seconds`.
        """
        self._warnings = self.warnings()
        child, self._child = self._child, None
        if child is None:
            return
        try:
            with contextlib.suppress(OSError):  # The process is gone; its exit code says more.
                child.orders.write(state.encode() + b"\n")
                child.orders.flush()
            code = child.process.wait(self.finish_seconds + more_seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.process.kill()
            child.process.wait()
            code = ExitCode.LATE
        self._listen(child)
        child.part()
        if code == ExitCode.LATE:
            self._warnings.append(f"{self.title} did not take everything within {self.finish_seconds + more_seconds:g} "
                                  f"s; the run itself is complete{self._remedy()}")
        elif code != 0:
            self._warnings.append(f"the mirror to {self.title} failed at the end of the run; the run itself is "
                                  f"complete (see {self._log()}{self._remedy()})")

    def _log(self) -> Path:
        return self._folder / self.directory / "mirror.log"

    def _remedy(self) -> str:
        return f"; send the rest later with: python -m {self.module} {shlex.quote(str(self._folder))}"

    def _listen(self, child: Child) -> None:
        with contextlib.suppress(BlockingIOError):
            while heard := os.read(child.reports.fileno(), 65536):
                self._heard += heard
        *lines, self._heard = self._heard.split(b"\n")
        self._warnings += map(json.loads, lines)
