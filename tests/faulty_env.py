"""An environment for tests whose `fault` comes at a given step of every episode: env.id=tests.faulty_env:Faulty-v0."""

import gymnasium
import numpy as np


class Faulty(gymnasium.Env):
    """A random walk whose reward, cost or observation stops being finite.

    Args:
        fault: "reward", "cost" or "observation".
        at: the step of the second episode that returns it.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str, at: int):
        self.fault, self.at, self.episode = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        # The first reset is the probe's before a run starts.
        broken = self.episode > 2 and self.steps == self.at
        observation = self.np_random.normal(size=2).astype(np.float32)
        if broken and self.fault == "observation":
            observation[1] = np.inf
        reward = float("nan") if broken and self.fault == "reward" else 1.0
        cost = float("-inf") if broken and self.fault == "cost" else 0.0
        return observation, reward, False, self.steps == 20, {"cost": cost}


gymnasium.register("Faulty-v0", Faulty)
