"""How an agent's update is executed: in torch's operations, with networks in C, or as a CUDA graph, compiled or not."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from algd.algorithm.agent import Agent, Step
from algd.execution.graph import CapturedStep, CudaGraphs
from algd.execution.native.library import library, worthwhile
from algd.execution.native.mlp import NativeMLP

Execution = Literal["eager", "native", "compiled", "graph", "compiled graph"]

# From so many products of a batch's rows with the critics' weights on, in one update and in all of a run's, networks in
# C are faster, and have paid for being built (docs/benchmarks.md).
ENOUGH_AN_UPDATE, ENOUGH_A_RUN = 5e6, 1e11
MALLOC_TRIM, MALLOC_MMAP = -1, -3  # glibc's names for these are M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def resolve_execution(compile: bool | Literal["auto"], device: torch.device, products: int,
                      updates: int) -> Execution:
    """How a run's updates are executed, by its `compile` and its device.

    On a GPU an update is hundreds of kernel launches, and a graph makes them a single one. On a CPU it is matrix
    products and elementwise operations: the networks are computed in C (`algd.execution.native`), which a compiler
    builds in a second or two, once a machine. Torch's own compiler takes minutes and gains nothing there
    (docs/benchmarks.md).

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
    """The multiplications of one pass of a batch through all critics, a measure of an update's work."""
    critics = [*agent.critics.weights, *agent.cost_critics.weights]
    return batch_size * sum(weight.numel() for weight in critics)


def prepare_agent(agent: Agent, execution: Execution) -> Step:
    """Prepare an agent's networks and optimisers for an execution; returns the function that executes its updates.

    The agent is on its device already, and is executed in this way from now on.
    """
    if execution == "native":
        agent.use_networks(NativeMLP)
    step = compiled(agent) if execution.startswith("compiled") else agent.step
    if not execution.endswith("graph"):
        return step
    return CapturedStep(step, CudaGraphs(next(agent.parameters()).device, agent.capturable))


def compiled(agent: Agent, backend: str | Callable[..., Any] = "inductor") -> Step:
    """The agent's step, compiled except for the calls that change parameters and the multiplier."""
    agent.keep_out_of_compilation()
    return torch.compile(agent.step, dynamic=False, backend=backend)


def keep_freed_memory() -> None:
    """Keep what an update frees for the next one, where the C library is glibc.

    By default glibc hands blocks of more than 128 kB back at once, and an update's layers, a quarter of a megabyte
    each, are mapped and cleared by the kernel every time: a sixth of an update on a CPU (docs/benchmarks.md).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOC_MMAP, 32 << 20)
        mallopt(MALLOC_TRIM, 2**31 - 1)
