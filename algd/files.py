"""Files that are either whole or not there, and CSV tables that can be cut back to where a checkpoint was."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from algd.errors import UsageError


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


class Table:
    """A CSV file that grows by whole rows, each flushed as it comes.

    Numbers are written so that they read back exactly; a missing value is an empty cell.

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
        self._size, self._hash = len(content), hashlib.sha256(content)
        first_line = content.split(b"\n", 1)[0].decode()
        self.columns = next(csv.reader([first_line])) if first_line else self._new_columns
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
        content = self.path.read_bytes()[:position["size"]]
        return len(content) == position["size"] and hashlib.sha256(content).hexdigest() == position["sha256"]

    def cut(self, position: Mapping[str, Any] | None, keep: Callable[[Mapping[str, str]], bool] | None = None) -> None:
        """Remove the rows that are newer than the position (None: all), save those that `keep` says to keep."""
        size = position["size"] if position else 0
        newer = self.path.read_bytes()[size:].decode(errors="replace") if keep else ""
        self._file.close()
        os.truncate(self.path, size)
        self._open()
        # A last line without its end was torn by a kill.
        lines = newer.splitlines(keepends=True)[0 if position and size else 1:]
        for cells in csv.reader(line for line in lines if line.endswith("\n")):
            row = dict(zip(self.columns or (), cells, strict=False))
            if keep and len(row) == len(cells) and keep(row):
                self.append(row)

    def close(self) -> None:
        self._file.close()


class Lock:
    """An exclusive lock on a folder that ends with the process that holds it, however it ends.

    Raises:
        UsageError: another process holds it.
    """

    def __init__(self, path: Path):
        self._file = path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(f"{path.parent} is being trained by another process right now; "
                             "wait for it, or stop it first") from error

    def release(self) -> None:
        self._file.close()
