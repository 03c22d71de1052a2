"""An update as a CUDA graph, which is captured once and then launched as a whole.

Written after torch's documentation of CUDA graphs and tested as far as a CPU can; no GPU has run it yet.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from algd.algorithm.agent import Batch, Draws, Step
from algd.errors import RunError

WARM_UP = 3  # runs before a capture, in which libraries choose their kernels and optimisers allocate their state

Run = Callable[[], Mapping[str, Tensor]]


class Recorder(Protocol):
    """Records a function's work on a device."""

    def warm_up(self, run: Run) -> Mapping[str, Tensor]:
        """Run a function under the conditions of a capture."""
        ...

    def capture(self, run: Run) -> Run:
        """A function that repeats a function's work on the same memory; the work itself is recorded, not executed."""
        ...


class CudaGraphs:
    """CUDA graphs on one device, all warmed up and captured on one stream of it.

    Args:
        device: a CUDA device, which need not be the current one.
        capturable: a context that lets optimisers be captured.
    """

    def __init__(self, device: torch.device, capturable: Callable[[], contextlib.AbstractContextManager[None]]):
        self._device, self._capturable = device, capturable
        self._stream: torch.cuda.Stream | None = None

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[torch.cuda.Stream]:
        """Make the device the current one: streams, graphs and libraries' workspaces are the current device's."""
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)
            yield self._stream

    def warm_up(self, run: Run) -> Mapping[str, Tensor]:
        with self._on_device() as stream:
            current = torch.cuda.current_stream(self._device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                result = run()
            current.wait_stream(stream)
            return result

    def capture(self, run: Run) -> Run:
        with self._on_device() as stream, self._capturable():
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                result = run()

        def replay() -> Mapping[str, Tensor]:
            with self._on_device():
                graph.replay()
            return result

        return replay


class CapturedStep:
    """`Agent.step` on static inputs, captured once with and once without the targets' update.

    Each of the two first runs WARM_UP times without a graph; these runs are ordinary updates. All runs have the same
    inputs in the same layout, so that a compiled step is compiled before the capture.

    Outside of the graph an update launches about fifteen kernels: to draw the batch and the random numbers, to copy
    them into the static inputs, and to sum the scalars.

    Args:
        step: the step.
        recorder: what captures it.

    Raises:
        RunError: when called, the step cannot be captured.
    """

    def __init__(self, step: Step, recorder: Recorder):
        self._step, self._recorder = step, recorder
        self._warm_up = {True: WARM_UP, False: WARM_UP}
        self._replays: dict[bool, Run] = {}
        self._rows: Tensor | None = None
        self._batch: Batch
        self._draws: Draws

    def __call__(self, batch: Batch, draws: Draws, update_targets: bool) -> Mapping[str, Tensor]:
        self._fill(batch, draws)
        if self._warm_up[update_targets]:
            self._warm_up[update_targets] -= 1
            return self._recorder.warm_up(lambda: self._run(update_targets))
        if update_targets not in self._replays:
            try:
                self._replays[update_targets] = self._recorder.capture(lambda: self._run(update_targets))
            except RuntimeError as error:
                # Nothing was executed: capturing only records.
                reason = str(first_error(error)).partition("\n")[0]
                raise RunError(f"the update cannot be captured as a CUDA graph: {reason}; "
                               "compile=false continues from the last checkpoint without one") from error
        return self._replays[update_targets]()

    def _fill(self, batch: Batch, draws: Draws) -> None:
        """Copy the inputs into the step's static inputs."""
        parts = [part.unsqueeze(1) if part.dim() == 1 else part for part in batch]
        if self._rows is None:
            widths = [part.shape[1] for part in parts]
            self._rows = torch.empty(len(batch.reward), sum(widths), dtype=batch.reward.dtype,
                                     device=batch.reward.device)
            columns = zip(self._rows.split(widths, dim=1), batch, strict=True)
            self._batch = Batch(*(part.squeeze(1) if given.dim() == 1 else part for part, given in columns))
            self._draws = Draws(torch.empty_like(draws.next_action), tuple(map(torch.empty_like, draws.loss)))
        torch.cat(parts, dim=1, out=self._rows)
        for static, given in zip((self._draws.next_action, *self._draws.loss), (draws.next_action, *draws.loss),
                                 strict=True):
            static.copy_(given)

    def _run(self, update_targets: bool) -> Mapping[str, Tensor]:
        """The step, with its scalars as parts of one vector in float64, as their means are summed."""
        scalars = self._step(self._batch, self._draws, update_targets)
        values = torch.stack([value.detach().double() for value in scalars.values()])
        return dict(zip(scalars, values.unbind(), strict=True))


def first_error(error: BaseException) -> BaseException:
    """The exception raised first: a capture that an error interrupts raises another one when it ends."""
    while error.__context__ is not None:
        error = error.__context__
    return error
