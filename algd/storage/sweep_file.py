"""A sweep's file, runs/sweeps/<name>.json: its place and its members. `launchers.sweeps` describes the rest of it."""

import json
from pathlib import Path
from typing import Any

from algd.errors import UsageError

SWEEPS = "sweeps"  # the folder of the sweeps' files, in a runs_dir


def read_sweep_file(file: Path) -> dict[str, Any]:
    """Return the content of a sweep's file, of which only "runs" is checked.

    Raises:
        UsageError: the file is not a sweep file, or lists folders outside its own runs_dir.
    """
    top = file.parent.parent
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content["runs"], list):
            raise TypeError("runs is not a list of folders")
        members = [top / run for run in content["runs"]]
        if unreadable := next((run for run in content["runs"] if not run.isprintable()), None):
            raise ValueError(f"control characters in {unreadable!a}")
        # The file may come from somebody else, so its paths must not lead out of its runs_dir.
        inside = all(top.resolve() in member.resolve().parents for member in members)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} is not a sweep's list of members ({type(error).__name__}: {error})") from error
    if not inside:
        raise UsageError(f"{file} lists runs outside {top}")
    return content


def sweep_members(file: Path) -> list[Path]:
    """Return the folders of a sweep's members, existing or not, in the sweep's order.

    Raises:
        UsageError: see `read_sweep_file`.
    """
    return [file.parent.parent / run for run in read_sweep_file(file)["runs"]]
