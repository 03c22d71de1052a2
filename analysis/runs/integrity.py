"""Checks of a run's files against the checksums that the run recorded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.config.identity import identity
from algd.storage.checkpoint_state import TABLES, TablePosition, newest_state
from algd.storage.run_folder import RunFolder


def check_integrity(folder: Path, config: Mapping[str, Any]) -> None:
    """Check config.yaml against the identity in meta.json, and tables against the checksums in the newest checkpoint,
    or of a copy made by `export` in meta.json.

    Records that are missing are not checked.

    Args:
        folder: the run's folder.
        config: the nested configuration.

    Raises:
        ValueError: a file is damaged or was changed.
    """
    meta = RunFolder(folder).meta()
    recorded = meta.get("identity")
    if recorded is not None and recorded != identity(config):
        raise ValueError(f"config.yaml is damaged or changed: its identity is {identity(config)}, and meta.json has "
                         f"{recorded}")
    finished = RunFolder(folder).status().get("state") == "finished"
    state = newest_state(folder / "checkpoints")
    try:
        recorded_tables = state["tables"] if state else {
            name: TablePosition(size=int(of["size"]), sha256=str(of["sha256"]))
            for name in TABLES if (of := meta.get("tables", {}).get(name))}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("meta.json is damaged: it does not say what the tables were") from error
    for name, position in recorded_tables.items():
        content = (folder / f"{name}.csv").read_bytes()
        known, newer = content[:position["size"]], content[position["size"]:]
        if len(known) < position["size"] or hashlib.sha256(known).hexdigest() != position["sha256"]:
            raise ValueError(f"{name}.csv is damaged: it does not begin with what was recorded of it")
        if finished and newer and (name != "evals" or b",train," in newer):
            raise ValueError(f"{name}.csv is damaged: there is more in it than the finished run wrote")
