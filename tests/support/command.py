"""The real command line, in processes of its own, with networks small enough for a test."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import hydra

from algd.cli.compose import CONF, quoted_path
from algd.config.schema import resolve
from algd.run.train import train

ROOT = Path(__file__).parents[2]
TINY = ["agent.critic_hidden_sizes=[16,16]", "agent.cost_hidden_sizes=[16,16]", "agent.policy.hidden_sizes=[16,16]",
        "batch_size=16", "updates_per_step=1", "logger=none"]
COMPOSING = threading.Lock()  # Hydra has one state for all threads


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """python run.py with these arguments, running."""
    return subprocess.Popen([sys.executable, "run.py", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """python run.py with these arguments, to its end. Returns what it wrote to standard error.

    Raises:
        AssertionError: it ended with another exit code.
    """
    process = start(*arguments, **environment)
    output, errors = process.communicate()
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
    return errors


def interrupted_at(place: str) -> dict[str, str]:
    """The environment in which a command gets Ctrl-C at a place (`tests/support/interrupted/sitecustomize.py`)."""
    return {"PYTHONPATH": str(ROOT / "tests" / "support" / "interrupted"), "INTERRUPT_AT": place}


def compose(*arguments: str) -> dict[str, Any]:
    """The checked configuration of these arguments."""
    with COMPOSING, hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(hydra.compose("config", overrides=[quoted_path(argument) for argument in arguments]))


def train_here(*arguments: str) -> int:
    """The same run as `run` makes, in this process: saves starting one where nothing is killed."""
    return train(compose(*arguments))


def only_run(runs: Path) -> Path:
    """The folder of the one run under a runs_dir."""
    (folder,) = [path.parent for path in runs.glob("*/*/*/config.yaml")]
    return folder


def status(folder: Path) -> dict[str, Any]:
    """What the run's status.json says."""
    return json.loads((folder / "status.json").read_text())


def outcome(folder: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: the tables, the snapshots and the last checkpoint, byte for byte."""
    (checkpoint,) = [path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
    files = [*folder.glob("*.csv"), *(folder / "snapshots").iterdir(), checkpoint / "state.safetensors",
             checkpoint / "state.json"]
    return {path.name: path.read_bytes() for path in files}
