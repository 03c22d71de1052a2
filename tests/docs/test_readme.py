"""The README is correct: choices, numbers, code and errors; and it is short."""

import csv
import math
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn.functional import softplus

from algd.algorithm.dual import Fixed
from algd.algorithm.guidance import Guidance
from algd.errors import UsageError
from tests.support.command import CONF, ROOT, TINY, compose, only_run, train_here

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
LINES = 150


def snippet(page: str, start: str) -> str:
    """Return the page's indented code block that starts with this line; a single empty line does not end it."""
    (block,) = re.findall(rf"^    {re.escape(start)}.*\n(?:(?:    .*)?\n)*(?=\S|\Z)", page, re.MULTILINE)
    return textwrap.dedent(block)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= LINES


@pytest.mark.parametrize("group", ["agent", "guidance", "guidance/dual", "seeds", "logger", "experiment"])
def test_every_choice_is_named(group: str) -> None:
    (row,) = [line for line in RUNNING.splitlines() if line.startswith(f"| `{group}` |")]
    assert {path.stem for path in (CONF / group).glob("*.yaml")} <= set(re.findall(r"`(\w+)`", row))


def test_every_task_is_counted() -> None:
    families = [re.search(r"^family: (\w+)", path.read_text(), re.MULTILINE) for path in (CONF / "env").glob("*.yaml")]
    names = [match[1] for match in families if match]
    paper, stock = names.count("paper"), names.count("stock")
    assert f"{paper} paper tasks, {stock} stock tasks" in RUNNING
    assert f"the {paper} tasks of the paper,\n{stock} of Safety-Gymnasium" in README


def test_every_cell_of_the_grid_composes() -> None:
    """Every pair of agent and guidance composes, with the keys that its cell names."""
    (grid,) = re.findall(r"^\| \| `guidance=none` .*\n\|.*\n((?:\| `agent=.*\n)+)", README, re.MULTILINE)
    guidances = ["none", "plain", "augmented", "pid", "reachability"]
    for row in grid.splitlines():
        agent, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        for guidance, cell in zip(guidances, cells, strict=True):
            compose(agent.strip("`"), f"guidance={guidance}", *re.findall(r"with `([^`]+)`", cell))
    assert {path.stem for path in (CONF / "agent").glob("*.yaml")} == set(re.findall(r"`agent=(\w+)` \|", grid))


def test_numbers_of_throttle_are_those_of_its_page() -> None:
    page = (ROOT / "docs" / "throttle.md").read_text(encoding="utf-8")
    for name, rho in (("plain", "plain"), ("augmented, ρ = 5", "5")):
        (row,) = re.findall(rf"^\| {name} \|(.*)\|$", README, re.MULTILINE)
        costs, swing = (cell.strip() for cell in row.split("|"))
        (measured,) = re.findall(rf"^\| vesde \| {rho} \| replay \|(.* 0, 1, 2, 3, 4 .*)\|$", page, re.MULTILINE)
        cells = [cell.strip() for cell in measured.split("|")]
        assert (costs, swing) == (cells[3], cells[5])
    (measured,) = re.findall(r"^\| vesde \| plain \| pid \|(.*)\|$", page, re.MULTILINE)
    assert f"damps plain guidance's swing, to {measured.split('|')[5].strip()}." in README


def test_numbers_of_the_real_task_are_those_of_its_runs() -> None:
    """Means over the last ten evaluations of all seeds that have finished, in their order."""
    cells = {"DDPM, plain": "short/point_button1/ddpm-plain", "DDPM, augmented": "short/point_button1/ddpm-augmented",
             "VE-SDE, augmented": "short/point_button1/vesde-augmented",
             "VE-SDE, plain": "short/point_button1/vesde-plain", "VE-SDE, none": "short/point_button1/vesde-none",
             "CVPO": "hard/point_button1/cvpo-plain"}
    for method, cell in cells.items():
        folders = sorted(file.parent for file in (ROOT / "docs" / "results").glob(
            f"point_button1_{cell}/seed=*/result.json"))
        ten = [[*csv.DictReader((folder / "evals.csv").open(newline=""))] for folder in folders]
        gains, costs = (", ".join(f"{sum(values) / 100:.1f}" for values in (
            [float(row[key]) for row in rows if row["sampler"] == "deterministic" and int(row["step"]) > 20_000]
            for rows in ten)) for key in ("return", "cost"))
        assert folders and f"| {method} | {gains} | {costs} |" in README


def test_example_errors_are_what_is_said() -> None:
    """The first example of invalid input gives the error shown; tests/cli covers the others."""
    with pytest.raises(UsageError) as caught:
        compose("guidance.rho=0")
    assert f"error: {caught.value}" in RUNNING


def test_the_environment_trains(tmp_path: Path) -> None:
    """The file and the command of the README train, with fewer steps."""
    file, _, command = snippet(README, "import gymnasium").partition("\nalgd ")
    (tmp_path / "slow_pendulum.py").write_text(file)
    typed = [argument for argument in shlex.split(command) if "steps" not in argument and argument.strip()]
    done = subprocess.run([sys.executable, "-m", "algd", *typed, "total_steps=20", "initial_steps=20",
                           "eval.episodes=1", *TINY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (only_run(tmp_path / "runs") / "result.json").exists()


def test_the_lagrangian_has_the_slope_that_it_says() -> None:
    space: dict[str, type[Guidance]] = {}
    names = {"Guidance": Guidance, "math": math, "softplus": softplus}
    exec(snippet(README, "class Softplus(Guidance):"), names, space)
    guidance = space["Softplus"]("plain", Fixed(0.7), threshold=0.4)
    q, qc = torch.zeros(9, dtype=torch.float64), torch.linspace(-2, 3, 9, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(guidance.lagrangian(q, qc).sum(), qc)
    assert torch.allclose(slope, guidance.constraint_weight(qc.detach()))


def test_the_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python code of docs/running.md runs, on a run made here."""
    monkeypatch.chdir(tmp_path)
    train_here("env=toy", "total_steps=20", "initial_steps=20", "eval.episodes=1", *TINY)
    code = snippet(RUNNING, "import algd")
    space: dict[str, object] = {}
    exec(code.replace("runs/toy/vesde-augmented/seed=0-1a2b3c4d", str(only_run(Path("runs")))), space)
    assert space["action"].shape == (2,)  # type: ignore[attr-defined]
