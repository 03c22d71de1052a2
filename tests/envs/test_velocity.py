"""Velocity tasks: the paper's costs and observations, the stock tasks against the package, and new processes."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hydra.errors import InstantiationException

from algd.budget import Budget
from algd.envs.safety_gymnasium.import_repairs import deprecations_unsaid
from algd.envs.task import probe
from algd.errors import UsageError
from tests.support.episodes import FreshProcess, names, record, task

STOCK, PAPER = names("stock", "velocity"), names("paper", "velocity")
NAVIGATION = names("paper", "navigation") + names("stock", "navigation")
SEEDS, STEPS = [3, 11, 4], [1000, 30, 30]
LIMITS = {"ant_velocity": 103.115, "halfcheetah_velocity": 151.989, "hopper_velocity": 82.748,
          "humanoid_velocity": 20.140}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> FreshProcess:
    return FreshProcess("reference", STOCK, SEEDS, STEPS, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FreshProcess:
    return FreshProcess("task", [*PAPER, *STOCK, *NAVIGATION], [5], [60], tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize("name", STOCK)
def test_stock_episodes_equal_the_package(name: str, references: FreshProcess) -> None:
    ours, theirs = record(task(name), SEEDS, STEPS), references.episodes(name)
    for key in theirs:
        assert np.array_equal(ours[key], theirs[key]), key
    assert ours["ends"].any(axis=1).sum() >= 1


@pytest.mark.parametrize("name", [*PAPER, *STOCK, *NAVIGATION])
def test_an_episode_follows_from_seed_and_actions_alone(name: str, fresh: FreshProcess) -> None:
    """Episodes are equal in a new process and after other, also unfinished ones, as exact resumption requires."""
    env = task(name)
    record(env, [8, 9], [70, 13])
    here, there = record(env, [5], [60]), fresh.episodes(name)
    for key in there:
        assert here[key].dtype == there[key].dtype and np.array_equal(here[key], there[key]), key


@pytest.mark.parametrize("name", PAPER)
def test_paper_cost_is_the_speed_and_rewards_are_those_of_v4(name: str) -> None:
    env = task(name)
    robot = {"ant": "Ant", "halfcheetah": "HalfCheetah", "hopper": "Hopper", "humanoid": "Humanoid"}[name.split("_")[0]]
    with deprecations_unsaid():
        bare = gymnasium.make(f"{robot}-v4").unwrapped
    observation, _ = env.reset(seed=2)
    expected, _ = bare.reset(seed=2)
    assert env.budget == Budget(LIMITS[name], "discounted", 1000)
    kept = {"Ant": 27, "Humanoid": 45}.get(robot, len(expected))
    assert observation.shape == env.observation_space.shape == (kept,)
    generator = np.random.default_rng(0)
    for _ in range(20):
        assert np.array_equal(observation, expected[:kept])
        action = generator.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        before = bare.unwrapped.data.qpos[:2].copy()
        observation, reward, terminated, truncated, info = env.step(action)
        expected, bare_reward, bare_terminated, _, bare_info = bare.step(action)
        assert (reward, terminated, truncated) == (bare_reward, bare_terminated, False)
        velocity = [bare_info["x_velocity"], *([bare_info["y_velocity"]] if robot in ("Ant", "Humanoid") else [])]
        assert info["cost"] == pytest.approx(np.sqrt(np.sum(np.square(velocity))), rel=1e-12)
        if robot in ("HalfCheetah", "Hopper"):
            assert info["cost"] == pytest.approx(abs(bare.data.qpos[0] - before[0]) / bare.dt, rel=1e-9)
        assert info["reward_done"] == info["cost_done"] == terminated
        if terminated:
            break


def test_falling_ends_both_returns_and_the_time_limit_neither() -> None:
    env = task("hopper_velocity")
    env.reset(seed=0)
    ends: dict[str, Any] = {}
    while not ends.get("terminated"):
        *_, ends["terminated"], ends["truncated"], info = env.step(np.ones(3, np.float32))
        assert info["reward_done"] == info["cost_done"] == ends["terminated"]
    assert not ends["truncated"]
    env = task("halfcheetah_velocity", horizon=5)
    env.reset(seed=0)
    for step in range(1, 6):
        *_, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        assert (terminated, truncated) == (False, step == 5)
        assert not info["reward_done"] and not info["cost_done"]


def test_a_stock_cost_is_one_above_the_speed_limit() -> None:
    env = task("safety_swimmer_velocity")
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    costs = set()
    for _ in range(200):
        *_, info = env.step(generator.uniform(-1, 1, 2).astype(np.float32))
        assert info["cost"] == float(info["x_velocity"] > 0.2282)
        costs.add(info["cost"])
    assert costs == {0.0, 1.0}


def test_limits_can_be_set_and_ids_are_checked() -> None:
    assert task("hopper_velocity", limit=5).budget.limit == 5
    for name, wrong in (("hopper_velocity", {"id": "Hoper-v4"}), ("hopper_velocity", {"kept_observations": 12}),
                        ("safety_hopper_velocity", {"id": "SafetyHoperVelocity-v1"})):
        with pytest.raises(InstantiationException, match="|".join(map(re.escape, map(str, wrong.values())))) as raised:
            task(name, **wrong)
        assert isinstance(raised.value.__cause__, UsageError)
    with pytest.raises(UsageError, match=r"InvertedPendulum-v4.* no x_velocity"):
        probe(task("hopper_velocity", id="InvertedPendulum-v4"))


@pytest.mark.needs("opengl")
def test_making_and_drawing_robots_leaves_no_trace_in_the_working_directory(tmp_path: Path) -> None:
    """MuJoCo writes warnings about old model files to MUJOCO_LOG.TXT in the working directory unless prevented."""
    code = ("from tests.support.episodes import task\n"
            "for name in ('halfcheetah_velocity', 'safety_halfcheetah_velocity', 'safety_point_goal1'):\n"
            "    env = task(name, render_mode='rgb_array')\n"
            "    env.reset(seed=0)\n"
            "    assert env.render().std() > 10\n"
            "    env.close()\n")
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


FOLLOWED = """
from tests.support.episodes import task
for name in ("hopper_velocity", "ant_velocity", "safety_hopper_velocity"):
    env = task(name, render_mode="rgb_array")
    env.reset(seed=0)
    robot = env.unwrapped
    for metres in (0.0, 8.0):
        place = robot.data.qpos.copy()
        place[0] += metres
        robot.set_state(place, robot.data.qvel.copy())
        frame = env.render().astype(int)
        print((frame[..., 0] > frame[..., 2] + 40).mean())
    env.close()
"""


@pytest.mark.needs("opengl")
def test_the_camera_follows_the_robot() -> None:
    """Eight metres further on as much of the picture has the robot's colours, which are warmer than floor and sky."""
    done = subprocess.run([sys.executable, "-c", FOLLOWED], cwd=Path(__file__).parents[2], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    shares = [float(line) for line in done.stdout.split()]
    assert len(shares) == 6
    for before, after in zip(shares[::2], shares[1::2], strict=True):
        assert before > 0.01 and 0.7 < after / before < 1.4
