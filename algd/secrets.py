"""Secrets of the process's environment, which must not get into anything that is saved or shown."""

import os
import re

NAMES = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWD|PASSWORD|CREDENTIALS?)$")
SHORTEST = 12  # shorter ones may be elsewhere by chance
HIDDEN = "***"


def secret_values() -> dict[str, str]:
    """The values of environment variables whose names say that they are secret, with those names."""
    return {value: name for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST}


def redacted(text: str) -> str:
    """The text without these values."""
    # The longest first: one may be part of another.
    for value in sorted(secret_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text
