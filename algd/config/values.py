"""Restrictions on a configuration's values, which may come from an untrusted file.

A configuration may come from somebody else's folder. It can name code only at the `_target_`s of `PLACES`; it has no
references to the environment or elsewhere; and no text in it can end a line or a path early.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from algd.errors import UsageError
from algd.secrets import secret_values

# Where a configuration may name code, and the module or package of this project that has the code for it.
PLACES = {"agent": "algd.algorithm.agent", "agent.policy": "algd.algorithm.policies",
          "agent.policy.process": "algd.algorithm.noise_processes", "guidance": "algd.algorithm.guidance",
          "guidance.dual": "algd.algorithm.dual", "env": "algd.envs", "logger": "algd.logging",
          "callbacks": "algd.run.callbacks"}
STUDY = "study"  # names code too, of a package that is given by the caller
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,79}")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
A_NAME = "a name of at most 80 letters, digits, '_', '-' and '.', the first a letter or a digit"
# Texts end up in paths, tables, logs and scripts, one line each. Lone surrogates are what no file can hold.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
SECRET_KEY = re.compile(r"(?i)(^|[_.\-])(api_?key|access_?key|token|secret|passwd|password|credentials?)$")


def place_of(key: str) -> str:
    """The place of a dotted key, without the number of an item in a list: callbacks for callbacks.0."""
    return re.sub(r"\.\d+$", "", key)


def name(value: str) -> str:
    """A name that folders and files can have; ValueError otherwise."""
    if not NAME.fullmatch(value):
        raise ValueError(f"should be {A_NAME}")
    return value


def printable(text: str) -> str:
    """The text with a space for each character that is not printable, so that it stays on its line."""
    return "".join(character if character.isprintable() else " " for character in text)


def shortened(value: Any) -> str:
    """A value as typed in Python, shortened if it is too long for a sentence."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-30:]} ({len(text)} characters)"


def leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings and lists that is neither, with its dotted key; a mapping's keys too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            inner = f"{place}.{key}" if place else str(key)
            if not isinstance(key, str) or not key:
                raise UsageError(f"{inner}: {key!r} is not a name of a key")
            check_value(f"{place or 'the configuration'}: the key", key)
            if isinstance(value, Mapping | list | tuple):
                check_value(inner, value)
                yield from leaves(value, inner)
            else:
                yield inner, value
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{place}.{index}")
    else:
        yield place, node


def check_value(key: str, value: Any) -> None:
    """Refuse values that no configuration may have.

    Args:
        key: dotted.
        value: plain: a number, a text, a list, a mapping, or None.

    Raises:
        UsageError: it names code where none is allowed, refers elsewhere, or is not printable text or a 64-bit number.
    """
    place, _, last = key.rpartition(".")
    allowed = place_of(place) in (*PLACES, STUDY) and last in ("_target_", "_partial_", "_convert_")
    if re.fullmatch(r"_[a-z]+_", last) and not allowed:
        raise UsageError(f"{key}={value!r}: keys with underscores round them name code; "
                         f"allowed are _target_, _partial_ and _convert_ of {', '.join(PLACES)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{key}={shortened(value)}: it should be less than {2**63}")
    if not isinstance(value, str):
        return
    if UNPRINTABLE.search(value):
        raise UsageError(f"{key}={value!r}: line ends, other control characters and bytes that are not text "
                         "are not allowed in a value")
    if "${" in value:
        raise UsageError(f"{key}={value!r}: only values are allowed here, nothing that is looked up with ${{...}}")


def refuse_secrets(config: Mapping[str, Any]) -> None:
    """Refuse secrets, such as API keys: a configuration is saved, shown and shared."""
    secrets = secret_values()
    for key, value in leaves(config, ""):
        if SECRET_KEY.search(key) and value is not None:
            raise UsageError(f"{key}: it is named like a secret, and a configuration is saved and shared; "
                             "an environment variable is the place for it")
        if isinstance(value, str) and (
                name := next((secrets[secret] for secret in secrets if secret in value), None)):
            raise UsageError(f"{key}: its value is the secret of the environment variable {name}, and a configuration "
                             "is saved and shared; another value is needed")
