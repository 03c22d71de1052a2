"""Configurations by dotted keys: flattening, differences between runs, and selecting runs by conditions."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from algd.config.identity import ADDED, NOT_IDENTITY
from algd.config.values import UNPRINTABLE
from algd.errors import UsageError
from analysis.runs.model import Run

# Keys in which the runs of one cell may differ. total_steps is not part of a run's identity, but changes its results.
MAY_DIFFER = (NOT_IDENTITY - {"total_steps"}) | {"seed", "eval.video"}
STATE = "state"  # allowed as a key in conditions, though it is not in the configuration


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested configuration to dotted keys; lists are values.

    Raises:
        ValueError: it is not a mapping of plain values, or has a number of more than 64 bits, or control characters,
            which would break a line of a table.
    """
    if not isinstance(config, Mapping):
        raise ValueError("its configuration is not a group of keys")
    return {sys.intern(key): value for key, value in _flat(config, "")}


def _flat(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, str | int | float | list | None):
            raise ValueError(f"{prefix}{key} is not a plain value")
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{prefix}{key} is not a number of 64 bits")
        elif UNPRINTABLE.search(str(key)) or UNPRINTABLE.search(str(value)):
            raise ValueError(f"control characters in {prefix + str(key)!a}")
        else:
            yield f"{prefix}{key}", value


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, or the name of a group (env, agent, guidance); None if there is none."""
    return config[key] if key in config else config.get(f"{key}.name")


def value_of(run: Run, key: str) -> Any:
    """Return a run's value at a dotted key, or its state for the key "state".

    A run of this project that is older than a key has the value that means the earlier behaviour.
    """
    if key == STATE and STATE not in run.config:
        return run.state
    found = value_at(run.config, key)
    if found is None and key in ADDED and not run.foreign and (
            not key.startswith("guidance.dual.") or run.config.get("guidance.dual.name") == "ascent"):
        return ADDED[key]
    return found


def differing_keys(configs: Sequence[Mapping[str, Any]], covered: Sequence[str] = ()) -> list[str]:
    """Return the dotted keys whose values differ between configurations, sorted.

    Args:
        configs: configurations by dotted keys.
        covered: keys or groups that may differ in addition to MAY_DIFFER.
    """
    keys = {key for key in set().union(*configs) if not may_differ(key, tuple(covered))}
    # A configuration older than a key has the value that reproduces the earlier behaviour.
    return sorted(key for key in keys
                  if len({canonical(config.get(key, ADDED.get(key))) for config in configs}) > 1)


def canonical(value: Any) -> str:
    """Return a value as text, the same for 4 and 4.0, since programs write the same number differently."""
    return repr(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


@cache
def may_differ(key: str, covered: tuple[str, ...] = ()) -> bool:
    """Return whether a dotted key is in MAY_DIFFER or the covered keys and groups."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in (*MAY_DIFFER, *covered))


def check_key(runs: Sequence[Run], key: str) -> None:
    """Raise UsageError, with similar keys, if no run has a key."""
    if key == STATE or any(value_of(run, key) is not None or key in run.config for run in runs):
        return
    known = {name for run in runs for name in run.config}
    groups = {name.removesuffix(".name") for name in known if name.endswith(".name")}
    last = key.rsplit(".", 1)[-1]
    close = (sorted(name for name in known if name.rsplit(".", 1)[-1] == last)
             or get_close_matches(key, sorted(known | groups), 3) or sorted(name for name in known if key in name))[:5]
    raise UsageError(f"{key}: no run has this key" + (f"; did you mean {' or '.join(close)}?" if close else
                                                      "; keys are those of a run's config.yaml, such as guidance.rho"))


def where(runs: Sequence[Run], conditions: Iterable[str], option: str = "--where") -> list[Run]:
    """Return the runs that fit all conditions.

    Args:
        runs: runs to choose from.
        conditions: "KEY=VALUE" or "KEY=VALUE,VALUE"; the key "state" is the state in status.json.
        option: the option of the command line that they are from, for messages.

    Raises:
        UsageError: a condition has another form, no run has its key or one of its values, or no run fits.
    """
    left = list(runs)
    for condition in conditions:
        key, equals, wanted = condition.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {condition}: KEY=VALUE is needed, such as env=point_button1")
        check_key(runs, key)
        values = wanted.split(",")
        there = sorted({str(value_of(run, key)) for run in runs})
        for value in values:
            # Otherwise a misspelled value of several would choose fewer runs in silence. States come and go.
            if key != STATE and not any(_same(value_of(run, key), value) for run in runs):
                further = "" if "=" not in value else "; a further condition is " + (
                    "another --where" if option == "--where" else "separated by a space")
                raise UsageError(f"{option} {condition}: no run is left with {key}={value}; {key} is "
                                 f"{', '.join(there)}{further}")
        left = [run for run in left if any(_same(value_of(run, key), value) for value in values)]
        if not left:
            raise UsageError(f"{option} {condition}: no run is left; {key} is {', '.join(there)}")
    return left


def _same(value: Any, wanted: str) -> bool:
    """Return whether a configuration's value equals the text of a condition: 1 equals 1.0, and True equals "true"."""
    if value is None or isinstance(value, bool):
        return wanted.lower() == {None: "null", True: "true", False: "false"}[value]
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value) == wanted
