"""The code that a configuration names: found, and its arguments checked against its annotations.

So a new agent, guidance, environment or logger has its own checks. It is code of this project, or of a module that
the user trusts (`trusted=[my_lab.lagrangians]`); a configuration can import nothing else.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_origin, get_type_hints

from pydantic import BaseModel, create_model

from algd.config.messages import STRICT, validated
from algd.config.trust import is_trusted, is_within
from algd.config.values import PLACES, check_value, leaves, place_of
from algd.errors import UsageError

# The annotated return type of the named function, or the class that it must be.
RESULTS = {"agent": "algd.algorithm.agent.Agent", "guidance": "algd.algorithm.guidance.Guidance",
           "env": "algd.envs.task.Task", "callbacks": "algd.run.callbacks.Callback"}
# Built at once, since that costs nothing and the constructor checks combinations of values.
MADE_AT_ONCE = ("agent.policy.process",)
# Arguments that the code supplies, not the configuration.
SUPPLIED = {"observation_size", "action_low", "action_high", "guidance", "threshold", "normaliser",
            "render_mode", "folder"}
SUPPLIED_TO_GUIDANCE = {"limit"}


def locate(target: Any, key: str, package: str | None = None) -> Callable[..., Any]:
    """The function or class that the `_target_` of a key names.

    Args:
        target: the dotted name.
        key: its dotted key, for messages.
        package: the module or package of this project that it may be in; None: the key's of `PLACES`.

    Raises:
        UsageError: it is elsewhere and not trusted, does not exist, or does not return what the key needs.
    """
    package = package or PLACES[place_of(key)]
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not (is_within(module, [package]) or is_trusted(module)) or not all(map(str.isidentifier, target.split("."))):
        raise UsageError(f"{key}._target_={target!r}: only code of this project can be named, here that of "
                         f"{package}, and that of modules that you trust: trusted=[MODULE]")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}._target_={target!r}: there is no such function or class ({error})") from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(f"{key}._target_={target!r}: {module} cannot be imported: {type(error).__name__}: "
                         f"{' '.join(str(error).split())} ({where.filename}:{where.lineno})") from error
    allowed = is_trusted(found.__module__) if is_trusted(module) else is_within(found.__module__, [package])
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not allowed:
        raise UsageError(f"{key}._target_={target!r}: a function or class is needed, of {package} or of a trusted "
                         "module")
    made = found if inspect.isclass(found) else get_type_hints(found).get("return")
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in getattr(made, "__mro__", ())]
    wanted = RESULTS.get(place_of(key))
    if wanted and wanted not in kinds:
        raise UsageError(f"{key}._target_={target!r}: the function must be annotated to return "
                         f"{wanted}")
    return found


def check_target(node: Any, key: str, supplied: set[str], partial: bool = False, listed: Collection[str] = (),
                 package: str | None = None) -> dict[str, Any]:
    """A `_target_` node with its values checked against the target's annotations.

    A node of a module that the configuration lists as trusted but this process does not trust is unchanged: it is data
    from which nothing is built (`require_trust`).

    Args:
        node: the group of keys.
        key: its dotted key.
        supplied: arguments that the code supplies.
        partial: whether the node is to be one with `_partial_`.
        listed: the modules that the configuration lists as trusted.
        package: the module or package of this project that has the code; None: the key's of `PLACES`.

    Raises:
        UsageError: something is wrong with it; the first thing that is.
    """
    if not isinstance(node, Mapping):
        raise UsageError(f"{key}={node!r}: a group of keys with a _target_ in {package or PLACES[place_of(key)]} is "
                         "needed")
    module = str(node.get("_target_")).rpartition(".")[0]
    if is_within(module, listed) and not is_trusted(module):
        for inner, value in leaves(node, key):
            check_value(inner, value)
        return dict(node)
    target = locate(node.get("_target_"), key, package)
    if node.get("_partial_", False) is not partial:
        raise UsageError(f"{key}._partial_={node.get('_partial_')!r}: it should be {str(partial).lower()}")
    if node.get("_convert_", "all") != "all":
        raise UsageError(f"{key}._convert_={node['_convert_']!r}: it should be all")
    parameters, hints = _parameters(target)
    values = {k: v for k, v in node.items() if not k.startswith("_")}
    for name in values:
        if name not in parameters:
            known = sorted(parameters.keys() - supplied)
            raise UsageError(f"{key}.{name} is not a key of {key}={node.get('name', node['_target_'])}; "
                             f"its keys are {', '.join(known)}")
    nested = {k: check_target(v, f"{key}.{k}", supplied, get_origin(hints.get(k)) is Callable, listed)
              for k, v in values.items() if f"{key}.{k}" in PLACES}
    wanted = tuple(name for name in parameters if name not in nested and (name in values or name not in supplied))
    checked = validated(_arguments(target, wanted), {k: v for k, v in values.items() if k not in nested}, key)
    if key in MADE_AT_ONCE:
        try:
            target(**checked)
        except ValueError as error:
            raise UsageError(f"{key}.{error}") from error
    special = {k: v for k, v in node.items() if k.startswith("_")}
    # In the order of the node, for people who read the configuration.
    return special | {k: nested[k] if k in nested else checked[k] for k in values}


@cache
def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters and annotations of a function or class, by name.

    A constructor's `**others` stand for those of the next class: a subclass usually passes them on.
    """
    makers = [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)] \
        if inspect.isclass(target) else [target]
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for maker in makers:
        own = list(inspect.signature(maker).parameters.values())[inspect.isclass(target):]
        variable = [p.kind for p in own if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        parameters |= {p.name: p for p in own if p.kind not in variable and p.name not in parameters}
        hints = get_type_hints(maker, include_extras=True) | hints
        if inspect.Parameter.VAR_KEYWORD not in variable:
            break
    return parameters, hints


@cache
def _arguments(target: Callable[..., Any], names: tuple[str, ...]) -> type[BaseModel]:
    """The model of these arguments of a function or class: made once, since a sweep checks thousands."""
    parameters, hints = _parameters(target)
    fields: dict[str, Any] = {name: (hints.get(name, Any), ... if parameters[name].default is inspect.Parameter.empty
                                     else parameters[name].default) for name in names}
    return create_model("Arguments", __config__=STRICT, **fields)


def require_trust(node: Mapping[str, Any], whose: str) -> None:
    """Refuse to build from code that this process does not trust.

    Args:
        node: a checked group of keys, perhaps with others in it.
        whose: the folder or key that it is from, for messages.

    Raises:
        UsageError: it names such code.
    """
    foreign = [module for module in _named_modules(node) if not is_within(module, ("algd", "analysis"))
               and not is_trusted(module)]
    if foreign:
        # By the names that the configuration itself lists, where it does.
        listed = node.get("trusted", ())
        names = list(dict.fromkeys(next((name for name in listed if is_within(module, [name])), module)
                                   for module in foreign))
        raise UsageError(f"{whose} names code of {foreign[0]}, which is not this project's; {how_to_trust(names)}")


def how_to_trust(modules: Sequence[str]) -> str:
    """How a user trusts these modules, for messages."""
    return (f"to trust it: trusted=[{','.join(modules)}] on the command line, algd.load(..., trusted={[*modules]!r}) "
            f"in Python, {' '.join(f'--import {name}' for name in modules)} for python -m analysis")


def _named_modules(node: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a group of keys, and those in it, name code of."""
    if module := str(node.get("_target_", "")).rpartition(".")[0]:
        yield module
    for value in node.values():
        if isinstance(value, Mapping):
            yield from _named_modules(value)
