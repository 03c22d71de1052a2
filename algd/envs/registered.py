"""`env=gymnasium env.id=...`: any registered environment that reports a cost, as a task."""

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import registry
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt

from algd.budget import Budget, CostReturn, Kind
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium, make_stock
from algd.envs.task import Task
from algd.errors import UsageError

SAFETY_GYMNASIUM = "safety_gymnasium"


def folder_name(name: str) -> str:
    """The name with "-" for characters not allowed in a folder's name: "my.envs:Maze-v0" becomes "my.envs-Maze-v0"."""
    return re.sub(r"[^A-Za-z0-9_.\-]+", "-", name).lstrip("-._") or "environment"


def module_of(env: Mapping[str, Any]) -> str:
    """The module that the id in an `env` of a configuration names; "" if it names none."""
    return str(env.get("id", "")).rpartition(":")[0]


def make(
    name: Annotated[str, AfterValidator(folder_name)],
    family: Literal["other"],
    id: Annotated[str, Field(min_length=1)],
    kwargs: dict[str, Any],
    reference_steps: PositiveInt,
    limit: NonNegativeFloat,
    limit_kind: Kind,
    horizon: PositiveInt | None,
    cost_return: CostReturn = "authors",
    render_mode: str | None = None,
) -> Task:
    """The registered environment `id` as a task; dictionaries and tuples of observations are flattened.

    The arguments are conf/env/gymnasium.yaml's keys; `reference_steps` is the default of total_steps.

    Args:
        id: "Id-v0", or "module:Id-v0", for which `module` is imported first, since it registers the environment. The
            ids of safety-gymnasium's own registry are accepted too.
        horizon: steps after which an episode is truncated; None: what the environment is registered with.
        cost_return: whether the cost's return continues past that step, or the environment terminates there (`Budget`).

    Raises:
        UsageError: no such module or id, episodes without a time limit, an argument or a render mode that the
            environment does not have, or unsuitable spaces (see `Task`).
    """
    module, _, bare_id = id.rpartition(":")
    _import(module, id)
    safety = _safety_gymnasium(module, bare_id)
    if bare_id not in registry:
        raise UsageError(f"env.id={id}: no environment of this name is registered; "
                         f"{_suggestions(bare_id, registry)}if another module registers it, "
                         f"name both: env.id=module:{bare_id}")
    horizon = horizon or registry[bare_id].max_episode_steps
    if horizon is None:
        raise UsageError(f"env.id={id}: its episodes have no time limit; "
                         "set one in steps with env.horizon=...")
    # Its ids are in gymnasium's registry too, but a step has six values there.
    make_env = _make_safety_gymnasium if bare_id in safety else _make_gymnasium
    try:
        env = make_env(bare_id, horizon, render_mode, kwargs)
    except (TypeError, ValueError, AttributeError, AssertionError, ImportError, gymnasium.error.Error) as error:
        given = f" with env.kwargs={kwargs}" if kwargs else ""
        raise UsageError(f"env.id={id} cannot be made{given}: {' '.join(str(error).split())}") from error
    if isinstance(env.observation_space, spaces.Dict | spaces.Tuple) and env.observation_space.is_np_flattenable:
        env = gymnasium.wrappers.FlattenObservation(env)
    return Task(env, name, family, Budget(limit, limit_kind, horizon, cost_return))


def _import(module: str, id: str) -> None:
    """Import the module part of an id; "" is none."""
    if module == SAFETY_GYMNASIUM:
        import_safety_gymnasium()
    elif module:
        if not all(map(str.isidentifier, module.split("."))):
            raise UsageError(f"env.id={id}: {module!r} is not the name of a module")
        try:
            importlib.import_module(module)
        except ImportError as error:
            file = Path(*module.split(".")).with_suffix(".py")
            found = isinstance(error, ModuleNotFoundError) and error.name == module and file.exists()
            hint = f"; with trusted=[{module}] the file {file} of this folder is found" if found else ""
            raise UsageError(f"env.id={id}: the module {module} cannot be imported ({error}){hint}") from error


def _safety_gymnasium(module: str, id: str) -> set[str]:
    """safety-gymnasium's own ids, if an id may be one of them; otherwise it is not imported, which is slow."""
    if module not in ("", SAFETY_GYMNASIUM) or not (module or id.startswith("Safety")):
        return set()
    import_safety_gymnasium()
    return importlib.import_module(f"{SAFETY_GYMNASIUM}.utils.registration").safe_registry


def _make_gymnasium(id: str, horizon: int, render_mode: str | None, kwargs: dict[str, Any]) -> gymnasium.Env:
    # An environment that renders nothing need not accept the argument.
    mode = {} if render_mode is None else {"render_mode": render_mode}
    return gymnasium.make(id, max_episode_steps=horizon, disable_env_checker=True, **mode, **kwargs)


def _make_safety_gymnasium(id: str, horizon: int, render_mode: str | None, kwargs: dict[str, Any]) -> gymnasium.Env:
    env = make_stock(id, horizon, render_mode, **kwargs)
    own = getattr(getattr(env.unwrapped, "task", None), "num_steps", horizon)
    if own < horizon:
        raise UsageError(f"env.horizon={horizon}: {id} truncates its episodes itself after {own} steps; "
                         f"at most {own} are possible")
    return env


def _suggestions(id: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(id, sorted(set(known)), n=3)
    return f"similar ones are {', '.join(close)}; " if close else ""
