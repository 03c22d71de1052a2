"""The table of runs, on folders written by hand whose answers were worked out by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import trim_mean

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.table import cells, differing_keys, distinct, find_runs, interquartile_mean, last_evaluation, read_run
from tests.command import ROOT

HEADER = "step,sampler,source,episode,seed,return,cost,discounted_cost,length\n"
Episode = tuple[float, float, float]


def config(seed: int = 0, guidance: str = "augmented", env: str = "toy", **others: Any) -> dict[str, Any]:
    """What a run's config.yaml needs to say to be tabled."""
    return {"seed": seed, "total_steps": 200, "eval": {"every": 100, "episodes": 2},
            "agent": {"name": "vesde"}, "guidance": {"name": guidance, "rho": 1.0}, "runs_dir": f"somewhere{seed}",
            "env": {"name": env, "family": "toy", "limit": 4.0, "limit_kind": "episode"} | others}


def evaluation(step: int, episodes: Sequence[Episode], sampler: str = "deterministic", source: str = "train") -> str:
    """Rows of evals.csv for episodes (return, cost, discounted cost)."""
    return "".join(f"{step},{sampler},{source},{number},{7 + number},{r},{c},{d},16\n"
                   for number, (r, c, d) in enumerate(episodes))


def make_run(folder: Path, settings: dict[str, Any], *evaluations: str, state: str | None = "finished") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "evals.csv").write_text(HEADER + "".join(evaluations))
    if state:
        (folder / "status.json").write_text(json.dumps({"state": state}))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[dict[tuple[str, ...], list[str]], str]:
    """The tables' rows by (env, algorithm) or (env, algorithm, seed), and everything that was printed."""
    assert main(["table", *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    rows: dict[tuple[str, ...], list[str]] = {}
    across = True
    for line in text.splitlines():
        parts = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| env"):
            across = parts[2] == "seeds"
        elif line.startswith("| ") and not line.startswith("| -"):
            rows[tuple(parts[:2 if across else 3])] = parts[2 if across else 3:]
    return rows, text


def test_a_run_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the last evaluation, in training, by the sampler asked for; a cost on the limit is within it."""
    make_run(tmp_path / "a", config(),
             evaluation(100, [(1, 50, 1), (1, 60, 1)]), evaluation(200, [(20, 4, 30), (22, 4.0, 31)]),
             evaluation(200, [(10, 1, 1), (11, 8, 1)], sampler="stochastic"),
             evaluation(300, [(99, 99, 99), (99, 98, 99)], source="eval-1"))
    rows, text = printed(capsys, tmp_path)
    assert rows["toy", "vesde-augmented", "0"] == ["finished", "200", "21.00", "4.00", "4.00", "0% of 2", "yes"]
    assert rows["toy", "vesde-augmented"] == ["1", "21.00", "4.00", "4.00", "0%", "safe 1/1"]
    assert "Identical" not in text and "Not finished" not in text and "discounted" not in text
    rows, text = printed(capsys, tmp_path, "--sampler", "stochastic")
    assert rows["toy", "vesde-augmented", "0"] == ["finished", "200", "10.50", "4.50", "4.00", "50% of 2", "no"]
    assert rows["toy", "vesde-augmented"][-1] == "safe 0/1" and "stochastic episodes" in text


def test_the_limits_own_kind_of_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", config(limit_kind="discounted", limit=100.5),
             evaluation(200, [(-1, 4, 100), (-0.001, 4, 102)]))
    rows, text = printed(capsys, tmp_path)
    assert rows["toy", "vesde-augmented", "0"][2:] == ["-0.50", "101.0", "100.5", "50% of 2", "no"]
    assert "discounted sums in toy" in text


def test_identical_episodes_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three of four are the same: the mean is that of two. Rows that differ in the last digit are not the same."""
    settings = config()
    settings["eval"]["episodes"] = 4
    same = (20.0, 2.0, 1.0)
    make_run(tmp_path / "a", settings, evaluation(200, [same, (10.0, 8.0, 3.0), same, same]))
    rows, text = printed(capsys, tmp_path)
    assert rows["toy", "vesde-augmented", "0"][2:] == ["15.00", "5.00", "4.00", "50% of 2", "no"]
    assert "in 1 of 1 runs" in text and "2 different of 4" in text
    kept = distinct([{"return": "0.1", "cost": "1", "discounted_cost": "1", "length": "3", "seed": "1"},
                     {"return": "0.1", "cost": "1", "discounted_cost": "1", "length": "3", "seed": "2"},
                     {"return": "0.10000000000000002", "cost": "1", "discounted_cost": "1", "length": "3"}])
    assert [row.get("seed") for row in kept] == ["1", None]


def test_unfinished_evaluations_and_torn_lines_do_not_count(tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    done, begun = evaluation(100, [(1, 2, 1), (3, 4, 1)]), evaluation(200, [(9, 9, 9)])
    make_run(tmp_path / "a", config(0), done, begun, state="running")
    make_run(tmp_path / "b", config(1), done, evaluation(200, [(9, 9, 9), (9, 9, 8)])[:-2], state="failed")
    make_run(tmp_path / "c", config(2), begun, state=None)
    rows, text = printed(capsys, tmp_path)
    for seed, state in (("0", "running"), ("1", "failed")):
        assert rows["toy", "vesde-augmented", seed] == [state, "100", "2.00", "3.00", "4.00", "0% of 2", "yes"]
    assert rows["toy", "vesde-augmented", "2"] == ["unknown", "–", "–", "–", "4.00", "–", "no evaluation"]
    assert rows["toy", "vesde-augmented"] == ["2 of 3", "2.00", "3.00", "4.00", "0%", "safe 2/2"]
    assert "Not finished: 3 of 3" in text
    assert last_evaluation([], "deterministic", 1) == (None, [])


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_the_fields(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))
    assert interquartile_mean(np.array([100.0, 1, 2, 3, -100])) == 2


def test_across_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five seeds: the mean of the middle three; two seeds: the mean. Feasibility is counted seed by seed."""
    for seed, (gain, cost) in enumerate([(0, 0), (10, 1), (20, 2), (30, 9), (100, 50)]):
        make_run(tmp_path / f"a{seed}", config(seed), evaluation(200, [(gain, cost, 0), (gain + 2, cost + 1, 0)]))
    for seed, (gain, cost) in enumerate([(0, 0), (10, 1)]):
        make_run(tmp_path / f"p{seed}", config(seed, "plain"), evaluation(200, [(gain, cost, 0), (gain, cost, 1)]))
    rows, _ = printed(capsys, tmp_path)
    # Seed by seed the cost is 0.5, 1.5, 2.5, 9.5, 50.5; three seeds within the limit of 4, two with all episodes over.
    assert rows["toy", "vesde-augmented"] == ["5", "21.00", "4.50", "4.00", "40%", "safe 3/5"]
    assert rows["toy", "vesde-plain"] == ["2", "5.00", "0.50", "4.00", "0%", "safe 2/2"]


def test_what_differs_is_never_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another ρ or length is a row of its own, another family a table of its own; paths and logging are neither."""
    episodes = evaluation(200, [(1, 2, 1), (3, 4, 1)])
    other = config(0)
    other["guidance"]["rho"], other["total_steps"] = 2.0, 900
    make_run(tmp_path / "a", config(0) | {"logger": {"name": "none"}}, episodes)
    make_run(tmp_path / "b", config(1) | {"logger": {"name": "wandb"}, "device": "cpu"}, episodes)
    make_run(tmp_path / "c", other, episodes)
    make_run(tmp_path / "d", config(0, env="ring", family="paper"), episodes)
    rows, text = printed(capsys, tmp_path)
    assert rows["toy", "vesde-augmented guidance.rho=1.0 total_steps=200"][0] == "2"
    assert rows["toy", "vesde-augmented guidance.rho=2.0 total_steps=900"][0] == "1"
    assert text.index("## Family: paper") < text.index("| ring") < text.index("## Family: toy") < text.index("| toy")
    assert differing_keys([config(0), config(1)]) == []
    assert differing_keys([config(0), config(0) | {"extra": {"key": 1}}]) == ["extra.key"]
    make_run(tmp_path / "e", config(1), episodes)
    with pytest.raises(UsageError, match="are the same run"):
        cells(read_run(folder) for folder in find_runs([str(tmp_path)]))


def test_where_runs_are_found(tmp_path: Path) -> None:
    """At any depth and by patterns, each once; not inside runs, and not those that were moved aside."""
    run = make_run(tmp_path / "runs" / "toy" / "vesde-plain" / "seed=0-1a", config())
    other = make_run(tmp_path / "runs" / "toy" / "vesde-plain" / "seed=1-1b", config(1))
    make_run(run / "wandb" / "inner", config(2))
    aside = make_run(run.with_name("seed=0-1a.old-1"), config())
    (tmp_path / "runs" / "sweeps").mkdir()
    assert find_runs([str(tmp_path)]) == [run, other]
    assert find_runs([str(tmp_path / "runs" / "*" / "*" / "seed=0-*a"), str(run), str(run.parent)]) == [run, other]
    assert find_runs([str(aside)]) == [aside]
    for nothing in (tmp_path / "runs" / "sweeps", tmp_path / "not there", tmp_path / "none*"):
        with pytest.raises(UsageError, match="there is no run"):
            find_runs([str(nothing)])


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", config(), "200,deterministic,train,0,1,x,1,1,1\n" * 2)
    assert main(["table", str(run)]) == 2
    assert capsys.readouterr().err == (f"error: {run} cannot be read as a run (ValueError: could not convert string "
                                       "to float: 'x')\n")
    (run / "config.yaml").write_text("seed: 0\n")
    assert main(["table", str(run)]) == 2
    assert "KeyError: 'eval'" in capsys.readouterr().err


def test_the_real_command_needs_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "a", config(), evaluation(200, [(1, 2, 1), (3, 4, 1)]))
    code = ("import sys; from analysis.__main__ import main; main(['table', sys.argv[1]]); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'gymnasium')))")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| toy | vesde-augmented |     1 |   2.00 | 3.00 |  4.00 |            0% | safe 1/1 |" in result.stdout


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    make_run(tmp_path / "a", config(), evaluation(200, [(1, 2, 1), (3, 4, 1)]))
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-m", "analysis", "table", str(tmp_path)], cwd=ROOT, stdout=writing,
                            stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")
