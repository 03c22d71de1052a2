"""Callbacks: code that observes a run and cannot change it.

    callbacks:
      - _target_: algd.run.callbacks.PrintEpisodes
        every: 10

A callback gets copies, and the states of the process's random generators (torch's, NumPy's and Python's) are restored
when it returns, so that networks and tables are the same with any callbacks or none. They are not part of a run's
identity. A run that was killed resumes from its last checkpoint: callbacks get the steps from there on a second time.
"""

import contextlib
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from algd.errors import RunError
from algd.run.collector import Transition

OnFailure = Literal["drop", "stop"]
LOG = "callback-errors.log"


class Callback:
    """An observer of a run. A subclass overrides the methods that it needs; the others cost nothing.

    Args:
        on_failure: what happens after an exception: "drop", the run continues without the callback, or "stop", the run
            fails; the same command resumes from the last checkpoint.
    """

    on_failure: OnFailure = "drop"  # of a subclass that does not call this constructor

    def __init__(self, on_failure: OnFailure = "drop"):
        self.on_failure = on_failure

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Once, before anything else.

        Args:
            folder: the run's folder, in which a callback may write files with names of its own.
            config: the checked configuration.
        """

    def on_step(self, step: int, transition: Transition) -> None:
        """After every environment step, before its updates.

        Args:
            step: environment steps taken; at most 0 while the initial steps last.
            transition: what was stored in the replay buffer, and whether the episode is over.
        """

    def on_update(self, step: int, scalars: Mapping[str, float]) -> None:
        """After every update. On a GPU this waits for the update, which it otherwise does not.

        Args:
            step: environment steps taken.
            scalars: losses, λ and so on, by the names of metrics.csv's columns.
        """

    def on_episode(self, row: Mapping[str, Any]) -> None:
        """After every training episode that the simulator did not end; the row of episodes.csv."""

    def on_evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """After every evaluation; its rows of evals.csv, both samplers'."""

    def on_end(self, state: str) -> None:
        """Once, when this start of the run ends: "finished", "interrupted" or "failed"."""


class Callbacks:
    """The callbacks of one run, which cannot change it.

    Args:
        callbacks: in the order in which they are called.
        folder: the run's folder; traces of exceptions are appended to `callback-errors.log` there.
        warn: takes a sentence for the user.
    """

    def __init__(self, callbacks: Sequence[Callback], folder: Path, warn: Callable[[str], None]):
        self._callbacks, self._folder, self._warn = list(callbacks), folder, warn
        self._ended = False
        self._find_listeners()

    def _find_listeners(self) -> None:
        """The callbacks that override each method."""
        self._listeners = {method: [callback for callback in self._callbacks
                                    if getattr(type(callback), method) is not getattr(Callback, method)]
                           for method in vars(Callback) if method.startswith("on_")}

    def on_start(self, config: Mapping[str, Any]) -> None:
        self._call("on_start", lambda: (self._folder, _copy(config)))

    def on_step(self, step: int, transition: Transition) -> None:
        self._call("on_step", lambda: (step, Transition(*map(_copy, transition))))

    def on_update(self, step: int, names: Sequence[str], values: Tensor) -> None:
        """Like `Callback.on_update`, with the scalars still in one vector on the device."""
        self._call("on_update", lambda: (step, dict(zip(names, values.tolist(), strict=True))))

    def on_episode(self, row: Mapping[str, Any]) -> None:
        self._call("on_episode", lambda: (dict(row),))

    def on_evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._call("on_evaluation", lambda: ([dict(row) for row in rows],))

    def on_end(self, state: str) -> None:
        if not self._ended:
            self._ended = True
            self._call("on_end", lambda: (state,))

    def _call(self, method: str, arguments: Callable[[], tuple[Any, ...]]) -> None:
        """Call a method of all callbacks that override it, each with copies of its own.

        Raises:
            RunError: a callback with on_failure="stop" failed.
        """
        for callback in self._listeners[method]:
            given = arguments()
            with _generators_untouched():
                try:
                    getattr(callback, method)(*given)
                except Exception as error:
                    self._failed(callback, method, error)

    def _failed(self, callback: Callback, method: str, error: Exception) -> None:
        with contextlib.suppress(OSError), (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)) + "\n")
        name = f"{type(callback).__module__}.{type(callback).__qualname__}"
        what = f"callback {name} failed in {method}: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
        if callback.on_failure == "stop":
            raise RunError(f"{what} (the trace is in {self._folder / LOG}); the same command resumes from the last "
                           "checkpoint") from error
        self._callbacks.remove(callback)
        self._find_listeners()
        self._warn(f"{what}; the run continues without it (the trace is in {LOG})")


def _copy(value: Any) -> Any:
    """The value, with arrays, lists and mappings copied."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _generators_untouched() -> Iterator[None]:
    """Restore the states of the process's generators after this context."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class PrintEpisodes(Callback):
    """A line on standard error every `every` training episodes: their mean return and cost.

    Args:
        every: episodes per line.
        on_failure: as of every callback.
    """

    def __init__(self, every: PositiveInt = 1, on_failure: OnFailure = "drop"):
        super().__init__(on_failure)
        self.every = every
        self._rows: list[Mapping[str, Any]] = []

    def on_episode(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) < self.every:
            return
        means = (sum(row[name] for row in self._rows) / len(self._rows) for name in ("return", "cost"))
        print("step {}, episode {}: return {:.4g}, cost {:.4g}".format(row["step"], row["episode"], *means),
              file=sys.stderr)
        self._rows = []
