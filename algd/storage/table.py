"""CSV tables that grow by whole rows and can be cut back to the position of a checkpoint."""

import csv
import errno
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from algd.storage.checkpoint_state import TablePosition
from algd.storage.files import free_name, write_atomically


def _cells(line: str) -> list[str]:
    """The cells of one line; none if it is not CSV."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


class Table:
    """A CSV file that grows by whole rows, each flushed when it is written.

    Numbers are written so that they are read back exactly; a missing value is an empty cell. Existing rows are kept,
    except a last line without its end, incomplete from a full disk: that is removed.

    Args:
        path: the file; rows are appended to existing ones.
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
        # A header that is not text is damage, which `holds` detects.
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
        # One write per row: readers and kills find whole rows, unless the disk becomes full in the middle of one.
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._size += len(line)
        self._hash.update(line)

    def position(self) -> TablePosition:
        """Return the current end of the table, for `cut`."""
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        os.fsync(self._file.fileno())

    def holds(self, position: TablePosition) -> bool:
        """Whether the file still begins with its content at this position."""
        return begins_with(self.path, position)

    def cut(self, position: TablePosition | None, keep: Callable[[Mapping[str, str]], bool] | None = None) -> None:
        """Remove the rows that are newer than the position (None: all), except those for which `keep` is true."""
        size = position["size"] if position else 0
        content = self.path.read_bytes()
        kept = self._newer_rows(content, size, keep) if keep else []
        self._file.close()
        if kept:
            # In one step: a kill between the cut and the new rows would lose those to be kept.
            write_atomically(self.path, content[:size] + b"".join(kept))
        else:
            os.truncate(self.path, size)
        self._open()

    def set_aside(self) -> Path:
        """Rename the file to the first free `<name>.damaged-<n>`, and start an empty one. Returns the new path."""
        self._file.close()
        os.rename(self.path, aside := free_name(self.path, "damaged"))
        self._open()
        return aside

    def _newer_rows(self, content: bytes, size: int, keep: Callable[[Mapping[str, str]], bool]) -> list[bytes]:
        """The complete rows after the first `size` bytes for which `keep` is true, with a header if needed."""
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


def begins_with(path: Path, position: TablePosition) -> bool:
    """Whether a table's file begins with its content at a position of `Table.position`."""
    content = path.read_bytes()[:position["size"]] if path.exists() else b""
    return len(content) == position["size"] and hashlib.sha256(content).hexdigest() == position["sha256"]
