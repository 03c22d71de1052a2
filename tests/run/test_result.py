"""A run's output for programs: result.json, and its folder as the only line of standard output."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from algd.budget import Budget
from algd.run.result import result_of
from tests.support.command import ROOT, TINY, only_run, start, train_here

RUN = [*TINY, "env=toy", "agent=gaussian", "initial_steps=20", "total_steps=60", "eval.every=40", "eval.episodes=2"]


def rows(step: int, sampler: str, *episodes: tuple[float, float], source: str = "train") -> list[dict[str, str]]:
    """Return rows of episodes (return, cost); the discounted cost is half the cost."""
    return [{"step": str(step), "sampler": sampler, "source": source, "return": str(reward), "cost": str(cost),
             "discounted_cost": str(cost / 2)} for reward, cost in episodes]


TABLE = [*rows(0, "deterministic", (9, 6), (9, 8)), *rows(0, "stochastic", (1, 1), (2, 1)),
         *rows(50, "deterministic", (5, 4), (7, 6)), *rows(50, "stochastic", (3, 6), (3, 6)),
         *rows(100, "deterministic", (4, 2), (5, 4)), *rows(100, "stochastic", (8, 9), (8, 5)),
         *rows(100, "deterministic", (99, 0), (99, 0), source="eval-1"),
         *rows(110, "deterministic", (99, 0))]  # incomplete


def test_the_result_of_a_table_by_hand() -> None:
    found = result_of(TABLE, Budget(5.0, "episode", 10), 2)
    final = {"step": 100, "return": 4.5, "cost": 3.0, "feasible": True,
             "spread": {"return": pytest.approx(0.5**0.5), "cost": pytest.approx(2**0.5)}, "episodes": 2}
    assert found == {
        "steps": 100, "sampler": "deterministic", **{key: value for key, value in final.items() if key != "step"},
        "limit": 5.0, "limit_kind": "episode",
        "final": {"deterministic": final, "stochastic": {
            "step": 100, "return": 8.0, "cost": 7.0, "feasible": False, "episodes": 2,
            "spread": {"return": 0.0, "cost": pytest.approx(8**0.5)}}},
        "best_feasible": {
            "deterministic": {"step": 50, "return": 6.0, "cost": 5.0, "feasible": True, "episodes": 2,
                              "spread": {"return": pytest.approx(2**0.5), "cost": pytest.approx(2**0.5)}},
            "stochastic": {"step": 0, "return": 1.5, "cost": 1.0, "feasible": True, "episodes": 2,
                           "spread": {"return": pytest.approx(0.5**0.5), "cost": 0.0}}}}


def test_the_kind_of_the_limit_and_a_run_that_never_was_feasible() -> None:
    assert result_of(TABLE, Budget(3.0, "discounted", 10), 2)["cost"] == 1.5
    assert result_of(TABLE, Budget(0.5, "episode", 10), 2)["best_feasible"] == {
        "deterministic": None, "stochastic": None}
    single = [row for row in TABLE if row["step"] == "0"][::2]
    assert result_of(single, Budget(9.0, "episode", 10), 1)["spread"] == {"return": None, "cost": None}


def answer(*arguments: str, code: int = 0) -> str:
    """Run a command and return its standard output."""
    process = start(*arguments)
    output, errors = process.communicate()
    assert process.returncode == code, errors
    return output


def test_a_program_reads_one_line_and_then_the_result(tmp_path: Path) -> None:
    output = answer(*RUN, f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    assert output == f"{folder}\n"
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["run"] == folder.name and result["steps"] == 60 and result["limit"] == 4.0
    assert result["final"]["stochastic"]["episodes"] == 2 and result["return"] == result["final"]["deterministic"][
        "return"]
    assert answer(*RUN, f"runs_dir={tmp_path}") == output  # already finished
    assert answer(*RUN, f"runs_dir={tmp_path}", "agent=nobody", code=2) == ""


def test_nobody_need_read_it(tmp_path: Path) -> None:
    """If standard output is full or closed, as by `| head -0`, the run finishes all the same."""
    for stdout in (">/dev/full", "| true"):
        command = f"set -o pipefail; {sys.executable} run.py {shlex.join([*RUN, f'runs_dir={tmp_path}'])} {stdout}"
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_a_program_reads_the_sweeps_file_and_from_it_the_members(tmp_path: Path) -> None:
    file = Path(answer("-m", *RUN, f"runs_dir={tmp_path}", "seed=0,1", "hydra.launcher.jobs=2").removesuffix("\n"))
    assert file.parent == tmp_path / "sweeps"
    members = json.loads(file.read_text())["runs"]
    results = [json.loads((tmp_path / member / "result.json").read_text()) for member in members]
    assert [result["run"].split("-")[0] for result in results] == ["seed=0", "seed=1"]


def test_a_finished_run_of_an_earlier_version_gets_one_and_a_damaged_one_is_mended(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, f"runs_dir={tmp_path}")
    file = only_run(tmp_path) / "result.json"
    content = file.read_bytes()
    capsys.readouterr()
    for damage, warnings in ((None, 0), (b"{}", 1), (content, 0)):
        file.unlink() if damage is None else file.write_bytes(damage)
        train_here(*RUN, f"runs_dir={tmp_path}")
        assert file.read_bytes() == content
        assert capsys.readouterr().err.count("result.json does not match the run's tables") == warnings


def test_an_extended_run_has_the_result_of_its_new_end(tmp_path: Path) -> None:
    for steps in (60, 80):
        train_here(*RUN, f"runs_dir={tmp_path}", f"total_steps={steps}", "checkpoint.keep_replay=true")
        assert json.loads((only_run(tmp_path) / "result.json").read_text())["steps"] == steps


