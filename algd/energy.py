"""The energy over actions that guides the policy: one object for actor loss, score target and pictures."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from algd.networks import CriticEnsemble, CriticsAtStates, Pullback

Lagrangian = Callable[[Tensor, Tensor], Tensor]

ROWS = 256
"""Actions that a CPU takes through the critics at a time: a layer's share of them stays in a core's cache."""
PIECES = 16
"""So many times ROWS wait at most for their gradient: what they hold of the layers bounds the memory."""


class Energy:
    """E(s, a) = lagrangian(Q(s, a), Qc(s, a)), with Q the least of the reward critics and Qc the cost's risk.

    The critics' parameters get no gradient from here; the action does. Called, it is the definition, differentiable
    as often as one likes; `at` has its value and first gradient at the cost of their matrix products.

    Args:
        reward_critics: the online reward critics.
        cost_critics: the online ensemble of cost critics.
        risk_factor: k in Qc = mean + k · (unbiased) standard deviation over the ensemble.
        lagrangian: (Q, Qc) ↦ energy, elementwise.
        constrained: whether the lagrangian depends on Qc at all.
    """

    def __init__(self, reward_critics: CriticEnsemble, cost_critics: CriticEnsemble, risk_factor: float,
                 lagrangian: Lagrangian, constrained: bool = True):
        self.reward_critics, self.cost_critics = reward_critics, cost_critics
        self.risk_factor, self.lagrangian, self.constrained = risk_factor, lagrangian, constrained

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        return self.reward_critics(observation, action, frozen=True).amin(0)

    def risk(self, observation: Tensor, action: Tensor) -> Tensor:
        """Qc(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        return risk(self.cost_critics(observation, action, frozen=True), self.risk_factor)[0]

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """E(s, a): (B,) for actions (B, d), (B, N) for N actions a state, (B, N, d)."""
        return self.lagrangian(self.reward(observation, action), self.risk(observation, action))

    def at(self, observation: Tensor) -> "EnergyAtStates":
        """The energy at states (B, s), with the critics as they are now."""
        return EnergyAtStates(self, observation)

    def value_and_gradient(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """E and ∇_a E, both detached; ∇_a E has the actions' shape."""
        return self.at(observation).value_and_gradient(action)


def risk(values: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Mean + factor · unbiased standard deviation over the members of values (M, ...), and its slope, (M, ...)."""
    members = len(values)
    mean = values.mean(0)
    if factor == 0 or members == 1:
        return mean, torch.full_like(values, 1 / members)
    deviation = values - mean
    # The floor only removes the infinite slope of the root where all members agree exactly.
    std = (deviation.square().sum(0) / (members - 1)).clamp_min(1e-20).sqrt()
    return mean + factor * std, 1 / members + factor / (members - 1) * deviation / std


class EnergyAtStates:
    """The energy over actions at B states; the critics' parameters, and with them the energy, are held fixed.

    Args:
        energy: the energy.
        observation: (B, s).
    """

    def __init__(self, energy: Energy, observation: Tensor):
        self._energy = energy
        self._reward, self._cost = energy.reward_critics.at(observation), energy.cost_critics.at(observation)

    @torch.no_grad()
    def risk(self, action: Tensor) -> Tensor:
        """Qc at actions (B, d), detached: (B,)."""
        values, _ = self._values(self._cost, list(self._pieces(len(action), 1)), action.unsqueeze(1))
        return risk(values, self._energy.risk_factor)[0]

    def __call__(self, action: Tensor) -> Tensor:
        """E at actions (B, d), (B,), once differentiable with respect to the actions."""
        energies: Tensor = _Energies.apply(action, self)
        return energies

    @torch.no_grad()
    def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """E and ∇_a E at actions (B, d) or (B, N, d), both detached; ∇_a E has the actions' shape."""
        actions = action if action.dim() == 3 else action.unsqueeze(1)
        energies, gradients = actions.new_empty(actions.shape[:2]), torch.empty_like(actions)
        pieces = self._pieces(*actions.shape[:2])
        while some := list(islice(pieces, PIECES)):
            self._of_pieces(some, actions, energies, gradients)
        return energies.view(action.shape[:-1]), gradients.view(action.shape)

    def _pieces(self, batch: int, count: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of (states, actions) that cover `count` actions at `batch` states each, on a CPU of at most ROWS."""
        rows = batch * count if self._reward.is_cuda else ROWS
        tall = min(batch, rows)
        wide = rows // tall
        for left in range(0, count, wide):
            for top in range(0, batch, tall):
                yield slice(top, top + tall), slice(left, left + wide)

    def _of_pieces(self, pieces: list[tuple[slice, slice]], actions: Tensor, energies: Tensor,
                   gradients: Tensor) -> None:
        """Fill energies (B, N) and gradients (B, N, d) at these pieces of the actions (B, N, d)."""
        rewards, reward_pullbacks = self._values(self._reward, pieces, actions)
        q, least = rewards.min(0)
        qc = torch.zeros_like(q)
        constrained = self._energy.constrained
        if constrained:
            costs, cost_pullbacks = self._values(self._cost, pieces, actions)
            qc, risk_slopes = risk(costs, self._energy.risk_factor)
        with torch.enable_grad():
            energy = self._energy.lagrangian(q.requires_grad_(), qc.requires_grad_())
            by_q, by_qc = torch.autograd.grad(energy.sum(), (q, qc), materialize_grads=True)
        reward_slopes = torch.zeros_like(rewards).scatter_(0, least.unsqueeze(0), by_q.unsqueeze(0))
        if constrained:
            cost_slopes = by_qc * risk_slopes
        end = 0
        for i, piece in enumerate(pieces):
            of_piece = gradients[piece]
            start, end = end, end + of_piece.shape[0] * of_piece.shape[1]
            gradient = reward_pullbacks[i](reward_slopes[:, start:end])
            if constrained:
                gradient += cost_pullbacks[i](cost_slopes[:, start:end])
            of_piece.copy_(gradient.view(of_piece.shape))
            energies[piece] = energy.detach()[start:end].view(of_piece.shape[:2])

    @staticmethod
    def _values(critics: CriticsAtStates, pieces: list[tuple[slice, slice]],
                actions: Tensor) -> tuple[Tensor, list[Pullback]]:
        """Values (members, rows) of all pieces, one after the other, and each piece's pullback."""
        values, pullbacks = zip(*(critics.values(states, actions[states, columns]) for states, columns in pieces),
                                strict=True)
        return torch.cat(values, dim=1), list(pullbacks)


class _Energies(torch.autograd.Function):
    """E at actions, whose gradient was computed along with it."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, energy: EnergyAtStates) -> Tensor:
        energies, gradients = energy.value_and_gradient(action)
        ctx.save_for_backward(gradients)
        return energies

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (gradients,) = ctx.saved_tensors
        return slopes[0].unsqueeze(-1) * gradients, None
