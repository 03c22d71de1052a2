"""Policies, from which an agent samples actions. Each is one file and one YAML file.

A policy whose update a CUDA graph cannot capture, since a part of it is computed on the CPU, has `capturable = False`.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.guidance import Guidance
from algd.algorithm.rng import RandomGenerator


class Sample(NamedTuple):
    """Actions (B, d) and their entropy bonus in the return, −α log π(a|s), (B,), or 0."""

    action: Tensor
    entropy_bonus: Tensor | float


class ActingPolicy(Protocol):
    """The part of a policy that acting and the critics' targets use; it is a `torch.nn.Module` too."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def draw(self, batch: int, noise: RandomGenerator) -> Tensor:
        """The normals for `sample` at `batch` states."""
        ...

    def draw_loss(self, batch: int, noise: RandomGenerator) -> tuple[Tensor, ...]:
        """The random numbers of one update at `batch` states: the `draws` of `loss` or `improve`."""
        ...

    def sample(self, observation: Tensor, normals: Tensor) -> Sample:
        """Stochastic actions at observations (B, s)."""
        ...

    def deterministic(self, observation: Tensor) -> Tensor:
        """The noise-free action, (B, d), at observations (B, s)."""
        ...


class Policy(ActingPolicy, Protocol):
    """A policy that descends a loss."""

    def loss(self, observation: Tensor, energy: EnergyAtStates,
             draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The scalar loss of an update, Qc (B,) at the actions that it samples, detached, and scalars for the log."""
        ...


@runtime_checkable
class ImprovingPolicy(ActingPolicy, Protocol):
    """A policy with an update of its own."""

    def improve(self, observation: Tensor, energy: EnergyAtStates, draws: tuple[Tensor, ...], guidance: Guidance,
                optimizer: torch.optim.Optimizer) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the parameters. Returns Qc (B,) at the actions that it samples, detached, and scalars for the log."""
        ...
