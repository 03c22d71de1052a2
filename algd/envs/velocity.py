"""Velocity tasks: gymnasium's MuJoCo robots with a cost on their speed."""

import warnings
from typing import Any, Literal

import gymnasium
import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from algd.budget import Budget, CostReturn, Kind
from algd.envs.safety_gymnasium.import_repairs import choose_headless_opengl, deprecations_unsaid, make_stock
from algd.envs.task import Task
from algd.errors import UsageError

CAMERA = "track"  # of every robot's model: it follows the robot, which soon leaves the view of gymnasium's default


def paper_velocity(name: str, family: Literal["paper", "other"], id: str, kept_observations: PositiveInt | None,
                   limit: NonNegativeFloat, limit_kind: Kind, horizon: PositiveInt, reference_steps: PositiveInt,
                   cost_return: CostReturn = "authors", render_mode: str | None = None) -> Task:
    """A velocity task as in the paper (Cheng et al., arXiv 2602.02924): the cost of a step is the robot's speed.

    Args:
        name, family: name the task in folders and tables.
        id: gymnasium's id of the robot, a v4 (v5 rewards differently).
        kept_observations: keep this many of the first entries of an observation; None keeps all.
        limit, limit_kind: the allowed cost, per episode or discounted.
        horizon: steps after which an episode is truncated.
        reference_steps: environment steps that the paper's authors ran.
        cost_return: how a limit per episode becomes the cost critic's threshold (`Budget`).
        render_mode: None, or "rgb_array" for pictures.

    Raises:
        UsageError: gymnasium does not have the id.
    """
    choose_headless_opengl()
    if id not in gymnasium.registry:
        raise UsageError(f"env={name}: id={id} is not registered with gymnasium; Ant-v4, HalfCheetah-v4, Hopper-v4 and "
                         "Humanoid-v4 are")
    with warnings.catch_warnings(), deprecations_unsaid():
        warnings.filterwarnings("ignore", message=".*out of date.*")  # v4 is wanted: it is the paper's reward
        env = gymnasium.make(id, max_episode_steps=horizon, disable_env_checker=True, render_mode=render_mode,
                             camera_name=CAMERA)
    if kept_observations is not None:
        env = FirstObservations(env, kept_observations)
    return Task(SpeedCost(env), name, family, Budget(limit, limit_kind, horizon, cost_return))


def stock_velocity(name: str, family: Literal["stock", "other"], id: str, limit: NonNegativeFloat, limit_kind: Kind,
                   horizon: PositiveInt, reference_steps: PositiveInt,
                   cost_return: CostReturn = "authors", render_mode: str | None = None) -> Task:
    """A velocity task of Safety-Gymnasium as released: a step costs 1 above the robot's speed limit, else 0.

    Arguments as in `paper_velocity`; `id` is the package's own.

    Raises:
        UsageError: the package does not have the id.
    """
    env = make_stock(id, horizon, render_mode, camera_name=CAMERA)
    return Task(env, name, family, Budget(limit, limit_kind, horizon, cost_return))


class SpeedCost(gymnasium.Wrapper):
    """The cost is the speed: √(v_x² + v_y²) where the robot moves in the plane, |v_x| where it moves on a line.

    The environment's info must hold "x_velocity" and, for the plane, "y_velocity", both in metres per second.

    Raises:
        UsageError: it does not (at the first step).
    """

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "x_velocity" not in info:
            raise UsageError(f"env.id={self.spec.id if self.spec else self.env}: its steps report no x_velocity, "
                             "which is this family's cost; Ant-v4, HalfCheetah-v4, Hopper-v4 and Humanoid-v4 do")
        info["cost"] = float(np.hypot(info["x_velocity"], info.get("y_velocity", 0.0)))
        return observation, float(reward), terminated, truncated, info


class FirstObservations(gymnasium.ObservationWrapper):
    """Keeps the first `count` entries of a flat observation.

    Raises:
        UsageError: it has fewer.
    """

    def __init__(self, env: gymnasium.Env, count: int):
        super().__init__(env)
        self.count = count
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or space.shape[0] < count:
            raise UsageError(f"env.kept_observations={count}: the observations are {space}")
        self.observation_space = gymnasium.spaces.Box(space.low[:count], space.high[:count], dtype=np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[:self.count]
