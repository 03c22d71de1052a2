"""Checkpoints: written atomically, verified before use, and data only.

    checkpoints/
      000003/               one checkpoint; its number only grows
        state.json          numbers and texts
        state.safetensors   tensors
        manifest.json       the run's identity; SHA-256 of the two, of the replay's segments in use, and of itself
      replay/
        000000000000-000000005000.rows    transitions number 0 … 4999 of all ever added, float32, row after row

The replay is stored once: a checkpoint only adds the transitions since the one before. A checkpoint appears under its
name by one rename, after everything in it is on the disk; the two newest are kept.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from algd.algorithm.replay import Replay
from algd.storage.files import free_name, sealed, sha256, sync_directory, unsealed, write_atomically

KEPT = 2
_TENSOR = "tensor:"


def _split(tree: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the tree with tensors replaced by their names in `tensors`, and with plain numbers for JSON."""
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return _TENSOR + path
    if isinstance(tree, np.ndarray):
        return _split(torch.from_numpy(np.ascontiguousarray(tree)), path, tensors)
    if isinstance(tree, Mapping):
        return {str(key): _split(value, f"{path}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, str) and tree.startswith(_TENSOR):
        raise ValueError(f"a text in a checkpoint cannot start with {_TENSOR}")
    if isinstance(tree, np.integer | np.floating):
        return tree.item()
    return tree


def _join(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(tree, dict):
        return {key: _join(value, tensors) for key, value in tree.items()}
    if isinstance(tree, str) and tree.startswith(_TENSOR):
        return tensors[tree.removeprefix(_TENSOR)]
    return tree


class DamagedCheckpoint(Exception):
    """A checkpoint's files are damaged. The message names the file."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: their directory; made when the first is saved.
        run: the identity of the run (`algd.config.identity`): a checkpoint of another run counts as damaged.
            None: of any run.
    """

    def __init__(self, folder: Path, run: str | None = None):
        self.folder, self.replay_folder, self.run = folder, folder / "replay", run
        self._segments: list[dict[str, Any]] = []

    def numbers(self) -> list[int]:
        """The numbers of the existing checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if re.fullmatch(r"[0-9]{6,}", p.name))

    def save(self, state: Mapping[str, Any], replay: Replay | None) -> Path:
        """Write a checkpoint, then remove files that are no longer needed.

        Args:
            state: nested dictionaries of tensors, arrays, numbers, texts and lists of those (no tensors in lists).
            replay: the replay; None leaves it out, as at the end of a run.

        Returns:
            The checkpoint's directory.
        """
        self.replay_folder.mkdir(parents=True, exist_ok=True)
        segments = self._store(replay) if replay is not None else []
        tensors: dict[str, torch.Tensor] = {}
        plain = json.dumps(_split(state, "", tensors), sort_keys=True).encode()
        files = {"state.json": plain, "state.safetensors": save(tensors)}
        name = f"{max(self.numbers(), default=0) + 1:06d}"
        temporary, final = self.folder / f".{name}.{os.getpid()}.tmp", self.folder / name
        try:
            temporary.mkdir()
            for file, content in files.items():
                write_atomically(temporary / file, content)
            manifest = {"run": self.run, "files": {file: sha256(temporary / file) for file in files},
                        "replay": None if replay is None else {"added": replay.added, "segments": segments}}
            write_atomically(temporary / "manifest.json", sealed(manifest))
            os.rename(temporary, final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(self.folder)
        self._segments = segments
        self._prune()
        return final

    def _store(self, replay: Replay) -> list[dict[str, Any]]:
        """Write the transitions that no segment holds yet; returns the segments that make up the replay."""
        oldest = replay.added - len(replay)
        segments = [s for s in self._segments if s["last"] > oldest]
        first = max(segments[-1]["last"] if segments else 0, oldest)
        if first < replay.added:
            file = f"{first:012d}-{replay.added:012d}.rows"
            content = b"".join(part.tobytes() for part in replay.written(first, replay.added))
            write_atomically(self.replay_folder / file, content)
            segments.append({"file": file, "first": first, "last": replay.added,
                             "sha256": sha256(self.replay_folder / file)})
        return segments

    def _prune(self, kept: int = KEPT) -> None:
        """Remove all but the newest `kept` checkpoints, and files that none of these needs."""
        numbers = self.numbers()
        for number in numbers[:-kept]:
            shutil.rmtree(self.folder / f"{number:06d}", ignore_errors=True)
        needed: set[str] = set()
        for number in numbers[-kept:]:
            try:
                manifest = self._manifest(number)
            except DamagedCheckpoint:
                continue
            needed |= {s["file"] for s in (manifest["replay"] or {"segments": []})["segments"]}
        for path in self.replay_folder.iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def keep_newest(self) -> None:
        """Remove all checkpoints but the newest, and the parts of the replay that it does not need."""
        self._prune(1)

    def set_aside(self, number: int) -> None:
        """Rename a damaged checkpoint, so that it is not used but kept."""
        path = self.folder / f"{number:06d}"
        os.rename(path, free_name(path, "damaged"))
        self._segments = []  # as loaded from it, perhaps: the next checkpoint must not name them

    def _manifest(self, number: int) -> dict[str, Any]:
        path = self.folder / f"{number:06d}" / "manifest.json"
        try:
            manifest = unsealed(path.read_bytes(), strict=True)
            if not isinstance(manifest["files"], dict) or "replay" not in manifest:
                raise ValueError("it is not a manifest")
        except OSError as error:
            raise DamagedCheckpoint(f"{path} cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{path} is damaged ({error})") from error
        if self.run is not None and manifest.get("run") != self.run:
            raise DamagedCheckpoint(f"{path} is of another run ({manifest.get('run')} instead of {self.run})")
        return manifest

    def load(self, number: int, replay: Replay | None = None) -> dict[str, Any]:
        """A checkpoint's state, with every checksum verified; the transitions go into `replay`, if one is given.

        "replay" in the result is whether the checkpoint had one; without one the given replay is emptied.

        Raises:
            DamagedCheckpoint: a file is missing, damaged, or another run's. The replay may have changed
                then.
        """
        folder, manifest = self.folder / f"{number:06d}", self._manifest(number)
        if replay is not None:
            replay.added, self._segments = 0, []
        for file in ("state.json", "state.safetensors"):
            self._verify(folder / file, manifest["files"].get(file))
        try:
            tensors = load_file(folder / "state.safetensors")
            state = _join(json.loads((folder / "state.json").read_bytes()), tensors)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise DamagedCheckpoint(f"{folder} cannot be read ({error})") from error
        if not isinstance(state, dict):
            raise DamagedCheckpoint(f"{folder / 'state.json'} is not a checkpoint's state")
        if replay is not None and manifest["replay"]:
            for segment in manifest["replay"]["segments"]:
                try:
                    path = self.replay_folder / Path(segment["file"]).name
                    self._verify(path, segment["sha256"])
                    rows = np.fromfile(path, np.float32).reshape(-1, replay.rows.shape[1])
                    # A segment may begin before the oldest row that is still in the ring.
                    skip = max(0, manifest["replay"]["added"] - replay.capacity - segment["first"])
                    replay.restore(segment["first"] + skip, rows[skip:])
                except (KeyError, TypeError, ValueError) as error:
                    raise DamagedCheckpoint(f"{folder}: a segment of its replay is not one ({error!r})") from error
            self._segments = manifest["replay"]["segments"]
        return state | {"replay": manifest["replay"] is not None}

    @staticmethod
    def _verify(path: Path, expected: str | None) -> None:
        try:
            found = sha256(path)
        except OSError as error:
            raise DamagedCheckpoint(f"{path} cannot be read ({error.strerror})") from error
        if found != expected:
            raise DamagedCheckpoint(f"{path} is damaged: its checksum is not the one that was recorded")
