"""Snapshots: the networks and λ at one step of a run, in one file of plain tensors with its own checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from algd.storage.files import write_atomically

ABOUT = "snapshot"  # the entry of the file's metadata with the run's identity, the step and the checksum


class DamagedSnapshot(Exception):
    """A snapshot is damaged, or another run's. The message names the file."""


def snapshot_name(step: int) -> str:
    """The name of the file with the snapshot of an environment step."""
    return f"step={step:09d}.safetensors"


def is_of_critics(name: str) -> bool:
    """Whether a tensor of an agent belongs to its critics, which are most of a snapshot and not needed to act."""
    return name.split(".")[0].endswith("critics")


def newest_snapshot(folder: Path) -> Path | None:
    """The newest file of a snapshots/; None: there is none."""
    return max(folder.glob("step=*.safetensors"), default=None)


def snapshots_of(folder: Path) -> dict[int, Path]:
    """The files of a snapshots/ by step, in increasing order."""
    return {int(path.stem.removeprefix("step=")): path for path in sorted(folder.glob("step=*.safetensors"))}


def write_snapshot(path: Path, tensors: Mapping[str, Tensor], step: int, run: str) -> None:
    """Write a snapshot atomically.

    Args:
        path: the file.
        tensors: by name, on any device.
        step: the environment step.
        run: the identity of the run (`algd.config.identity`).
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {"step": step, "run": run}
    # One entry: the order of several is not determined in safetensors.
    write_atomically(path, save(plain, metadata={ABOUT: json.dumps(about | {"sha256": _digest(plain, about)})}))


def read_snapshot(path: Path, run: str | None = None, step: int | None = None) -> tuple[dict[str, Tensor], int]:
    """The tensors of a snapshot, on the CPU, and its step.

    Args:
        path: the file.
        run: the identity of the run that it should be of; None: any.
        step: the step that it should be of; None: any.

    Raises:
        DamagedSnapshot: it is not.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, digest = int(about["step"]), about.pop("sha256")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedSnapshot(f"{path} is not a snapshot ({str(error).splitlines()[0]})") from error
    if digest != _digest(tensors, about):
        raise DamagedSnapshot(f"{path} is damaged: its checksum is not the one that was recorded")
    if run is not None and about.get("run") != run:
        raise DamagedSnapshot(f"{path} is of another run, {about.get('run')} instead of {run}")
    if step is not None and found != step:
        raise DamagedSnapshot(f"{path} is of step {found} instead of {step}")
    return tensors, found


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
