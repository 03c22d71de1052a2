"""How an agent's update is executed: as it is written, with its networks in C, or as a CUDA graph, compiled or not."""

import ctypes
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from algd.algorithm.agent import Agent, Batch, Draws, Step
from algd.algorithm.networks import CriticEnsemble, Perceptron, ScoreNetwork
from algd.errors import RunError
from algd.execution.native.library import library, worthwhile
from algd.execution.native.mlp import NativeMLP

Execution = Literal["eager", "native", "compiled", "graph", "compiled graph"]
Capture = Callable[[Callable[[], Mapping[str, Tensor]]], Callable[[], Mapping[str, Tensor]]]

# From so many products of a batch's rows with the critics' weights on, in one update and in all of a run's, networks in
# C are faster, and have paid for being built (docs/benchmarks.md).
ENOUGH_AN_UPDATE, ENOUGH_A_RUN = 5e6, 1e11
WARM_UP = 3  # updates before a capture: libraries choose their kernels and optimisers allocate their state
MALLOC_TRIM, MALLOC_MMAP = -1, -3  # glibc's names for these are M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def resolve_execution(compile: bool | Literal["auto"], device: torch.device, products: int,
                      updates: int) -> Execution:
    """What `compile` means on a device, for a run.

    On a GPU an update is hundreds of launches, and a graph makes them one. On a CPU it is matrix products and what
    is done between them: the networks are computed in C (`algd.execution.native`), which a compiler builds in a
    second or two, once a machine. Torch's own compiler takes minutes there and gains nothing (docs/benchmarks.md).

    Args:
        compile: as configured.
        device: of the updates.
        products: of one update (`products_of`).
        updates: of the whole run.

    Raises:
        UsageError: `compile` is True on a CPU, and the networks cannot be built.
    """
    if device.type == "cuda":
        return {True: "compiled graph", "auto": "graph", False: "eager"}[compile]  # type: ignore[return-value]
    if compile == "auto":
        pays = products >= ENOUGH_AN_UPDATE and products * updates >= ENOUGH_A_RUN
        return "native" if pays and worthwhile() else "eager"
    if compile:
        library()
    return "native" if compile else "eager"


def products_of(agent: Agent, batch_size: int) -> int:
    """How much work an update is: rows of its batch times weights of its critics."""
    critics = [*agent.critics.weights, *agent.cost_critics.weights]
    return batch_size * sum(weight.numel() for weight in critics)


def prepare_agent(agent: Agent, execution: Execution) -> Step:
    """Change an agent's networks and optimisers to what an execution needs; returns what carries out its updates.

    The agent is on its device already, and is executed so from now on.
    """
    if execution == "native":
        use_native_networks(agent)
    step = compiled(agent) if execution.startswith("compiled") else agent.step
    if not execution.endswith("graph"):
        return step
    for optimizer in agent.optimizers.values():
        for group in optimizer.param_groups:
            group["capturable"] = True
    return CapturedStep(step, cuda_graph)


def use_native_networks(agent: Agent) -> None:
    """Let the agent's networks be computed in C."""
    for module in agent.modules():
        if isinstance(module, CriticEnsemble | ScoreNetwork | Perceptron):
            module.mlp = NativeMLP


def compiled(agent: Agent, backend: str = "inductor") -> Step:
    """The agent's step, compiled: everything but what moves parameters and multiplier.

    Torch 2.13 loses two things in a compiled region without a word: an optimiser's step on a gradient that was
    assigned in the same region, and a buffer's new value. λ would stand still, and so would a batch's risk.
    """
    guidance: Any = agent.guidance
    for owner, method in (*((optimizer, "step") for optimizer in agent.optimizers.values()),
                          (guidance, "observe_batch"), (guidance, "update")):
        setattr(owner, method, torch.compiler.disable(getattr(owner, method)))
    return torch.compile(agent.step, dynamic=False, backend=backend)


class CapturedStep:
    """`Agent.step`, captured once with and once without the targets' update, and replayed on copied-in inputs.

    Args:
        step: the step.
        capture: turns a function without arguments into one that repeats it on the same memory.

    Raises:
        RunError: when called, the step cannot be captured.
    """

    def __init__(self, step: Step, capture: Capture):
        self._step, self._capture = step, capture
        self._warm_up = WARM_UP
        self._inputs: tuple[Batch, Draws] | None = None
        self._replays: dict[bool, Callable[[], Mapping[str, Tensor]]] = {}

    def __call__(self, batch: Batch, draws: Draws, update_targets: bool) -> Mapping[str, Tensor]:
        if self._warm_up:
            self._warm_up -= 1
            return on_side_stream(lambda: self._step(batch, draws, update_targets), batch.reward.device)
        if self._inputs is None:
            self._inputs = (Batch(*map(torch.empty_like, batch)),
                            Draws(torch.empty_like(draws.next_action), tuple(map(torch.empty_like, draws.loss))))
        static_batch, static_draws = self._inputs
        for static, given in zip((*static_batch, static_draws.next_action, *static_draws.loss),
                                 (*batch, draws.next_action, *draws.loss), strict=True):
            static.copy_(given)
        if update_targets not in self._replays:
            try:
                self._replays[update_targets] = self._capture(
                    lambda: self._step(static_batch, static_draws, update_targets))
            except RuntimeError as error:
                # Nothing has run: capturing only records.
                reason = str(error).partition("\n")[0]
                raise RunError(f"the update cannot be captured as a CUDA graph: {reason}; "
                               "compile=false goes on from the last checkpoint without one") from error
        return self._replays[update_targets]()


def on_side_stream(run: Callable[[], Mapping[str, Tensor]], device: torch.device) -> Mapping[str, Tensor]:
    """Run on a CUDA stream of its own, as warming up for a capture has to be; on other devices, just run."""
    if device.type != "cuda":
        return run()
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = run()
    current.wait_stream(side)
    return result


def cuda_graph(run: Callable[[], Mapping[str, Tensor]]) -> Callable[[], Mapping[str, Tensor]]:
    """Capture a function as a CUDA graph: nothing runs yet, every call of what is returned replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Mapping[str, Tensor]:
        graph.replay()
        return result

    return replay


def keep_freed_memory() -> None:
    """Keep what an update frees for the next one, where the C library is glibc.

    By default glibc hands blocks of more than 128 kB back at once, and an update's layers, a quarter of a megabyte
    each, are mapped and cleared by the kernel anew every time: a sixth of an update on a CPU (docs/benchmarks.md).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOC_MMAP, 32 << 20)
        mallopt(MALLOC_TRIM, 2**31 - 1)
