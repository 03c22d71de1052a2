"""A run's files, read while they are written."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from algd.budget import Budget
from algd.errors import UsageError
from algd.storage.run_folder import SUMS
from algd.storage.yaml import read_yaml

# Files whose rows are sent one by one: prefix of the values' names, and columns that are not values.
SERIES = {"metrics.csv": ("train", ("step",)), "episodes.csv": ("episode", ("step", "episode", "seed"))}
EVALUATIONS = ("step", "sampler", "source", "cost", "discounted_cost")  # columns that evals.csv needs
EVALUATED = (*SUMS, "predicted_cost")


class Table:
    """A CSV file that grows, and that may be cut back and grow again.

    Only complete lines are read; an incomplete last one is read once it is complete.

    Args:
        path: the file.
        needs: columns that it must have.
        texts: columns that are not numbers.
    """

    def __init__(self, path: Path, needs: Sequence[str] = ("step",), texts: Sequence[str] = ()):
        self.path, self._needs, self._texts = path, needs, texts
        self._header: list[str] | None = None
        self._offset = 0
        self._inode = 0

    def read(self) -> tuple[bool, list[dict[str, str]]]:
        """The rows since the last call, and whether they start from the top again because the file was cut.

        Raises:
            UsageError: it is damaged.
        """
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            return False, []
        with handle:
            found = os.fstat(handle.fileno())
            again = found.st_size < self._offset or (self._offset > 0 and found.st_ino != self._inode)
            if again:
                self._header, self._offset = None, 0
            self._inode = found.st_ino
            handle.seek(self._offset)
            text = handle.read()
        text = text[:text.rfind(b"\n") + 1]
        self._offset += len(text)
        try:
            return again, self._rows(text)
        except (ValueError, csv.Error) as error:
            raise UsageError(f"{self.path} is damaged ({error})") from error

    def _rows(self, text: bytes) -> list[dict[str, str]]:
        lines = list(csv.reader(text.decode().splitlines()))
        if lines and self._header is None:
            self._header, *lines = lines
            if lacking := [name for name in self._needs if name not in self._header]:
                raise ValueError(f"it has no column {', '.join(lacking)}")
        rows = [dict(zip(self._header or [], line, strict=True)) for line in lines]
        for row in rows:
            for name, cell in row.items():
                (int if name == "step" else str if name in self._texts else float)(cell or 0)
        return rows


def numbers(row: Mapping[str, str], prefix: str, without: tuple[str, ...] = ()) -> dict[str, float]:
    """A row's filled cells as numbers, their names prefixed."""
    return {f"{prefix}/{name}": float(cell) for name, cell in row.items() if cell != "" and name not in without}


def summary(rows: list[dict[str, str]], budget: Budget | None) -> dict[str, float]:
    """Return means over one evaluation's episodes, and how their costs compare with the budget in its own kind."""
    columns = {name: [float(row[name]) for row in rows if row.get(name, "") != ""] for name in EVALUATED}
    values = {name: math.fsum(column) / len(column) for name, column in columns.items() if column}
    values["episodes"] = float(len(rows))
    if budget is not None:
        spent = list(map(budget.spent, columns["cost"], columns["discounted_cost"]))
        mean = math.fsum(spent) / len(spent)
        values["share_over_limit"] = sum(value > budget.limit for value in spent) / len(spent)
        values["feasible"] = float(mean <= budget.limit)
    return values


def read_config(folder: Path) -> dict[str, Any]:
    """The run's resolved config as plain values. Raises UsageError if it cannot be read."""
    try:
        config = read_yaml(folder / "config.yaml")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / 'config.yaml'} cannot be read: {str(error).splitlines()[0]}") from error
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object's content; nothing if the file is missing or half written."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
