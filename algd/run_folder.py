"""A run's folder: its name, its files, and what they say about the run."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from algd.config import check, identity
from algd.errors import UsageError
from algd.files import write_atomically

EPISODE_COLUMNS = ["step", "episode", "seed", "return", "cost", "discounted_cost", "length"]
EVALUATION_COLUMNS = ["step", "sampler", "source", "episode", "seed", "return", "cost", "discounted_cost", "length"]
PACKAGES = ["torch", "numpy", "gymnasium", "mujoco", "safety-gymnasium", "hydra-core", "omegaconf", "wandb",
            "submitit", "safetensors"]
STATES = ("starting", "running", "interrupted", "finished", "failed")


def run_path(config: Mapping[str, Any]) -> Path:
    """Where the run of this configuration is: <runs_dir>/<env>/<agent>-<guidance>/seed=<seed>-<identity>."""
    return (Path(config["runs_dir"]) / config["env"]["name"] / f"{config['agent']['name']}-{config['guidance']['name']}"
            / f"seed={config['seed']}-{identity(config)}")


class RunFolder:
    """The files of one run, by the names that sweeps and analysis know.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_file, self.meta_file, self.status_file = (
            path / name for name in ("config.yaml", "meta.json", "status.json"))
        self.episodes, self.evals, self.metrics = (
            path / name for name in ("episodes.csv", "evals.csv", "metrics.csv"))
        self.checkpoints, self.snapshots, self.videos = (
            path / name for name in ("checkpoints", "snapshots", "videos"))

    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with, checked.

        Raises:
            UsageError: there is none, or it does not fit this version of the code.
        """
        try:
            content = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} is not a run's folder: it has no config.yaml") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UsageError(f"{self.config_file} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise UsageError(f"{self.config_file} is not a configuration")
        try:
            return check(content)
        except UsageError as error:
            raise UsageError(f"{self.config_file}: {error}") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.config_file, text.encode())

    def status(self) -> dict[str, Any]:
        """What status.json says; empty if there is none or it cannot be read."""
        return _read_json(self.status_file)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Write status.json."""
        write_atomically(self.status_file, (json.dumps(status, indent=1) + "\n").encode())

    def meta(self) -> dict[str, Any]:
        """What meta.json says; empty if there is none or it cannot be read."""
        return _read_json(self.meta_file)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Write meta.json."""
        write_atomically(self.meta_file, (json.dumps(meta, indent=1) + "\n").encode())

    def remove_leftovers(self) -> None:
        """Remove the unfinished files that a killed process left behind; nobody else may be writing."""
        for path in self.path.rglob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def move_aside(self) -> Path:
        """Rename the folder to the first free `<name>.old-<n>`; returns the new path."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        os.rename(self.path, aside)
        return aside


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def code_version() -> dict[str, str | None]:
    """The git commit of the code and the uncommitted changes to it; both None outside a checkout.

    A copy of the code that a sweep has kept says itself what it was copied from.
    """
    root = Path(__file__).parent.parent
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
    return {"commit": commit.strip() if commit else None, "diff": diff or None}


def start_record(threads: int, device: str) -> dict[str, Any]:
    """What meta.json keeps about one start of a run: when, where, and with what."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(),
            "processor": _processor(), "system": platform.platform(), "python": platform.python_version(),
            "versions": versions, "command": safe_command(sys.argv), "threads": threads, "device": device,
            "pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID"), **code_version()}


def safe_command(arguments: list[str]) -> str:
    """The command line as typed, without the values of arguments that look like secrets."""
    secret = re.compile(r"(?i)([\w.]*(key|token|secret|password)[\w.]*=).*")
    return shlex.join(secret.sub(r"\1***", argument) for argument in arguments)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
