"""Evaluation: whole episodes in a separate environment with separate seeds, one row per episode."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box

from algd.algorithm.agent import Agent
from algd.algorithm.rng import RandomGenerator
from algd.envs.task import Task
from algd.errors import SimulatorError
from algd.logging.console import Console
from algd.run.acting import Actor
from algd.run.episodes import Episode, Interrupted, Observer, run_episode
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.seeding import episode_seed, stream
from algd.storage.table import Table

SAMPLERS = ("deterministic", "stochastic")
Rows = list[dict[str, Any]]
AT_BOUND = 0.005  # of a component's range: within 0.01 of −1 or 1, where the slope of tanh is at most 0.02


def give_up(error: SimulatorError) -> Task:
    """Raise the simulator's exception."""
    raise error


class FirstAction:
    """An observer that keeps an episode's first observation and action, and calls another one."""

    def __init__(self, other: Observer | None) -> None:
        self._other = other
        self.observation: np.ndarray | None = None
        self.action: np.ndarray | None = None

    def __call__(self, episode: Episode, observation: np.ndarray, action: np.ndarray | None) -> None:
        if self.action is None:
            self.observation, self.action = observation.copy(), action
        if self._other is not None:
            self._other(episode, observation, action)


class Bounds:
    """An observer that counts how often each component of the action is at its lower and at its upper bound.

    Args:
        space: the actions.
    """

    def __init__(self, space: Box):
        margin = AT_BOUND * (space.high - space.low)
        self._low, self._high = space.low + margin, space.high - margin
        self._counts, self._steps = np.zeros((2, *space.shape), int), 0

    def __call__(self, episode: Episode, observation: np.ndarray, action: np.ndarray | None) -> None:
        if action is not None:
            self._counts += np.stack([action <= self._low, action >= self._high])
            self._steps += 1

    def shares(self) -> tuple[float, ...]:
        """For each component, the share of steps at the bound where it was most often; negative at the lower one."""
        low, high = self._counts / max(self._steps, 1)
        return tuple(np.where(low > high, -low, high).tolist())


class Evaluation(NamedTuple):
    """One evaluation during training: its rows by sampler, and `Bounds.shares` over the episodes of both."""

    rows: dict[str, Rows]
    at_bound: tuple[float, ...]


@torch.no_grad()
def predicted_cost(agent: Agent, first: FirstAction) -> float | str:
    """The mean over the cost critics at an episode's first state and action; empty if it had none.

    It predicts the episode's discounted cost and the cost that would follow its last step.
    """
    if first.observation is None or first.action is None:
        return ""
    device = next(agent.parameters()).device
    state, action = (torch.as_tensor(value, dtype=torch.float32, device=device).unsqueeze(0)
                     for value in (first.observation, first.action))
    return agent.cost_critics(agent.normaliser.observations(state), action).mean().item()


def evaluate(agent: Agent, task: Task, run_seed: int, step: int, episodes: int, source: str,
             stop: Callable[[], bool] = lambda: False,
             failed: Callable[[SimulatorError], Task] = give_up,
             observe: Observer | None = None) -> Iterator[dict[str, Any]]:
    """Rows of evals.csv: `episodes` episodes with each sampler, on the same episode seeds.

    The seeds and the stochastic sampler's noise follow from the run's seed, the source and the step alone. An episode
    that the simulator ended has a marked row with its sums until then.

    Args:
        failed: called with the exception that ended such an episode; returns the environment to continue with.
        observe: called with every step.

    Raises:
        Interrupted: `stop` returned True.
        NumericalError: an observation, a reward, a cost or an action is not finite.
    """
    purpose = f"evaluation {source}"
    for sampler in SAMPLERS:
        noise = RandomGenerator(stream(run_seed, purpose + " noise", step)) if sampler == "stochastic" else None
        act = Actor(agent, task, noise)
        for number in range(episodes):
            seed = episode_seed(run_seed, purpose, step, number)
            first = FirstAction(observe)
            episode = run_episode(task, act, seed, agent.cost_discount, stop, first)
            yield {"step": step, "sampler": sampler, "source": source, "episode": number, "seed": seed,
                   **episode.row(), "predicted_cost": predicted_cost(agent, first)}
            if episode.error is not None:
                task = failed(episode.error)


class Evaluator:
    """A run's evaluations during training: rows of evals.csv and a line for each sampler on the console.

    Args:
        config: the checked configuration.
        agent: the agent.
        build_task: makes the evaluation environment: one for all evaluations, and a new one after the simulator failed.
        table: evals.csv.
        errors: counts the simulator's failures.
        console: the console.
        stop: whether to interrupt an evaluation.
    """

    def __init__(self, config: Mapping[str, Any], agent: Agent, build_task: Callable[[], Task], table: Table,
                 errors: SimulatorErrors, console: Console, stop: Callable[[], bool]):
        self._agent, self._build_task, self._stop = agent, build_task, stop
        self._table, self._errors, self._console = table, errors, console
        self._seed, self._every, self._episodes = config["seed"], config["eval"]["every"], config["eval"]["episodes"]
        self._task: Task | None = None

    def evaluate(self, step: int) -> Evaluation | None:
        """Evaluate both samplers. None, with no row left in the table, if it was interrupted."""
        if self._task is None:
            self._task = self._build_task()
            count = f"{self._episodes} episode{'s' * (self._episodes != 1)}"
            self._console.say(f"step {step}: evaluating {count} with each sampler, as every {self._every} steps")
        before, errors_before = self._table.position(), self._errors.count
        rows: dict[str, Rows] = {sampler: [] for sampler in SAMPLERS}
        bounds = Bounds(self._task.action_space)
        try:
            for row in evaluate(self._agent, self._task, self._seed, step, self._episodes, "train", self._stop,
                                self._renew_task, bounds):
                self._table.append(row)
                rows[row["sampler"]].append(row)
        except Interrupted:
            self._table.cut(before)
            self._errors.count = errors_before
            return None
        for sampler in SAMPLERS:
            self._tell(step, sampler, rows[sampler])
        return Evaluation(rows, bounds.shares())

    def _tell(self, step: int, sampler: str, rows: Rows) -> None:
        assert self._task is not None
        budget = self._task.budget
        mean_return, mean_spent = np.mean([(row["return"], budget.spent(row["cost"], row["discounted_cost"]))
                                           for row in rows], axis=0).tolist()
        self._console.evaluation(step, sampler, mean_return, mean_spent, mean_spent <= budget.limit)
        if cut := sum(row["simulator_error"] for row in rows):
            self._console.warn(f"step {step}: {cut} of these {len(rows)} episodes were ended by the simulator; what "
                               "they had until then counts in the means")

    def _renew_task(self, error: SimulatorError) -> Task:
        self._errors.take(error)
        if self._task is not None:
            with contextlib.suppress(Exception):
                self._task.close()
        self._task = self._build_task()
        return self._task
