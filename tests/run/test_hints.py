"""The commands and messages that a run prints at its beginning and end can be pasted and followed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, TINY, only_run, run, start

CORRIDOR = '''
import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {"cost": 0.5}


gymnasium.register("Corridor-v0", Corridor, max_episode_steps=10)
'''
SHORT = [*TINY, "agent=gaussian", "initial_steps=20", "total_steps=40", "eval.every=40", "eval.episodes=1"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose name needs quotes, with a module that registers an environment."""
    folder = tmp_path / "it's = mine"
    folder.mkdir()
    (folder / "corridors.py").write_text(CORRIDOR)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    return folder


def test_both_hints_can_be_pasted(elsewhere: Path) -> None:
    """The commands work with a user's environment, and with quotes, spaces and an equals sign in the path."""
    errors = run(*SHORT, "env=gymnasium", "env.id=corridors:Corridor-v0", f"runs_dir={elsewhere / 'runs'}")
    (loading,) = re.findall(r"in a notebook: +(.*)", errors)
    (evaluating,) = re.findall(r"evaluate again: +(.*)", errors)
    shown = subprocess.run([sys.executable, "-c", f"{loading}; print(agent)"], check=True, capture_output=True,
                           text=True)
    assert shown.stdout.startswith("LoadedAgent(gaussian-augmented on corridors-Corridor-v0, seed 0, step 40")
    python, *rest = shlex.split(evaluating)
    subprocess.run([sys.executable if python == "python" else python, *rest, "eval.episodes=1"], cwd=ROOT, check=True,
                   capture_output=True)
    assert "eval-1" in (only_run(elsewhere / "runs") / "evals.csv").read_text()


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    """The error names the link's missing target; mkdir's error would be that the file exists."""
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    process = start(*SHORT, "env=toy", f"runs_dir={tmp_path / 'runs'}")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "") and errors.count("\n") == 1
    assert f"{tmp_path / 'runs'} is a link to {tmp_path / 'unmounted'}, which is not there" in errors


DOUBLE = '''
from algd.algorithm.guidance import Dual, Guidance


class Indicator(Guidance):
    """E = −Q + λ [Qc > h] (Qc − h): λ is a float64, and so is what it is multiplied into a comparison."""

    def lagrangian(self, q, qc, lam=None):
        lam = self.multiplier if lam is None else lam
        return lam * (qc > self.threshold) * (qc - self.threshold) - q

    def constraint_weight(self, qc, lam=None):
        lam = self.multiplier if lam is None else lam
        return lam * (qc > self.threshold)


def indicator(name: str, dual: Dual, *, threshold: float, limit: float) -> Guidance:
    return Indicator("plain", dual(threshold=threshold, limit=limit), threshold)
'''


@pytest.mark.parametrize("agent", ["vesde", "gaussian"])
def test_a_guidance_in_double_precision_trains(agent: str, elsewhere: Path) -> None:
    (elsewhere / "indicators.py").write_text(DOUBLE)
    (elsewhere / "conf" / "guidance").mkdir(parents=True)
    (elsewhere / "conf" / "guidance" / "indicator.yaml").write_text(
        "defaults: [{dual: ascent}, _self_]\n_target_: indicators.indicator\nname: indicator\n")
    run("--config-dir", str(elsewhere / "conf"), "trusted=[indicators]", "guidance=indicator", *SHORT, f"agent={agent}",
        "env=toy", f"runs_dir={elsewhere / 'runs'}")
    assert (only_run(elsewhere / "runs") / "result.json").exists()
