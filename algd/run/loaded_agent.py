"""A trained agent for notebooks, evaluation and pictures; all methods take raw observations, one or a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.rng import RandomGenerator
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run.acting import ActingCopy, in_box
from algd.storage.run_folder import RunFolder

Values = np.ndarray | np.floating | Tensor


@dataclass(frozen=True, repr=False)
class LoadedAgent:
    """A trained agent with its configuration and task.

    Observations are the environment's, s numbers each, and actions in the environment's units, d numbers each: arrays,
    lists or tensors, one, (s,), or a batch, (B, s). The result is of the observation's kind: an array for an array, a
    tensor for a tensor; one for one, B for B.

    Attributes:
        agent: the networks, the guidance and its multiplier, on the device that they were loaded to.
        config: the run's configuration.
        task: a new instance of its training environment.
        step: the environment step at which it was saved.
        folder: the run's folder.
        has_critics: False if it was loaded from a policy that was published alone: then it has no energy, Q and Qc.
    """

    agent: Agent
    config: dict[str, Any]
    task: Task
    step: int
    folder: RunFolder
    has_critics: bool = True

    def __repr__(self) -> str:
        names = f"{self.config['agent']['name']}-{self.config['guidance']['name']} on {self.config['env']['name']}"
        return (f"LoadedAgent({names}, seed {self.config['seed']}, step {self.step}, λ = {self.multiplier:.4g}, "
                f"{self.folder.path})")

    @property
    def observation_space(self) -> Box:
        """The environment's: observations (s,)."""
        return self.task.observation_space

    @property
    def action_space(self) -> Box:
        """The environment's: actions (d,) and their bounds."""
        return self.task.action_space

    @property
    def multiplier(self) -> float:
        """λ."""
        return float(self.agent.guidance.multiplier)

    def act(self, observation: ArrayLike | Tensor, noise: RandomGenerator | int | None = None) -> Any:
        """The policy's actions, (d,) or (B, d), within the action space.

        Args:
            observation: (s,) or (B, s).
            noise: None: the deterministic policy; a source of noise or a seed for one: the stochastic policy.

        Raises:
            UsageError: the observation has another size, or the noise is no seed.
            NumericalError: an action is not finite.
        """
        states, single = self._rows(observation, self.observation_space, "observation")
        if noise is None or isinstance(noise, RandomGenerator):
            source = noise
        elif isinstance(noise, Integral) and 0 <= noise < 2**63:
            source = RandomGenerator(int(noise))
        else:
            raise UsageError(f"noise={noise!r}: None, a RandomGenerator, or a seed from 0 to 2^63 − 1 is needed")
        with torch.inference_mode():
            actions = in_box(self._acting(states.detach().cpu(), source), states, self.action_space)
        answer = torch.from_numpy(actions).to(observation.device) if isinstance(observation, Tensor) else actions
        return answer[0] if single else answer

    def energy(self, observation: ArrayLike | Tensor, action: ArrayLike | Tensor) -> Any:
        """The energy that guided the policy, at the saved multiplier λ; lower is better.

        One observation goes with many actions, and many observations with one action. A tensor's values can be
        differentiated with respect to the action.

        Args:
            observation: (s,) or (B, s).
            action: (d,) or (B, d).

        Raises:
            UsageError: a size does not fit, or there are no critics.
        """
        return self._evaluated(self.agent.energy, observation, action)

    def q(self, observation: ArrayLike | Tensor, action: ArrayLike | Tensor) -> Any:
        """Q, the minimum of the reward critics: the expected discounted return, in units of `normalise.reward`.

        Arguments as of `energy`.
        """
        return self._evaluated(self.agent.energy.reward, observation, action)

    def qc(self, observation: ArrayLike | Tensor, action: ArrayLike | Tensor) -> Any:
        """Qc, the cost critics' mean + k · standard deviation: the discounted cost, which the energy compares with h.

        Arguments as of `energy`.
        """
        return self._evaluated(self.agent.energy.risk, observation, action)

    def observations(self, observation: ArrayLike | Tensor) -> Tensor:
        """Raw observations (B, s), normalised for the networks."""
        states, _ = self._rows(observation, self.observation_space, "observation")
        return self.agent.normaliser.observations(states)

    def require_critics(self) -> None:
        """Raises UsageError if the critics were not loaded."""
        if not self.has_critics:
            raise UsageError(f"{self.folder.path} holds the policy alone, without critics: it can act and be evaluated")

    @cached_property
    def _acting(self) -> ActingCopy:
        return ActingCopy(self.agent)

    def _evaluated(self, function: Callable[[Tensor, Tensor], Tensor], observation: ArrayLike | Tensor,
                   action: ArrayLike | Tensor) -> Values:
        """A function of normalised observations (B, s) and actions (B, d), evaluated at a user's arguments."""
        self.require_critics()
        states, single_state = self._rows(observation, self.observation_space, "observation")
        actions, single_action = self._rows(action, self.action_space, "action")
        if not (single_state or single_action or len(states) == len(actions)):
            raise UsageError(f"{len(states)} observations and {len(actions)} actions: as many are needed, or one of "
                             "either")
        size = len(actions) if single_state else len(states)
        states = self.agent.normaliser.observations(states).expand(size, -1)
        values = function(states, actions.expand(size, -1))
        answer: Any
        if isinstance(observation, Tensor) or isinstance(action, Tensor):
            answer = values.to((observation if isinstance(observation, Tensor) else action).device)  # type: ignore
        else:
            answer = values.detach().cpu().numpy()
        return answer[0] if single_state and single_action else answer

    def _rows(self, given: ArrayLike | Tensor, space: Box, what: str) -> tuple[Tensor, bool]:
        """Numbers as (B, size), float32, on the agent's device; and whether they were one row.

        Raises:
            UsageError: they are not of the space's size.
        """
        size, device = space.shape[0], next(self.agent.parameters()).device
        try:
            rows = given if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given, np.float32))
        except (TypeError, ValueError) as error:
            raise UsageError(f"the {what} is not an array of numbers ({str(error).splitlines()[0]})") from error
        if rows.dim() not in (1, 2) or rows.shape[-1] != size:
            raise UsageError(f"the {what} has shape {tuple(rows.shape)}; of env={self.task.name} one is ({size},), and "
                             f"a batch of B is (B, {size})")
        return rows.to(device, torch.float32).reshape(-1, size), rows.dim() == 1
