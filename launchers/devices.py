"""Which GPUs and how many threads each run gets, on this machine or in a task on its node."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def assigned_gpus() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names; None where nobody has set it."""
    listed = os.environ.get(VISIBLE)
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver."""
    import torch  # here, since a task on its node does without it

    if not torch.cuda.is_available():
        return []
    assigned = assigned_gpus()
    return [str(index) for index in range(torch.cuda.device_count())] if assigned is None else assigned


def wants_gpu(config: Mapping[str, Any]) -> bool:
    """Whether a run takes whichever GPU it is given. `cuda:1` names one itself, and keeps it."""
    return config["device"] in ("auto", "cuda")


def default_jobs(configs: Iterable[Mapping[str, Any]], gpus: Sequence[str]) -> int:
    """How many runs there are at once if nobody says: one a GPU where runs use them, else one a core."""
    on_gpus = bool(gpus) and any(config["device"] != "cpu" for config in configs)
    return len(gpus) if on_gpus else cores()


def threads_of(config: Mapping[str, Any]) -> int:
    """CPU threads of a run: one, unless `threads` says otherwise."""
    return 1 if config["threads"] == "auto" else int(config["threads"])


class Gpus:
    """GPUs shared among runs: each run gets one, the one that the fewest have.

    Args:
        names: as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._used: Counter[str] = Counter()

    def take(self, config: Mapping[str, Any]) -> str | None:
        """The GPU for a run that starts now; None: it gets what its parent has."""
        if not self.names or not wants_gpu(config):
            return None
        name = min(self.names, key=lambda gpu: self._used[gpu])
        self._used[name] += 1
        return name

    def give_back(self, name: str | None) -> None:
        """A run has ended that had this one."""
        if name is not None:
            self._used[name] -= 1


def environment(config: Mapping[str, Any], gpu: str | None) -> dict[str, str]:
    """What a run's process has beside its parent's environment."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads_of(config))) | ({} if gpu is None else {VISIBLE: gpu})
