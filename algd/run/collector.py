"""Collecting transitions: the training environment, the acting policy, and the open episode."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from algd.algorithm.agent import Agent
from algd.envs.task import Task
from algd.errors import SimulatorError, UsageError
from algd.run.acting import Act
from algd.run.episodes import Episode
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.seeding import episode_seed
from algd.storage.checkpoint_state import CollectorState
from algd.storage.table import Table

EPISODES = 10  # so many first episodes whose cost's return ended at the horizon say that it always does
INEXACT = "the run continues, but not exactly as it would have without the interruption"


class Transition(NamedTuple):
    """One environment step: what the replay buffer takes, and whether the episode is over."""

    observation: np.ndarray
    action: np.ndarray
    reward: float
    cost: float
    next_observation: np.ndarray
    reward_done: bool
    cost_done: bool
    over: bool


class Collector:
    """Takes environment steps, one at a time, and writes a row of episodes.csv for every episode that ended.

    An episode that the simulator ended has a row too, but its cost is not used for λ.

    Args:
        agent: the agent; if an episode is abandoned its normaliser's return is reset.
        task: the training environment.
        build_task: makes a new one after a failure: the old one may be broken, and a resumed run has a new one too.
        act: observation (s,) ↦ action (d,).
        seed: the run's.
        table: episodes.csv.
        errors: counts the simulator's failures.
        warn: takes a sentence for the user.

    Attributes:
        observation: (s,), where the next action is taken.
        episode: the sums of the open episode.
        episodes_begun: number of episodes, including the open one.
        actions: those of the open episode.
        ended: of the first episodes, with env.cost_return=bootstraps: whether the cost's return ended at the horizon.
    """

    def __init__(self, agent: Agent, task: Task, build_task: Callable[[], Task], act: Act, seed: int, table: Table,
                 errors: SimulatorErrors, warn: Callable[[str], None]):
        self._agent, self.task, self._build_task, self._act = agent, task, build_task, act
        self._seed, self._table, self._errors, self._warn = seed, table, errors, warn
        self.observation: np.ndarray
        self.episode: Episode
        self.episodes_begun = 0
        self.actions: list[np.ndarray] = []
        self.ended: list[bool] = []
        self._cost_done = False

    def begin_episode(self, step: int) -> None:
        """Reset the environment to the next episode's start.

        Args:
            step: the environment step that rows carry, here and below.

        Raises:
            SimulatorError: there were more than the limit; the same below.
        """
        while True:
            self.episode = Episode(self._agent.cost_discount)
            self.actions = []
            self.episodes_begun += 1
            try:
                self.observation, _ = self.task.reset(seed=self._episode_seed())
                return
            except SimulatorError as error:
                self._abandon_episode(error, step)

    def step(self, step: int) -> Transition | None:
        """Take one environment step. None if the simulator failed: then the next episode has begun.

        In that case there is no transition, in neither the replay buffer nor the count of steps, and the
        transition before it bootstraps, as one does before a time limit.
        """
        action = self._act(self.observation)
        try:
            following, reward, terminated, truncated, info = self.task.step(action)
        except SimulatorError as error:
            self._abandon_episode(error, step)
            self.begin_episode(step)
            return None
        transition = Transition(self.observation, action, reward, info["cost"], following, info["reward_done"],
                                info["cost_done"], terminated or truncated)
        self.actions.append(action)
        self.episode.add(reward, info["cost"])
        self.observation, self._cost_done = following, bool(info["cost_done"])
        return transition

    def end_episode(self, step: int) -> dict[str, Any]:
        """Write the row of the finished episode and begin the next. Returns the row.

        Raises:
            UsageError: with env.cost_return=bootstraps, the cost's return ended at the horizon of all first episodes.
        """
        self._check_cost_return()
        row = self._write_row(step)
        self.begin_episode(step)
        return row

    @property
    def _return_goes_on(self) -> bool:
        """Whether the budget says that the cost's return goes on after the horizon."""
        return self.task.budget.kind == "episode" and self.task.budget.cost_return == "bootstraps"

    def _check_cost_return(self) -> None:
        """Check that the cost's return goes on after the horizon, as the threshold assumes with cost_return=bootstraps.

        An end before the horizon is the policy's doing, also if an untrained one falls at the same step every time.
        """
        if not self._return_goes_on or len(self.ended) >= EPISODES:
            return
        self.ended.append(self._cost_done and self.episode.length >= self.task.budget.horizon)
        if len(self.ended) == EPISODES and all(self.ended):
            raise UsageError(f"env.cost_return=bootstraps: env={self.task.name} ended the cost's return at step "
                             f"{self.episode.length}, its horizon, of each of its first {EPISODES} episodes; "
                             "env.cost_return=ends is right for it, or an environment that truncates there")

    def _abandon_episode(self, error: SimulatorError, step: int) -> None:
        self.episode.error = error
        self._write_row(step)
        self._agent.normaliser.end_episode()
        self._errors.take(error)
        self._renew_task()

    def _write_row(self, step: int) -> dict[str, Any]:
        row = {"step": step, "episode": self.episodes_begun - 1, "seed": self._episode_seed(), **self.episode.row()}
        self._table.append(row)
        return row

    def _episode_seed(self) -> int:
        return episode_seed(self._seed, "training episode", self.episodes_begun - 1)

    def _renew_task(self) -> None:
        with contextlib.suppress(Exception):
            self.task.close()
        self.task = self._build_task()

    def checkpoint(self) -> CollectorState:
        """The open episode; the environment follows from its seed and its actions."""
        space = self.task.action_space
        state: CollectorState = {
            "episodes_begun": self.episodes_begun, "episode": self.episode.checkpoint(),
            "actions": torch.from_numpy(np.array(self.actions, space.dtype).reshape(-1, *space.shape)),
            "observation": torch.from_numpy(np.ascontiguousarray(self.observation))}
        return {**state, "ended": list(self.ended)} if self._return_goes_on else state

    def restore(self, state: CollectorState, step: int) -> None:
        """Restore what `checkpoint` returned, and replay the open episode in the environment."""
        self.episodes_begun = state["episodes_begun"]
        # Earlier versions did not record it: what is not known is no reason to end the run.
        self.ended = list(state.get("ended", [False] * min(self.episodes_begun - 1, EPISODES)))
        self.episode = Episode(self._agent.cost_discount)
        self.episode.restore(state["episode"])
        actions = list(state["actions"].numpy())
        for last_attempt in (False, True):
            try:
                self.observation, _ = self.task.reset(seed=self._episode_seed())
                for action in actions:
                    self.observation, *_ = self.task.step(action)
                break
            except SimulatorError as error:
                if last_attempt:
                    self._warn(f"the open episode cannot be repeated: {INEXACT}")
                    self._abandon_episode(error, step)
                    self.begin_episode(step)
                    return
                self._warn(f"{error}, while the open episode was repeated: trying once more")
                self._renew_task()
        self.actions = actions
        if not np.array_equal(self.observation, state["observation"].numpy()):
            self._warn(f"env={self.task.name} did not come back to the same observation when its episode was "
                       f"repeated: {INEXACT}")
