"""The content of a checkpoint; the only place with its keys.

`algd.storage.checkpoint` writes this tree as state.json (numbers and texts) and state.safetensors (tensors). The parts
that are typed `dict` are an object's own, written by its `checkpoint` and read by its `restore`.

The keys are a format: runs of earlier versions are resumed with them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast, get_origin, get_type_hints, is_typeddict

from algd.storage.files import unsealed

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # launchers and analysis read checkpoints without loading torch


class TablePosition(TypedDict):
    """The size of a table in bytes, and the SHA-256 of those bytes."""

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
    observation. `ended`, of the first episodes, is not in the checkpoints of earlier versions, or of all budgets.
    """

    episodes_begun: int
    episode: EpisodeState
    actions: Tensor
    observation: Tensor
    ended: NotRequired[list]


class CheckpointState(CollectorState):
    """Everything that a run needs to resume, except the replay buffer, which has files of its own.

    step, warm_up_left: environment steps taken, and initial steps still to take before the first of them.
    done_at: the step at which each scheduled action was last done (for a checkpoint: the number of transitions).
    snapshots: the steps of the snapshots taken.
    last: newest values for the console: return and cost of the last training episode, λ.
    agent: networks, λ and optimisers.
    means: sums of the updates' scalars since the last row of metrics.csv.
    divergence, simulator_errors: the state of the warnings, and the number of errors.
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
    """The state, checked to have every key with a value of its type.

    Raises:
        ValueError: it has not. The message names the first such key.
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
            if name not in value and name in kind.__optional_keys__:
                continue
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

    None if there is no checkpoint, or if the newest is damaged or was just removed, which the run itself reports when
    it is resumed.

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
