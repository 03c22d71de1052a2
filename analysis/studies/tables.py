"""Tables of a study, as CSV with ten significant digits and as Markdown with four."""

import csv
import io
from pathlib import Path
from typing import Any

from algd.storage.files import write_atomically
from analysis.markdown import markdown_table

Row = dict[str, Any]


def write_tables(folder: Path, tables: dict[str, list[Row]]) -> None:
    """Write <name>.csv and <name>.md, atomically, for each table that has rows."""
    for name, rows in tables.items():
        if rows:
            write_atomically(folder / f"{name}.csv", comma_separated(rows).encode())
            write_atomically(folder / f"{name}.md", markdown(rows).encode())


def comma_separated(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.10g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def markdown(rows: list[Row]) -> str:
    """Format rows with four significant digits; columns of numbers are right-aligned."""
    keys = list(rows[0])
    right = [isinstance(rows[0][key], float | int) for key in keys]
    return markdown_table(keys, [[_cell(row[key]) for key in keys] for row in rows], right) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
