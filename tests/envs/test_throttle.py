"""Throttle: one step by hand, independent steps, and an optimum that policies reach but do not exceed."""

import numpy as np
import pytest

from algd.envs import throttle
from algd.envs.task import Task
from algd.run.build import build_task
from tests.support.command import compose


def make(*arguments: str) -> Task:
    return build_task(compose("env=throttle", "logger=none", *arguments))


def test_one_step_by_hand() -> None:
    task = make()
    task.reset(seed=0)
    task.unwrapped._context = np.array([0.5, -1.0], np.float32)
    observation, reward, terminated, truncated, info = task.step(np.array([0.2, 0.1]))
    assert reward == pytest.approx(0.6 * 0.6 - 0.2 * 0.4**2) and info["cost"] == pytest.approx(0.6)
    assert terminated and not truncated and info["cost_done"] and task.observation_space.contains(observation)


@pytest.mark.parametrize("horizon", [1, 7])
def test_episodes_follow_from_seed_and_actions(horizon: int) -> None:
    task = make(f"env.horizon={horizon}")

    def record(seed: int) -> list[list[float]]:
        observation, _ = task.reset(seed=seed)
        rows, over = [observation.tolist()], False
        while not over:
            observation, reward, over, _, _ = task.step(np.array([0.3, -0.2]))
            rows.append([*observation.tolist(), reward])
        return rows

    first = record(3)
    assert len(first) == horizon + 1
    record(4)
    assert record(3) == first != record(4)


@pytest.mark.parametrize(("limit", "horizon"), [(0.4, 1), (2.0, 5), (3.0, 2)])
def test_the_optimum_is_reached_and_not_exceeded(limit: float, horizon: int) -> None:
    """The optimum is the return at speeds that spend the limit, constant or random, with the best second action."""
    task, rng = make(f"env.horizon={horizon}"), np.random.default_rng(0)
    share = min(limit / horizon, 1.0)

    def mean(speed, second) -> tuple[float, float]:
        rewards, costs = [], []
        for seed in range(400):
            observation, _ = task.reset(seed=seed)
            over = False
            while not over:
                observation, reward, over, _, info = task.step(np.array([2 * speed() - 1, second(observation)]))
                rewards.append(reward)
                costs.append(info["cost"])
        return sum(rewards) / 400, sum(costs) / 400

    best = throttle.optimum(limit, horizon)
    constant, cost = mean(lambda: share, lambda o: o[0])
    assert (constant, cost) == (pytest.approx(best), pytest.approx(share * horizon))
    mixed, cost = mean(lambda: float(rng.random() < share), lambda o: o[0])
    assert mixed == pytest.approx(throttle.GAIN * cost)
    assert mean(lambda: share, lambda o: 0.0)[0] < best
