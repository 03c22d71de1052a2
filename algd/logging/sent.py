"""The journal of the records of a run that were sent to a destination."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from algd.errors import UsageError
from algd.logging.tables import SERIES

JOURNAL = "journal.jsonl"


class Sent:
    """The journal of a destination: journal.jsonl in its directory, one line for each record sent, in order.

    A record is named by its file and step ("metrics.csv", 100), an evaluation's means also by source and sampler, a
    video by its name. If a destination reports only its number of records, the order determines which are missing.

    Args:
        path: the journal; created at the first `save`. An incomplete last line is dropped.

    Raises:
        UsageError: it is damaged.

    Attributes:
        identity: the destination's name for this run, chosen at the first start and kept.
        records: names of the records sent.
    """

    def __init__(self, path: Path):
        self.path = path
        self._read()

    def _read(self) -> None:
        self.identity = ""
        self.records: list[tuple[Any, ...]] = []
        try:
            text = self.path.read_text() if self.path.exists() else ""
            whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
            first, *lines = [json.loads(line) for line in whole] or [None]
            if first is not None:
                self.identity = first["identity"]
            self._take([tuple(line) for line in lines])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(f"{self.path} is damaged ({error!r}); without it the run is sent from the "
                             "start") from error
        self._saved = 0 if first is None or not text.endswith("\n") else len(lines)

    def turn_to(self, identity: str) -> None:
        """Switch to the journal of the destination with this name; the previous destination's journal is kept."""
        if identity == self.identity:
            return
        # A kill between the two renames leaves both journals under their destinations' names.
        if self.path.exists():
            os.replace(self.path, self.journal_of(self.identity))
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.journal_of(identity), self.path)
        self._read()
        self.identity = identity

    def journal_of(self, identity: str) -> Path:
        """Return the path at which a destination's journal is kept while another's is in use."""
        return self.path.with_name(f"journal-{quote(identity, safe='')}.jsonl")

    def last_step(self, file: str) -> float:
        """Return the step of the last row sent from a file."""
        return self._last.get(file, -math.inf)

    def has(self, *name: Any) -> bool:
        """Return whether an evaluation or a video was sent."""
        return name in self._names

    def add(self, *name: Any) -> None:
        """Add a record; `save` writes it to the journal."""
        self.records.append(name)
        self._note(name)

    def keep(self, count: int) -> None:
        """Keep only the first `count` records, since the destination has lost the others."""
        self._take(self.records[:count])
        self._saved = 0

    def save(self) -> None:
        """Append new records, or write the whole journal if there is none yet or `keep` has removed records."""
        lines = [json.dumps(name) + "\n" for name in self.records[self._saved:]]
        if self._saved > 0:
            with self.path.open("a") as journal:
                journal.write("".join(lines))
        else:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps({"identity": self.identity}) + "\n" + "".join(lines))
            os.replace(new, self.path)
        self._saved = len(self.records)

    def _take(self, records: list[tuple[Any, ...]]) -> None:
        self.records = records
        self._last: dict[str, int] = {}
        self._names: set[tuple[Any, ...]] = set()
        for name in records:
            self._note(name)

    def _note(self, name: tuple[Any, ...]) -> None:
        if name[0] in SERIES:
            self._last[name[0]] = name[1]
        else:
            self._names.add(name)
