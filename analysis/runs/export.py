"""Copies of the small files of runs, from which tables and curves are made, for publication with a paper.

Checkpoints, snapshots, videos and logs are not copied, nor what meta.json and config.yaml say of the machine: host,
processes, paths and command lines. Processor, versions, commit and threads are kept. Damaged runs are refused, and
meta.json gets the tables' checksums. On request the policy of the newest snapshot is copied too, about 200 kB, which
`algd.load` loads as an agent that acts.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from algd.errors import UsageError
from algd.storage.files import sealed, unsealed, write_atomically
from algd.storage.run_folder import RunFolder, refuse_links
from algd.storage.snapshots import DamagedSnapshot, is_of_critics, newest_snapshot, read_snapshot, write_snapshot
from algd.storage.yaml import read_yaml
from analysis.runs.integrity import check_integrity

ABSOLUTE = re.compile(r"(?<![\w./~])~?/(?:[^\s'\"/:]+/)+")
OF_THE_MACHINE = ("host", "pid", "boot", "ticks", "system", "command", "slurm_job")


def export(folders: Iterable[Path], out: Path, policies: bool = False) -> list[Path]:
    """Copy the small files of runs to <out>/<env>/<agent>-<guidance>/<run>, replacing earlier copies.

    Args:
        folders: run folders, finished or not.
        out: destination.
        policies: whether to copy the policies of the newest snapshots.

    Returns:
        The folders of the copies.

    Raises:
        UsageError: a folder is inside `out`, has a link out of it, would be copied to the same place as another, or
            cannot be read or written.
    """
    copies: dict[Path, Path] = {}
    for folder in folders:
        if out.resolve() in folder.resolve().parents:
            raise UsageError(f"--out {out}: {folder} is in it already; name another folder")
        refuse_links(folder)
        place = out.joinpath(*folder.resolve().parts[-3:])
        if (other := copies.setdefault(place, folder)) is not folder:
            raise UsageError(f"--out {out}: {other} and {folder} would both be {place}; export them to different "
                             "folders")
    for place, folder in copies.items():
        source, copy = RunFolder(folder), RunFolder(place)
        try:
            copy.path.mkdir(parents=True, exist_ok=True)
            config = read_yaml(source.config_file)
            check_integrity(folder, config)
            write_atomically(copy.config_file, yaml.safe_dump(config | {"runs_dir": "runs"}, sort_keys=False,
                                                              allow_unicode=True).encode())
            for table in (source.episodes, source.evals, source.metrics):
                _copy(table, copy.path / table.name, _whole_rows)
            _copy(source.result, copy.result)
            _copy(source.status_file, copy.status_file, _without_paths)
            shutil.rmtree(copy.snapshots, ignore_errors=True)
            if source.meta_file.exists():
                meta = _without_machine(unsealed(source.meta_file.read_bytes()))
                write_atomically(copy.meta_file, sealed(meta | {"tables": _checksums(copy)}))
            if policies:
                _copy_policy(source, copy)
        except (OSError, ValueError, DamagedSnapshot) as error:
            raise UsageError(f"{folder}: it cannot be copied to {copy.path} ({error})") from error
    return list(copies)


def _copy(file: Path, copy: Path, shorten: Callable[[bytes], bytes] = bytes) -> None:
    """Copy a file, or remove the copy of one that is not there any more."""
    if file.exists():
        write_atomically(copy, shorten(file.read_bytes()))
    else:
        copy.unlink(missing_ok=True)


def _whole_rows(content: bytes) -> bytes:
    """Return a CSV file without a last row that is still being written."""
    return content[:content.rfind(b"\n") + 1]


def _without_paths(status: bytes) -> bytes:
    """Return status.json with the last part alone of each absolute path in its reason and warnings."""
    found = unsealed(status)
    for key in ("reason", "warnings"):
        if found.get(key):
            found[key] = json.loads(ABSOLUTE.sub("", json.dumps(found[key], ensure_ascii=False)))
    return sealed(found)


def _checksums(copy: RunFolder) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of the copied tables, as a checkpoint has them, which is not copied."""
    return {table.stem: {"size": table.stat().st_size, "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
            for table in (copy.episodes, copy.evals, copy.metrics) if table.exists()}


def _copy_policy(source: RunFolder, copy: RunFolder) -> None:
    """Copy the newest snapshot without its critics, replacing an earlier copy."""
    if newest := newest_snapshot(source.snapshots):
        run = source.meta()["identity"]
        tensors, step = read_snapshot(newest, run)
        copy.snapshots.mkdir()
        write_snapshot(copy.snapshots / newest.name,
                       {name: value for name, value in tensors.items() if not is_of_critics(name)}, step, run)


def _without_machine(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the content of meta.json without the entries that identify the machine."""
    starts = [{key: value for key, value in start.items() if key not in OF_THE_MACHINE}
              for start in meta.get("starts", [])]
    return meta | {"starts": starts}


def size(folders: Iterable[Path]) -> int:
    """Return the total size of all files in the folders, in bytes."""
    return sum((Path(at) / file).stat().st_size for folder in folders for at, _, files in os.walk(folder)
               for file in files)
