"""Running `run.py` in a process of its own, with networks small enough for tests."""

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
COMPOSING = threading.Lock()  # Hydra's state is global to the process


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `python run.py` with these arguments."""
    return subprocess.Popen([sys.executable, "run.py", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run `python run.py` with these arguments and return its standard error.

    Raises:
        AssertionError: the exit code is not `code`.
    """
    process = start(*arguments, **environment)
    output, errors = process.communicate()
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
    return errors


def interrupted_at(place: str) -> dict[str, str]:
    """Return the environment that interrupts a command at a place (`tests/support/interrupted/sitecustomize.py`)."""
    return {"PYTHONPATH": str(ROOT / "tests" / "support" / "interrupted"), "INTERRUPT_AT": place}


def compose(*arguments: str) -> dict[str, Any]:
    """Return the checked configuration of these arguments."""
    with COMPOSING, hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(hydra.compose("config", overrides=[quoted_path(argument) for argument in arguments]))


def train_here(*arguments: str) -> int:
    """Train as `run` does, but in this process, which is faster; for tests that kill nothing."""
    return train(compose(*arguments))


def only_run(runs: Path) -> Path:
    """Return the folder of the only run in a runs_dir."""
    (folder,) = [path.parent for path in runs.glob("*/*/*/config.yaml")]
    return folder


def status(folder: Path) -> dict[str, Any]:
    """Return the content of the run's status.json."""
    return json.loads((folder / "status.json").read_text())


def outcome(folder: Path) -> dict[str, bytes]:
    """Return the files that must not depend on interruptions, byte for byte: tables, snapshots, last checkpoint."""
    (checkpoint,) = [path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
    files = [*folder.glob("*.csv"), *(folder / "snapshots").iterdir(), checkpoint / "state.safetensors",
             checkpoint / "state.json"]
    return {path.name: path.read_bytes() for path in files}
