"""Throttle: choose a speed that determines both reward and cost.

Observations are a context x, uniform on [−1, 1]² and drawn at every step; actions are in [−1, 1]². The first sets
the speed v = (a_0 + 1)/2 in [0, 1], the second has to match x_0:

    reward = GAIN · v − MISMATCH · (a_1 − x_0)²
    cost   = v

Reward and cost are both linear in the speed, so that L = −Q + λ (Qc − h) is linear in it too: its minimiser jumps from
one end to the other as λ passes λ* = GAIN, and no λ holds a speed between them. L_A has one minimiser for every λ,
which moves by 1/ρ times the change of λ (docs/throttle.md). An episode is a few independent steps and then terminates:
values are one step's reward and cost plus, in longer episodes, a term that does not depend on the action.
"""

from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from algd.budget import Budget, CostReturn, Kind
from algd.envs.task import Task

GAIN = 0.6  # reward of full speed: λ*
MISMATCH = 0.2  # reward lost per squared difference of the second action from the context


class Throttle(gymnasium.Env):
    """The environment of this module's docstring; an episode follows from the reset's seed and the actions.

    Args:
        horizon: steps in an episode, which then terminates.
    """

    def __init__(self, horizon: int):
        self.horizon, self.render_mode = horizon, None
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def _draw(self) -> NDArray[np.float32]:
        self._context = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._context

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._draw(), {}

    def step(self, action: NDArray) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        speed = (float(action[0]) + 1) / 2
        reward = GAIN * speed - MISMATCH * (float(action[1]) - float(self._context[0])) ** 2
        self._steps += 1
        return self._draw(), reward, self._steps >= self.horizon, False, {"cost": speed}


def optimum(limit: float, horizon: int) -> float:
    """The greatest mean return of any policy whose mean cost an episode is at most the limit: every unit of cost earns
    GAIN, and the second action matches the context."""
    return GAIN * min(limit, horizon)


def make(name: str, family: Literal["toy"], reference_steps: PositiveInt, limit: NonNegativeFloat, limit_kind: Kind,
         horizon: PositiveInt, cost_return: CostReturn, render_mode: None = None) -> Task:
    """Throttle as a task. The arguments are conf/env/throttle.yaml's keys; `reference_steps` is the default of
    total_steps."""
    return Task(Throttle(horizon), name, family, Budget(limit, limit_kind, horizon, cost_return))
