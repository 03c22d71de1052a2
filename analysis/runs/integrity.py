"""Whether a run's files are still what the run itself recorded of them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.config.identity import identity
from algd.storage.files import unsealed
from algd.storage.run_folder import RunFolder


def check_integrity(folder: Path, config: Mapping[str, Any]) -> None:
    """Whether configuration and tables are still what the run itself recorded of them, as far as it did.

    Raises:
        ValueError: one is not.
    """
    recorded = RunFolder(folder).meta().get("identity")
    if recorded is not None and recorded != identity(config):
        raise ValueError(f"config.yaml is damaged or changed: its identity is {identity(config)}, and meta.json has "
                         f"{recorded}")
    finished = RunFolder(folder).status().get("state") == "finished"
    for name, position in _recorded_tables(folder).items():
        content = (folder / f"{name}.csv").read_bytes()
        known, newer = content[:position["size"]], content[position["size"]:]
        if len(known) < position["size"] or hashlib.sha256(known).hexdigest() != position["sha256"]:
            raise ValueError(f"{name}.csv is damaged: it does not begin with what the newest checkpoint recorded of it")
        if finished and newer and (name != "evals" or b",train," in newer):
            raise ValueError(f"{name}.csv is damaged: there is more in it than the finished run wrote")


def _recorded_tables(folder: Path) -> dict[str, Any]:
    """Size and checksum of each table in the newest checkpoint; empty where there is none to read."""
    newest = max((path for path in (folder / "checkpoints").glob("*/state.json") if path.parent.name.isdigit()),
                 default=None)
    if newest is None:
        return {}
    try:
        manifest = unsealed((newest.parent / "manifest.json").read_bytes())
        content = newest.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["files"]["state.json"]:
            return {}
        tables = json.loads(content)["tables"]
        return {name: tables[name] for name in ("episodes", "evals", "metrics")
                if isinstance(tables[name]["size"], int) and isinstance(tables[name]["sha256"], str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # damaged or just removed: it is the run's own business, which says so when it goes on
