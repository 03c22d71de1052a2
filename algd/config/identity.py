"""A run's identity: a hash of what determines its result, independent of where the code is.

The identity is part of folders' names, so it must never change for an equivalent configuration. It is therefore the
hash of the configuration as the first version of this project would have written it:

- code has the name under which it was first published (`FIRST_NAMES`), even if its module has changed;
- a key that was added later is left out if its value means the previous behaviour (`ADDED`);
- a rule for λ of the first version is written as then: with its keys among the guidance's own (`RULES`).

When code moves, add its new name here; when a key is added, the value for the previous behaviour.
`tests/config/test_identity.py` pins the identities of every agent with every guidance.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that do not determine a run's result; total_steps does not either, since a run can be extended.
NOT_IDENTITY = {"mode", "experiment", "run", "study", "total_steps", "logger", "checkpoint", "snapshots", "device",
                "threads", "compile", "runs_dir", "fresh", "trusted", "callbacks", "log_every", "simulator_errors"}
# Current module ↦ its module when runs were first named.
FIRST_NAMES = {
    "algd.algorithm.agent": "algd.agent",
    "algd.algorithm.guidance": "algd.guidance",
    "algd.algorithm.noise_processes": "algd.diffusion",
    "algd.algorithm.policies.diffusion": "algd.policies.diffusion",
    "algd.algorithm.policies.gaussian": "algd.policies.gaussian",
    "analysis.studies.closed_forms.study": "analysis.closed_forms.study",
    "analysis.studies.invariance.study": "analysis.invariance.study",
}
TODAYS_NAMES = {first: today for today, first in FIRST_NAMES.items()}
# Dotted key ↦ the value that means the behaviour before the key existed.
ADDED: dict[str, Any] = {"env.cost_return": "authors", "guidance.dual.signal": "replay", "guidance.dual.hold": 0,
                         "guidance.dual.window": 10, "agent.cost_backup": "sum", "agent.unsafe_above": 0.0}
# The first version's rules for λ: name ↦ class and keys. Plain guidance with a PID controller had a function.
RULES = {"ascent": ("algd.algorithm.dual.LogAscent", {"initial_multiplier", "learning_rate"}),
         "pid": ("algd.algorithm.dual.PID", {"proportional", "integral", "derivative", "smoothing", "delay",
                                             "initial_multiplier"})}
PLAIN, FIRST_PID = "algd.algorithm.guidance.plain", "algd.guidance.pid"


def identity(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that identify a configuration by what determines a run's result."""
    relevant = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    relevant["eval"] = {k: v for k, v in relevant["eval"].items() if k != "video"}
    canonical = json.dumps(_first_written(relevant), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version, with the current names of code and places of keys."""
    found = {key: _renamed(value, TODAYS_NAMES) for key, value in config.items()}
    if isinstance(found.get("guidance"), dict):
        found["guidance"] = _with_rule_apart(found["guidance"])
    return found


def _first_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """The relevant part of a configuration, as the first version would have written it."""
    found = _without_added(config, "")
    if isinstance(found.get("guidance"), dict):
        found["guidance"] = _with_rule_inside(found["guidance"])
    return {key: _renamed(value, FIRST_NAMES) for key, value in found.items()}


def _with_rule_inside(guidance: dict[str, Any]) -> dict[str, Any]:
    """A guidance with its rule's keys among its own, if it is one of the first version's."""
    rule, rest = guidance.get("dual"), {key: value for key, value in guidance.items() if key != "dual"}
    if not isinstance(rule, Mapping):
        return guidance
    for name, (target, keys) in RULES.items():
        flat = {key: rule[key] for key in keys & rule.keys()}
        first = {"_target_": target, "_partial_": True, "name": name} | flat
        if dict(rule) != first or rule["_partial_"] is not True:
            continue
        if name == "ascent":
            return rest | flat
        if rest.get("_target_") == PLAIN and "level" not in rest:
            return rest | {"_target_": FIRST_PID} | flat
    return guidance


def _with_rule_apart(guidance: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_with_rule_inside`; a guidance with its rule apart already, or without one, is unchanged."""
    of_pid = guidance.get("_target_") in (FIRST_PID, "algd.algorithm.guidance.pid")
    name = "pid" if of_pid else "ascent"
    target, keys = RULES[name]
    if "dual" in guidance or not keys & guidance.keys():
        return guidance
    rest = {key: value for key, value in guidance.items() if key not in keys}
    rule = {key: value for key, value in guidance.items() if key in keys}
    return rest | ({"_target_": PLAIN} if of_pid else {}) | {
        "dual": {"_target_": target, "_partial_": True, "name": name} | rule}


def _without_added(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The node without keys that were added later and have the value for the previous behaviour."""
    return {key: _without_added(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if not (f"{prefix}{key}" in ADDED and value == ADDED[f"{prefix}{key}"])}


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """The node with the modules of its `_target_`s renamed."""
    if not isinstance(node, Mapping):
        return node
    found = {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(target := found.get("_target_"), str):
        module, _, name = target.rpartition(".")
        found["_target_"] = f"{names.get(module, module)}.{name}"
    return found
