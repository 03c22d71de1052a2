"""The interface for the trainer: environments that reuse their arrays, and mistakes, each told in a sentence."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from algd.budget import Budget
from algd.config.trust import trust
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run.build import build_task
from tests.support.command import compose

HORIZON = 5


class Reusing(gymnasium.Env):
    """Changes its own observation, its info and the action that it is given, in place; ends at step 3."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.state, self.info, self.steps = np.zeros(2, np.float32), {"cost": 0.0}, 0
        return self.state, self.info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.state += action
        action *= 0.5
        return self.state, 1.0, self.steps == 3, False, self.info


def test_what_an_environment_changes_in_place() -> None:
    """Otherwise a transition's two observations are the same array, and every transition has the first one's flags."""
    task = Task(Reusing(), "reusing", "other", Budget(1, "episode", HORIZON))
    action, seen, ends = np.ones(2, np.float32), [task.reset()[0]], []
    for _ in range(3):
        observation, *_, info = task.step(action)
        seen.append(observation)
        ends.append(info["cost_done"])
    assert [observation.tolist() for observation in seen] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert ends == [False, False, True] and action.tolist() == [1, 1]


class Returns(gymnasium.Env):
    """Returns what it is told to, never ending."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, first: Any, observation: Any, reward: Any, cost: Any, actions: Any = np.float32):
        self.first, self.answer, self.cost = first, (observation, reward), cost
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), actions)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.first, {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return *self.answer, False, False, {"cost": self.cost}


GOOD: dict[str, Any] = {"first": np.zeros(2), "observation": np.zeros(2), "reward": 0.0, "cost": 0.0}


@pytest.mark.parametrize(("wrong", "sentence"), [
    ({"first": None}, r"observation of type object and shape \(\) in the reset of .*_space is of shape \(2,\)"),
    ({"first": np.zeros(3)}, r"type float64 and shape \(3,\) in the reset of the episode with seed 4"),
    ({"observation": np.zeros((1, 2))}, r"shape \(1, 2\) in step 1 of the episode with seed 4"),
    ({"observation": ["a", "b"]}, "observation of type <U1"),
    ({"reward": np.zeros(2)}, r"env=mine returned reward \[0. 0.\] in step 1 .*; one number is needed"),
    ({"cost": None}, "env=mine returned cost None in step 1"),
    ({"cost": {"speed": 1.0}}, "returned cost {'speed': 1.0} in step 1"),
    ({}, "the episode with seed 4 goes on after step 5, its horizon; gymnasium.wrappers.TimeLimit truncates it there"),
    ({"actions": np.int64}, "actions are Box.*int64.*a flat Box of floats"),
])
def test_mistakes(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        task = Task(Returns(**(GOOD | wrong)), "mine", "other", Budget(1, "discounted", HORIZON))
        task.reset(seed=4)
        for _ in range(HORIZON):
            task.step(np.zeros(1))


def bare(**_: Any) -> gymnasium.Env:
    return Reusing()


def test_an_environment_is_not_a_task() -> None:
    config = compose("env=toy", "logger=none")
    config["env"] = {"name": "mine", "_target_": f"{__name__}.bare"}
    trust([__name__])
    with pytest.raises(UsageError, match=rf"{__name__}.bare returned a Reusing; an algd.envs.task.Task is needed"):
        build_task(config)
