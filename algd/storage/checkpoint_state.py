"""What a checkpoint holds: the only place that names its keys.

`algd.storage.checkpoint` writes this tree as state.json (numbers and texts) and state.safetensors (tensors). The parts
that are typed `dict` are an object's own, written by its `checkpoint` and read by its `restore`.

The keys are a format: runs that were begun with an earlier version go on with them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, get_origin, get_type_hints, is_typeddict

from algd.storage.files import unsealed

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # launchers and analysis read checkpoints without loading torch


class TablePosition(TypedDict):
    """Where a table was: bytes, and the SHA-256 of those bytes."""

    size: int
    sha256: str


class AgentState(TypedDict):
    """`Agent.checkpoint`: parameters and buffers by name, and each optimiser's state by its parameters' numbers."""

    model: dict[str, Tensor]
    updates: int
    optimizers: dict[str, dict]


class EpisodeState(TypedDict):
    """The sums of the open episode; `factor` is γ_c to the power of its length."""

    reward: float
    cost: float
    discounted_cost: float
    length: int
    factor: float


class GeneratorState(TypedDict):
    """The state of a random generator, uint8: 5,056 bytes on a CPU, 16 on a GPU."""

    generator: Tensor


class CollectorState(TypedDict):
    """The open episode: its sums, its actions (n, d) and the observation (s,) that they led to.

    The environment itself is not saved: its seed follows from the number of episodes, and its actions lead back to the
    observation.
    """

    episodes_begun: int
    episode: EpisodeState
    actions: Tensor
    observation: Tensor


class CheckpointState(CollectorState):
    """Everything that a run needs to go on from where it was, but the replay buffer, which has files of its own.

    step, warm_up_left: environment steps taken, and initial steps still to take before the first of them.
    done_at: what the schedule did last, at which step (a checkpoint: after how many transitions).
    snapshots: the steps of the snapshots taken.
    last: newest values for the console: return and cost of the last training episode, λ.
    agent: networks, λ and optimisers.
    means: sums of the updates' scalars since the last row of metrics.csv.
    divergence, simulator_errors: what the warnings and the limit of errors go by.
    acting_noise, update_noise: the generators of the policy's draws in the environment, and of the updates' draws.
    tables: episodes, evals and metrics.
    """

    step: int
    warm_up_left: int
    done_at: dict[str, int]
    snapshots: list
    last: dict[str, float | None]
    agent: AgentState
    means: dict[str, Any]
    divergence: dict[str, Any]
    simulator_errors: int
    acting_noise: GeneratorState
    update_noise: GeneratorState
    tables: dict[str, TablePosition]


TABLES = ("episodes", "evals", "metrics")


def checked(state: Mapping[str, Any]) -> CheckpointState:
    """The state, if it has every key with a value of its kind.

    Raises:
        ValueError: it has not. The message names the first key.
    """
    _check(state, CheckpointState, "")
    for name in TABLES:
        _check(state["tables"].get(name), TablePosition, f"tables.{name}")
    return cast(CheckpointState, state)


def _check(value: Any, kind: Any, key: str) -> None:
    if is_typeddict(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"its {key or 'content'} is not a group of keys")
        for name, inner in get_type_hints(kind).items():
            place = f"{key}.{name}".lstrip(".")
            if name not in value:
                raise ValueError(f"it has no {place}")
            _check(value[name], inner, place)
    elif kind is not Tensor:
        plain = get_origin(kind) or kind
        wanted: tuple[type, ...] = (float, int) if plain is float else (plain,)
        if not isinstance(value, wanted):
            raise ValueError(f"its {key} is {type(value).__name__}")


def newest_state(checkpoints: Path) -> CheckpointState | None:
    """The numbers and texts of a run's newest checkpoint, with names in place of tensors, read without torch.

    None where there is no checkpoint, or the newest is damaged or was just removed: that is the run's own business,
    which says so when it goes on.

    Args:
        checkpoints: the run's folder of checkpoints.
    """
    newest = max((path for path in checkpoints.glob("*/state.json") if path.parent.name.isdigit()), default=None)
    if newest is None:
        return None
    try:
        content = newest.read_bytes()
        manifest = unsealed((newest.parent / "manifest.json").read_bytes())
        if hashlib.sha256(content).hexdigest() != manifest["files"]["state.json"]:
            return None
        return checked(json.loads(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
