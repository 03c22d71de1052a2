"""Counting the simulator's exceptions in a run, up to a limit."""

import traceback
from collections.abc import Callable
from pathlib import Path

from algd.errors import SimulatorError
from algd.secrets import redacted


class SimulatorErrors:
    """Counts the simulator's exceptions, warns of each, logs its traceback, and ends the run beyond the limit.

    Args:
        limit: number of exceptions that are allowed.
        log: file to which tracebacks are appended.
        warn: takes a sentence for the user.

    Attributes:
        count: number of exceptions so far.
    """

    def __init__(self, limit: int, log: Path, warn: Callable[[str], None]):
        self.limit, self.log, self._warn = limit, log, warn
        self.count = 0

    def take(self, error: SimulatorError) -> None:
        """Count an exception.

        Raises:
            SimulatorError: the limit is exceeded.
        """
        self.count += 1
        with self.log.open("a", encoding="utf-8") as file:
            file.write(redacted("".join(traceback.format_exception(error))) + "\n")
        if self.count > self.limit:
            raise SimulatorError(f"{error}; that makes {self.count}, and simulator_errors={self.limit} are survived "
                                 f"(the traces are in {self.log})") from error
        self._warn(f"{error}; the episode ends there as if truncated ({self.count} of at most {self.limit}, traces "
                   f"in {self.log.name})")
