"""An environment: walking towards a ledge."""

from typing import Any, Literal

import gymnasium
import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from algd.budget import Budget, Kind
from algd.envs.task import Task

STRIDE, LEDGE = 0.2, 0.5


class Ledge(gymnasium.Env):
    """A position x in [−1, 1] that an action in [−1, 1] moves by at most STRIDE.

    The reward is x. Beyond LEDGE each step costs 1. Episodes are truncated after `horizon` steps.
    """

    def __init__(self, horizon: int):
        self.horizon = horizon
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._x, self._steps = self.np_random.uniform(-1, 0), 0
        return np.array([self._x], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._x = min(max(self._x + STRIDE * float(action[0]), -1.0), 1.0)
        info = {"cost": float(self._x > LEDGE)}
        return np.array([self._x], np.float32), self._x, False, self._steps >= self.horizon, info


def ledge(name: str, family: Literal["other"], reference_steps: PositiveInt, limit: NonNegativeFloat, limit_kind: Kind,
          horizon: PositiveInt, render_mode: str | None = None) -> Task:
    """Make the task env=ledge."""
    return Task(Ledge(horizon), name, family, Budget(limit, limit_kind, horizon))
