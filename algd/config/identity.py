"""A run's identity: what tells runs apart by what determines their results, wherever the code lives.

The identity names folders, so that it must never change for a configuration that means the same. It is therefore the
hash of the configuration as the first version of this project would have written it:

- code has the name that it had when it was first published (`FIRST_NAMES`), whatever module it is in today;
- a key that was added later is left out at the value that means what was before (`ADDED`).

When code moves, add its new name here; when a key is added, its old meaning. `tests/config/test_identity.py` holds the
identities of every agent with every guidance.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that do not determine a run's result; total_steps does not either, since a run can be extended.
NOT_IDENTITY = {"mode", "experiment", "run", "study", "total_steps", "logger", "checkpoint", "snapshots", "device",
                "threads", "compile", "runs_dir", "fresh", "trusted", "log_every", "simulator_errors"}
# Today's module ↦ the module that it was when runs were first named.
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
# Dotted key ↦ the value at which it means what was before there was the key.
ADDED: dict[str, Any] = {}


def identity(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell configurations apart by what determines a run's result."""
    relevant = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    relevant["eval"] = {k: v for k, v in relevant["eval"].items() if k != "video"}
    canonical = json.dumps(_first_written(relevant), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version wrote, with code by the names that it has today."""
    return {key: _renamed(value, TODAYS_NAMES) for key, value in config.items()}


def _first_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that counts, as the first version would have written it."""
    return {key: _renamed(value, FIRST_NAMES) for key, value in _without_added(config, "").items()}


def _without_added(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The node without keys that were added later and have the value that means what was before."""
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
