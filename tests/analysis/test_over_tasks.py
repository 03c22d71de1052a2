"""Scores over tasks and sample efficiency, on runs with results computed by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.results.cells import Cell, cells
from analysis.results.curves import draw
from analysis.results.efficiency import average_return, feasible_share, reached, wanted_returns
from analysis.results.formats import escaped
from analysis.results.scores import draw_profiles, references, scored
from analysis.results.steps import judged
from analysis.runs.model import Run
from analysis.runs.read import read_run
from analysis.statistics.estimators import StayTime
from tests.analysis.run_folders import EPISODES, config, evaluation, lines_of, make_run, runs_in, simple


def two_tasks(folder: Path) -> list[Cell]:
    """Write runs with returns in units of 1 (toy) and 1000 (ring); zero-cost runs have 2, unconstrained ones 12."""
    for env, unit in (("toy", 1.0), ("ring", 1000.0)):
        for seed in range(3):
            for name, gain, cost in (("none", 12, 40), ("augmented", 6 + seed, 2), ("plain", 9 + seed, 3 + seed),
                                     ("pid", 2, 0)):
                simple(folder / env / f"{name}{seed}", config(seed, name, env), gain * unit, cost)
    return cells(runs_in(folder))


def test_scores_by_hand(tmp_path: Path) -> None:
    """Scores are 0.4, 0.5, 0.6 (augmented) and 0.7, 0.8, 0.9 at costs of 3, 4, 5 (plain, one of three unsafe)."""
    found = two_tasks(tmp_path)
    reference = references(found, "guidance=none", "guidance=pid")
    assert (reference["ring"].unconstrained, reference["ring"].zero_cost) == (12000, 2000)
    over = {one.column[1]: one for one in scored(found, reference)}
    augmented, plain = over["augmented"], over["plain"]
    assert [values.tolist() for values in augmented.scores.values()] == [pytest.approx([0.4, 0.5, 0.6])] * 2
    assert augmented.mean.value == pytest.approx(0.5) and augmented.gap.value == pytest.approx(0.5)
    # The smallest and the largest of 0.7 0.7 0.8 0.8 0.9 0.9 are trimmed.
    assert plain.iqm.value == pytest.approx((0.7 + 0.8 + 0.8 + 0.9) / 4)
    assert (plain.safe, len(plain.runs)) == (4, 6) and plain.safe_score == pytest.approx(2 * (0.7 + 0.8) / 6)
    assert over["none"].mean.value == 1 and (over["none"].safe_score, over["none"].safe) == (0, 0)
    assert over["none"].gap.low == over["none"].gap.value == 0
    assert plain.mean.low is not None and plain.mean.high is not None and plain.mean.low < 0.8 < plain.mean.high
    assert plain.ratios["toy"].tolist() == [0.75, 1, 1.25]


def test_what_failed_is_in_no_score_but_in_the_profile(tmp_path: Path) -> None:
    """A failed run has no score but counts in profiles: as below every score, and above every cost."""
    found = two_tasks(tmp_path)
    make_run(tmp_path / "toy" / "lost", config(3, "augmented"), state="failed")
    found = cells(runs_in(tmp_path))
    reference = references(found, "12", "0")
    over = {one.column[1]: one for one in scored([cell for cell in found if cell.row == ("toy",)],
                                                 {"toy": reference["toy"]})}
    assert len(over["augmented"].runs) == 4 and len(over["augmented"].scores["toy"]) == 3
    assert over["augmented"].safe_score == pytest.approx((6 + 7 + 8) / 12 / 4)
    figure = draw_profiles([over["augmented"]], ("agent", "guidance"), "deterministic")
    score, cost = (np.asarray(axis.lines[0].get_ydata(), dtype=float) for axis in figure.axes)
    assert (score[0], score[-1], cost[0], cost[-1]) == (0.75, 0, 1, 0.25)


def test_only_tasks_that_all_have_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_tasks(tmp_path)
    for seed in range(3):
        simple(tmp_path / "third" / f"augmented{seed}", config(seed, "augmented", "third"), 1, 0)
    command = ["scores", str(tmp_path), "--unconstrained", "12000", "--out", str(tmp_path / "figures")]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "## Over 2 tasks" in text and "Left out, since not every algorithm has a result there: third." in text
    assert lines_of(text, "vesde", "augmented")[0][2] == "6" and "unconstrained: 12000 on every task" in text
    assert (tmp_path / "figures" / "profiles_toy.pdf").exists()


def test_failing_with_every_run_of_a_task_is_not_better_than_with_most(tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    two_tasks(tmp_path)
    for seed in range(3):
        simple(tmp_path / "third" / f"plain{seed}", config(seed, "plain", "third"), 6, 0)
        for name in ("none", "pid", "augmented"):
            lost = name == "augmented"
            make_run(tmp_path / "third" / f"{name}{seed}", config(seed, name, "third"),
                     *[] if lost else [evaluation(200, [(9, 0, 0)] * 2)], state="failed" if lost else "finished")
    found = cells(runs_in(tmp_path))
    over = {one.column[1]: one for one in scored(found, references(found, "12", "0"))}
    assert over["augmented"].tasks == ["ring", "third", "toy"] and over["augmented"].shared == ["ring", "toy"]
    assert (over["augmented"].safe, len(over["augmented"].runs)) == (6, 9)
    assert over["augmented"].mean.count == 6 and over["plain"].mean.count == 6
    assert main(["scores", str(tmp_path), "--unconstrained", "12"]) == 0
    text = capsys.readouterr().out
    assert "## Over 2 tasks" in text and "since all runs of an algorithm failed there: third." in text


def test_pooled_seeds_are_not_independent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three seeds with two values of rho are not six seeds, in no command."""
    for seed in range(3):
        for rho in (1.0, 50.0):
            make_run(tmp_path / f"{seed}-{rho}", config(seed, rho=rho),
                     *[evaluation(step, [(seed + rho / 50, 1, 0)] * 2) for step in (100, 200)])
    pooled = "Pooled although different in guidance.rho: toy vesde augmented."
    for command in (["scores", "--unconstrained", "12", "--zero-cost", "0"], ["efficiency", "--return", "1"],
                    ["table", "--format", "latex"]):
        assert main([*command, str(tmp_path), "--pool"]) == 0
        text = capsys.readouterr().out
        assert escaped(pooled) in text if "latex" in command else pooled in text
        assert not re.search(r"\d \[", text.split("\\caption")[0]), text
        assert "n = 3 seeds" in text or "latex" not in command
    figure = draw(cells(runs_in(tmp_path), pool=True), ("agent", "guidance"), "return")
    said = " ".join(figure.get_suptitle().split())
    assert "n = 3 seeds" in said and pooled.rstrip(".") in said
    (axis,) = figure.axes
    assert not any(np.isfinite(path.vertices).all() and len(path.vertices) > 2
                   for band in axis.collections for path in band.get_paths())


def test_references_that_cannot_be(tmp_path: Path) -> None:
    found = two_tasks(tmp_path)
    with pytest.raises(UsageError, match=r"ring: the unconstrained reference, 2000, must be above the zero-cost one"):
        references(found, "guidance=pid", "guidance=none")
    with pytest.raises(UsageError, match="--unconstrained guidance=lost: no run is left"):
        references(found, "guidance=lost", "0")
    simple(tmp_path / "third", config(0, "augmented", "third"), 1, 0)
    with pytest.raises(UsageError, match="no run on third has a result"):
        references(cells(runs_in(tmp_path)), "guidance=none", "0")


# --- sample efficiency ---------------------------------------------------------------------------------------------


def a_run(folder: Path, seed: int, points: list[tuple[int, float, float]], state: str = "finished") -> Run:
    made = make_run(folder / str(seed), config(seed), *(evaluation(step, [(gain, cost, 0)] * 2)
                                                        for step, gain, cost in points), state=state)
    (made / "episodes.csv").write_text(EPISODES + "".join(f"{step},{step},0,1,5,0,10\n" for step, *_ in points if step))
    return read_run(made)


def test_efficiency_by_hand(tmp_path: Path) -> None:
    """Efficiency counts only feasible evaluations, and not step 0, which evaluates the untrained policy."""
    run = a_run(tmp_path, 0, [(0, 11, 0), (100, 10, 9), (200, 10, 4), (400, 20, 1)])
    (run,) = judged([run])
    assert reached(run, 10) == StayTime(200, False) and reached(run, 21) == StayTime(400, True)
    # Areas by the trapezoidal rule, over 400 steps.
    assert average_return(run) == pytest.approx((1050 + 1000 + 3000) / 400)
    assert feasible_share(run) == pytest.approx(2 / 3)
    (early,) = judged([run], at_step=100)
    assert reached(early, 10) == StayTime(100, True) and average_return(early) == 10.5


def test_efficiency_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, step in enumerate((100, 200, 400)):
        a_run(tmp_path, seed, [(at, 10 if at >= step else 0, 1) for at in (0, 100, 200, 400)])
    a_run(tmp_path, 3, [(0, 0, 0), (100, 10, 1)], state="failed")
    assert main(["efficiency", str(tmp_path), "--return", "10"]) == 0
    (line,) = lines_of(capsys.readouterr().out, "toy", "vesde", "augmented")
    # Reached at 100, 100, 200 and 400: half of the runs from 100 on, more than half from 200.
    assert line[3:8] == ["3 of 4", "400", "10.00", "150", "4/4"]
    assert line[-1] == "15 (15 … 15)"
    assert main(["efficiency", str(tmp_path), "--return", "toy=x"]) == 2
    assert "--return toy=x: a finite number is needed, or TASK=NUMBER" in capsys.readouterr().err
    assert main(["efficiency", str(tmp_path), "--return", "toi=1"]) == 2
    assert "--return toi=1: no run is on toi, but on toy" in capsys.readouterr().err
    assert wanted_returns(["3", "ring=4.5"], {"ring"}) == {"": 3.0, "ring": 4.5}


def test_what_is_left_out_of_scores_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A diverged run, one that failed on a task that is left out, and a task whose limit is 0."""
    two_tasks(tmp_path)
    simple(tmp_path / "toy" / "diverged", config(3), -50, float("inf"))
    for name in ("augmented", "plain", "none", "pid"):
        simple(tmp_path / "free" / name, config(0, name, "free", limit=0.0), {"none": 12}.get(name, 5), 1)
        make_run(tmp_path / "hard" / name, config(0, name, "hard"), state="failed" if name == "plain" else "finished")
    assert main(["scores", str(tmp_path), "--unconstrained", "12000", "--where", "env=toy,ring,free,hard"]) == 0
    text = capsys.readouterr().out
    assert lines_of(text, "vesde", "augmented")[0][2] == "7 of 8"
    assert "Left out, since not every algorithm has a result there: hard." in text
    assert "Cost / limit: without free, whose limit is 0." in text
    (said,) = [line for line in text.splitlines() if "without a finite result" in line and line.startswith("- Failed")]
    assert "toy/diverged" in said and "hard/plain" in said
    assert "of the deterministic episodes of each run's evaluation" in text
    assert main(["scores", str(tmp_path), "--unconstrained", "inf"]) == 2
    assert "--unconstrained inf: a finite number is needed, or KEY=VALUE" in capsys.readouterr().err


def test_efficiency_names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path, 0, [(0, 0, 0), (100, 10, 1), (200, 10, 1)])
    a_run(tmp_path, 1, [(0, 0, 0), (100, 10, 1)], state="failed")
    assert main(["efficiency", str(tmp_path), "--return", "10", "--sampler", "deterministic"]) == 0
    text = capsys.readouterr().out
    assert "Failed, hence not safe: " in text and "Of the deterministic evaluations" in text
    assert main(["efficiency", str(tmp_path), "--return", "nan"]) == 2
    assert "--return nan: a finite number is needed" in capsys.readouterr().err
