"""Assign GPUs and threads to runs, on this machine or in a SLURM task."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def assigned_gpus() -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; None if it is not set."""
    listed = os.environ.get(VISIBLE)
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES; empty without a driver."""
    import torch  # here: SLURM tasks import this module and do not need torch

    if not torch.cuda.is_available():
        return []
    assigned = assigned_gpus()
    return [str(index) for index in range(torch.cuda.device_count())] if assigned is None else assigned


def wants_gpu(config: Mapping[str, Any]) -> bool:
    """Return whether a run uses the GPU that it is assigned. `cuda:1` chooses one itself."""
    return config["device"] in ("auto", "cuda")


def default_jobs(configs: Iterable[Mapping[str, Any]], gpus: Sequence[str]) -> int:
    """Return the default number of simultaneous runs: one per GPU if runs use GPUs, else one per core."""
    on_gpus = bool(gpus) and any(config["device"] != "cpu" for config in configs)
    return len(gpus) if on_gpus else cores()


def threads_of(config: Mapping[str, Any]) -> int:
    """Return the CPU threads of a run: 1, unless `threads` is set."""
    return 1 if config["threads"] == "auto" else int(config["threads"])


class Gpus:
    """GPUs shared among runs: each run gets the GPU with the fewest runs.

    Args:
        names: GPUs as named in CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._used: Counter[str] = Counter()

    def take(self, config: Mapping[str, Any]) -> str | None:
        """Return the GPU for a run that starts now; None: it inherits its parent's."""
        if not self.names or not wants_gpu(config):
            return None
        name = min(self.names, key=lambda gpu: self._used[gpu])
        self._used[name] += 1
        return name

    def give_back(self, name: str | None) -> None:
        """Release the GPU of a run that has ended."""
        if name is not None:
            self._used[name] -= 1


def environment(config: Mapping[str, Any], gpu: str | None) -> dict[str, str]:
    """Return the environment variables to add for a run's process."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads_of(config))) | ({} if gpu is None else {VISIBLE: gpu})
