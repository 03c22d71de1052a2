"""The limit of exceptions of the simulator in a run."""

import traceback
from collections.abc import Callable
from pathlib import Path

from algd.errors import SimulatorError


class SimulatorErrors:
    """Counts them, warns of each in a sentence, writes its trace to a file, and ends the run beyond the limit.

    Args:
        limit: how many are allowed.
        log: the file that the traces are appended to.
        warn: takes a sentence for the user.

    Attributes:
        count: how many there were.
    """

    def __init__(self, limit: int, log: Path, warn: Callable[[str], None]):
        self.limit, self.log, self._warn = limit, log, warn
        self.count = 0

    def take(self, error: SimulatorError) -> None:
        """Count one more.

        Raises:
            SimulatorError: there are more than the limit.
        """
        self.count += 1
        with self.log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")
        if self.count > self.limit:
            raise SimulatorError(f"{error}; that makes {self.count}, and simulator_errors={self.limit} are survived "
                                 f"(the traces are in {self.log})") from error
        self._warn(f"{error}; the episode ends there as if truncated ({self.count} of at most {self.limit}, traces "
                   f"in {self.log.name})")
