"""Times of a run and of its updates, for the console and status.json; no result depends on them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

STATUS_SECONDS = 10.0  # between two writings of status.json


class Clock:
    """Times a run over all its starts.

    Args:
        before: status.json's content from earlier starts.
        synchronise: returns when the device has done all its work. On a GPU an update is only launched when its
            function returns. (Waiting for an environment step's updates costs nothing: the next action needs them.)
        now: seconds on a monotonic clock.
    """

    def __init__(self, before: Mapping[str, Any], synchronise: Callable[[], None] = lambda: None,
                 now: Callable[[], float] = time.monotonic):
        self._synchronise, self._now = synchronise, now
        self._seconds_before, self._updates_before = before.get("seconds", 0.0), before.get("timed_updates", 0)
        self._update_seconds_before = before.get("update_seconds", 0.0)
        self._start, self._status_due = now(), 0.0
        self._updates, self._update_seconds = 0, 0.0
        self._first_update: tuple[int, float] | None = None  # step and time

    @contextlib.contextmanager
    def updating(self, step: int, updates: int) -> Iterator[None]:
        """Time the updates of an environment step, which are made inside this context."""
        start = self._now()
        if self._first_update is None:
            self._first_update = step - 1, start
        yield
        self._synchronise()
        self._update_seconds += self._now() - start
        self._updates += updates

    def is_status_due(self) -> bool:
        """Whether status.json is older than `STATUS_SECONDS`; if so the interval starts again."""
        now = self._now()
        if now < self._status_due:
            return False
        self._status_due = now + STATUS_SECONDS
        return True

    def times(self) -> dict[str, float | None]:
        """Over all starts, by the keys of status.json."""
        updates, seconds = self._updates_before + self._updates, self._update_seconds_before + self._update_seconds
        return {"updates_per_second": updates / seconds if seconds else None, "timed_updates": updates,
                "update_seconds": round(seconds, 3),
                "seconds": round(self._seconds_before + self._now() - self._start, 3)}

    def rates(self, step: int, total_steps: int) -> dict[str, float | None]:
        """Updates a second and seconds left, of this start alone; None before its first updates."""
        if not self._updates or self._first_update is None:
            return {"updates_per_second": None, "seconds_left": None}
        first, since = self._first_update
        per_step = (self._now() - since) / (step - first)
        return {"updates_per_second": self._updates / self._update_seconds,
                "seconds_left": (total_steps - step) * per_step}
