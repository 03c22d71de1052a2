"""The toy task: its two implementations agree, seed and actions determine episodes, and its optimum is correct."""

import math

import numpy as np
import pytest

from algd.envs import toy
from algd.envs.task import Task, probe
from algd.run.acting import Act
from algd.run.build import build_task
from algd.run.episodes import run_episode
from tests.support.command import compose

FEASIBLE, UNCONSTRAINED, UNCONSTRAINED_COST = 30.50, 35.93, 39.66  # toy.optimum(limit=4, horizon=20)


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(compose("env=toy", "agent=gaussian", "logger=none"))


@pytest.fixture(scope="module")
def optimum(task: Task) -> toy.Optimum:
    return toy.optimum(task.budget.limit, task.budget.horizon)


def steer_to(lane: float, along: tuple[float, float] = (-math.inf, math.inf)) -> Act:
    """Return a policy at full speed, at offset `lane` between these places along the road, in the middle elsewhere."""
    def act(observation: np.ndarray) -> np.ndarray:
        place = math.atan2(observation[1], observation[0]) * toy.ROAD / (2 * math.pi)
        target = lane if along[0] < place < along[1] else 0.0
        return np.array([1, np.clip((target - observation[2]) / toy.SPEED, -1, 1)])
    return act


def mean_return_and_cost(task: Task, act: Act) -> tuple[float, float]:
    episodes = [run_episode(task, act, seed, 0.99) for seed in range(200)]
    return float(np.mean([e.reward for e in episodes])), float(np.mean([e.cost for e in episodes]))


def test_one_step_by_hand(task: Task) -> None:
    road = task.unwrapped
    task.reset(seed=0)
    road._path = [(-0.25, -0.15)]
    observation, reward, terminated, truncated, info = task.step(np.array([1.0, 0.5]))
    # It reaches (0, −0.025), 0.125 from the hazard's centre, so the depth is 1 − (0.125 / 0.5)² = 0.9375.
    assert np.allclose(observation, [1, 0, -0.025])
    assert reward == pytest.approx(1.5 * math.exp(-((0.025 / 2.5) ** 2)) * (1 + 1.5 * 0.9375))
    assert info == {"cost": pytest.approx(15 * 0.9375), "reward_done": False, "cost_done": False}
    assert not terminated and not truncated


def test_the_arrays_and_the_single_step_agree(task: Task) -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        task.reset(seed=seed)
        along, across = (np.array(v) for v in task.unwrapped._path[-1])
        for _ in range(task.budget.horizon):
            action = rng.uniform([-0.2, -1], 1)
            along, across, reward, cost = toy.advance(along, across, action)
            observation, single_reward, _, _, info = task.step(action)
            assert (single_reward, info["cost"]) == pytest.approx((float(reward), float(cost)), abs=1e-12)
            assert observation[2] == pytest.approx(float(across), abs=1e-6)


def test_observations_stay_in_their_space(task: Task) -> None:
    for sideways in (-1.0, 1.0):
        observation, _ = task.reset(seed=1)
        for _ in range(task.budget.horizon):
            assert task.observation_space.contains(observation)
            observation, *_ = task.step(np.array([-1, sideways], np.float32))
        assert observation[2] == sideways * toy.EDGE


def test_episodes_follow_from_seed_and_actions(task: Task) -> None:
    def record(seed: int) -> list[tuple]:
        rng = np.random.default_rng(7)
        rows = [task.reset(seed=seed)[0].tolist()]
        truncated = False
        while not truncated:
            observation, reward, terminated, truncated, info = task.step(rng.uniform(-1, 1, 2).astype(np.float32))
            assert not terminated
            rows.append((observation.tolist(), reward, info["cost"]))
        return rows

    first = record(5)
    assert len(first) == task.budget.horizon + 1
    record(6)
    assert record(5) == first
    assert record(6)[0] != first[0]


def test_starts_are_before_the_hazard_and_outside_it(task: Task) -> None:
    starts = []
    for seed in range(300):
        task.reset(seed=seed)
        starts.append(task.unwrapped._path[0])
    low, high = np.min(starts, 0), np.max(starts, 0)
    assert toy.START_ALONG[0] <= low[0] < high[0] <= toy.START_ALONG[1] < -toy.HAZARD_RADIUS
    assert high[0] - low[0] > 0.95 * (toy.START_ALONG[1] - toy.START_ALONG[0])
    assert toy.START_ACROSS[0] <= low[1] < high[1] <= toy.START_ACROSS[1]


def test_the_optimum_is_as_recorded(optimum: toy.Optimum) -> None:
    assert optimum.feasible_return == pytest.approx(FEASIBLE, abs=0.01)
    assert optimum.unconstrained_return == pytest.approx(UNCONSTRAINED, abs=0.01)
    assert optimum.unconstrained_cost == pytest.approx(UNCONSTRAINED_COST, abs=0.01)


def test_the_constraint_matters(optimum: toy.Optimum, task: Task) -> None:
    assert optimum.unconstrained_return > 1.15 * optimum.feasible_return
    assert optimum.unconstrained_cost > 9 * task.budget.limit


def test_real_policies_nearly_reach_the_optimum_and_do_not_exceed_it(optimum: toy.Optimum, task: Task) -> None:
    straight_return, straight_cost = mean_return_and_cost(task, steer_to(toy.HAZARD[1]))
    assert straight_cost > 9 * task.budget.limit
    assert 0.97 * optimum.unconstrained_return < straight_return < 1.01 * optimum.unconstrained_return
    for lane in (-0.4, 0.6):
        round_return, round_cost = mean_return_and_cost(task, steer_to(lane, along=(-1.2, 0.5)))
        assert round_cost <= task.budget.limit
        assert 0.95 * optimum.feasible_return < round_return < 1.01 * optimum.feasible_return


def test_a_larger_budget_never_hurts_and_none_is_needed_in_the_end(task: Task) -> None:
    limits = (0.5, 4.0, 20.0, 100.0)
    optima = [toy.optimum(limit, task.budget.horizon, resolution=8, actions=3) for limit in limits]
    returns = [o.feasible_return for o in optima]
    assert returns == sorted(returns) and returns[-1] == optima[-1].unconstrained_return
    assert optima[-1].multiplier == 0 < optima[0].multiplier


def test_the_picture_shows_the_driver_and_the_hazard() -> None:
    task = toy.make("toy", "toy", 1, 4.0, "episode", 16, render_mode="rgb_array")
    task.reset(seed=0)
    before = task.render()
    task.step(np.array([1.0, 0.0]))
    after = task.render()
    assert before.shape == (256, 256, 3) and before.dtype == np.uint8
    moved = (before != after).any(-1)
    assert 20 < moved.sum() < 1000
    assert ((after.astype(int) >= 250).all(-1)).sum() > 20  # the driver is white
    red = (after[..., 0] > 150) & (after[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert columns.mean() > 200 and abs(rows.mean() - 127.5) < 5  # the hazard is on the right, half way up


def test_it_can_be_trained_and_draws_nothing_unasked(task: Task) -> None:
    probe(task)
    assert (task.name, task.family, task.render()) == ("toy", "toy", None)
