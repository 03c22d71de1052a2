"""What every environment looks like to the trainer."""

import math
from typing import Any, Literal

import gymnasium
import numpy as np

from algd.budget import Budget
from algd.errors import UsageError

Family = Literal["paper", "stock", "toy", "other"]


class Task(gymnasium.Wrapper):
    """A constrained task: a gymnasium environment with flat observations, a bounded box of actions and a budget.

    `step` returns gymnasium's five values; its info always holds

        cost         float, the step's cost, finite
        reward_done  bool, the reward's return ends here (no bootstrap in the reward target)
        cost_done    bool, the cost's return ends here (no bootstrap in the cost target)

    An environment may set the last two itself; otherwise both are `terminated`. A time limit ends neither.

    Args:
        env: the environment; its info must hold "cost".
        name: names the task in folders and tables.
        family: "paper", "stock", "toy" or "other"; tables never mix families.
        budget: the allowed cost.

    Raises:
        UsageError: the spaces are not a flat finite box of actions and flat observations (at once), or a step
            reports no cost (at that step).
    """

    observation_space: gymnasium.spaces.Box  # type: ignore[override]
    action_space: gymnasium.spaces.Box  # type: ignore[override]

    def __init__(self, env: gymnasium.Env, name: str, family: Family, budget: Budget):
        super().__init__(env)
        self.name, self.family, self.budget = name, family, budget
        observations, actions = env.observation_space, env.action_space
        if not (isinstance(observations, gymnasium.spaces.Box) and len(observations.shape) == 1):
            raise UsageError(f"env={name}: observations are {observations}, but a flat Box is needed")
        if not (isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1
                and np.all(np.isfinite(actions.low)) and np.all(np.isfinite(actions.high))):
            raise UsageError(f"env={name}: actions are {actions}, but a flat Box with finite bounds is needed")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "cost" not in info:
            raise UsageError(f'env={self.name} reports no cost: its steps\' info has {sorted(info) or "no keys"}, '
                             'but "cost" is needed')
        info["cost"] = float(info["cost"])
        info.setdefault("reward_done", bool(terminated))
        info.setdefault("cost_done", bool(terminated))
        return observation, float(reward), bool(terminated), bool(truncated), info


def probe(task: Task) -> None:
    """Reset and step once, so that an environment that cannot be trained says so before a run's folder exists.

    Raises:
        UsageError: no cost is reported, or an observation, reward or cost is not finite.
    """
    observation, _ = task.reset(seed=0)
    middle = (task.action_space.low + task.action_space.high) / 2
    next_observation, reward, _, _, info = task.step(middle.astype(task.action_space.dtype))
    numbers = [*np.ravel(observation), *np.ravel(next_observation), reward, info["cost"]]
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"env={task.name}: its first step returns a value that is not finite")
