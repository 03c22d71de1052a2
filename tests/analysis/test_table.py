"""Tables of runs, on folders written by hand with results computed by hand."""

import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from algd.errors import ExitCode, UsageError
from analysis.__main__ import COMMANDS, main
from analysis.results.cells import cells, number
from analysis.results.formats import escaped
from analysis.runs.episodes import TrainingRecord, distinct, evaluations
from analysis.runs.find import find_runs
from analysis.runs.read import read_run
from analysis.runs.select import differing_keys, flat, where
from tests.analysis.run_folders import (
    EPISODES,
    FIXTURE,
    as_json,
    config,
    evaluation,
    lines_of,
    make_run,
    refused,
    runs_in,
    simple,
    text_of,
)
from tests.support.command import ROOT

# --- one run -------------------------------------------------------------------------------------------------------


def test_a_run_by_hand(tmp_path: Path) -> None:
    """The result is the last evaluation during training with the chosen sampler; a cost at the limit is feasible."""
    folder = make_run(
        tmp_path / "a", config(),
        evaluation(100, [(1, 50, 1), (1, 60, 1)]), evaluation(200, [(20, 4, 30), (22, 4.0, 31)]),
        evaluation(200, [(10, 1, 1), (11, 8, 1)], sampler="stochastic"),
        evaluation(300, [(99, 99, 99), (99, 98, 99)], source="eval-1"), updates_per_second=30.0, seconds=7200)
    run = read_run(folder)
    assert run.last is not None and run.feasible
    assert (run.last.step, run.last.mean_return, run.last.mean_cost, run.last.over) == (200, 21, 4, 0)
    assert (run.last.violation, run.last.cvar, run.last.different) == (0, 4, 2)
    assert run.steps.tolist() == [100, 200] and run.costs.tolist() == [55, 4]
    assert run.stay is not None and (run.stay.step, run.stay.censored) == (200, False)
    assert (run.updates_per_second, run.hours) == (30, 2)
    run = read_run(folder, "stochastic")
    assert run.last is not None and not run.feasible
    assert (run.last.mean_return, run.last.mean_cost, run.last.over, run.last.violation) == (10.5, 4.5, 0.5, 0.5)
    assert run.last.cvar == 8 and run.stay is not None and run.stay.censored


def test_the_limits_own_kind_of_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", config(limit_kind="discounted", limit=100.5),
             evaluation(200, [(-1, 4, 100), (-0.001, 4, 102)]))
    text = text_of(capsys, tmp_path, "--each-run")
    assert lines_of(text, "toy", "vesde", "augmented", "0")[0][4:] == [
        "finished", "200", "-0.50", "101.0", "100.5", "50% of 2", "> 200", "no"]
    assert "discounted sums in toy" in text


def test_identical_episodes_count_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Identical episodes all count in means; a note says how many differ, compared to the last digit."""
    settings = config()
    settings["eval"]["episodes"] = 4
    same = (20.0, 2.0, 1.0)
    make_run(tmp_path / "a", settings, evaluation(200, [same, (10.0, 8.0, 3.0), same, same]))
    text = text_of(capsys, tmp_path, "--each-run")
    assert lines_of(text, "toy", "vesde", "augmented", "0")[0][6:10] == ["17.50", "3.50", "4.00", "25% of 4"]
    assert "In 1 of 1 runs some evaluation episodes are identical (at worst 2 different of 4); all" in text
    assert distinct([{"return": "0.1", "cost": "1", "discounted_cost": "1", "length": "3", "seed": "1"},
                     {"return": "0.1", "cost": "1", "discounted_cost": "1", "length": "3", "seed": "2"},
                     {"return": "0.10000000000000002", "cost": "1", "discounted_cost": "1", "length": "3"}]) == 2


def test_unfinished_evaluations_and_torn_lines_do_not_count(tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    done, begun = evaluation(100, [(1, 2, 1), (3, 4, 1)]), evaluation(200, [(9, 9, 9)])
    make_run(tmp_path / "a", config(0), done, begun, state="running")
    make_run(tmp_path / "b", config(1), done, evaluation(200, [(9, 9, 9), (9, 9, 8)])[:-2], state="failed")
    make_run(tmp_path / "c", config(2), begun, state=None)
    text = text_of(capsys, tmp_path, "--each-run")
    for seed, state, safe, stay in (("0", "running", "yes", "100"), ("1", "failed", "no", "> 100")):
        (line,) = lines_of(text, "toy", "vesde", "augmented", seed)
        assert line[4:] == [state, "100", "2.00", "3.00", "4.00", "0% of 2", stay, safe]
    assert lines_of(text, "toy", "vesde", "augmented", "2")[0][4:6] == ["unknown", "–"]
    assert lines_of(text, "toy", "vesde", "augmented", "2 of 3 (3 unfinished)")
    assert "Failed, hence not safe: " in text
    assert "Not finished, but evaluated at the step of the results: 1 of 3" in text
    assert "1 of 3 runs have no complete evaluation at step 100 (1 unknown), hence no result: " in text
    assert "a at step 200 (1 of 2 episodes)" in text and "c at step 200 (1 of 2 episodes)" in text
    assert evaluations([], "deterministic") == {}


def test_training_costs_by_hand() -> None:
    """Initial steps do not count, the cost rate is per step, and `over` uses the limit's own kind of cost."""
    def episode(step: int, cost: float, discounted: float, length: int) -> dict[str, str]:
        return {"step": str(step), "cost": str(cost), "discounted_cost": str(discounted), "length": str(length)}

    some = [episode(-10, 99, 99, 10), episode(0, 99, 99, 10), episode(10, 5, 4, 10), episode(30, 1, 1, 20)]
    one, two = (TrainingRecord(some, column, 4).by() for column in ("cost", "discounted_cost"))
    assert one is not None and two is not None
    assert (one.episodes, one.total_cost, one.cost_rate, one.over) == (2, 6, 0.2, 0.5)
    assert (two.total_cost, two.over) == (6, 0)
    assert TrainingRecord(some[:2], "cost", 4).by() is None
    early = TrainingRecord(some[::-1], "cost", 4).by(29)
    assert early is not None and (early.total_cost, early.cost_rate, early.over) == (5, 0.5, 1)
    assert TrainingRecord(some, "cost", 4).by(9) is None
    # W&B may return a whole number as a float, and none where a run of an earlier version has none.
    for spelling, episodes in (("0.0", 2), ("", 2), ("1.0", 0)):
        found = TrainingRecord([row | {"simulator_error": spelling} for row in some], "cost", 4).by()
        assert (found.episodes if found else 0) == episodes


# --- across seeds --------------------------------------------------------------------------------------------------


def test_a_cell_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With five seeds the return is the mean of the middle three, the cost that of all; two seeds have no interval."""
    for seed, (gain, cost) in enumerate([(0, 0), (10, 1), (20, 2), (30, 9), (100, 50)]):
        simple(tmp_path / f"a{seed}", config(seed), gain, cost, updates_per_second=10.0 + seed, seconds=3600)
    for seed, (gain, cost) in enumerate([(5, 0), (10, 1)]):
        simple(tmp_path / f"p{seed}", config(seed, "plain"), gain, cost)
    ((augmented, plain),) = [table["cells"] for table in as_json(capsys, tmp_path)]
    assert (augmented["return"], augmented["cost"]) == (20, 62 / 5) and not augmented["feasible"]
    assert (augmented["safe"], augmented["evaluated"], augmented["best_feasible"]) == (3, 5, False)
    assert (plain["feasible"], plain["safe"], plain["best_feasible"]) == (True, 2, True)
    assert augmented["violation"] == (0 + 0 + 0 + 5 + 46) / 5 and augmented["episodes_over"] == 0.4
    assert (augmented["updates_per_second"], augmented["hours"]) == (12, 1)
    assert augmented["return_low"] < 20 < augmented["return_high"]
    assert (plain["return"], plain["return_low"], plain["return_high"], plain["hours"]) == (7.5, None, None, None)
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][-1] == "**7.50** (5.00; 10.00)"
    assert lines_of(text, "", "cost (limit 4.00)")[0][2:] == [
        "12.40 † (0.00; 1.00; 2.00; 9.00; 50.00)", "0.50 (0.00; 1.00)"]
    assert lines_of(text, "", "safe seeds")[0][2:] == ["3/5 [0.23, 0.88]", "2/2 [0.34, 1.00]"]
    assert "Fewer than 3 seeds, hence values and no interval: toy vesde plain." in text
    assert "Missing seeds: toy vesde plain lacks 2, 3, 4." in text
    # Also where the methods are the rows.
    assert "Missing seeds: vesde plain toy lacks 2, 3, 4." in text_of(
        capsys, tmp_path, "--rows", "agent,guidance", "--columns", "env")


def test_the_interval_of_three_seeds_is_students(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, gain in enumerate([1.0, 2.0, 6.0]):
        simple(tmp_path / str(seed), config(seed), gain, 0)
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    low, high = stats.t.interval(0.95, 2, loc=3, scale=stats.sem([1, 2, 6]))
    assert (cell["return_low"], cell["return_high"]) == (pytest.approx(low, abs=0.3), pytest.approx(high, abs=0.3))
    (other,) = as_json(capsys, tmp_path, "--interval", "percentile")[0]["cells"]
    assert other["return_low"] >= 1 and other["return_high"] <= 6


def test_bold_and_daggers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Infeasible cells are marked and never bold; returns that print alike are both bold; a row may have none."""
    for name, env, gain, cost in (("augmented", "toy", 5, 4), ("plain", "toy", 5.001, 1), ("pid", "toy", 9, 4.01),
                                  ("none", "toy", 3, 0), ("augmented", "ring", 8, 30), ("plain", "ring", 9, 20)):
        simple(tmp_path / f"{env}-{name}", config(0, name, env), gain, cost)
    text = text_of(capsys, tmp_path)
    ring, toy = lines_of(text, "ring", "return")[0], lines_of(text, "toy", "return")[0]
    assert lines_of(text, "env")[0] == ["env", "", "vesde, augmented", "vesde, none", "vesde, pid", "vesde, plain"]
    assert toy[2:] == ["**5.00**", "3.00", "9.00", "**5.00**"]
    assert ring[2:] == ["8.00", "–", "–", "9.00"]
    assert [line[1:] for line in lines_of(text, "", "cost (limit 4.00)")] == [
        ["cost (limit 4.00)", "30.00 †", "–", "–", "20.00 †"],
        ["cost (limit 4.00)", "4.00", "0.00", "4.01 †", "1.00"]]


def test_bold_compares_equal_limits_only(tmp_path: Path) -> None:
    """Cells with different limits do not compete for bold, and numeric columns are sorted as numbers."""
    for limit, gain in ((4.0, 5), (10.0, 9), (2.0, 1)):
        simple(tmp_path / str(limit), config(0, limit=limit), gain, 0)
    found = cells(runs_in(tmp_path), ["env"], ["env.limit"])
    assert [(cell.column, cell.best) for cell in found] == [(("2",), True), (("4",), True), (("10",), True)]


def test_bold_is_within_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With tasks as columns the rivals are in the column: a task with higher returns does not win a row."""
    for env, scale in (("toy", 1), ("ring", 100)):
        for name, gain in (("augmented", 5), ("plain", 4)):
            simple(tmp_path / f"{env}-{name}", config(0, name, env), scale * gain, 1)
    text = text_of(capsys, tmp_path, "--rows", "guidance", "--columns", "env")
    assert [lines_of(text, name, "return")[0][2:] for name in ("augmented", "plain")] == [
        ["**500.0**", "**5.00**"], ["400.0", "4.00"]]
    assert "Bold: the highest return among the cells of the column" in text


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_the_worst_seed_cannot_leave_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    """Without its last seed, whose cost is 400, the cell would be feasible and the best."""
    for seed in range(4):
        simple(tmp_path / f"a{seed}", config(seed), 10, 1)
    make_run(tmp_path / "a4", config(4), evaluation(100, [(10, 400, 1), (10, 400, 1)]), state=state)
    simple(tmp_path / "p", config(0, "plain"), 9, 1)
    augmented, plain = as_json(capsys, tmp_path)[0]["cells"]
    assert (augmented["return"], augmented["cost"], augmented["feasible"], augmented["best_feasible"]) == (
        10, 1, False, False)
    assert plain["best_feasible"]


def test_a_seed_that_failed_does_not_shorten_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three seeds failed before the only one became feasible: the median seed never was."""
    bad, good = [(1, 9, 1), (2, 9, 1)], [(5, 1, 1), (7, 1, 1)]
    make_run(tmp_path / "0", config(0), evaluation(100, bad), evaluation(200, good))
    make_run(tmp_path / "1", config(1), evaluation(100, good), state="failed")
    make_run(tmp_path / "2", config(2), state="failed")
    (line,) = lines_of(text_of(capsys, tmp_path), "toy", "vesde", "augmented")
    assert line[10] == "> 200"
    assert main(["efficiency", str(tmp_path), "--return", "6.5"]) == 0
    (line,) = lines_of(capsys.readouterr().out, "toy", "vesde", "augmented")
    assert line[6:8] == ["> 200", "0/3"]
    assert main(["efficiency", str(tmp_path), "--return", "6"]) == 0
    (line,) = lines_of(capsys.readouterr().out, "toy", "vesde", "augmented")
    assert line[6:8] == ["200", "2/3"]  # seed 1 had it at step 100, before it failed


def test_a_reason_of_several_lines_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a part of it would not be in LaTeX's comment, nor in the list's item."""
    make_run(tmp_path / "a", config(0), state="failed", reason="RuntimeError: shapes\n\\input{x}")
    simple(tmp_path / "b", config(1), 1, 1)
    for form in ("latex", "markdown"):
        text = text_of(capsys, tmp_path, "--format", form)
        assert r"a (RuntimeError: shapes \input{x})." in text and "\n\\input" not in text


HOSTILE = "bad\x1b]0;title\x07\x9b2J\ud800\u202e end"  # what a terminal obeys, and what no file can hold
SAID = "bad ]0;title  2J   end"


def test_text_of_runs_does_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does it end a line of a list, or the report in an error."""
    simple(tmp_path / "a", config(0), 1, 1)
    folder = make_run(tmp_path / "b\n- injected", config(1), state="failed", reason=f"first\n{HOSTILE}",
                      warnings=[HOSTILE])
    (folder / "meta.json").write_text(json.dumps({"starts": [{"host": HOSTILE, "command": HOSTILE}]}))
    damaged = make_run(tmp_path / "c", config(2), evaluation(200, [(1, 1, 0)]))
    with (damaged / "evals.csv").open("a") as file:
        file.write("200,deterministic,train,x\x1b[2J,7,1,1,1,16\n" * 2)
    assert main(["table", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert f"/b - injected (first {' '.join(SAID.split())})." in captured.out
    assert "evals.csv has episode x [2J of step 200 twice" in captured.err
    assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))
    assert read_run(folder).reason == f"first\n{SAID}"
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count(SAID) == 4 and "/b - injected<" in page


def test_uneven_steps_and_times_to_stay_feasible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = [(1, 9, 1), (2, 9, 1)], [(1, 1, 1), (2, 1, 1)]
    make_run(tmp_path / "0", config(0), evaluation(100, good), evaluation(200, bad))
    make_run(tmp_path / "1", config(1), evaluation(100, bad), evaluation(200, good))
    make_run(tmp_path / "2", config(2), evaluation(100, bad), state="interrupted")
    text = text_of(capsys, tmp_path)
    (line,) = lines_of(text, "toy", "vesde", "augmented")
    assert line[3:7] == ["2 of 3 (1 unfinished)", "200", "4.00", "1/3"]
    # One becomes feasible at 200, the other does not: the curve falls to 1/2 and stays.
    assert line[10] == "> 200"
    assert "1 of 3 runs have no complete evaluation at step 200 (1 interrupted)" in text and "(--at-step 100)" in text
    (line,) = lines_of(text_of(capsys, tmp_path, "--at-step", "100"), "toy", "vesde", "augmented")
    assert line[3:7] == ["3 (1 unfinished)", "100", "4.00", "1/3"] and line[10] == "> 100"


def test_the_fixture_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Three tasks of two families, with failed, running and missing runs, ties and an incomplete row."""
    paper, stock = as_json(capsys, "fixture", "--runs-dir", FIXTURE)
    at = {(cell["env"], cell["guidance"]): cell for cell in paper["cells"] + stock["cells"]}
    one = at["point_button1", "augmented"]
    # Seeds: returns 20 24 22 40 21, costs 6 8 10 14 7; the worst of four episodes is one above its mean.
    assert (one["return"], one["cost"]) == (pytest.approx((21 + 22 + 24) / 3), (6 + 8 + 10 + 14 + 7) / 5)
    assert (one["safe"], one["evaluated"], one["best_feasible"]) == (4, 5, True)
    assert (one["violation"], one["cvar"], one["episodes_over"]) == (0.8, 10, 0.25)
    assert (one["stays_feasible_from"], one["stays_feasible_censored"]) == (200, False)
    # Six episodes of 50 steps after the initial ones, with 20 + 14 + 10 + 4 + 2 + 0.
    assert (one["training_cost"], one["training_cost_rate"], one["training_over"]) == (50, 50 / 300, 2 / 6)
    other = at["point_button1", "plain"]
    assert (other["return"], other["feasible"], other["safe"]) == (pytest.approx(91 / 3), False, 1)
    assert not other["best_feasible"]
    pid = at["point_button1", "pid"]
    assert (pid["runs"], pid["evaluated"], pid["unfinished"], pid["return_low"]) == (3, 1, 2, None)
    assert (pid["safe"], pid["failed"], pid["without_result"], pid["best_feasible"]) == (1, 1, 1, False)
    assert [run["state"] for run in pid["each_run"]] == ["finished", "failed", "starting"]
    assert pid["each_run"][1]["reason"].startswith("FloatingPointError")
    # Running, evaluated at step 200 only, with three identical episodes and one other; nothing is feasible.
    assert at["car_button1", "augmented"]["return"] is None
    early, _ = as_json(capsys, "fixture", "--runs-dir", FIXTURE, "--where", "env=car_button1,safety_point_goal1",
                       "--at-step", "200")
    assert (early["cells"][0]["return"], early["cells"][0]["cost"]) == ((3 * 6 + 8) / 4, (3 * 30 + 32) / 4)
    assert not any(at["car_button1", guidance]["best_feasible"] for guidance in ("augmented", "plain"))
    assert at["car_button1", "plain"]["stays_feasible_censored"]
    # Discounted costs are half of the plain ones, exactly at the limit; both algorithms are equal.
    for guidance in ("augmented", "plain"):
        tied = at["safety_point_goal1", guidance]
        assert (tied["return"], tied["cost"], tied["feasible"], tied["best_feasible"]) == (13, 25, True, True)
    notes = " ".join(paper["notes"])
    assert "car_button1 vesde plain lacks 2; point_button1 vesde pid lacks 3, 4" in notes
    assert "1 more runs that have not started" in notes and "car_button1: 3 of 5 runs have no" in notes
    assert "at worst 2 different of 4" in " ".join(early["notes"])


# --- runs that may be combined -------------------------------------------------------------------------------------


def test_what_differs_is_refused_unless_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of a cell that differ are refused with keys and values; paths, logging and the seed may differ."""
    simple(tmp_path / "a", config(0) | {"logger": {"name": "none"}}, 1, 0)
    simple(tmp_path / "b", config(1) | {"logger": {"name": "wandb"}, "device": "cpu"}, 3, 0)
    assert as_json(capsys, tmp_path)[0]["cells"][0]["evaluated"] == 2
    simple(tmp_path / "c", config(0, rho=2.0) | {"total_steps": 900}, 5, 0)  # evaluated at 200 as well
    message = refused(capsys, tmp_path)
    assert "env=toy, agent=vesde, guidance=augmented" in message and "--pool" in message
    assert "differ in guidance.rho (1.0, 2.0), total_steps (200, 900)" in message
    assert "total_steps" in refused(capsys, tmp_path, "--columns", "guidance.rho")
    (cell,) = as_json(capsys, tmp_path, "--pool")[0]["cells"]
    assert (cell["return"], cell["pooled"], cell["evaluated"]) == (3, "guidance.rho total_steps", 3)
    assert "Pooled although different in guidance.rho, total_steps" in text_of(capsys, tmp_path, "--pool")
    found = as_json(capsys, tmp_path, "--columns", "guidance.rho,total_steps")[0]["cells"]
    assert [(cell["guidance.rho"], cell["total_steps"]) for cell in found] == [("1", "200"), ("2", "900")]


def test_columns_must_be_comparable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns may differ in guidance and its keys, not in the batch size; tasks may differ from each other."""
    simple(tmp_path / "a", config(0, "plain") | {"batch_size": 8}, 1, 0)
    simple(tmp_path / "b", config(0, "augmented", rho=3.0) | {"batch_size": 8}, 1, 0)
    simple(tmp_path / "c", config(0, env="ring") | {"batch_size": 9}, 1, 0)
    assert len(as_json(capsys, tmp_path)[0]["cells"]) == 3
    simple(tmp_path / "d", config(0, "pid") | {"batch_size": 9}, 1, 0)
    assert "the runs on toy differ in more than env, agent, guidance, namely in batch_size (8, 9)" in refused(
        capsys, tmp_path)


def test_families_never_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for env, family in (("point_button1", "paper"), ("safety_point_button1", "stock")):
        simple(tmp_path / env, config(0, env=env, family=family), 1, 0)
    text = text_of(capsys, tmp_path)
    assert text.index("Family: paper") < text.index("| point_button1") < text.index("Family: stock")
    assert [[cell["env"] for cell in table["cells"]] for table in as_json(capsys, tmp_path)] == [
        ["point_button1"], ["safety_point_button1"]]
    assert "families paper, stock" in refused(capsys, tmp_path, "--format", "csv")
    with pytest.raises(UsageError, match="never share a table"):
        cells(runs_in(tmp_path), pool=True)


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    """Also if one of the two was written before a key was added, and thus lacks the key with its previous meaning."""
    simple(tmp_path / "a", config(0), 1, 0)
    later = config(0) | {"runs_dir": "elsewhere"}
    later["agent"]["cost_backup"] = "sum"
    simple(tmp_path / "b", later, 1, 0)
    with pytest.raises(UsageError, match="are the same run"):
        cells(runs_in(tmp_path), pool=True)


def test_a_video_makes_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds may differ in whether they record one, and a copy that does is the same run."""
    filmed = [config(seed) for seed in (0, 1)]
    for settings in filmed:
        settings["eval"]["video"] = True
    simple(tmp_path / "a", config(0), 1, 0)
    simple(tmp_path / "b", filmed[1], 3, 0)
    assert as_json(capsys, tmp_path)[0]["cells"][0]["return"] == 2
    simple(tmp_path / "c", filmed[0], 1, 0)
    assert "are the same run" in refused(capsys, tmp_path)


def test_settings_of_own_data_that_are_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A date is text; a seed must be a number."""
    folder = simple(tmp_path / "a", config(0), 1, 0)
    with (folder / "config.yaml").open("a") as file:
        file.write("written: 2026-01-31\n")
    os.utime(folder / "config.yaml", (0, 0))
    assert as_json(capsys, tmp_path, "--rows", "written")[0]["cells"][0]["written"] == "2026-01-31"
    settings = config(0)
    settings["seed"] = "s1"
    simple(tmp_path / "b", settings, 1, 0)
    assert main(["table", str(tmp_path)]) == 0
    assert "b cannot be read as a run (ValueError: invalid literal for int() with base 10: 's1')" in \
        capsys.readouterr().err


def test_differing_keys() -> None:
    one, other = flat(config(0)), flat(config(1) | {"extra": {"key": [1, 2]}})
    assert differing_keys([one, flat(config(1))]) == []
    assert differing_keys([one, other]) == ["extra.key"]
    assert differing_keys([one, other], ["extra"]) == differing_keys([one, other], ["extra.key"]) == []


# --- finding runs --------------------------------------------------------------------------------------------------


def test_where_runs_are_found(tmp_path: Path) -> None:
    """Runs are found at any depth and by patterns, once each, but not inside runs or if they were moved aside."""
    run = make_run(tmp_path / "runs" / "toy" / "vesde-plain" / "seed=0-1a", config())
    other = make_run(tmp_path / "runs" / "toy" / "vesde-plain" / "seed=1-1b", config(1))
    make_run(run / "wandb" / "inner", config(2))
    aside = make_run(run.with_name("seed=0-1a.old-1"), config())
    (tmp_path / "runs" / "sweeps").mkdir()
    make_run(tmp_path / "runs" / "sweeps" / "code" / "tests" / "fixture", config(3))
    assert find_runs([str(tmp_path)]).folders == [run, other]
    pattern = str(tmp_path / "runs" / "*" / "*" / "seed=0-*a")
    assert find_runs([pattern, str(run), str(run.parent)]).folders == [run, other]
    assert find_runs([str(aside)]).folders == [aside]
    everything = tmp_path / "runs" / "*"
    assert find_runs([str(everything)]).folders == [run, other]
    assert find_runs(map(str, everything.parent.iterdir())).folders == [run, other]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "not there", tmp_path / "none*"):
        with pytest.raises(UsageError, match="there is no run"):
            find_runs([str(nothing)])


def test_links_are_followed_and_no_run_is_found_twice(tmp_path: Path) -> None:
    """A task's folder may lie on another disk; a link to a folder above it ends the search there."""
    run = make_run(tmp_path / "disk" / "toy" / "vesde-plain" / "seed=0-1a", config())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "toy").symlink_to(tmp_path / "disk" / "toy")
    (tmp_path / "disk" / "toy" / "up").symlink_to(tmp_path / "runs")
    assert find_runs([str(tmp_path / "runs")]).folders == [tmp_path / "runs" / "toy" / "vesde-plain" / "seed=0-1a"]
    assert len(find_runs([str(tmp_path / "runs"), str(tmp_path / "disk")]).folders) == 1
    assert find_runs([str(run)]).folders == [run]


def test_sweeps_by_file_name_and_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep is found by name, experiment or file; members not started are counted; an ambiguous name is refused."""
    top = tmp_path / "runs"
    simple(top / "toy" / "a", config(0), 1, 0)
    simple(top / "toy" / "b", config(1), 2, 0)
    simple(top / "toy" / "not a member", config(2), 99, 0)
    (top / "sweeps").mkdir()
    sweep = {"runs": ["toy/a", "toy/b", "toy/c"], "experiment": "study"}
    (top / "sweeps" / "mine-12.json").write_text(json.dumps(sweep))
    for name in ("mine-12", "study", str(top / "sweeps" / "mine-12.json")):
        found = find_runs([name], top)
        assert found.folders == [top / "toy" / "a", top / "toy" / "b"] and found.absent == [top / "toy" / "c"]
    assert "The sweep has 1 more runs that have not started." in text_of(capsys, "study", "--runs-dir", top)
    (top / "sweeps" / "mine-13.json").write_text(json.dumps(sweep))
    assert "name one of mine-12, mine-13" in refused(capsys, "study", "--runs-dir", top)
    (top / "sweeps" / "none.json").write_text(json.dumps({"runs": ["toy/d"]}))
    assert "none of the 1 runs has started" in refused(capsys, "none", "--runs-dir", top)
    (top / "sweeps" / "bad.json").write_text(json.dumps({"runs": ["../../elsewhere"]}))
    assert "outside" in refused(capsys, "bad", "--runs-dir", top)
    (top / "sweeps" / "torn.json").write_text('{"runs": [')
    assert "is not a sweep's list" in refused(capsys, "torn", "--runs-dir", top)


def test_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simple(tmp_path / "a", config(0), 1, 0)
    simple(tmp_path / "b", config(0, "plain"), 2, 0)
    simple(tmp_path / "c", config(1, rho=2.0), 3, 0)
    runs = runs_in(tmp_path)
    assert [run.folder.name for run in where(runs, ["guidance=augmented"])] == ["a", "c"]
    assert [run.folder.name for run in where(runs, ["guidance=augmented,plain", "guidance.rho=1"])] == ["a", "b"]
    assert [run.folder.name for run in where(runs, ["env.limit=4"])] == ["a", "b", "c"]
    runs[1].config["rate"] = "1e-05"
    assert [run.folder.name for run in where(runs, ["rate=0.00001"])] == ["b"]
    assert "with guidance=pid; guidance is augmented, plain" in refused(capsys, tmp_path, "--where", "guidance=pid")
    assert "KEY=VALUE is needed" in refused(capsys, tmp_path, "--where", "guidance")
    assert "did you mean guidance.rho?" in refused(capsys, tmp_path, "--where", "rho=1")
    assert "did you mean guidance.rho?" in refused(capsys, tmp_path, "--columns", "agent.rho")


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", config(), "200,deterministic,train,0,1,x,1,1,1\n",
                   "200,deterministic,train,1,1,x,1,1,1\n")
    assert refused(capsys, run) == (f"error: {run} cannot be read as a run (ValueError: could not convert string "
                                    "to float: 'x')\n")
    (run / "config.yaml").write_text("seed: 0\n")
    assert "KeyError: 'eval.episodes'" in refused(capsys, run)


def test_an_episode_without_steps_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is named and left out, and the others are in the table."""
    damaged = simple(tmp_path / "a", config(0), 10, 1)
    (damaged / "episodes.csv").write_text(EPISODES + "10,0,1,1,1,1,0\n")
    simple(tmp_path / "b", config(1), 10, 1)
    text = text_of(capsys, tmp_path)
    assert f"Left out, since it cannot be read: {damaged} cannot be read as a run (ValueError: episodes.csv has an " \
           "episode without steps, which ended at step 10)" in text
    assert lines_of(text, "toy", "return")[0][2] == "**10.00**"


@pytest.mark.parametrize("step", [-1, 2**63, 10**400], ids=["negative", "beyond 64 bits", "400 digits"])
def test_a_step_that_no_run_reaches_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int) -> None:
    """In evals.csv the run is left out; in status.json its state is unknown."""
    make_run(tmp_path / "a", config(0), evaluation(step, [(1, 1, 0), (1, 1, 1)]))
    simple(tmp_path / "b", config(1), 10, 1, step=10**400)
    for command in (["table"], ["curves", "--out", str(tmp_path)], ["report", "--out", str(tmp_path / "page.html")]):
        assert main([*command, str(tmp_path)]) == 0
        captured = capsys.readouterr()
        assert f"left out: {tmp_path / 'a'} cannot be read as a run (ValueError: an evaluation at step" in captured.err
    assert runs_in(tmp_path / "b")[0].reason == "status.json is damaged: its step cannot be"
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    assert (cell["return"], cell["unfinished"]) == (10, 1)


def test_a_setting_of_too_many_digits_is_damage(tmp_path: Path) -> None:
    folder = simple(tmp_path / "a", config(0, horizon=10**400), 10, 1)
    with pytest.raises(UsageError, match=r"env\.horizon is not a number of 64 bits"):
        read_run(folder)


def test_own_data_as_the_documentation_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The minimal files that docs/analysis.md asks for, copied from the page, make a table."""
    section = (ROOT / "docs" / "analysis.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    settings, evals = ["".join(f"{line.removeprefix('    ')}\n" for line in block.splitlines())
                       for block in section.split("\n\n") if block.startswith("    ")]
    (tmp_path / "config.yaml").write_text(settings)
    (tmp_path / "evals.csv").write_text(evals)
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "my_task", "return")[0][2] == "**12.75**"
    assert lines_of(text, "", "cost (limit 25.00)")[0][2] == "1.50" and "evaluation at step 100000" in text
    (tmp_path / "episodes.csv").write_text("step,cost,discounted_cost,length\n400,7,5,400\n")
    (tmp_path / "metrics.csv").write_text("step,lam\n500,0.5\n1000,0.7\n")
    (tmp_path / "status.json").write_text('{"state": "finished"}')
    assert as_json(capsys, tmp_path)[0]["cells"][0]["training_cost"] == 7
    assert main(["curves", str(tmp_path), "--quantities", "lam,training_cost", "--out", str(tmp_path / "figures")]) == 0


# --- formats -------------------------------------------------------------------------------------------------------


def test_csv_and_json_hold_the_same_at_full_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        simple(tmp_path / str(seed), config(seed), 1 / 3 + seed, 0)
    (line,) = csv.DictReader(io.StringIO(text_of(capsys, tmp_path, "--format", "csv")))
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    assert float(line["return"]) == cell["return"] == float(np.mean([1 / 3, 4 / 3, 7 / 3]))
    assert line["hours"] == "" and cell["hours"] is None
    assert [run["seed"] for run in cell["each_run"]] == [0, 1, 2]


def test_a_run_that_diverged_is_shown_and_json_stays_valid(tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    for seed, gain in enumerate([1.0, 2.0, float("nan")]):
        simple(tmp_path / str(seed), config(seed), gain, gain)
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    assert cell["return"] is None and cell["feasible"] is False and cell["safe"] == 2
    assert "nan" in lines_of(text_of(capsys, tmp_path), "toy", "return")[0][2]


def test_latex_is_well_formed_whatever_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r"""Rows have the tabular's number of columns, braces and dollars are balanced, special characters escaped."""
    for seed, name in enumerate(["a&b_c", "50%#{}", r"~^\$", "ρ≤λ"]):
        simple(tmp_path / str(seed), config(0, name, "toy_1"), seed, seed * 3)
    text = text_of(capsys, tmp_path, "--format", "latex")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", code)
    assert columns is not None and columns[1] == "llrrrr"
    body = code.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for row in (line for line in body.splitlines() if line.strip() and line != r"\midrule"):
        assert row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1
    bare = re.sub(r"\\[\\&%$#_{}]", "", code)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[%#_]", bare) and code.isascii()
    for environment in ("table", "tabular"):
        assert code.count(rf"\begin{{{environment}}}") == code.count(rf"\end{{{environment}}}") == 1
    assert r"toy\_1 & return" in code and r"a\&b\_c" in code and r"$^\dagger$" in code and r"\textbf{1.00}" in code
    assert escaped("a_b") == r"a\_b"


def test_numbers() -> None:
    assert [number(value) for value in (-0.001, 0, 99.994, 123.456, 1234.5, -2.5)] == [
        "0.00", "0.00", "99.99", "123.5", "1234", "-2.50"]


def test_the_real_command_needs_no_torch(tmp_path: Path) -> None:
    simple(tmp_path / "a", config(), 2, 3)
    code = ("import sys; from analysis.__main__ import main; main(['table', sys.argv[1]]); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'gymnasium')))")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert lines_of(result.stdout, "toy", "return") == [["toy", "return", "**2.00**"]]


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "table", interrupted)
    assert main(["table", "runs"]) == ExitCode.INTERRUPTED


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    simple(tmp_path / "a", config(), 2, 3)
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-m", "analysis", "table", str(tmp_path)], cwd=ROOT, stdout=writing,
                            stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


def test_runs_of_one_seed_are_not_independent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        for rho in (1.0, 5.0):
            simple(tmp_path / f"{rho}-{seed}", config(seed, rho=rho), 5 + seed, 1)
    text = text_of(capsys, tmp_path, "--pool")
    assert lines_of(text, "toy", "return")[0][2] == "**6.00** (5.00; 5.00; 6.00; 6.00; 7.00; 7.00)"
    assert lines_of(text, "", "safe seeds")[0][2] == "6/6"
    assert lines_of(text, "toy", "vesde", "augmented")[0][3] == "3, in 6 runs"
    assert "Several runs of one seed, which are not independent, hence no interval: toy vesde augmented." in text
    assert as_json(capsys, tmp_path, "--pool")[0]["cells"][0]["safe_low"] is None


def test_tasks_and_kinds_of_cost_are_not_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for env in ("toy", "ring"):
        simple(tmp_path / env, config(0, env=env), 5, 1)
    assert "returns of several tasks have no mean: one cell has runs with env.name=ring,toy" in refused(
        capsys, tmp_path, "--rows", "agent", "--columns", "guidance", "--pool")
    other = config(1)
    other["env"]["limit_kind"] = "discounted"
    simple(tmp_path / "other", other, 5, 1)
    assert "costs of several kinds have no mean" in refused(capsys, tmp_path, "--where", "env=toy", "--pool")


def test_pooled_costs_above_their_limits_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (limit, cost) in enumerate(((10.0, 500), (20.0, 505))):
        simple(tmp_path / str(seed), config(seed, limit=limit), 5, cost)
    assert lines_of(text_of(capsys, tmp_path, "--pool"), "", "cost")[0][2] == "502.5 † (500.0; 505.0)"


def test_seeds_are_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first value of the returns and the first of the costs are of one run."""
    for seed, (gain, cost) in enumerate(((9, 3), (5, 1))):
        simple(tmp_path / str(seed), config(seed), gain, cost)
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][2].endswith(" (9.00; 5.00)")
    assert lines_of(text, "", "cost (limit 4.00)")[0][2].endswith(" (3.00; 1.00)")


def test_hours_are_those_of_runs_with_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simple(tmp_path / "a", config(0), 5, 1, seconds=7200, updates_per_second=10.0)
    make_run(tmp_path / "b", config(1), state="interrupted", seconds=60, updates_per_second=90.0)
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    assert (cell["hours"], cell["updates_per_second"]) == (2, 10)


def test_equal_values_share_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 and 1.0, and a run that is older than a key with one that has the key's earlier behaviour."""
    for seed, rho in enumerate((1, 1.0)):
        settings = config(seed, rho=rho)
        settings["agent"] |= {"cost_backup": "sum"} if seed else {}
        simple(tmp_path / str(seed), settings, 5, 1)
    for key, value in (("guidance.rho", "1"), ("agent.cost_backup", "sum")):
        (cell,) = as_json(capsys, tmp_path, "--columns", key)[0]["cells"]
        assert (cell["evaluated"], cell[key]) == (2, value)
    assert len(where(runs_in(tmp_path), ["agent.cost_backup=sum"])) == 2


def test_values_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    folder = simple(tmp_path / "a", config(0), 5, 1)
    with (folder / "config.yaml").open("a") as file:
        file.write("note: !!binary aGVsbG8=\n")
    with pytest.raises(UsageError, match="note is not a plain value"):
        read_run(folder)
