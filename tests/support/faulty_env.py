"""Environments with a fault at a given step, for tests: env.id=tests.support.faulty_env:Faulty-v0."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

LENGTH = 20


class Faulty(gymnasium.Env):
    """A random walk of 20 steps, with a fault.

    Episodes are determined by their seed and actions, as in a real environment, unless `left` limits the faults.

    Args:
        fault: "reward", "cost", "observation" or "first observation": not finite; "huge reward": finite, but not in
            float32; "step" or "reset": raises; "exception": reported as Safety-Gymnasium reports errors of its
            simulator; "none".
        at: step of an episode at which the fault occurs.
        share: share of episodes with the fault, chosen by seed; never seed 0, which is used to probe environments.
        left: file with the number of faults that still occur, in this or another process; None: no limit.
        costs: cost of a step.
        filmed: only episodes of an environment with a render_mode have faults.
        render_mode: gymnasium's.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str = "none", at: int = 5, share: float = 0.2, left: str | None = None,
                 costs: float = 0.0, filmed: bool = False, render_mode: str | None = None):
        self.fault, self.at, self.share, self.costs = fault, at, share, costs
        self.left = Path(left) if left else None
        self.broken, self.render_mode = False, render_mode
        self.immune = filmed and render_mode is None

    def _is_due(self, what: str) -> bool:
        """Return whether the fault occurs now; after "step" or "reset" the simulator stays broken."""
        due = self.broken or (self.fault == what and self.bad and (self.steps == self.at or what == "reset"))
        if due and self.left is not None:
            number = int(self.left.read_text())
            self.left.write_text(str(max(number - 1, 0)))
            due = number > 0
        return due

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        self.bad = bool(seed) and not self.immune and np.random.default_rng(seed).random() < self.share
        if self._is_due("reset"):
            self.broken = True
            raise RuntimeError("the world cannot be\nbuilt")
        observation = np.zeros(2, np.float32)
        if self.bad and self.fault == "first observation":
            observation[0] = np.nan
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self._is_due("step"):
            self.broken = True
            raise RuntimeError("the solver\ndid not converge")
        now = self.bad and self.steps == self.at
        observation = (self.np_random.normal(size=2) + action).astype(np.float32)
        if now and self.fault == "observation":
            observation[1] = np.inf
        reward = {"reward": float("nan"), "huge reward": 1e300}.get(self.fault, 1.0) if now else float(action[0])
        info: dict[str, Any] = {"cost": float("-inf") if now and self.fault == "cost" else self.costs}
        if now and self.fault == "exception":
            info["cost_exception"] = 1.0
        return observation, reward, False, self.steps == LENGTH, info

    def render(self) -> np.ndarray:
        return np.zeros((64, 64, 3), np.uint8)


class Unstable(InvertedPendulumEnv):
    """MuJoCo's inverted pendulum, whose velocity is set to 1e12 in the fifth step of a fifth of the episodes."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.bad = bool(seed) and np.random.default_rng(seed).random() < 0.2
        self.taken = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken += 1
        if self.bad and self.taken == 5:
            self.data.qvel[0] = 1e12
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"cost": 0.0}


gymnasium.register("Faulty-v0", Faulty)
gymnasium.register("Unstable-v0", Unstable)
