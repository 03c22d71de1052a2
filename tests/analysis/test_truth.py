"""Tables must not flatter: runs whose true quality is known, and what tables say of them."""

import json
import re
from pathlib import Path

import pytest

from analysis.__main__ import main
from tests.analysis.run_folders import (
    EPISODES,
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


def seeds_of(folder: Path, name: str, costs: list[float], gain: float = 1, **status: str) -> None:
    """Write finished runs of an algorithm, one per seed, with these mean costs."""
    for seed, cost in enumerate(costs):
        simple(folder / f"{name}{seed}", config(seed, name), gain, cost, **status)


def cost_of(text: str) -> list[str]:
    return lines_of(text, "", "cost (limit 4.00)")[0][2:]


def safe_of(text: str) -> list[str]:
    return lines_of(text, "", "safe seeds")[0][2:]


# --- episodes ------------------------------------------------------------------------------------------------------


def test_every_episode_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """19 successes of 20 are a return of 0.95, a cost of 25 in one of 20 is 1.25, though only two episodes differ."""
    settings = config()
    settings["eval"]["episodes"] = 20
    make_run(tmp_path / "a", settings, evaluation(200, [(1, 0, 0)] * 19 + [(0, 25, 0)]))
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][2] == "**0.95**"
    assert cost_of(text) == ["1.25"] and safe_of(text) == ["1/1 [0.21, 1.00]"]
    assert "(at worst 2 different of 20); all of them count" in text
    (cell,) = as_json(capsys, tmp_path)[0]["cells"]
    # The worst tenth are two episodes, with costs 25 and 0.
    assert (cell["episodes_over"], cell["cvar"]) == (0.05, 12.5)


def test_an_incomplete_evaluation_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With 19 of 20 rows at the end a run has no result, and the table says why."""
    settings = config()
    settings["eval"]["episodes"] = 20
    make_run(tmp_path / "a", settings, evaluation(100, [(1, 0, 0)] * 20), evaluation(200, [(9, 0, 0)] * 19))
    make_run(tmp_path / "b", settings | {"seed": 1}, evaluation(100, [(1, 0, 0)] * 20),
             evaluation(200, [(9, 0, 0)] * 20))
    text = text_of(capsys, tmp_path)
    assert "at step 200 (19 of 20 episodes)" in text and lines_of(text, "toy", "return")[0][2] == "9.00"
    assert safe_of(text) == ["1/2 [0.09, 0.91]; 1 without a result"]
    assert "1 of 2 runs have no complete evaluation at step 200 (1 finished), hence no result" in text


def test_a_folder_with_nothing_but_a_configuration_is_counted(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    simple(tmp_path / "a", config(0), 1, 0)
    make_run(tmp_path / "b", config(1), state=None)
    (tmp_path / "b" / "evals.csv").unlink()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("seed: 0\ndefaults: [env]\n")  # not a run's
    text = text_of(capsys, tmp_path)
    assert safe_of(text) == ["1/2 [0.09, 0.91]; 1 without a result"] and "(1 unknown), hence no result" in text


# --- safety --------------------------------------------------------------------------------------------------------


def test_one_dangerous_seed_is_not_trimmed_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs of 1, 1, 1, 1 and 400 average to 80.80 and are infeasible, and the seed is shown in the cell."""
    seeds_of(tmp_path, "augmented", [1, 1, 400, 1, 1], gain=9)
    seeds_of(tmp_path, "plain", [1] * 5, gain=2)
    text = text_of(capsys, tmp_path)
    assert cost_of(text) == ["80.80 † (1.00; 1.00; 400.0; 1.00; 1.00)", "1.00 (1.00; 1.00; 1.00; 1.00; 1.00)"]
    assert safe_of(text) == ["4/5 [0.38, 0.96]", "5/5 [0.57, 1.00]"]
    assert [cell.startswith("**") for cell in lines_of(text, "toy", "return")[0][2:]] == [False, True]


def test_a_low_mean_with_unsafe_seeds_is_not_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With mean cost 3 and two of five seeds safe a cell is feasible only with --safe-share 0.4, which is stated."""
    seeds_of(tmp_path, "augmented", [0, 0, 5, 5, 5], gain=9)
    text = text_of(capsys, tmp_path)
    assert cost_of(text)[0].startswith("3.00 (") and safe_of(text) == ["2/5 [0.12, 0.77]"] and "**" not in text
    assert "at least 80% are safe" in text
    text = text_of(capsys, tmp_path, "--safe-share", "0.4")
    assert "**9.00**" in text and "at least 40% are safe" in text


def test_no_interval_of_a_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs have no interval, which would be [0.00, 0.00] for zeros or reach below zero; seeds are listed instead."""
    seeds_of(tmp_path, "augmented", [0, 0, 0])
    seeds_of(tmp_path, "plain", [0, 0, 9])
    text = text_of(capsys, tmp_path)
    assert cost_of(text) == ["0.00 (0.00; 0.00; 0.00)", "3.00 (0.00; 0.00; 9.00)"]
    cells = as_json(capsys, tmp_path)[0]["cells"]
    assert all(cell["cost_low"] is None and cell["cost_high"] is None for cell in cells)
    assert cells[1]["cost_seeds"] == "0.0 0.0 9.0"


def test_many_seeds_are_shown_by_their_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds_of(tmp_path, "augmented", [float(cost) for cost in range(10)] + [400.0])
    assert cost_of(text_of(capsys, tmp_path)) == ["40.45 † (0.00 … 5.00 … 400.0)"]


@pytest.mark.parametrize("bad", ["return", "cost"])
def test_what_is_no_number_is_never_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str) -> None:
    nan = float("nan")
    simple(tmp_path / "a", config(0), nan if bad == "return" else 9, nan if bad == "cost" else 1)
    simple(tmp_path / "b", config(0, "plain"), 2, 1)
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][3] == "**2.00**" and text.count("**") == 2
    assert "Return or cost is not a number, hence not safe and never the best: " in text
    assert safe_of(text)[0].startswith("0/1")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_seed_that_is_no_number_is_not_trimmed_as_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                             bad: float) -> None:
    for seed, gain in enumerate([1, 2, 3, 4, bad]):
        simple(tmp_path / f"a{seed}", config(seed), gain, 1)
        simple(tmp_path / f"p{seed}", config(seed, "plain"), 2.5, 1)
    assert lines_of(text_of(capsys, tmp_path), "toy", "return")[0][2:] == [
        f"nan (1.00; 2.00; 3.00; 4.00; {bad})", "**2.50** [2.50, 2.50]"]


def test_bold_is_within_a_limit_and_the_note_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limit, gain in ((4.0, 5), (10.0, 9)):
        simple(tmp_path / str(limit), config(0, limit=limit), gain, 0)
    text = text_of(capsys, tmp_path, "--columns", "env.limit")
    assert lines_of(text, "toy", "return")[0][2:] == ["**5.00**", "**9.00**"]
    assert "the highest return among the cells of the row with the same limit" in text


# --- steps and states ----------------------------------------------------------------------------------------------


def stopped(folder: Path, name: str, state: str, steps: list[tuple[int, float]], seed: int = 0) -> None:
    """Write a run with these returns at these steps, and a cost of 1."""
    make_run(folder / f"{name}{seed}", config(seed, name), *(evaluation(step, [(gain, 1, 0)] * 2)
                                                             for step, gain in steps), state=state)


def test_a_run_that_was_stopped_has_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run stopped before the final step counts neither with its earlier return nor as safe."""
    for seed in range(3):
        stopped(tmp_path, "augmented", "finished", [(0, 0), (1000, 10)], seed)
    stopped(tmp_path, "augmented", "interrupted", [(0, 99)], 3)
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][2] == "10.00 [10.00, 10.00]"  # 3/4 safe is too few for bold
    assert safe_of(text) == ["3/4 [0.30, 0.95]; 1 without a result"]
    assert "1 of 4 runs have no complete evaluation at step 1000 (1 interrupted)" in text
    assert "augmented3" in text


@pytest.mark.parametrize("state", ["failed", "interrupted", "running"])
def test_step_0_is_never_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    stopped(tmp_path, "augmented", state, [(0, 99)])
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][2] == "–" and "99" not in text.split("\n- ")[0] and "**" not in text
    assert "argument --at-step: 0: a whole number from 1" in refused(capsys, tmp_path, "--at-step", "0")


def test_a_run_that_failed_is_not_safe_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run counts as not safe, stays in the denominator, and is named."""
    stopped(tmp_path, "plain", "failed", [(0, 1), (1000, 50)])
    for seed in range(3):
        stopped(tmp_path, "augmented", "finished", [(1000, 10)], seed)
    stopped(tmp_path, "augmented", "failed", [(0, 1), (300, 70)], 3)
    text = text_of(capsys, tmp_path)
    assert safe_of(text) == ["3/4 [0.30, 0.95]; 1 failed", "0/1 [0.00, 0.79]; 1 failed"]
    assert lines_of(text, "toy", "return")[0][2:] == ["10.00 [10.00, 10.00]", "50.00"]
    assert re.search(r"Failed, hence not safe: \S+/augmented3 \(no reason recorded\), \S+/plain0", text)


def test_cells_are_compared_at_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While no run is finished, the last common step is used; --at-step chooses another; an unknown one is refused."""
    stopped(tmp_path, "augmented", "running", [(0, 0), (100, 5), (200, 20)])
    stopped(tmp_path, "plain", "running", [(0, 0), (100, 6)])
    stopped(tmp_path, "pid", "starting", [])
    text = text_of(capsys, tmp_path)
    assert lines_of(text, "toy", "return")[0][2:] == ["5.00", "–", "**6.00**"]
    assert re.search(r"toy: compared at step 100, the last that all runs share while none is finished; \S+/plain0 is "
                     "the furthest behind, others were evaluated up to step 200", text)
    text = text_of(capsys, tmp_path, "--at-step", "200")
    assert lines_of(text, "toy", "return")[0][2:] == ["**20.00**", "–", "–"] and "evaluation at step 200" in text
    assert "there are 100, 200" in refused(capsys, tmp_path, "--at-step", "150")


def test_means_over_the_last_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers are computed by hand; the limit is 4, and the evaluation at step 0 never counts."""
    make_run(tmp_path / "a", config(), evaluation(0, [(9, 9, 9), (9, 9, 9)]), evaluation(100, [(1, 0, 0), (3, 8, 8)]),
             evaluation(200, [(5, 2, 2), (5, 12, 12)]), evaluation(300, [(6, 0, 0), (8, 2, 2)]))
    late = [evaluation(step, [(1, 5, 5), (1, 7, 7)]) for step in (200, 300)]
    make_run(tmp_path / "b", config(0, "plain"), *late)
    text = text_of(capsys, tmp_path, "--last", "3")
    assert lines_of(text, "toy", "return")[0][2:] == ["**4.67**", "–"] and cost_of(text) == ["4.00", "–"]
    assert safe_of(text) == ["1/1 [0.21, 1.00]", "1 without a result"]
    assert "each run's last 3 evaluations, at steps 100 to 300. " in text
    assert "1 of 2 runs have not 3 complete evaluations up to and at step 300 (1 finished)" in text
    header, line = (lines_of(text, "env", "agent")[0], lines_of(text, "toy", "vesde", "augmented")[0])
    shown = dict(zip(header, line, strict=True))
    assert shown["evaluations over"] == shown["episodes over"] == "33%" and shown["CVaR 0.1"] == "7.33"
    (first, _) = as_json(capsys, tmp_path, "--last", "2")[0]["cells"]
    assert (first["return"], first["cost"], first["evaluations_over"], first["violation"]) == (6, 4, 0.5, 0)
    assert [(run["first_step"], run["step"]) for run in first["each_run"]] == [(200, 300)]
    assert "evaluations over" not in text_of(capsys, tmp_path)
    latex = text_of(capsys, tmp_path, "--last", "2", "--format", "latex")
    assert r"\caption{Family toy: mean over the last 2 evaluations, at steps 200 to 300," in latex
    assert "--last 4: no run has more than 3 complete evaluations" in refused(capsys, tmp_path, "--last", "4")
    sides = ["--first", "guidance=augmented", "--second", "guidance=plain", "--last", "2"]
    assert main(["compare", str(tmp_path), *sides]) == 0
    text = capsys.readouterr().out
    assert ("toy at steps 200 to 300. Results: means over the deterministic episodes of each run's last 2 evaluations."
            in text)
    assert lines_of(text, "toy", "guidance=augmented")[0][3:] == ["6.00", "4.00"]
    assert main(["scores", str(tmp_path), "--unconstrained", "12", "--last", "2"]) == 0
    text = capsys.readouterr().out
    assert ("reference), of the deterministic episodes of each run's last 2 evaluations, at steps 200 to 300; "
            "unconstrained: 12") in text
    assert lines_of(text, "vesde", "augmented")[0][3] == "0.50"


def test_the_last_evaluations_are_complete_and_the_same_for_all(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    """An incomplete one is not replaced by an earlier one, and all runs are averaged over the same steps."""
    whole = {step: evaluation(step, [(step, 0, 0)] * 2) for step in (100, 150, 200, 300)}
    make_run(tmp_path / "a", config(), whole[100], whole[200], whole[300])
    make_run(tmp_path / "b", config(1), whole[100], evaluation(200, [(9, 0, 0)]), whole[300])
    text = text_of(capsys, tmp_path, "--last", "2")
    assert lines_of(text, "toy", "return")[0][2] == "250.0" and "1 of 2 runs have not 2 complete" in text
    assert re.search(r"Incomplete evaluations, which are not used: \S+/b at step 200 \(1 of 2 episodes\)", text)
    assert lines_of(text_of(capsys, tmp_path), "toy", "return")[0][2].startswith("**300.0**")
    said = refused(capsys, tmp_path, "--last", "2", "--at-step", "100")
    assert "--last 2: no run has more than 1 complete evaluations after step 0 and up to step 100" in said
    make_run(tmp_path / "c", config(0, "plain"), whole[100], whole[150], whole[200], evaluation(250, [(9, 0, 0)] * 2),
             whole[300])
    said = refused(capsys, tmp_path, "--last", "2")
    assert "--last 2: on toy these evaluations cover 50 to 100 steps, since runs were not evaluated equally" in said


def test_finished_and_states_choose_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(tmp_path, "augmented", "finished", [(100, 5)])
    stopped(tmp_path, "augmented", "failed", [(100, 7)], 1)
    stopped(tmp_path, "augmented", "running", [(100, 9)], 2)
    text = text_of(capsys, tmp_path, "--finished")
    assert lines_of(text, "toy", "return")[0][2] == "**5.00**" and safe_of(text) == ["1/1 [0.21, 1.00]"]
    assert "Left out by --finished: 2 of 3 runs (1 failed, 1 running), so that safety is that of" in text
    text = text_of(capsys, tmp_path, "--where", "state=failed,running")
    assert safe_of(text) == ["1/2 [0.09, 0.91]; 1 failed"]
    assert "state is failed, finished, running" in refused(capsys, tmp_path, "--where", "state=lost")


def test_runs_that_a_state_leaves_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(tmp_path, "augmented", "finished", [(100, 1), (200, 1)])
    stopped(tmp_path, "augmented", "failed", [(100, 1)], 1)
    text = text_of(capsys, tmp_path, "--where", "state=finished,running")
    assert safe_of(text) == ["1/1 [0.21, 1.00]"]
    assert "Left out by --where state=finished,running: 1 of 2 runs (1 failed), so that safety is that of" in text
    assert main(["compare", str(tmp_path), "--first", "state=finished", "--second", "guidance=augmented"]) == 2
    assert "state=finished: the sides are methods, and a state is none" in capsys.readouterr().err


def test_a_condition_chooses_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelled value among several is no smaller choice, and a second condition no value."""
    for seed in range(2):
        simple(tmp_path / f"a{seed}", config(seed), 5, 1)
    for condition, said in (("guidance=augmented,plan", "with guidance=plan; guidance is augmented"),
                            ("guidance=augmented,seed=1", "is augmented; a further condition is another --where"),
                            ("gudiance=augmented", "did you mean guidance")):
        assert said in refused(capsys, tmp_path, "--where", condition)
    assert safe_of(text_of(capsys, tmp_path, "--where", "seed=0,1", "--where", "state=finished,running"))


def test_runs_of_two_lengths_are_compared_at_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for guidance in ("augmented", "plain"):
        for seed, length in enumerate((100, 200)):
            make_run(tmp_path / f"{guidance}{seed}", config(seed, guidance) | {"total_steps": length},
                     *[evaluation(step, [(step + seed, 1, 0)] * 2) for step in range(100, length + 1, 100)])
    assert "can be compared at one step (--at-step)" in refused(capsys, tmp_path)
    text = text_of(capsys, tmp_path, "--at-step", "100")
    assert lines_of(text, "toy", "return")[0][2] == "**100.5** (100.0; 101.0)" and "Pooled" not in text
    assert main(["compare", str(tmp_path), "--at-step", "100", "--first", "guidance=augmented", "--second",
                 "guidance=plain"]) == 0
    assert "also differ" not in capsys.readouterr().out


def test_runs_of_different_code_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, hashed in enumerate(("aa", "bb", "bb")):
        folder = simple(tmp_path / f"a{seed}", config(seed), 5, 1)
        (folder / "meta.json").write_text(json.dumps({"starts": [{"trusted": {"pendulum": hashed}}]}))
    simple(tmp_path / "plain", config(0, "plain"), 5, 1)
    said = re.compile(r"- Trained with different code of pendulum: aa \(\S+/a0\); bb \(\S+/a1, \S+/a2\)\.")
    assert said.search(text_of(capsys, tmp_path))
    assert main(["compare", str(tmp_path), "--first", "guidance=augmented", "--second", "guidance=plain"]) == 0
    assert said.search(capsys.readouterr().out)
    (tmp_path / "a0" / "meta.json").write_text('{"starts": [{"trusted": ["pendulum"]}]}')
    assert "a0 cannot be read as a run" in text_of(capsys, tmp_path)


@pytest.mark.parametrize(("key", "values"), [
    ("horizon", (400, 1000)), ("limit", (4.0, 40.0)), ("limit_kind", ("episode", "discounted"))])
def test_a_task_has_one_horizon_limit_and_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str,
                                               values: tuple[object, object]) -> None:
    """A row of a table is one task: with twice the horizon everybody returns twice as much."""
    for guidance, value in zip(("augmented", "plain"), values, strict=True):
        simple(tmp_path / guidance, config(0, guidance, **{key: value}), 5, 1)
    assert f"the runs on toy differ in more than env, agent, guidance, namely in env.{key}" in refused(capsys, tmp_path)
    text = text_of(capsys, tmp_path, "--columns", f"guidance,env.{key}")
    if key == "limit_kind":
        assert "Cost and limit are discounted sums in toy with env.limit_kind=discounted; training" in text


def test_half_that_never_stay_feasible_is_not_a_median(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of four are feasible from step 100 on, the others never, so the median is unknown."""
    for seed in range(4):
        cost = 1 if seed < 2 else 9
        make_run(tmp_path / str(seed), config(seed), evaluation(100, [(1, cost, 0)] * 2),
                 evaluation(200, [(1, cost, 0)] * 2))
    (line,) = lines_of(text_of(capsys, tmp_path), "toy", "vesde", "augmented")
    assert line[10] == "> 200"


# --- spreads, unreadable runs, LaTeX -------------------------------------------------------------------------------


def test_a_rare_violation_is_not_rounded_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, worst in (("over", 5), ("safe", 4)):
        make_run(tmp_path / name, config(0, "augmented" if name == "over" else "plain"),
                 *[evaluation(step, [(1, worst if step == 200 else 0, 0)] * 2) for step in range(1, 301)])
    text = text_of(capsys, tmp_path, "--last", "300", "--safe-share", "0.996")
    over, safe = (lines_of(text, "toy", "vesde", guidance)[0] for guidance in ("augmented", "plain"))
    assert (over[9], over[10], safe[9], safe[10]) == ("< 1%", "< 1%", "0%", "0%") and "at least 99.6% are safe" in text
    assert main(["efficiency", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert [lines_of(text, "toy", "vesde", guidance)[0][-2] for guidance in ("augmented", "plain")] == [
        "> 99% (> 99% … > 99%)", "100% (100% … 100%)"]


def test_training_cost_has_a_spread_and_ends_at_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Means over seeds, with the range of the seeds, of the cost up to the step of the comparison."""
    for seed, cost in enumerate((10, 30)):
        folder = make_run(tmp_path / str(seed), config(seed), evaluation(100, [(1, 1, 0)] * 2),
                          evaluation(200, [(1, cost, 0)] * 2))
        (folder / "episodes.csv").write_text(EPISODES + f"100,0,0,1,{cost},0,100\n200,1,0,1,{cost},0,100\n")
    (line,) = lines_of(text_of(capsys, tmp_path), "toy", "vesde", "augmented")
    assert line[7] == "16.00 (6.00 … 26.00)" and line[11:13] == ["40 (20 … 60)", "0.2000 (0.1000 … 0.3000)"]
    (line,) = lines_of(text_of(capsys, tmp_path, "--at-step", "100"), "toy", "vesde", "augmented")
    assert line[11] == "20 (10 … 30)"


def test_one_unreadable_run_is_named_and_the_others_are_tabled(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    simple(tmp_path / "a", config(0), 1, 0)
    bad = simple(tmp_path / "b", config(1), 1, 0)
    (bad / "evals.csv").write_text("step,sampler\n1\n")
    assert main(["table", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert lines_of(captured.out, "toy", "return")[0][2] == "**1.00**"
    for said in (captured.out, captured.err):
        assert f"{bad} cannot be read as a run (ValueError: evals.csv, line 2" in said
    assert "cannot be read as a run" in refused(capsys, tmp_path, "--strict")


def test_latex_says_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The caption states IQM, interval, n and step; minus signs are typeset as such, hyphens in names are kept."""
    for seed, gain in enumerate((-1.5, -2.5, -3.5)):
        simple(tmp_path / str(seed), config(seed, "a-b-1"), gain, 0)
    text = text_of(capsys, tmp_path, "--format", "latex")
    caption = re.search(r"\\caption\{(.*)\}", text)
    assert caption is not None
    for said in ("at step 200", "n = 3 seeds", "IQM", "interquartile mean", r"95\% interval", "Wilson's"):
        assert said in caption[1]
    body = text.split(r"\toprule")[1]
    assert r"\textbf{$-$2.50} {\scriptsize[$-$" in body and "a-b-1" in body and "-2.50" not in body.replace("$-$", "")


def test_what_is_not_a_number_is_not_within_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a", config(), evaluation(200, [(1, float("nan"), 0), (1, 1, 0)]))
    (folder / "episodes.csv").write_text(EPISODES + "100,0,0,1,nan,0,10\n200,1,0,1,9,0,10\n300,2,0,1,1,0,10\n")
    (run,) = runs_in(tmp_path)
    assert run.last is not None and run.last.over == 0.5
    assert run.training is not None and run.training.over == pytest.approx(2 / 3)
