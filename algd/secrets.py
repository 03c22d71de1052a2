"""Secrets in environment variables, which must not appear in anything that is saved or shown."""

import os
import re

NAMES = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWD|PASSWORD|CREDENTIALS?)$")
SHORTEST = 12  # shorter values may occur elsewhere by chance
HIDDEN = "***"


def secret_values() -> dict[str, str]:
    """Return the values of environment variables with names of secrets, such as *_API_KEY, mapped to these names."""
    return {value: name for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST}


def redacted(text: str) -> str:
    """Return the text with these values replaced."""
    # Longest first, since one value may be part of another.
    for value in sorted(secret_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text
