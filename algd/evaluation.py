"""Evaluation: whole episodes in an environment of its own, with seeds of its own, one row an episode."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from algd.agent import Agent
from algd.envs.task import Task
from algd.noise import Noise
from algd.seeding import episode_seed, stream

SAMPLERS = ("deterministic", "stochastic")
Act = Callable[[np.ndarray], np.ndarray]


class Interrupted(Exception):
    """Somebody asked to stop while episodes were running."""


class Actor:
    """An agent as a function of one observation.

    Args:
        agent: the agent.
        task: the task, for its actions' type and bounds.
        noise: where a stochastic policy's draws come from; None: deterministic.
    """

    def __init__(self, agent: Agent, task: Task, noise: Noise | None):
        self._agent, self._noise, self._space = agent, noise, task.action_space
        self.device = next(agent.parameters()).device

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """An action (d,) in the box, of the environment's type, at an observation (s,)."""
        state = torch.as_tensor(observation, dtype=torch.float32, device=self.device).unsqueeze(0)
        action = self._agent.act(state, self._noise)[0].cpu().numpy().astype(self._space.dtype)
        # tanh(x)·scale + bias can round to just outside the box.
        return np.clip(action, self._space.low, self._space.high)


class Episode:
    """The sums of one episode.

    Args:
        discount: γ_c.
    """

    def __init__(self, discount: float):
        self._discount, self._factor = discount, 1.0
        self.reward = self.cost = self.discounted_cost = 0.0
        self.length = 0

    def add(self, reward: float, cost: float) -> None:
        """Take in one step."""
        self.reward += reward
        self.cost += cost
        self.discounted_cost += self._factor * cost
        self._factor *= self._discount
        self.length += 1

    def row(self) -> dict[str, Any]:
        """The sums by the names of the tables' columns."""
        return {"return": self.reward, "cost": self.cost, "discounted_cost": self.discounted_cost,
                "length": self.length}


def run_episode(task: Task, act: Act, seed: int, cost_discount: float,
                stop: Callable[[], bool] = lambda: False) -> Episode:
    """One episode.

    Args:
        stop: asked before every step.

    Raises:
        Interrupted: `stop` said so.
    """
    episode = Episode(cost_discount)
    observation, _ = task.reset(seed=seed)
    over = False
    while not over:
        if stop():
            raise Interrupted
        observation, reward, terminated, truncated, info = task.step(act(observation))
        episode.add(reward, info["cost"])
        over = terminated or truncated
    return episode


def evaluate(agent: Agent, task: Task, run_seed: int, step: int, episodes: int, cost_discount: float, source: str,
             stop: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
    """Rows of evals.csv: `episodes` episodes with each sampler, on the same episode seeds.

    The seeds and the stochastic sampler's noise follow from the run's seed, the source and the step alone.

    Raises:
        Interrupted: `stop` said so.
    """
    purpose = f"evaluation {source}"
    device = next(agent.parameters()).device
    for sampler in SAMPLERS:
        noise = Noise(stream(run_seed, purpose + " noise", step), device) if sampler == "stochastic" else None
        act = Actor(agent, task, noise)
        for number in range(episodes):
            seed = episode_seed(run_seed, purpose, step, number)
            episode = run_episode(task, act, seed, cost_discount, stop)
            yield {"step": step, "sampler": sampler, "source": source, "episode": number, "seed": seed,
                   **episode.row()}
