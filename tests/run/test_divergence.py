"""A diverging run gives a few warnings with numbers while it runs; other runs give none."""

import copy
import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from algd.algorithm.policies.gaussian import GaussianPolicy
from algd.budget import Budget
from algd.run.episodes import Episode
from algd.run.evaluation import Bounds
from algd.run.faults.divergence import Divergence, EvaluationMeans, evaluation_means
from algd.run.faults.requests import Requests
from algd.run.train import train
from tests.support.command import TINY, compose, only_run, outcome, status, train_here

BUDGET = Budget(limit=10.0, kind="episode", horizon=400)


def signs(fixed_multiplier: bool = False) -> Divergence:
    """Return the checks of a run with rewards up to 2 and costs up to 1 per step, and h = 2.455."""
    found = Divergence(BUDGET, BUDGET.threshold(0.99), fixed_multiplier, 0.99, 0.99, settling_updates=1000)
    found.observe(-2.0, 0.0)
    found.observe(1.0, 1.0)
    return found


def evaluations(found: Divergence, *recent: EvaluationMeans, updates: int = 0, reward_unit: float = 1.0) -> list[str]:
    return [sentence for number, means in enumerate(recent)
            for sentence in found.after_evaluation(number, means, updates, reward_unit)]


def at(lam: float, spent: float, predicted: float = 2.0, measured: float = 2.0, tail: float = 0.1,
       at_bound: tuple[float, ...] = (0.2, -0.9)) -> EvaluationMeans:
    return EvaluationMeans(lam, spent, predicted, measured, tail, at_bound)


def means(**values: float) -> dict[str, float]:
    return {"critic_loss": 1.0, "cost_critic_loss": 0.1, "q": 30.0} | values


def test_the_means_are_over_the_stochastic_episodes_that_are_whole() -> None:
    def row(cost: float, discounted: float, length: int, error: int, predicted: float | str) -> dict[str, Any]:
        return {"cost": cost, "discounted_cost": discounted, "length": length, "simulator_error": error,
                "predicted_cost": predicted}

    rows = [row(6, 2, 100, 0, 3.0), row(2, 1, 300, 0, 5.0), row(99, 99, 1, 1, "")]
    tail = 0.99**200 * (8 / 400) / (1 - 0.99)
    assert evaluation_means(0.5, BUDGET, 0.99, rows, (0.5,)) == EvaluationMeans(0.5, 4.0, 4.0, 1.5, tail, (0.5,))
    assert evaluation_means(0.5, Budget(1.0, "discounted", 400), 0.99, rows, ()).spent == 1.5
    assert evaluation_means(0.5, BUDGET, 0.99, rows[2:], ()) is None


def test_a_multiplier_that_rises_over_the_limit_is_told_once_per_doubling() -> None:
    found = signs()
    told = evaluations(found, *(at(0.7 * 1.5**i, 20 + i) for i in range(12)))
    # 1.5² ≥ 2, so from the third evaluation on, and then whenever λ has doubled since the last warning.
    assert [int(sentence.split(":")[0].removeprefix("step ")) for sentence in told] == [2, 4, 6, 8, 10]
    assert told[0] == ("step 2: λ rose from 0.7 to 1.57 over the last 3 evaluations, in all of which the stochastic "
                       "policy's cost was over the limit (now 22, limit 10, episode): the limit may be out of reach")
    assert list(found.warnings.values()) == told[-1:] and found.count == 5


@pytest.mark.parametrize("looks", [
    [at(0.7, 20), at(1.4, 20), at(2.8, 10)],           # feasible at the end
    [at(0.7, 20), at(0.6, 20), at(2.8, 20)],           # not always rising
    [at(0.7, 20), at(0.8, 20), at(1.3, 20)],           # rising too little
    [at(2.8, 5), at(1.4, 5), at(0.7, 5)],              # falling below the limit
    [at(0.7, 20), at(1.4, 20)]])                       # too few
def test_a_multiplier_that_does_its_work_is_no_sign(looks: list[EvaluationMeans]) -> None:
    assert evaluations(signs(), *looks) == []


def test_a_multiplier_that_falls_over_the_limit() -> None:
    (sentence,) = evaluations(signs(), at(0.8, 20), at(0.5, 20), at(0.4, 15))
    assert sentence == ("step 2: λ fell from 0.8 to 0.4 over the last 3 evaluations, in all of which the stochastic "
                        "policy's cost was over the limit (now 15, limit 10, episode): its signal does not show the "
                        "violation")
    found = signs()
    told = evaluations(found, *[at(0.0, 20)] * 9)
    assert len(told) == 1 and "λ is 0 over the last 3 evaluations" in told[0]


def test_without_a_constraint_no_multiplier_is_looked_at() -> None:
    assert evaluations(signs(fixed_multiplier=True), *[at(0.0, 20)] * 5) == []


def test_a_multiplier_that_outweighs_the_reward_is_told_once_per_factor_of_ten() -> None:
    """With λ · 1 / 2 ≥ 1000 the warning comes whether the cost is over the limit or not."""
    told = evaluations(signs(), *(at(2.0 * 2.0**i, 5 + 6 * (i % 2)) for i in range(20)))
    steps = [int(sentence.split(":")[0].removeprefix("step ")) for sentence in told]
    assert steps == [10, 14, 18]
    assert "λ is 2.05e+03: the largest cost of a step weighs 1.02e+03 times its largest reward" in told[0]


def test_a_multiplier_outweighs_normalised_rewards() -> None:
    """In the critics' units the largest reward is 2 / 50: λ · 1 / 0.04 ≥ 1000 from λ = 40 on."""
    assert evaluations(signs(), *[at(39.0, 5)] * 3, reward_unit=50.0) == []
    (sentence,) = evaluations(signs(), *[at(41.0, 5)] * 3, reward_unit=50.0)
    assert "the largest cost of a step weighs 1.02e+03 times its largest reward" in sentence


def test_with_reach_an_unsafe_step_counts_as_one() -> None:
    """Whatever it costs: the targets are in [-1, 1], and an error of 1 is no sign of critics that diverge."""
    found = Divergence(BUDGET, BUDGET.threshold(0.99), False, 0.99, 0.99, settling_updates=None)
    found.observe(2.0, 0.001)
    for step in range(3):
        assert found.after_updates(step, means(cost_critic_loss=9999.0), 1.0) == []
    assert "is 1e+04: the error of a step is 100 times the largest cost of a step" in found.after_updates(
        3, means(cost_critic_loss=10000.0), 1.0)[0]
    assert evaluations(found, *[at(1999.0, 5)] * 3) == []
    assert "weighs 1e+03 times its largest reward" in evaluations(found, *[at(2000.0, 5)] * 3)[0]


def test_cost_critics_that_predict_what_the_episodes_do_not_cost() -> None:
    usual = [at(0.7, 5, predicted=8.7)] * 5  # 8.7 < 3 (2 + 0.1) + 2.455
    assert evaluations(signs(), *usual) == []
    told = evaluations(signs(), *(at(0.7, 5, predicted=8.8 * 2**i) for i in range(4)))
    assert told == ["step 2: the cost critics predict a discounted cost of 35.2, the evaluation's episodes had 2 (and "
                    "0.1 may come after their last step): they diverge",
                    "step 3: the cost critics predict a discounted cost of 70.4, the evaluation's episodes had 2 (and "
                    "0.1 may come after their last step): they diverge"]
    assert evaluations(signs(), at(0.7, 5, predicted=99), at(0.7, 5), at(0.7, 5, predicted=99)) == []


def test_cost_critics_that_do_not_see_the_cost_have_time_to_form() -> None:
    blind = [at(0.7, 5, predicted=0.1, measured=8.0)] * 4  # 8 > 3 (0.1 + 2.455)
    assert evaluations(signs(), *blind, updates=999) == []
    (sentence,) = evaluations(signs(), *blind, updates=1000)
    assert sentence.endswith("the evaluation's episodes had 8 (and 0.1 may come after their last step): they do not "
                             "see the cost")


def test_the_share_of_steps_at_a_bound() -> None:
    """In a box of [0, 2] x [−1, 1] the bounds begin at 0.01 and 1.99, −0.99 and 0.99."""
    bounds = Bounds(Box(np.array([0, -1], np.float32), np.array([2, 1], np.float32)))
    for action in ((0.0, 1.0), (0.0095, -0.5), (0.0105, 0.995), (2.0, 0.985), None):
        bounds(Episode(0.99), np.zeros(3), None if action is None else np.array(action, np.float32))
    assert bounds.shares() == (-0.5, 0.5)


def test_actions_at_a_bound_are_told_when_there_are_more_of_them() -> None:
    def policy(*shares: tuple[float, ...]) -> list[str]:
        return evaluations(signs(), *(at(0.7, 5, at_bound=one) for one in shares))

    assert policy(*[(0.94, -0.94)] * 5) == []
    assert policy((1.0, 0.0), (-1.0, 0.0), (1.0, 0.0)) == []  # not the same bound
    assert policy((1.0, 0.0), (1.0, 0.0), (0.5, 0.0), (1.0, 0.0)) == []
    told = policy(*[(0.3, -0.96, 0.1)] * 4, *[(1.0, -1.0, 0.1)] * 4)
    assert told == ["step 2: component 1 (lower) of the policy's action was at the same bound in at least 96% of the "
                    "steps of each of the last 3 evaluations: the slope of tanh is almost 0 there, and the policy may "
                    "hardly learn for a long time",
                    "step 6: components 0 (upper), 1 (lower) of the policy's action were at the same bound in at least "
                    "100% of the steps of each of the last 3 evaluations: the slope of tanh is almost 0 there, and the "
                    "policy may hardly learn for a long time"]


def test_without_any_cost_and_limit_there_is_nothing_to_compare_with() -> None:
    found = Divergence(Budget(0.0, "episode", 400), 0.0, False, 0.99, 0.99, 1000)
    assert evaluations(found, *[at(0.7, 0, predicted=1e-3, measured=0.0, tail=0.0)] * 4) == []


def test_losses_that_grow_by_orders_of_magnitude() -> None:
    found = signs()
    usual = [found.after_updates(step, means(critic_loss=5.0 + step), 1.0) for step in range(10)]
    assert usual == [[]] * 10
    told = [found.after_updates(10 + step, means(critic_loss=loss), 1.0)
            for step, loss in enumerate((1399, 1400, 2000, 13999, 14000))]  # 100 times the largest, 14
    assert told[0] == told[2] == told[3] == []
    assert told[1] == ["step 11: critic_loss is 1.4e+03, 100 times the largest of the run's first 10 rows and of one "
                       "step's reward squared: the critics diverge"]
    assert len(told[4]) == 1


def test_losses_that_are_absurd_from_the_start() -> None:
    found = signs()
    assert found.after_updates(0, means(cost_critic_loss=1e5), 1.0) == []  # initial losses do not count
    assert found.after_updates(1, means(cost_critic_loss=9999), 1.0) == []
    assert found.after_updates(2, means(cost_critic_loss=10000), 1.0) == [
        "step 2: cost_critic_loss is 1e+04: the error of a step is 100 times the largest cost of a step: the critics "
        "diverge"]
    # With normalised rewards, in the critics' units: the largest reward of a step is 2 / 4.
    assert signs().after_updates(0, means(q=249.0), 4.0) == []
    assert "Q is 250 on average, but rewards of at most 0.5 a step can only add up to 50" in signs().after_updates(
        0, means(q=250.0), 4.0)[0]


def test_an_entropy_bonus_adds_to_q() -> None:
    """With rewards of at most 0.08 and a bonus of 0.5 · 1.36 a step Q can be 76, also after the bonus has fallen."""
    found = signs()
    found.largest_reward = 0.08
    assert found.after_updates(0, means(q=41.5, temperature=0.5, entropy=1.36), 1.0) == []
    restored = signs()
    restored.restore(copy.deepcopy(found.checkpoint()))
    for some in (found, restored):
        assert some.after_updates(1, means(q=379.0, temperature=0.01, entropy=-2.0), 1.0) == []
        assert some.after_updates(2, means(q=381.0, temperature=0.01, entropy=-2.0), 1.0) == [
            "step 2: Q is 381 on average, but rewards of at most 0.08 a step and an entropy bonus of at most 0.68 can "
            "only add up to 76: the reward critics diverge"]
    restored.restore({key: value for key, value in signs().checkpoint().items() if key != "largest_bonus"})
    assert restored.largest_bonus == 0


def test_cost_critics_that_predict_less_than_costs_can_be() -> None:
    """Costs are at least 0, and Qc is below it by more than h = 2.455; if a step costs -0.01, they are at least -1."""
    found = signs()
    assert found.after_updates(0, means(qc=-2.4), 1.0) == []
    assert found.after_updates(1, means(qc=-2.5), 1.0) == [
        "step 1: Qc is -2.5 on average, but the costs of an episode add up to 0 at least: the cost critics are wrong"]
    assert found.after_updates(2, means(qc=-4.9), 1.0) == []
    assert len(found.after_updates(3, means(qc=-5.0), 1.0)) == 1
    found = signs()
    found.observe(0.0, -0.01)
    restored = signs()
    restored.restore(copy.deepcopy(found.checkpoint()))
    for some in (found, restored):
        assert some.after_updates(0, means(qc=-3.4), 1.0) == []
        assert "add up to -1 at least" in some.after_updates(1, means(qc=-3.5), 1.0)[0]
    restored.restore({key: value for key, value in signs().checkpoint().items() if key != "lowest_cost"})
    assert len(restored.after_updates(0, means(qc=-2.5), 1.0)) == 1
    reach = Divergence(BUDGET, BUDGET.threshold(0.99), False, 0.99, 0.99, settling_updates=None)
    assert reach.after_updates(0, means(qc=-50.0), 1.0) == []


def test_a_checkpoint_holds_what_was_told() -> None:
    """Warnings are the same with and without saving and restoring at every evaluation."""
    looks = [at(0.7 * 1.5**i, 20 + i, predicted=8.8 * 2**i) for i in range(9)] + [at(0.0, 20)] * 3
    whole, parts = signs(), signs()
    for step, one in enumerate(looks):
        again = signs()
        again.restore(parts.checkpoint())
        parts = again
        for found in (whole, parts):
            found.observe(step, 2 * step)
        assert whole.after_evaluation(step, one, 0, 1.0) == parts.after_evaluation(step, one, 0, 1.0)
        losses = means(critic_loss=float(4**step))
        assert whole.after_updates(step, losses, 1.0) == parts.after_updates(step, losses, 1.0)
    assert whole.checkpoint() == parts.checkpoint() and math.isinf(whole.sizes["multiplier falls"])


def test_a_checkpoint_without_the_actions_is_continued() -> None:
    """Checkpoints of earlier versions have no shares at the bounds."""
    old = signs()
    evaluations(old, *[at(0.7, 5)] * 2)
    state = old.checkpoint()
    state["looks"] = [values[:5] for values in state["looks"]]
    found = signs()
    found.restore(state)
    stuck = [at(0.7, 5, at_bound=(1.0,))] * 4
    assert [number for number, one in enumerate(stuck) if found.after_evaluation(number, one, 0, 1.0)] == [2]


# --- runs that diverge -------------------------------------------------------------------------------------------

SMALL = [*TINY, "agent=gaussian", "initial_steps=100", "log_every=20", "checkpoint.every=60"]
# Every step costs 1 with any policy, so no limit below 20 can be kept.
HOPELESS = [*SMALL, "env=gymnasium", "env.id=tests.support.faulty_env:Faulty-v0", "env.horizon=20", "env.limit=5",
            "+env.kwargs.costs=1", "agent.cost_discount=0.9", "agent.polyak=1", "total_steps=300", "eval.every=30",
            "eval.episodes=1"]
RISING = [*HOPELESS, "guidance=plain", "guidance.dual.learning_rate=0.02", "agent.cost_learning_rate=0.01"]


def told(folder: Path, errors: str) -> list[str]:
    """Return the warnings on the console, after checking that they are those in the folder."""
    sentences = [line.removeprefix("warning: ") for line in errors.splitlines() if line.startswith("warning: step")]
    assert set(status(folder)["warnings"]) <= set(sentences)
    with (folder / "metrics.csv").open(newline="") as file:
        assert int(list(csv.DictReader(file))[-1]["warnings"]) == len(sentences)
    return sentences


def test_a_limit_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RISING, f"runs_dir={tmp_path}")
    rising = [one for one in told(only_run(tmp_path), capsys.readouterr().err) if "λ rose from" in one]
    assert 2 <= len(rising) <= 9 and all("(now 20, limit 5, episode): the limit may be out of reach" in one
                                         for one in rising)


def test_the_mirror_has_the_warnings(tmp_path: Path) -> None:
    arguments = [argument for argument in RISING if argument != "logger=none"]
    train_here(*arguments, "logger=tensorboard", f"runs_dir={tmp_path}")
    events = EventAccumulator(str(only_run(tmp_path) / "tensorboard"))
    events.Reload()
    last = events.Tensors("warnings")[-1].tensor_proto.string_val[0].decode()
    assert last.split("\n") == ["    " + text for text in status(only_run(tmp_path))["warnings"]] != []
    assert events.Scalars("train/warnings")[-1].value >= 2


class Stop(Requests):
    """Requests a stop as soon as metrics.csv has this many rows."""

    def __init__(self, folder: Path, rows: int):
        self.folder, self.rows = folder, rows
        super().__init__()

    @property
    def stop(self) -> str | None:
        found = list(self.folder.rglob("metrics.csv"))
        return "SIGTERM" if found and found[0].read_text().count("\n") > self.rows else None

    @stop.setter
    def stop(self, value: str | None) -> None:
        assert value is None


def test_a_resumed_run_tells_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RISING, f"runs_dir={tmp_path / 'twin'}")
    expected = told(only_run(tmp_path / "twin"), capsys.readouterr().err)
    assert len(expected) > 1
    arguments = [*RISING, f"runs_dir={tmp_path / 'runs'}"]
    assert train(compose(*arguments), Stop(tmp_path / "runs", 8)) == 143
    train_here(*arguments)
    folder = only_run(tmp_path / "runs")
    assert told(folder, capsys.readouterr().err) == expected
    assert status(folder)["warnings"] == status(only_run(tmp_path / "twin"))["warnings"]
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))


def test_cost_critics_that_hardly_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*HOPELESS, "guidance=pid", "agent.cost_learning_rate=1e-6", "total_steps=150",
               f"runs_dir={tmp_path}")
    sentences = told(only_run(tmp_path), capsys.readouterr().err)
    # 1 + 0.9 + … over 20 steps is 8.78.
    assert any("the evaluation's episodes had 8.78" in one and "they do not see the cost" in one for one in sentences)


@pytest.mark.parametrize(("critic", "loss"), [("critic", "critic_loss"), ("cost", "cost_critic_loss")])
def test_a_learning_rate_that_is_far_too_large(critic: str, loss: str, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*SMALL, "env=toy", f"agent.{critic}_learning_rate=1", f"agent.{critic}_hidden_sizes=[64,64,64]",
               "agent.polyak=1", "total_steps=60", "eval.episodes=1", f"runs_dir={tmp_path}")
    sentences = told(only_run(tmp_path), capsys.readouterr().err)
    assert any(f"step 40: {loss} is" in sentence and "the critics diverge" in sentence for sentence in sentences)


class OneWay(GaussianPolicy):
    """Its first component is always at the lower bound."""

    def _sample(self, observation: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        action, log_prob = super()._sample(observation, z)
        return torch.cat([(self.bias - self.scale)[:1].expand(len(action), 1), action[:, 1:]], -1), log_prob

    def deterministic(self, observation: torch.Tensor) -> torch.Tensor:
        return self._sample(observation, torch.zeros(len(observation), len(self.scale)))[0]


def test_a_policy_that_steers_one_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*SMALL, "env=toy", "total_steps=60", "eval.every=20", "eval.episodes=1", f"trusted=[{__name__}]",
               f"agent.policy._target_={__name__}.OneWay", f"runs_dir={tmp_path}")
    (sentence,) = told(only_run(tmp_path), capsys.readouterr().err)
    assert sentence.startswith("step 40: component 0 (lower) of the policy's action was at the same bound in at least "
                               "100% of the steps")


def test_a_run_that_learns_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*SMALL, "env=toy", "total_steps=400", "eval.every=50", "eval.episodes=4", f"runs_dir={tmp_path}")
    assert told(only_run(tmp_path), capsys.readouterr().err) == []
