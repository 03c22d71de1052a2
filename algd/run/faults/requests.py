"""Requests to a run by signals: flags that the trainer reads between steps.

    SIGINT, SIGTERM, SIGUSR2    checkpoint, then stop; a second SIGINT stops at once
    SIGUSR1                     checkpoint, and continue
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Requests:
    """The flags.

    Attributes:
        checkpoint: whether a checkpoint is requested.
        stop: the name of the signal that requested a stop, or None.
    """

    def __init__(self) -> None:
        self.checkpoint = False
        self.stop: str | None = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.checkpoint = True
            return
        if number == signal.SIGINT and self.stop == "SIGINT":
            raise KeyboardInterrupt
        self.stop = signal.Signals(number).name

    @contextlib.contextmanager
    def listening(self) -> Iterator["Requests"]:
        """Handle signals inside this context; the previous handlers are restored afterwards."""
        before = {number: signal.signal(number, self._receive) for number in REQUESTS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
