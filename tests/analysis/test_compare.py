"""Comparisons of algorithms, on the fixture tests/fixtures/runs and on runs with known answers."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.results.cells import cells
from analysis.results.compare import Comparison, Side, SignTest, compare, sides
from analysis.results.profiles import draw_profile
from analysis.results.tradeoff import pareto
from tests.analysis.run_folders import FIXTURE, config, evaluation, fixture_runs, lines_of, make_run, runs_in, simple

AGAINST = ["--first", "guidance=augmented", "--second", "guidance=plain"]


def of(found: Comparison, task: str, quantity: str) -> SignTest:
    (test,) = [test for test in found.tests if (test.task, test.quantity) == (task, quantity)]
    return test


def test_two_sides_by_hand() -> None:
    """On point_button1 the returns are 20 24 22 40 21 and 30 31 29 30 50, by seed."""
    (found,) = compare(sides(fixture_runs("env=point_button1"), ["guidance=augmented", "guidance=plain"]))
    assert found.tasks == ["point_button1"] and (found.left_out, found.differing) == ([], [])
    # Only 40 is better than others, than four of five.
    assert found.returns.value == pytest.approx(4 / 25)
    gain, cost = (of(found, "point_button1", quantity).paired for quantity in ("return", "cost"))
    assert gain is not None and cost is not None and len(found.tests) == 2
    assert gain.differences == [-10, -7, -7, 10, -29] and gain.difference.value == pytest.approx(-43 / 5)
    assert (gain.wins, gain.losses) == (1, 4)
    assert cost.differences == [-6, -1, -5, 3, -23] and cost.difference.value == pytest.approx(-32 / 5)
    # Of the signs of 10, 7, 7, 10, 29, ten combinations give a mean of at least 43/5 in absolute value.
    sums = [abs(float(np.dot(signs, gain.differences))) for signs in product((1, -1), repeat=5)]
    assert gain.p_value == sum(one >= 43 for one in sums) / 32
    # Lower costs are better: 6 wins against five, 8 five, 10 three, 14 two, 7 five, without ties.
    costs_x, costs_y = [6, 8, 10, 14, 7], [12, 9, 15, 11, 30]
    wins = sum(x < y for x in costs_x for y in costs_y)
    assert found.costs.value == pytest.approx(wins / 25)


def test_sides_that_cannot_be_compared() -> None:
    runs = fixture_runs()
    with pytest.raises(UsageError, match="paper and stock"):
        compare(sides(runs, ["guidance=augmented", "guidance=plain"]))
    (found,) = compare(sides(fixture_runs("env.family=paper"), ["guidance=plain", "guidance=pid"]))
    assert found.tasks == ["point_button1"] and found.left_out == ["car_button1"]
    assert found.returns.low is None
    with pytest.raises(UsageError, match="both sides"):
        sides(runs, ["guidance=plain", "agent=vesde"])
    mixed = Side("both", fixture_runs("env=point_button1"))
    with pytest.raises(UsageError, match=r"guidance\.name"):
        compare([mixed, mixed])


def test_a_result_that_is_not_a_number_loses_against_every_other(tmp_path: Path) -> None:
    """One of two runs has diverged without failing; the other wins against both rivals: 2 of 4."""
    for seed, value in ((0, 9.0), (1, float("nan"))):
        simple(tmp_path / f"a{seed}", config(seed), value, 1)
        simple(tmp_path / f"b{seed}", config(seed, guidance="plain"), 5 + seed, 2)
    (found,) = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain"]))
    assert (found.returns.value, found.costs.value) == (0.5, 0.5)


def test_ties_are_half_a_win() -> None:
    (found,) = compare(sides(fixture_runs("env.family=stock"), ["guidance=augmented", "guidance=plain"]))
    paired = of(found, "safety_point_goal1", "return").paired
    assert paired is not None
    assert (found.returns.value, found.costs.value, paired.ties, paired.p_value) == (0.5, 0.5, 3, 1)


def test_sides_must_have_one_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sides that differ in limit, batch size, learning rate or length are refused, with keys and values named."""
    one = config(0) | {"batch_size": 8}
    other = config(0, "plain", limit=25.0) | {"batch_size": 9, "total_steps": 2500}
    simple(tmp_path / "a", one, 1, 0)
    simple(tmp_path / "b", other, 1, 0)
    assert main(["compare", str(tmp_path), *AGAINST]) == 2
    said = capsys.readouterr().err
    assert "guidance=augmented and guidance=plain differ in more than guidance, namely on toy in " in said
    for key in ("batch_size (8, 9)", "env.limit (4.0, 25.0)", "total_steps (200, 2500)"):
        assert key in said
    assert main(["compare", str(tmp_path), *AGAINST, "--pool"]) == 0
    said = capsys.readouterr().out
    assert "The sides also differ on toy in batch_size (8, 9)" in said
    assert "toy: the sides have the limits 4.00 and 25.00." in said and "toy at step 200" in said


def test_pooling_names_what_differs_within_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if the first runs of both sides agree."""
    for seed, rho in ((0, 1.0), (1, 50.0)):
        simple(tmp_path / f"a{seed}", config(seed, rho=rho), 1, 0)
        simple(tmp_path / f"b{seed}", config(seed, "plain"), 1, 0)
    for key in ("guidance", "guidance.name"):
        against = ["--first", f"{key}=augmented", "--second", f"{key}=plain"]
        assert main(["compare", str(tmp_path), *against, "--pool"]) == 0
        assert "The sides also differ on toy in guidance.rho (1.0, 50.0)" in capsys.readouterr().out


def test_a_pair_may_differ_in_what_its_own_sides_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in what a third side names."""
    for guidance, size in (("augmented", 256), ("plain", 512), ("pid", 256)):
        simple(tmp_path / guidance, config(0, guidance) | {"batch_size": size}, 1, 0)
    assert main(["compare", str(tmp_path), *AGAINST, "--second", "guidance=pid batch_size=256"]) == 2
    assert "guidance=plain differ in more than guidance, namely on toy in batch_size" in capsys.readouterr().err


def test_both_sides_are_judged_at_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that stopped before the step has no result; --at-step compares all runs at an earlier one."""
    for seed in range(3):
        early = evaluation(100, [(seed, 1, 1), (seed, 1, 1)])
        late = evaluation(200, [(10 + seed, 1, 1), (10 + seed, 1, 1)])
        make_run(tmp_path / f"a{seed}", config(seed), early, late)
        make_run(tmp_path / f"b{seed}", config(seed, "plain"), early, *([late] if seed else []),
                 state="finished" if seed else "interrupted")
    assert main(["compare", str(tmp_path), *AGAINST]) == 0
    text = capsys.readouterr().out
    assert "toy at step 200" in text and "1, 2; unpaired 0" in text
    assert "guidance=plain: 1 of 3 runs have no result at the step (1 interrupted)" in text
    assert main(["compare", str(tmp_path), *AGAINST, "--at-step", "100"]) == 0
    text = capsys.readouterr().out
    assert "toy at step 100" in text and "| 0, 1, 2" in text
    assert main(["compare", str(tmp_path), *AGAINST, "--at-step", "50"]) == 2
    assert "there are 100, 200" in capsys.readouterr().err


def test_a_run_that_failed_is_worse_than_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed run loses against any other and ties with another failed one, so half of the pairs are won."""
    for seed in range(2):
        simple(tmp_path / f"a{seed}", config(seed), 9, 1)
        make_run(tmp_path / f"lost{seed}", config(2 + seed), state="failed")
        simple(tmp_path / f"b{seed}", config(seed, "plain"), 5, 3)
    (found,) = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain"]))
    assert (found.returns.value, found.costs.value) == (0.5, 0.5)
    make_run(tmp_path / "gone", config(2, "plain"), state="failed")
    (found,) = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain"]))
    # Of 12 pairs 2 · 3 are wins and 2 · 1 ties.
    assert found.returns.value == pytest.approx((6 + 1) / 12)
    assert main(["compare", str(tmp_path), *AGAINST]) == 0
    text = capsys.readouterr().out
    assert "2 of 4 runs have no result at the step (2 failed), count as not safe and take no part in means" in text
    # In the profile, too: of augmented's four runs two are above every return of the others, and below every cost.
    figure = draw_profile(found, "toy", "deterministic")
    returns, costs = ([line.get_ydata().tolist() for line in axis.lines if len(line.get_xdata()) > 10]
                      for axis in figure.axes)
    assert [values[0] for values in returns] == [0.5, 2 / 3] and [values[-1] for values in returns] == [0, 0]
    assert [values[0] for values in costs] == [1, 1] and [values[-1] for values in costs] == [0.5, 1 / 3]
    assert "without a result: 3" in figure.get_suptitle()


def test_several_sides_and_tasks_share_one_correction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With three sides and two tasks Holm's correction covers all tests, including the sign tests over both tasks."""
    for env, scale in (("toy", 1.0), ("ring", 1000.0)):
        for seed in range(5):
            for guidance, gain in (("augmented", 3.0), ("plain", 1.0), ("pid", 3.0)):
                simple(tmp_path / f"{env}-{guidance}-{seed}", config(seed, guidance, env), scale * (gain + seed / 9), 1)
    found = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain", "guidance=pid"]))
    assert [(one.first.name, one.second.name) for one in found] == [
        ("guidance=augmented", "guidance=plain"), ("guidance=augmented", "guidance=pid")]
    test = of(found[0], "ring", "return")
    # 2/32 is the smallest p-value of five seeds. Of the twelve tests the two over both tasks, 2/1024, come first.
    assert test.p_value == 2 / 32 and test.adjusted == pytest.approx(11 * 2 / 32)
    overall = of(found[0], "", "return")
    assert overall.paired is None and overall.p_value == 2 / 2**10
    assert overall.adjusted == pytest.approx(12 * overall.p_value)
    assert {test.p_value for test in found[1].tests} == {1}
    pairs = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain", "guidance=pid"]), all_pairs=True)
    assert len(pairs) == 3
    arguments = ["compare", str(tmp_path), *AGAINST, "--second", "guidance=pid"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Holm: over the 12 tests of this call" in text and text.count("| all tasks") == 4
    assert main([*arguments, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"] == 12


def test_within_agents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs are paired with those of the same agent and seed, and the test over all has the pairs of both agents."""
    returns = {("ddpm", "augmented"): (1, 4), ("ddpm", "plain"): (0, 1),
               ("vesde", "augmented"): (110, 100), ("vesde", "plain"): (105, 96)}
    for (agent, guidance), values in returns.items():
        for seed, gain in enumerate(values):
            simple(tmp_path / f"{agent}-{guidance}{seed}", config(seed, guidance) | {"agent": {"name": agent}},
                       gain, 1)
    command = ["compare", str(tmp_path), *AGAINST]
    assert main(command) == 2
    refusal = capsys.readouterr().err
    assert "differ in agent.name (ddpm, vesde): name them in the side's condition or in --within" in refusal
    assert main([*command, "--within", "agent", "--out", str(tmp_path / "figures")]) == 0
    text = capsys.readouterr().out
    assert "Tasks: toy, ddpm at step 200; toy, vesde at step 200." in text and "- Compared within agent: " in text
    assert (tmp_path / "figures" / "profile_toy_vesde.png").exists()
    assert main([*command, "--within", "agent", "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    gains = {test["task"]: test for test in found["tests"] if test["quantity"] == "return"}
    assert found["within"] == ["agent"] and gains.keys() == {"toy, ddpm", "toy, vesde", None}
    assert gains["toy, ddpm"]["paired"]["differences"] == [1, 3] and gains["toy, ddpm"]["p"] is None
    assert gains["toy, vesde"]["paired"]["differences"] == [5, 4]
    assert gains[None]["p"] == 2 / 2**4  # all four have one sign
    # Within ddpm 1 > 0, 4 > 0, 4 > 1 and 1 = 1, within vesde 110 and 100 are above all but 100 above 105.
    assert found["returns"]["value"] == (3.5 / 4 + 3 / 4) / 2
    assert main([*command, "--within", "agnt"]) == 2 and "agnt: no run has this key" in capsys.readouterr().err


def test_each_agent_within_is_compared_at_its_own_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {"ddpm": 200, "vesde": 400}
    for (agent, end), guidance in product(ends.items(), ("augmented", "plain")):
        settings = config(0, guidance) | {"agent": {"name": agent}, "total_steps": end}
        make_run(tmp_path / f"{agent}-{guidance}", settings, evaluation(end, [(1, 1, 1)] * 2))
    make_run(tmp_path / "gaussian", config() | {"agent": {"name": "gaussian"}}, evaluation(200, [(1, 1, 1)] * 2))
    assert main(["compare", str(tmp_path), *AGAINST, "--within", "agent"]) == 0
    text = capsys.readouterr().out
    assert "Tasks: toy, ddpm at step 200; toy, vesde at step 400." in text
    assert "Left out, since not both sides have a result there: toy, gaussian." in text


def test_compare_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(FIXTURE), "--where", "env=point_button1", *AGAINST]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "0.16 [" in text and "| point_button1 | return " in text and "-8.60 [" in text
    assert "-6.40 (-6.00; -1.00; -5.00; 3.00; -23.00)" in text and "4/5 [0.38, 0.96]" in text
    assert (tmp_path / "profile_point_button1.pdf").exists()
    assert main([*arguments, "--format", "json"]) == 0
    (read,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert read["returns"]["value"] == pytest.approx(0.16) and read["tests"][0]["paired"]["wins"] == 1
    assert read["first"]["tasks"]["point_button1"]["step"] == 300


def test_the_pareto_front_of_a_budget_sweep() -> None:
    """A cell is on the front unless another one is better in both mean cost and mean return."""
    found = cells(fixture_runs("env=point_button1"))
    # augmented (9, 22.33), plain (15.4, 30.33), pid (6, 20): none is dominated.
    assert {cell.column[1] for cell in pareto(found)} == {"augmented", "plain", "pid"}
    both = cells(fixture_runs("env=car_button1"), at_step=200)
    # plain costs less (22 instead of 30.5) at the return of augmented, 6.5.
    assert [cell.column[1] for cell in pareto(both)] == ["plain"]


def test_failing_with_all_seeds_is_not_better_than_with_most(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """A task on which one side has failed runs alone counts: its runs are worse than any other."""
    for seed in range(3):
        for env in ("toy", "ring"):
            simple(tmp_path / f"plain-{env}{seed}", config(seed, "plain", env), 5, 1)
        simple(tmp_path / f"augmented{seed}", config(seed), 9, 1)
        make_run(tmp_path / f"lost{seed}", config(seed, env="ring"), state="failed")
    (found,) = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain"]))
    assert (found.tasks, found.left_out) == (["ring", "toy"], []) and found.returns.value == 0.5
    assert main(["compare", str(tmp_path), *AGAINST, "--out", str(tmp_path / "figures")]) == 0
    text = capsys.readouterr().out
    assert "3 of 6 runs have no result at the step (3 failed)" in text and "no common seed" in text.lower()
    assert main(["compare", str(tmp_path), *AGAINST, "--format", "json"]) == 0
    (read,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert read["first"]["tasks"]["ring"]["return"] == {} and read["second"]["tasks"]["ring"]["safe"] == 3


def test_one_difference_among_ties_is_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three tasks of one seed, two of them without a difference in cost: p = 1 over all tasks."""
    for env, cost in (("toy", 0), ("ring", 0), ("road", 3)):
        simple(tmp_path / f"a-{env}", config(0, env=env), 9, cost)
        simple(tmp_path / f"b-{env}", config(0, "plain", env), 5, 0)
    assert main(["compare", str(tmp_path), *AGAINST]) == 0
    (line,) = lines_of(capsys.readouterr().out, "all tasks", "cost")
    assert line[4:6] == ["1", "1"]


def test_costs_of_different_kinds_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("episode", "discounted"):
        settings = config(0)
        settings["env"]["limit_kind"] = kind
        simple(tmp_path / kind, settings, 9, 1)
    assert main(["compare", str(tmp_path), "--first", "env.limit_kind=episode", "--second",
                 "env.limit_kind=discounted"]) == 2
    assert "the costs on toy are of the kinds discounted and episode (env.limit_kind)" in capsys.readouterr().err
    assert [cell.best for cell in cells(runs_in(tmp_path), columns=["env.limit_kind"])] == [True, True]


@pytest.mark.parametrize(("options", "said"), [
    (["--budgets", "--first", "guidance=plain"], "--first has no effect with --budgets"),
    (["--budgets", "--within", "agent"], "--within has no effect with --budgets"),
    ([*AGAINST, "--training"], "--training has no effect without --budgets"),
    ([*AGAINST, "--safe-share", "0.5"], "--safe-share has no effect without --budgets"),
    ([*AGAINST, "--within", "guidance"], "--within guidance: the sides differ in this key"),
    (["--budgets", "--at-step", "7"], "--at-step 7: no run has a complete evaluation at this step")])
def test_options_without_an_effect_are_refused(options: list[str], said: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(FIXTURE), "--where", "env=point_button1", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_sampler_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(FIXTURE), "--where", "env=point_button1", *AGAINST]
    for sampler in ("deterministic", "stochastic"):
        assert main([*arguments, "--sampler", sampler]) == 0
        assert f"means over the {sampler} episodes of each run's evaluation" in capsys.readouterr().out
        assert main([*arguments, "--sampler", sampler, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["sampler"] == sampler
    (found,) = compare(sides(fixture_runs("env=point_button1"), ["guidance=augmented", "guidance=plain"]))
    assert "stochastic evaluations, step 300" in draw_profile(found, "point_button1", "stochastic").get_suptitle()


def test_a_profile_says_who_is_not_drawn(tmp_path: Path) -> None:
    for seed in range(11):
        simple(tmp_path / f"a{seed}", config(seed), 9 + seed, 1)
    simple(tmp_path / "b", config(0, "plain"), 5, 3)
    make_run(tmp_path / "c", config(1, "plain"), state="interrupted")
    (found,) = compare(sides(runs_in(tmp_path), ["guidance=augmented", "guidance=plain"]))
    said = draw_profile(found, "toy", "deterministic").get_suptitle().replace("\n", " ")
    assert "unfinished and not drawn: 1" in said
    assert said.endswith("band: 95% percentile bootstrap; none for fewer than 10 runs")
