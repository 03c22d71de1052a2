"""Read a run's state from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algd.config.values import printable
from algd.storage.checkpoint_state import newest_state
from algd.storage.lock import is_locked
from algd.storage.run_folder import STATES, UNKNOWN, RunFolder

# The states shown are those in status.json (`algd.storage.run_folder.STATES`) and these:
NEW = "new"          # not started yet
LOST = "lost"        # recorded as running, but its lock is free: it was killed


@dataclass(frozen=True)
class RunState:
    """The state of a run, as read from its folder.

    Attributes:
        state: "new", "running", "interrupted", "finished", "failed", "pruned", "lost" or "unknown".
        held: whether a process holds the folder's lock, that is, is training the run.
        step, total_steps: environment steps taken and requested; step is at most 0 during the initial steps.
        updates: gradient updates made.
        updates_per_second: gradient updates per second; None before the first.
        seconds: time spent, summed over all starts.
        reason: why it failed.
    """

    state: str
    held: bool = False
    step: int = 0
    total_steps: int | None = None
    updates: int = 0
    updates_per_second: float | None = None
    seconds: float = 0.0
    reason: str | None = None

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds per environment step; None if unknown."""
        return self.seconds / self.step if self.step > 0 and self.seconds > 0 else None


def is_held(folder: Path) -> bool:
    """Return whether a live process holds the run's lock."""
    return is_locked(folder / "lock")


def read_state(folder: Path) -> RunState:
    """Return the state of a run; its folder need not exist."""
    status = RunFolder(folder).status()
    state = status.get("state", NEW) if status else NEW
    if state not in (NEW, UNKNOWN, *STATES):
        state = UNKNOWN
    held = state != "finished" and is_held(folder)
    if held:
        state = "running"
    elif state in ("starting", "running"):
        state = LOST
    reason = status.get("reason")
    return RunState(state, held, int(_number(status, "step") or 0), _whole(_number(status, "total_steps")),
                    int(_number(status, "updates") or 0), _number(status, "updates_per_second"),
                    _number(status, "seconds") or 0.0,
                    None if reason is None else printable(str(reason)))


def _number(status: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number from status.json; None for anything else."""
    value = status.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def record_failure(folder: Path, reason: str, config: Mapping[str, Any] | None = None) -> None:
    """Record the failure of a run that could not do so itself."""
    run = RunFolder(folder)
    unknown = {"step": 0, "total_steps": config["total_steps"] if config else None, "updates": 0,
               "updates_per_second": None, "seconds": 0.0}
    run.write_status(unknown | run.status() | {"state": "failed", "reason": reason})


def progress(folder: Path) -> tuple[int, int]:
    """Return a value to compare the progress of newest checkpoints: (transitions seen, size of evals.csv)."""
    state = newest_state(folder / "checkpoints")
    if state is None:
        return (-1, 0)
    return (state["step"] * 10**9 - state["warm_up_left"], state["tables"]["evals"]["size"])
