"""Provenance of a run's results: code, machine, process and command."""

import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from algd import __version__
from algd.secrets import redacted

PACKAGES = ["torch", "numpy", "scipy", "gymnasium", "mujoco", "safety-gymnasium", "hydra-core", "omegaconf", "wandb",
            "submitit", "safetensors"]


@cache
def code_version() -> dict[str, str | None]:
    """The git commit of the code and its uncommitted changes at the first call in the process; both None outside a
    checkout.

    For a copy of the code that a sweep has kept, they are recorded in the copy.
    """
    root = Path(__file__).parents[2]
    if (root / "code.json").exists():
        return json.loads((root / "code.json").read_bytes())

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    diff = git("diff", "HEAD", "--no-color", "--no-ext-diff") if commit else None
    return {"commit": commit.strip() if commit else None, "diff": redacted(diff) if diff else None}


def package_places(module: str) -> list[Path]:
    """The folder, or the single file, of the top-level package that a module is in; nothing is imported."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return [Path(place) for place in places if Path(place).exists()]


def package_hashes(modules: Iterable[str]) -> dict[str, str]:
    """A hash of the Python files of each top-level package that one of these modules is in."""
    hashes = {}
    for package in sorted({module.partition(".")[0] for module in modules}):
        digest = hashlib.sha256()
        for place in package_places(package):
            for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
                content = file.read_bytes()
                digest.update(f"\0{file.relative_to(place.parent)}\0{len(content)}\0".encode() + content)
        hashes[package] = digest.hexdigest()[:12]
    return hashes


def process_record(pid: int) -> dict[str, Any]:
    """The identity of a process, independent of the clock: host, process id, the machine's boot, and the ticks from
    boot to the process's start.

    The last two are None for a process that does not exist, and on systems other than Linux.
    """
    boot = ticks = None
    try:
        # Field 22 of proc(5); the second is a name in parentheses that may hold anything.
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError, IndexError):
        pass
    return {"host": platform.node(), "pid": pid, "boot": boot, "ticks": ticks}


def is_ours(process: Mapping[str, Any]) -> bool:
    """Return whether a recorded process (`process_record`) is on this machine and still the same process."""
    if not isinstance(process.get("pid"), int):
        return False
    now = process_record(process["pid"])
    return now["ticks"] is not None and all(process.get(key) == value for key, value in now.items())


def start_record(threads: int, device: str) -> dict[str, Any]:
    """The record of one start of a run in meta.json: when, where, and with which versions."""
    versions: dict[str, str | None] = {"algd": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **process_record(os.getpid()),
            "processor": processor(), "system": platform.platform(), "python": platform.python_version(),
            "versions": versions, "command": safe_command(sys.argv), "threads": threads, "device": device,
            "slurm_job": os.environ.get("SLURM_JOB_ID"), **code_version()}


def safe_command(arguments: list[str]) -> str:
    """The command line as typed, without arguments' values that look like secrets or are secrets of the environment."""
    secret = re.compile(r"(?i)([\w.]*(key|token|secret|password)[\w.]*=).*")
    return shlex.join(redacted(secret.sub(r"\1***", argument)) for argument in arguments)


def processor(about: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's CPU with its generation, which the name on a virtual machine may lack."""
    try:
        lines = about.read_text().splitlines()
    except OSError:
        return platform.processor()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    generation = [f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return fields["model name"] + (f" ({', '.join(generation)})" if generation else "")


def gpu_driver(about: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's driver, such as 550.54.15; None where there is none to be found."""
    try:
        # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024
        found = re.search(r"Module +(?:for \S+ +)?([0-9][0-9.]*)", about.read_text())
    except OSError:
        return None
    return found[1] if found else None
