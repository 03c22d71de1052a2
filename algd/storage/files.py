"""Atomic writing of files, and checksums that detect damage."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKSUM = re.compile(r"[0-9a-f]{64}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: at every moment it has the old content, or the new, or does not exist.

    Raises:
        OSError: it cannot be written; the error has the file's name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        error.filename = str(path)  # that of a failed write is None
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename or a new entry in this directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """The content of a JSON file with its own checksum, under "sha256"."""
    plain = json.loads(json.dumps(content))
    return (json.dumps(plain | {"sha256": _seal(plain)}, indent=1) + "\n").encode()


def unsealed(data: bytes, strict: bool = False) -> dict[str, Any]:
    """The inverse of `sealed`.

    Args:
        strict: whether a file without a checksum is refused. Otherwise it is accepted, since it may be written by hand.

    Raises:
        ValueError: it is not a JSON object, or it is damaged. The message says which.
    """
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    # The checksum's name may be damaged.
    is_sealed = "sha256" in content or any(isinstance(v, str) and CHECKSUM.fullmatch(v) for v in content.values())
    if (strict or is_sealed) and content.pop("sha256", None) != _seal(content):
        raise ValueError("its checksum is not the one that was recorded")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def free_name(path: Path, ending: str) -> Path:
    """The first of `<path>.<ending>-1`, `<path>.<ending>-2`, … that does not exist."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{ending}-{number}")):
        number += 1
    return free
