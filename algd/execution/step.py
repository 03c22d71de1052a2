"""Execution of an agent's update: in torch's operations, with networks in C, or as a CUDA graph, compiled or not."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from algd.algorithm.agent import Agent, Step
from algd.errors import UsageError
from algd.execution.graph import CapturedStep, CudaGraphs
from algd.execution.native.library import library, worthwhile
from algd.execution.native.mlp import NativeMLP

Execution = Literal["eager", "native", "compiled", "graph", "compiled graph"]

# Numbers of multiplications (`products_of`), per update and per run, above which networks in C are faster and building
# them pays off (docs/benchmarks.md).
ENOUGH_AN_UPDATE, ENOUGH_A_RUN = 5e6, 1e11
MALLOC_TRIM, MALLOC_MMAP = -1, -3  # glibc's names for these are M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def resolve_execution(compile: bool | Literal["auto"], device: torch.device, products: int, updates: int,
                      capturable: bool = True) -> Execution:
    """Choose how a run's updates are executed, from its `compile` and its device.

    On a GPU a graph replaces hundreds of kernel launches by one. On a CPU the networks are computed in C
    (`algd.execution.native`), which a compiler builds in a second or two, once per machine; torch's own compiler takes
    minutes and gains nothing there (docs/benchmarks.md).

    Args:
        compile: the key of the configuration.
        device: device of the updates.
        products: multiplications of one update (`products_of`).
        updates: number of updates of the whole run.
        capturable: whether a CUDA graph can capture an update (`is_capturable`).

    Raises:
        UsageError: `compile` is True and on a CPU the networks cannot be built, or on a GPU the update not captured.
    """
    if device.type == "cuda" and not capturable:
        if compile is True:
            raise UsageError(f"compile=true: a part of this agent's update is computed on the CPU, so that {device} "
                             "cannot execute it as a CUDA graph; allowed are auto and false")
        return "eager"
    if device.type == "cuda":
        return {True: "compiled graph", "auto": "graph", False: "eager"}[compile]  # type: ignore[return-value]
    if compile == "auto":
        pays = products >= ENOUGH_AN_UPDATE and products * updates >= ENOUGH_A_RUN
        return "native" if pays and worthwhile() else "eager"
    if compile:
        library()
    return "native" if compile else "eager"


def products_of(agent: Agent, batch_size: int) -> int:
    """Return the multiplications of one pass of a batch through all critics, a measure of an update's work."""
    critics = [*agent.critics.weights, *agent.cost_critics.weights]
    return batch_size * sum(weight.numel() for weight in critics)


def is_capturable(agent: Agent) -> bool:
    """Whether a CUDA graph can capture the agent's update. Its policy says if not: one of the user's may not know."""
    return getattr(agent.policy, "capturable", True)


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
    """Keep the memory that an update frees for the next one, if the C library is glibc.

    By default glibc returns blocks of more than 128 kB to the kernel at once. An update's layers, a quarter of a
    megabyte each, are then mapped and cleared every time: a sixth of an update on a CPU (docs/benchmarks.md).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOC_MMAP, 32 << 20)
        mallopt(MALLOC_TRIM, 2**31 - 1)
