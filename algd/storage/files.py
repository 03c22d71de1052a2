"""Files that are either whole or not there, and CSV tables that can be cut back to where a checkpoint was."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from algd.errors import UsageError

CHECKSUM = re.compile(r"[0-9a-f]{64}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that under its name there is, at every moment, the old content, the new, or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
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
    """A JSON file's content that carries its own checksum, under "sha256"."""
    plain = json.loads(json.dumps(content))
    return (json.dumps(plain | {"sha256": _seal(plain)}, indent=1) + "\n").encode()


def unsealed(data: bytes, strict: bool = False) -> dict[str, Any]:
    """The inverse of `sealed`.

    Args:
        strict: whether a file without a checksum is refused. Otherwise it is taken as it is: somebody may have written
            it by hand.

    Raises:
        ValueError: it is no JSON object, or not what was written. The message says which.
    """
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    # Its name may be what is damaged.
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


def _cells(line: str) -> list[str]:
    """The cells of one line; none if it is no CSV."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


class Table:
    """A CSV file that grows by whole rows, each flushed as it comes.

    Numbers are written so that they read back exactly; a missing value is an empty cell. What is there already is
    taken as it is, but for a last line without its end, torn by a full disk: that is removed.

    Args:
        path: the file; rows are appended to what is there.
        columns: the columns; None: those of the file's header or, in a new file, of the first row.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None):
        self.path = path
        self._new_columns = list(columns) if columns else None
        self._open()

    def _open(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[:content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        self._size, self._hash = len(whole), hashlib.sha256(whole)
        # A header that is no text is damage, which `holds` finds.
        first_line = whole.split(b"\n", 1)[0].decode(errors="replace")
        self.columns = _cells(first_line) or self._new_columns
        self._file = self.path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; cells that it does not name stay empty.

        Raises:
            ValueError: the row has a column that the table has not.
        """
        if self._size == 0:
            self.columns = self._new_columns or list(row)
            self._write(self.columns)
        if unknown := set(row) - set(self.columns or ()):
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        self._write([row.get(column, "") for column in self.columns or ()])

    def _write(self, cells: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        line = text.getvalue().encode()
        # One write a row: a reader, or a kill, sees whole rows, save for a disk that fills up in the middle of one.
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._size += len(line)
        self._hash.update(line)

    def position(self) -> dict[str, Any]:
        """Where the table is now, for `cut`."""
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        os.fsync(self._file.fileno())

    def holds(self, position: Mapping[str, Any]) -> bool:
        """Whether the file still begins with what was there at this position."""
        return begins_with(self.path, position)

    def cut(self, position: Mapping[str, Any] | None, keep: Callable[[Mapping[str, str]], bool] | None = None) -> None:
        """Remove the rows that are newer than the position (None: all), save those that `keep` says to keep."""
        size = position["size"] if position else 0
        content = self.path.read_bytes()
        kept = self._newer_rows(content, size, keep) if keep else []
        self._file.close()
        if kept:
            # In one step: a kill between a cut and new rows would lose those that are to be kept.
            write_atomically(self.path, content[:size] + b"".join(kept))
        else:
            os.truncate(self.path, size)
        self._open()

    def _newer_rows(self, content: bytes, size: int, keep: Callable[[Mapping[str, str]], bool]) -> list[bytes]:
        """The lines of whole rows after the first `size` bytes that `keep` says to keep, under a header if need be."""
        header = content[:content.find(b"\n") + 1]
        kept = []
        for line in content[max(size, len(header)):].splitlines(keepends=True):
            cells = _cells(line.decode(errors="replace"))
            row = dict(zip(self.columns or (), cells, strict=False))
            if line.endswith(b"\n") and len(row) == len(cells) and keep(row):
                kept.append(line)
        return [header, *kept] if kept and not size else kept

    def close(self) -> None:
        self._file.close()


def begins_with(path: Path, position: Mapping[str, Any]) -> bool:
    """Whether a table's file begins with what was there at a position of `Table.position`."""
    content = path.read_bytes()[:position["size"]] if path.exists() else b""
    return len(content) == position["size"] and hashlib.sha256(content).hexdigest() == position["sha256"]


class Lock:
    """An exclusive lock on a folder that ends with the process that holds it, however it ends.

    It is the kernel's (flock), not the file: the file stays, and says who held it last. Between machines it holds where
    the file system that they share passes locks on (docs/sweeps.md).

    Args:
        path: the lock's file; made if need be.

    Raises:
        UsageError: another process holds it, or the file system has no locks.
    """

    def __init__(self, path: Path):
        while True:
            self._file = path.open("a+")
            try:
                self._acquire(path)
            except BaseException:
                self._file.close()
                raise
            # The folder may have been moved aside between opening the file and holding it.
            if path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                break
            self._file.close()
        with contextlib.suppress(OSError):  # only a courtesy, for which there may be no room
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())

    def _acquire(self, path: Path) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise UsageError(f"{path} cannot be locked ({error.strerror}): runs need a file system with locks "
                                 "(flock), or two processes could train one run") from error
            try:
                # Somebody who only looks whether a run is trained holds the lock shared, for an instant.
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(self._file, fcntl.LOCK_UN)
            except BlockingIOError as error:
                self._file.seek(0)
                holder = self._file.read(200).strip()
                raise UsageError(f"{path.parent} is being trained by another process right now"
                                 f"{f' ({holder})' * bool(holder)}; wait for it, or stop it first") from error
            time.sleep(0.01)

    def release(self) -> None:
        self._file.close()
