"""Acting: one action at a time, where latency matters and not throughput."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from algd.algorithm.agent import Agent, act
from algd.algorithm.rng import RandomGenerator
from algd.envs.task import Task
from algd.errors import NumericalError

Act = Callable[[np.ndarray], np.ndarray]
"""Observation (s,) ↦ action (d,)."""


class ActingCopy:
    """The policy and normaliser of an agent, on the CPU.

    For one observation a GPU's launches cost more than the network, so that an agent on a GPU acts through a copy,
    which is updated by one transfer after the agent was updated. An agent on the CPU needs no copy.

    Args:
        agent: the agent, on its device.
        apart: whether it acts through a copy; None: if it is not on the CPU.
    """

    def __init__(self, agent: Agent, apart: bool | None = None):
        self._agent = agent
        self.policy, self.normaliser = agent.policy, agent.normaliser
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._state: tuple[int, int] | None = None
        modules = torch.nn.ModuleList([agent.policy, agent.normaliser])  # type: ignore[list-item]
        if apart is None:
            apart = any(parameter.device.type != "cpu" for parameter in modules.parameters())
        if apart:
            copies = copy.deepcopy(modules).to("cpu")
            self.policy, self.normaliser = copies  # type: ignore[assignment]
            self._pairs = list(zip([*copies.parameters(), *copies.buffers()],
                                   [*modules.parameters(), *modules.buffers()], strict=True))

    def __call__(self, observation: Tensor, noise: RandomGenerator | None) -> Tensor:
        """Actions (B, d) at raw observations (B, s), all on the CPU: stochastic with a source of noise."""
        # The policy changes by updates and the moments by training steps, neither of which an evaluation makes.
        state = self._agent.updates, self._agent.normaliser.observed
        if self._pairs and self._state != state:
            self._refresh()
            self._state = state
        return act(self.policy, self.normaliser, observation, noise)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Update the copy, in one transfer."""
        flat = torch.cat([source.reshape(-1).double() for _, source in self._pairs]).cpu()
        for (target, _), part in zip(self._pairs, flat.split([t.numel() for t, _ in self._pairs]), strict=True):
            target.copy_(part.view_as(target))


class Actor:
    """An agent as a function of one observation.

    Args:
        agent: the agent.
        task: the task, for its actions' type and bounds.
        noise: the generator of a stochastic policy; None: deterministic.
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
        return in_box(self._act(state, self._noise)[0], np.asarray(observation), self._space)


def in_box(action: Tensor, observation: np.ndarray | Tensor, space: Box) -> np.ndarray:
    """A policy's actions, (d,) or (B, d), in the type of the action space and clipped to it.

    Raises:
        NumericalError: an action at the observation, (s,) or (B, s), is not finite.
    """
    found = action.numpy().astype(space.dtype)
    if not np.isfinite(found).all():
        raise NumericalError(f"the policy's action is {found.tolist()} at observation {observation.tolist()}")
    # tanh(x)·scale + bias can round to just outside the box.
    return found.clip(space.low, space.high)
