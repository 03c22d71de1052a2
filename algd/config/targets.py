"""The code that a configuration names: found, and its arguments checked against its annotations.

So a new agent, guidance, environment or logger brings its own checks.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_origin, get_type_hints

from pydantic import create_model

from algd.config.messages import STRICT, validated
from algd.config.values import PACKAGES
from algd.errors import UsageError

# What the named function must say that it returns, or which class it must be.
RESULTS = {"agent": "algd.algorithm.agent.Agent", "guidance": "algd.algorithm.guidance.Guidance",
           "env": "algd.envs.task.Task"}
# What costs nothing to make is made at once: its constructor knows which values do not go together.
MADE_AT_ONCE = ("agent.policy.process",)
# Arguments that the code supplies, not the configuration.
SUPPLIED = {"observation_size", "action_low", "action_high", "guidance", "threshold", "normaliser",
            "render_mode", "folder"}
SUPPLIED_TO_GUIDANCE = {"limit"}


def locate(target: Any, key: str) -> Callable[..., Any]:
    """The function or class that the `_target_` of a key names.

    Raises:
        UsageError: it is not one of the key's room (`PACKAGES`), does not exist, or makes something else.
    """
    room = PACKAGES[key]
    if not isinstance(target, str) or not target.startswith(room) or not all(map(str.isidentifier, target.split("."))):
        raise UsageError(f"{key}._target_={target!r}: only code of this project can be named, here that of "
                         f"{room.rstrip('.')}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}._target_={target!r}: there is no such function or class ({error})") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not found.__module__.startswith(room.rstrip(".")):
        raise UsageError(f"{key}._target_={target!r}: a function or class of {room.rstrip('.')} is needed")
    made = found if inspect.isclass(found) else get_type_hints(found).get("return")
    if key in RESULTS and f"{getattr(made, '__module__', '')}.{getattr(made, '__name__', made)}" != RESULTS[key]:
        raise UsageError(f"{key}._target_={target!r}: a function is needed whose annotation says that it returns "
                         f"{RESULTS[key]}")
    return found


def check_target(node: Any, key: str, supplied: set[str], partial: bool = False) -> dict[str, Any]:
    """A `_target_` node with its values checked against the target's annotations."""
    if not isinstance(node, Mapping):
        raise UsageError(f"{key}={node!r}: a group of keys with a _target_ in {PACKAGES[key].rstrip('.')} is needed")
    target = locate(node.get("_target_"), key)
    if node.get("_partial_", False) is not partial:
        raise UsageError(f"{key}._partial_={node.get('_partial_')!r}: it should be {str(partial).lower()}")
    if node.get("_convert_", "all") != "all":
        raise UsageError(f"{key}._convert_={node['_convert_']!r}: it should be all")
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    parameters = [p for p in inspect.signature(target).parameters.values()]
    names = {p.name for p in parameters}
    values = {k: v for k, v in node.items() if not k.startswith("_")}
    for name in values:
        if name not in names:
            known = sorted(names - supplied)
            raise UsageError(f"{key}.{name} is not a key of {key}={node.get('name', node['_target_'])}; "
                             f"its keys are {', '.join(known)}")
    nested = {k: check_target(v, f"{key}.{k}", supplied, get_origin(hints.get(k)) is Callable)
              for k, v in values.items() if f"{key}.{k}" in PACKAGES}
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in parameters
        if p.name not in nested and (p.name in values or p.name not in supplied)}
    model = create_model("Arguments", __config__=STRICT, **fields)
    checked = validated(model, {k: v for k, v in values.items() if k not in nested}, key)
    if key in MADE_AT_ONCE:
        try:
            target(**checked)
        except ValueError as error:
            raise UsageError(f"{key}.{error}") from error
    special = {k: v for k, v in node.items() if k.startswith("_")}
    # In the order of the node: a configuration is read by people.
    return special | {k: nested[k] if k in nested else checked[k] for k in values}
