"""What a run's folder says about the run."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algd.storage.checkpoint_state import newest_state
from algd.storage.lock import is_locked
from algd.storage.run_folder import STATES, UNKNOWN, RunFolder

# As shown: a folder's own state (`algd.storage.run_folder.STATES`), or one of
NEW = "new"          # nothing has been started yet
LOST = "lost"        # it was running, and nobody holds its lock any more: it was killed
ENDED = ("finished", "failed", "interrupted", LOST)


@dataclass(frozen=True)
class RunState:
    """A run as its folder shows it.

    Attributes:
        state: "new", "starting", "running", "interrupted", "finished", "failed" or "lost".
        held: whether a process holds the folder's lock, which is to say trains it right now.
        step, total_steps: environment steps taken and wanted; step is at most 0 while the initial steps last.
        updates_per_second: gradient updates a second; None before the first.
        seconds: time spent, summed over restarts.
        reason: why it failed.
    """

    state: str
    held: bool = False
    step: int = 0
    total_steps: int | None = None
    updates_per_second: float | None = None
    seconds: float = 0.0
    reason: str | None = None

    @property
    def seconds_per_step(self) -> float | None:
        """Time for one environment step, as far as it can be told."""
        return self.seconds / self.step if self.step > 0 and self.seconds > 0 else None


def is_held(folder: Path) -> bool:
    """Whether a living process holds the run's lock."""
    return is_locked(folder / "lock")


def read_state(folder: Path) -> RunState:
    """A run's state from its folder, which need not exist."""
    status = RunFolder(folder).status()
    state = status.get("state", NEW) if status else NEW
    if state not in (NEW, UNKNOWN, *STATES):
        state = UNKNOWN
    held = state != "finished" and is_held(folder)
    if held:
        state = state if state == "starting" else "running"
    elif state in ("starting", "running"):
        state = LOST
    reason = status.get("reason")
    return RunState(state, held, int(_number(status, "step") or 0), _whole(_number(status, "total_steps")),
                    _number(status, "updates_per_second"), _number(status, "seconds") or 0.0,
                    None if reason is None else "".join(sign if sign.isprintable() else " " for sign in str(reason)))


def _number(status: Mapping[str, Any], key: str) -> float | None:
    """A finite number of status.json; None for anything else."""
    value = status.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def record_failure(folder: Path, reason: str, config: Mapping[str, Any] | None = None) -> None:
    """Mark a run as failed that could not do so itself."""
    run = RunFolder(folder)
    unknown = {"step": 0, "total_steps": config["total_steps"] if config else None, "updates": 0,
               "updates_per_second": None, "seconds": 0.0}
    run.write_status(unknown | run.status() | {"state": "failed", "reason": reason})


def progress(folder: Path) -> tuple[int, int]:
    """How far the newest checkpoint is: (transitions seen, evaluations' rows), to be compared only."""
    state = newest_state(folder / "checkpoints")
    if state is None:
        return (-1, 0)
    return (state["step"] * 10**9 - state["warm_up_left"], state["tables"]["evals"]["size"])


def kind_of(folder: Path) -> tuple[str, str]:
    """What runs of about the same speed share: (environment, agent and guidance), from the folder's name."""
    return folder.parts[-3], folder.parts[-2]


class Speeds:
    """Seconds for an environment step, learned from runs that have some behind them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], dict[Path, float]] = {}

    def learn(self, folder: Path, state: RunState) -> None:
        """Take in what one run shows; it counts once, with what it showed last."""
        if (seconds := state.seconds_per_step) is not None:
            environment, method = kind_of(folder)
            for key in ((environment, method), (environment,)):
                self._known.setdefault(key, {})[folder] = seconds

    def learn_neighbours(self, folders: Iterable[Path]) -> None:
        """Take in the runs that are there beside these: same environment, agent and guidance."""
        for parent in {folder.parent for folder in folders}:
            for status in parent.glob("*/status.json"):
                self.learn(status.parent, read_state(status.parent))

    def seconds_per_step(self, folder: Path) -> float | None:
        """The median over runs of the same kind, else of the same environment, else None."""
        environment, method = kind_of(folder)
        known = self._known.get((environment, method)) or self._known.get((environment,))
        return statistics.median(known.values()) if known else None

    def seconds_left(self, rest: Mapping[Path, int], at_once: int) -> float | None:
        """How long it takes until all are done.

        Args:
            rest: environment steps that each run has left.
            at_once: how many run at once.

        Returns:
            Seconds; None if nothing is known about one of them.
        """
        each = []
        for folder, steps in rest.items():
            seconds = self.seconds_per_step(folder)
            if seconds is None:
                return None
            each.append(seconds * max(steps, 0))
        return max(sum(each) / max(at_once, 1), max(each)) if each else 0.0
