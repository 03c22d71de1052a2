"""Tables of the study, as CSV with ten digits and as Markdown with four."""

import csv
import io
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_tables(folder: Path, tables: dict[str, list[Row]]) -> None:
    """<name>.csv and <name>.md for each table; a file appears complete or not at all."""
    for name, rows in tables.items():
        if rows:
            replace(folder / f"{name}.csv", comma_separated(rows).encode())
            replace(folder / f"{name}.md", markdown(rows).encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file in one move."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def comma_separated(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.10g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def markdown(rows: list[Row]) -> str:
    keys = list(rows[0])
    lines = [keys, ["---:" if isinstance(rows[0][key], float | int) else "---" for key in keys]]
    lines += [[_cell(row[key]) for key in keys] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
