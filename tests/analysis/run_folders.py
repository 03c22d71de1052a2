"""Run folders written by hand, and helpers that parse what the table command prints of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.__main__ import main
from analysis.runs.find import find_runs
from analysis.runs.model import Run
from analysis.runs.read import read_run
from analysis.runs.select import where

HEADER = "step,sampler,source,episode,seed,return,cost,discounted_cost,length\n"
EPISODES = "step,episode,seed,return,cost,discounted_cost,length\n"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs"
Episode = tuple[float, float, float]


def config(seed: int = 0, guidance: str = "augmented", env: str = "toy", rho: float = 1.0,
           **others: Any) -> dict[str, Any]:
    """Return the keys of config.yaml that a table needs."""
    return {"seed": seed, "total_steps": 200, "eval": {"every": 100, "episodes": 2},
            "agent": {"name": "vesde"}, "guidance": {"name": guidance, "rho": rho}, "runs_dir": f"somewhere{seed}",
            "env": {"name": env, "family": "toy", "limit": 4.0, "limit_kind": "episode"} | others}


def evaluation(step: int, episodes: Sequence[Episode], sampler: str = "deterministic", source: str = "train") -> str:
    """Return rows of evals.csv for episodes (return, cost, discounted cost)."""
    return "".join(f"{step},{sampler},{source},{number},{7 + number},{r},{c},{d},16\n"
                   for number, (r, c, d) in enumerate(episodes))


def make_run(folder: Path, settings: dict[str, Any], *evaluations: str, state: str | None = "finished",
             **status: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "evals.csv").write_text(HEADER + "".join(evaluations))
    if state:
        (folder / "status.json").write_text(json.dumps({"state": state} | status))
    return folder


def simple(folder: Path, settings: dict[str, Any], gain: float, cost: float, **status: Any) -> Path:
    """Write a finished run with two episodes in its last evaluation, with this mean return and cost."""
    return make_run(folder, settings, evaluation(200, [(gain - 1, cost, 0), (gain + 1, cost, 1)]), **status)


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    """Return the tables that the command prints as JSON."""
    assert main(["table", *map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def text_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what the command prints."""
    assert main(["table", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one-sentence error with which the command fails."""
    assert main(["table", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def lines_of(text: str, *starts: str) -> list[list[str]]:
    """Return the Markdown rows that start with these cells."""
    split = [[cell.strip() for cell in line.strip("|").split(" | ")]
             for line in text.splitlines() if line.startswith("|")]
    return [line for line in split if tuple(line[:len(starts)]) == starts]


def runs_in(folder: Path) -> list[Run]:
    return [read_run(one) for one in find_runs([str(folder)]).folders]


def fixture_runs(*conditions: str) -> list[Run]:
    return where([read_run(folder) for folder in find_runs([str(FIXTURE)]).folders], conditions)
