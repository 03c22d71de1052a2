"""Whole episodes: run from a seed to their end, with their sums."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from algd.envs.task import Task
from algd.errors import SimulatorError
from algd.run.acting import Act
from algd.storage.checkpoint_state import EpisodeState


class Interrupted(Exception):
    """A stop or a checkpoint was requested while episodes were running."""


class Episode:
    """The sums of one episode.

    Args:
        discount: γ_c.

    Attributes:
        error: the simulator's exception, if one ended the episode.
    """

    def __init__(self, discount: float):
        self._discount, self._factor = discount, 1.0
        self.reward = self.cost = self.discounted_cost = 0.0
        self.length = 0
        self.error: SimulatorError | None = None

    def add(self, reward: float, cost: float) -> None:
        """Add one step."""
        self.reward += reward
        self.cost += cost
        self.discounted_cost += self._factor * cost
        self._factor *= self._discount
        self.length += 1

    def row(self) -> dict[str, Any]:
        """The sums by the names of the tables' columns."""
        return {"return": self.reward, "cost": self.cost, "discounted_cost": self.discounted_cost,
                "length": self.length, "simulator_error": int(self.error is not None)}

    def checkpoint(self) -> EpisodeState:
        """The sums of an open episode."""
        return {"reward": self.reward, "cost": self.cost, "discounted_cost": self.discounted_cost,
                "length": self.length, "factor": self._factor}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `checkpoint` returned."""
        self.reward, self.cost, self.discounted_cost = state["reward"], state["cost"], state["discounted_cost"]
        self.length, self._factor = state["length"], state["factor"]


Observer = Callable[[Episode, np.ndarray, np.ndarray | None], None]
"""Called at every state of an episode: its sums so far, the observation (s,), and the action (d,) that is taken there,
None at the last state. It must change none of them."""


def run_episode(task: Task, act: Act, seed: int, cost_discount: float, stop: Callable[[], bool] = lambda: False,
                observe: Observer | None = None) -> Episode:
    """One episode; if the simulator fails it ends there, with the sums until then and the error.

    Args:
        task: the environment.
        act: observation (s,) ↦ action (d,).
        seed: of the episode.
        cost_discount: γ_c.
        stop: called before every step.
        observe: called with every step.

    Raises:
        Interrupted: `stop` returned True.
        NumericalError: an observation, a reward, a cost or an action is not finite.
    """
    episode = Episode(cost_discount)
    try:
        observation, _ = task.reset(seed=seed)
        over = False
        while not over:
            if stop():
                raise Interrupted
            action = act(observation)
            if observe is not None:
                observe(episode, observation, action)
            observation, reward, terminated, truncated, info = task.step(action)
            episode.add(reward, info["cost"])
            over = terminated or truncated
        if observe is not None:
            observe(episode, observation, None)
    except SimulatorError as error:
        episode.error = error
    return episode
