"""The interface of an environment for the trainer."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium
import numpy as np

from algd.budget import Budget
from algd.envs.safety_gymnasium.instability import instability
from algd.errors import NumericalError, RunError, SimulatorError, UsageError

Family = Literal["paper", "stock", "toy", "other"]


class Task(gymnasium.Wrapper):
    """A constrained task: a gymnasium environment with flat observations, a bounded box of actions and a budget.

    `step` returns gymnasium's five values; its info always holds

        cost         float, the step's cost, finite
        reward_done  bool, the reward's return ends here (no bootstrap in the reward target)
        cost_done    bool, the cost's return ends here (no bootstrap in the cost target)

    An environment may set the last two itself; otherwise both are `terminated`. A time limit ends neither. All arrays
    and the info are copies, since an environment may go on to change its own.

    Args:
        env: the environment; its info must hold "cost".
        name: names the task in folders and tables.
        family: "paper", "stock", "toy" or "other"; tables never mix families.
        budget: the allowed cost.

    `reset` and `step` raise, each with the step and the episode's seed,

        SimulatorError  the environment raised something, or its simulation became unstable
        NumericalError  an observation, a reward or a cost is not finite

    Raises:
        UsageError: the spaces are not a flat finite box of real actions and flat observations, or a TimeLimit in the
            environment is shorter than the horizon (at once); an observation does not fit its space, a reward or cost
            is not a number or is missing, or the episode goes on after the horizon (at that step); an episode is
            truncated, but the budget says that the cost's return ends (there).
    """

    observation_space: gymnasium.spaces.Box  # type: ignore[override]
    action_space: gymnasium.spaces.Box  # type: ignore[override]

    def __init__(self, env: gymnasium.Env, name: str, family: Family, budget: Budget):
        super().__init__(env)
        self.name, self.family, self.budget = name, family, budget
        observations, actions = env.observation_space, env.action_space
        if not (isinstance(observations, gymnasium.spaces.Box) and len(observations.shape) == 1):
            raise UsageError(f"env={name}: observations are {observations}, but a flat Box is needed")
        if not (isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1
                and np.all(np.isfinite(actions.low)) and np.all(np.isfinite(actions.high))
                and np.issubdtype(actions.dtype, np.floating)):
            raise UsageError(f"env={name}: actions are {actions}, but a flat Box of floats with finite bounds is "
                             "needed")
        self._check_time_limits()
        self._innermost, self._steps = env.unwrapped, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._seed, self._steps = seed, 0
        with self._guarded():
            given, info = self.env.reset(seed=seed, options=options)
            observation, info = np.array(given), dict(info)
        self._check_observation(observation)
        if not np.isfinite(observation).all():
            raise NumericalError(f"env={self.name} returned observation {observation.tolist()} in {self._place()}")
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        with self._guarded():
            given, reward, terminated, truncated, info = self.env.step(np.array(action))
            observation, info = np.array(given), dict(info)
        # Safety-Gymnasium catches exceptions of its simulator, and reports them here.
        if info.get("cost_exception"):
            raise SimulatorError(f"env={self.name} reported an exception of its simulator in {self._place()}")
        if unstable := instability(self._innermost):
            raise SimulatorError(f"env={self.name}: the simulation became unstable (nan, infinite or huge {unstable}) "
                                 f"in {self._place()}")
        if "cost" not in info:
            raise UsageError(f'env={self.name} reports no cost: its steps\' info has {sorted(info) or "no keys"}, '
                             'but "cost" is needed')
        self._check_observation(observation)
        reward, info["cost"] = self._number("reward", reward), self._number("cost", info["cost"])
        info.setdefault("reward_done", bool(terminated))
        info.setdefault("cost_done", bool(terminated))
        if not (np.isfinite(observation).all() and math.isfinite(reward) and math.isfinite(info["cost"])):
            raise NumericalError(f"env={self.name} returned reward {reward}, cost {info['cost']} and observation "
                                 f"{observation.tolist()} in {self._place()}")
        if terminated or truncated:
            if self.budget.kind == "episode" and self.budget.cost_return == "ends" and not info["cost_done"]:
                raise UsageError(f"env.cost_return=ends: env={self.name} truncated an episode at step {self._steps}, "
                                 "after which the cost's return continues; env.cost_return=bootstraps is right for it, "
                                 "or an environment that terminates there")
        elif self._steps >= self.budget.horizon:
            raise UsageError(f"env={self.name}: the episode with seed {self._seed} goes on after step {self._steps}, "
                             "its horizon; gymnasium.wrappers.TimeLimit truncates it there, or another horizon is "
                             "right")
        return observation, reward, bool(terminated), bool(truncated), info

    def _check_time_limits(self) -> None:
        """Check that no time limit in the environment is shorter than the horizon, from which the threshold follows."""
        horizon, inner = self.budget.horizon, self.env
        while isinstance(inner, gymnasium.Wrapper):
            if isinstance(inner, gymnasium.wrappers.TimeLimit) and inner._max_episode_steps < horizon:
                raise UsageError(f"env.horizon={horizon}: a TimeLimit in env={self.name} truncates its episodes after "
                                 f"{inner._max_episode_steps} steps; at most {inner._max_episode_steps} are possible")
            inner = inner.env

    def _check_observation(self, observation: np.ndarray) -> None:
        """Check that an observation is one of its space."""
        if observation.shape != self.observation_space.shape or not np.issubdtype(observation.dtype, np.number):
            raise UsageError(f"env={self.name} returned an observation of type {observation.dtype} and shape "
                             f"{observation.shape} in {self._place()}; its observation_space is of shape "
                             f"{self.observation_space.shape}")

    def _number(self, what: str, value: Any) -> float:
        """A reward or a cost as a number."""
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            shown = " ".join(str(value).split())[:100]
            raise UsageError(f"env={self.name} returned {what} {shown} in {self._place()}; one number is needed") \
                from error

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Convert the environment's exceptions to SimulatorError, except those that are not due to the episode."""
        try:
            yield
        except (UsageError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SimulatorError(f"env={self.name} raised {reason} in {self._place()}") from error

    def _place(self) -> str:
        """The place in an episode, for messages."""
        what = f"step {self._steps}" if self._steps else "the reset"
        return f"{what} of the episode with seed {self._seed}"


def probe(task: Task) -> None:
    """Reset and step once, so that an environment that cannot be trained is refused before a run's folder exists.

    Raises:
        UsageError: no cost is reported, or an observation, reward or cost is not finite, or the environment fails.
    """
    middle = (task.action_space.low + task.action_space.high) / 2
    try:
        task.reset(seed=0)
        task.step(middle.astype(task.action_space.dtype))
    except RunError as error:
        raise UsageError(f"{error}, which was tried before the run: this environment cannot be trained") from error
