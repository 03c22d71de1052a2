"""Evaluation: whole episodes in an environment of its own, with seeds of its own, one row an episode."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from algd.algorithm.agent import Agent
from algd.algorithm.rng import RandomGenerator
from algd.envs.task import Task
from algd.errors import NumericalError, SimulatorError
from algd.run.acting import ActingCopy
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

    def __init__(self, agent: Agent, task: Task, noise: RandomGenerator | None):
        self._act, self._noise, self._space = ActingCopy(agent), noise, task.action_space

    @torch.inference_mode()
    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """An action (d,) in the box, of the environment's type, at an observation (s,).

        Raises:
            NumericalError: it is not finite.
        """
        state = torch.from_numpy(np.asarray(observation, np.float32)[None])
        action = self._act(state, self._noise)[0].numpy().astype(self._space.dtype)
        if not np.isfinite(action).all():
            raise NumericalError(f"the policy's action is {action.tolist()} at observation "
                                 f"{np.asarray(observation).tolist()}")
        # tanh(x)·scale + bias can round to just outside the box.
        return action.clip(self._space.low, self._space.high)


class Episode:
    """The sums of one episode.

    Args:
        discount: γ_c.

    Attributes:
        error: what the simulator raised, where that ended the episode.
    """

    def __init__(self, discount: float):
        self._discount, self._factor = discount, 1.0
        self.reward = self.cost = self.discounted_cost = 0.0
        self.length = 0
        self.error: SimulatorError | None = None

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
                "length": self.length, "simulator_error": int(self.error is not None)}

    def checkpoint(self) -> dict[str, Any]:
        """The sums of an open episode."""
        return {"reward": self.reward, "cost": self.cost, "discounted_cost": self.discounted_cost,
                "length": self.length, "factor": self._factor}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `checkpoint` returned."""
        self.reward, self.cost, self.discounted_cost = state["reward"], state["cost"], state["discounted_cost"]
        self.length, self._factor = state["length"], state["factor"]


def run_episode(task: Task, act: Act, seed: int, cost_discount: float,
                stop: Callable[[], bool] = lambda: False) -> Episode:
    """One episode; where the simulator fails it ends, with the sums until then and the error.

    Args:
        stop: asked before every step.

    Raises:
        Interrupted: `stop` said so.
        NumericalError: an observation, a reward, a cost or an action is not finite.
    """
    episode = Episode(cost_discount)
    try:
        observation, _ = task.reset(seed=seed)
        over = False
        while not over:
            if stop():
                raise Interrupted
            observation, reward, terminated, truncated, info = task.step(act(observation))
            episode.add(reward, info["cost"])
            over = terminated or truncated
    except SimulatorError as error:
        episode.error = error
    return episode


def give_up(error: SimulatorError) -> Task:
    """Raises what the simulator did."""
    raise error


class First:
    """An `Act` that remembers what it was asked first, and what it answered."""

    def __init__(self, act: Act):
        self._act = act
        self.observation: np.ndarray | None = None
        self.action: np.ndarray | None = None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        action = self._act(observation)
        if self.action is None:
            self.observation, self.action = observation.copy(), action
        return action


@torch.no_grad()
def predicted_cost(agent: Agent, first: First) -> float | str:
    """The mean over the cost critics at an episode's first state and action; empty if it had none.

    It is what they expect of the episode's discounted cost and of what would come after its last step.
    """
    if first.observation is None or first.action is None:
        return ""
    device = next(agent.parameters()).device
    state, action = (torch.as_tensor(value, dtype=torch.float32, device=device).unsqueeze(0)
                     for value in (first.observation, first.action))
    return agent.cost_critics(agent.normaliser.observations(state), action).mean().item()


def evaluate(agent: Agent, task: Task, run_seed: int, step: int, episodes: int, cost_discount: float, source: str,
             stop: Callable[[], bool] = lambda: False,
             failed: Callable[[SimulatorError], Task] = give_up) -> Iterator[dict[str, Any]]:
    """Rows of evals.csv: `episodes` episodes with each sampler, on the same episode seeds.

    The seeds and the stochastic sampler's noise follow from the run's seed, the source and the step alone. An episode
    that the simulator ended has a row too, marked, with what came until then.

    Args:
        failed: takes what ended such an episode, and returns the environment to go on with.

    Raises:
        Interrupted: `stop` said so.
        NumericalError: an observation, a reward, a cost or an action is not finite.
    """
    purpose = f"evaluation {source}"
    for sampler in SAMPLERS:
        noise = RandomGenerator(stream(run_seed, purpose + " noise", step)) if sampler == "stochastic" else None
        act = Actor(agent, task, noise)
        for number in range(episodes):
            seed = episode_seed(run_seed, purpose, step, number)
            first = First(act)
            episode = run_episode(task, first, seed, cost_discount, stop)
            yield {"step": step, "sampler": sampler, "source": source, "episode": number, "seed": seed,
                   **episode.row(), "predicted_cost": predicted_cost(agent, first)}
            if episode.error is not None:
                task = failed(episode.error)
