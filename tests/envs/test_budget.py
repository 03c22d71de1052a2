"""Budgets: h is the value that the cost critic should predict for a policy that spends the limit, by rollouts."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from algd.budget import Budget, CostReturn, budget_of
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run.build import build_task
from algd.run.collector import EPISODES, Collector
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.storage.run_folder import EPISODE_COLUMNS
from algd.storage.table import Table
from tests.algorithm.test_update import small_agent
from tests.support.command import compose

DISCOUNT = 0.99


class Spender(gymnasium.Env):
    """A step costs its action; episodes end after `horizon` steps, by truncation or termination."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(0, 1, (1,))

    def __init__(self, horizon: int, terminates: bool):
        self.horizon, self.terminates = horizon, terminates

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == self.horizon
        return (np.zeros(1, np.float32), 0.0, over and self.terminates, over and not self.terminates,
                {"cost": float(action[0])})


def spender(horizon: int, terminates: bool, cost_return: CostReturn, limit: float = 10.0) -> Task:
    return Task(Spender(horizon, terminates), "spender", "other", Budget(limit, "episode", horizon, cost_return))


def value_at_start(task: Task, episodes: int = 3) -> tuple[float, float]:
    """Return an episode's mean cost and its first state's cost value, for a policy that spends 0.3 and 0.1 in turn.

    The value is the limit of temporal differences on the rollouts' transitions, where each time step is a state and the
    state after a truncation is an episode's first.
    """
    costs, done = np.zeros((episodes, task.budget.horizon)), np.zeros(task.budget.horizon)
    for episode in range(episodes):
        task.reset(seed=episode)
        for step in range(task.budget.horizon):
            *_, info = task.step(np.array([0.3 if (step + episode) % 2 else 0.1]))
            costs[episode, step], done[step] = info["cost"], info["cost_done"]
    mean, value = costs.mean(0), 0.0
    for _ in range(math.ceil(2000 / task.budget.horizon)):   # γ^2000 is 2e-9
        for step in reversed(range(task.budget.horizon)):
            value = mean[step] + DISCOUNT * (1 - done[step]) * value
    return float(costs.sum(1).mean()), value


@pytest.mark.parametrize("horizon", [1, 16, 100, 400])
@pytest.mark.parametrize("cost_return", ["bootstraps", "ends"])
def test_h_is_the_value_of_a_policy_that_spends_the_limit(horizon: int, cost_return: CostReturn) -> None:
    spent, value = value_at_start(spender(horizon, cost_return == "ends", cost_return), episodes=4)
    limited = Budget(spent, "episode", horizon, cost_return)
    # Costs alternate within an episode, which changes the discounted sum by less than 1%.
    assert limited.threshold(DISCOUNT) == pytest.approx(value, rel=0.01)


def test_what_the_conversion_was_worth() -> None:
    """The exact threshold is the authors' times 1.02 at T = 400, and times 6.7 at T = 16."""
    for horizon, factor in ((16, 6.732), (100, 1.577), (400, 1.0183), (1000, 1.00004)):
        exact, authors = (Budget(10, "episode", horizon, how).threshold(DISCOUNT) for how in ("bootstraps", "authors"))
        assert exact / authors == pytest.approx(factor, rel=1e-3)
        assert exact == pytest.approx(10 / horizon / (1 - DISCOUNT))


def test_the_authors_conversion() -> None:
    assert Budget(10, "episode", 400).threshold(0.99) == pytest.approx(2.4551, abs=5e-5)
    assert Budget(10, "episode", 400).threshold(1.0) == 10
    assert Budget(10, "episode", 400, "ends").threshold(0.99) == Budget(10, "episode", 400).threshold(0.99)
    assert Budget(82.748, "discounted", 1000).threshold(0.99) == 82.748
    assert Budget(3, "discounted", 10).spent(5.0, 4.0) == 4.0
    assert Budget(3, "episode", 10).spent(5.0, 4.0) == 5.0


@pytest.mark.parametrize("env", ["toy", "point_button1"])
def test_the_budget_in_a_configuration_is_the_tasks(env: str) -> None:
    config = compose(f"env={env}")
    assert budget_of(config) == build_task(config).budget
    del config["env"]["cost_return"]  # as in configurations of earlier versions
    assert budget_of(config).cost_return == "authors"


def run_through(task: Task, episodes: int) -> None:
    for _ in range(episodes):
        task.reset()
        for _ in range(task.unwrapped.horizon):
            task.step(np.array([0.5]))


def collector(task: Task, folder: Path) -> Collector:
    """Return a new run's collector, which acts always the same."""
    found = Collector(small_agent(), task, lambda: task, lambda observation: np.array([0.5], np.float32), 0,
                      Table(folder / "episodes.csv", EPISODE_COLUMNS),
                      SimulatorErrors(0, folder / "simulator-errors.log", print), print)
    found.begin_episode(0)
    return found


def collect(found: Collector, episodes: int) -> None:
    for _ in range(episodes):
        while not found.step(0).over:
            pass
        found.end_episode(0)


def test_a_task_that_says_wrongly_how_its_return_ends_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"env.cost_return=ends: .* at step 4.*env.cost_return=bootstraps is right"):
        run_through(spender(4, False, "ends"), 1)
    wrong = collector(spender(4, True, "bootstraps"), tmp_path)
    collect(wrong, EPISODES - 1)
    with pytest.raises(UsageError, match=r"env.cost_return=bootstraps: .* 4, its horizon, .*env.cost_return=ends is"):
        collect(wrong, 1)
    for right in (spender(4, True, "ends"), spender(4, False, "bootstraps"), spender(4, True, "authors")):
        collect(collector(right, tmp_path), 2 * EPISODES)


def test_a_policy_that_always_falls_at_the_same_step_proves_nothing(tmp_path: Path) -> None:
    """As untrained ones do on the velocity tasks: the end is before the horizon."""
    falls = Task(Spender(4, True), "spender", "other", Budget(10, "episode", 5, "bootstraps"))
    collect(collector(falls, tmp_path), 2 * EPISODES)


@pytest.mark.parametrize("truncated", [0, EPISODES - 1])
def test_one_truncation_shows_that_the_return_goes_on(truncated: int, tmp_path: Path) -> None:
    """So it does in a run that is resumed after it, and a resumed run is refused where another one is."""
    def episodes(interrupted: int | None, *, right: bool) -> None:
        found = collector(spender(4, True, "bootstraps"), tmp_path)
        for number in range(2 * EPISODES):
            if number == interrupted:
                state = found.checkpoint()
                found = collector(spender(4, True, "bootstraps"), tmp_path)
                found.restore(state, 0)
            found.task.unwrapped.terminates = not right or number != truncated
            collect(found, 1)
        assert number == 2 * EPISODES - 1

    for interrupted in (None, truncated, 5, EPISODES):
        episodes(interrupted, right=True)
        with pytest.raises(UsageError, match="of each of its first 10 episodes"):
            episodes(interrupted, right=False)


def test_a_checkpoint_that_does_not_say_how_episodes_ended(tmp_path: Path) -> None:
    """As those of earlier versions: the run goes on."""
    for before in (3, 2 * EPISODES):
        found = collector(spender(4, False, "bootstraps"), tmp_path)
        collect(found, before)
        state = found.checkpoint()
        del state["ended"]
        resumed = collector(spender(4, True, "bootstraps"), tmp_path)
        resumed.restore(state, 0)
        collect(resumed, 2 * EPISODES)


@pytest.mark.parametrize(("env", "cost_return", "threshold"), [
    ("point_button1", "authors", 2.4551), ("safety_point_goal1", "bootstraps", 2.5), ("toy", "bootstraps", 20.0),
    ("throttle", "ends", 0.4), ("hopper_velocity", "authors", 82.748)])
def test_thresholds_of_tasks(env: str, cost_return: str, threshold: float) -> None:
    config = compose(f"env={env}", "logger=none")
    assert config["env"]["cost_return"] == cost_return
    assert build_task(config).budget.threshold(0.99) == pytest.approx(threshold, abs=5e-5)
