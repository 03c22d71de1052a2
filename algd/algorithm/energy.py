"""The energy over actions that guides the policy: in the actor's loss, in the score's target and in landscapes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from algd.algorithm.networks import CriticEnsemble

Lagrangian = Callable[..., Tensor]
ConstraintWeight = Callable[..., Tensor | float]
Multiplier = Callable[[Tensor], Tensor]

ROWS = 1024
"""Rows that a CPU computes through the critics at a time: enough for fast products, few enough for the caches."""


class Energy:
    """E(s, a) = lagrangian(Q(s, a), Qc(s, a)), with Q the least of the reward critics and Qc the cost's risk.

    The gradient flows to the action, not to the critics' parameters. Calling it is the reference implementation,
    differentiable any number of times; `at` computes the value and its first gradient faster, without autograd.

    Args:
        reward_critics: the online reward critics.
        cost_critics: the online ensemble of cost critics.
        risk_factor: k in Qc = mean + k · (unbiased) standard deviation over the ensemble.
        lagrangian: (Q, Qc) ↦ energy, elementwise: −Q and a function of Qc. With `multiplier`: (Q, Qc, λ) ↦ energy.
        weight: Qc ↦ that function's slope, the weight of ∇Qc in ∇E; None: there is no such function, E = −Q. With
            `multiplier`: (Qc, λ) ↦ that slope.
        multiplier: observations (B, s) ↦ λ(s), (B,), without gradient; None: λ does not depend on the state, and
            `lagrangian` and `weight` have it themselves.
    """

    def __init__(self, reward_critics: CriticEnsemble, cost_critics: CriticEnsemble, risk_factor: float,
                 lagrangian: Lagrangian, weight: ConstraintWeight | None, multiplier: Multiplier | None = None):
        self.reward_critics, self.cost_critics = reward_critics, cost_critics
        self.risk_factor, self.lagrangian, self.weight, self.multiplier = risk_factor, lagrangian, weight, multiplier

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        return self.reward_critics(observation, action, frozen=True).amin(0)

    def risk(self, observation: Tensor, action: Tensor) -> Tensor:
        """Qc(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        return risk(self.cost_critics(observation, action, frozen=True), self.risk_factor)[0]

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """E(s, a): (B,) for actions (B, d), (B, N) for N actions per state, (B, N, d)."""
        q, qc = self.reward(observation, action), self.risk(observation, action)
        if self.multiplier is None:
            return self.lagrangian(q, qc)
        return self.lagrangian(q, qc, self.multiplier(observation).view(-1, *[1] * (q.dim() - 1)))

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
    std = unbiased_std(deviation)
    return mean + factor * std, 1 / members + factor / (members - 1) * deviation / std


def unbiased_std(deviation: Tensor) -> Tensor:
    """Return the unbiased standard deviation from deviations from the mean, (M, ...), M > 1; ten times as fast as
    torch.std over rows.
    """
    # The lower bound only avoids the infinite slope of the root where all members agree exactly.
    return (deviation.square().sum(0) / (len(deviation) - 1)).clamp_min(1e-20).sqrt()


class EnergyAtStates:
    """The energy over actions at B states; the critics' parameters, and with them the energy, are held fixed.

    Args:
        energy: the energy.
        observation: (B, s).
    """

    def __init__(self, energy: Energy, observation: Tensor):
        self._energy, self._observation = energy, observation
        self._reward, self._cost = energy.reward_critics.at(observation), energy.cost_critics.at(observation)
        self._multiplier = energy.multiplier(observation) if energy.multiplier is not None else None

    @torch.no_grad()
    def risk(self, action: Tensor) -> Tensor:
        """Qc at actions (B, d), detached: (B,)."""
        return risk(self._cost.values(action), self._energy.risk_factor)[0]

    @torch.no_grad()
    def values(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q and Qc at N actions per state, (B, N, d), without gradient, (B, N) each."""
        q, qc = action.new_empty(action.shape[:2]), action.new_empty(action.shape[:2])
        for states, columns in self._pieces(*action.shape[:2]):
            piece = action[states, columns]
            q[states, columns] = self._reward.values_of_several(states, piece).amin(0).view(piece.shape[:2])
            costs = self._cost.values_of_several(states, piece)
            qc[states, columns] = risk(costs, self._energy.risk_factor)[0].view(piece.shape[:2])
        return q, qc

    def of_values(self, q: Tensor, qc: Tensor) -> Tensor:
        """E of the N actions per state whose values are these, (B, N)."""
        lam = [] if self._multiplier is None else [self._multiplier.unsqueeze(1)]
        return self._energy.lagrangian(q, qc, *lam).to(q.dtype)

    def __call__(self, action: Tensor) -> Tensor:
        """E at actions (B, d), (B,), once differentiable with respect to the actions."""
        return self.with_risk(action)[0]

    def with_risk(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """E as above, and Qc at the same actions, (B,), detached; for an energy without constraint Qc is not computed
        but 0."""
        energies, risks = _Energies.apply(action, self)
        return energies, risks

    @torch.no_grad()
    def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """E and ∇_a E at actions (B, d) or (B, N, d), both detached; ∇_a E has the actions' shape."""
        return self.value_gradient_and_risk(action)[:2]

    @torch.no_grad()
    def value_gradient_and_risk(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`value_and_gradient`, and Qc of the energy's shape, as in `with_risk`."""
        actions = action if action.dim() == 3 else action.unsqueeze(1)
        pieces = list(self._pieces(*actions.shape[:2]))
        if len(pieces) == 1:
            energies, gradients, risks = self._of_piece(slice(None), actions)
        else:
            energies, gradients = actions.new_empty(actions.shape[:2]), torch.empty_like(actions)
            risks = torch.empty_like(energies)
            for states, columns in pieces:
                piece = actions[states, columns]
                energy, gradient, piece_risk = self._of_piece(states, piece)
                energies[states, columns] = energy.view(piece.shape[:2])
                gradients[states, columns] = gradient.view(piece.shape)
                risks[states, columns] = piece_risk.view(piece.shape[:2])
        return energies.view(action.shape[:-1]), gradients.view(action.shape), risks.view(action.shape[:-1])

    def _pieces(self, batch: int, count: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of (states, actions) that cover `count` actions at `batch` states each, on a CPU of at most ROWS."""
        rows = ROWS if self._observation.device.type == "cpu" else batch * count
        tall = min(batch, rows)
        wide = rows // tall
        for left in range(0, count, wide):
            for top in range(0, batch, tall):
                yield slice(top, top + tall), slice(left, left + wide)

    def _of_piece(self, states: slice, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E (b·n,), ∇_a E (b·n, d) and Qc (b·n,) at actions (b, n, d) of b states."""
        rewards, pull_reward = self._reward.values_and_pullback(states, actions)
        q, least = rewards.min(0)
        # Only the smaller reward critic has a gradient.
        gradient = pull_reward(torch.zeros_like(rewards).scatter_(0, least.unsqueeze(0), -1.0))
        if self._energy.weight is None:
            nothing = torch.zeros_like(q)
            return self._energy.lagrangian(q, nothing).to(q.dtype), gradient, nothing
        costs, pull_cost = self._cost.values_and_pullback(states, actions)
        qc, slopes = risk(costs, self._energy.risk_factor)
        lam = [] if self._multiplier is None else [self._multiplier[states].repeat_interleave(actions.shape[1])]
        gradient += pull_cost((self._energy.weight(qc, *lam) * slopes).to(slopes.dtype))
        # λ is a float64: a Lagrangian with a comparison, such as lam * (qc > h), would return float64.
        return self._energy.lagrangian(q, qc, *lam).to(q.dtype), gradient, qc


class _Energies(torch.autograd.Function):
    """E and Qc at actions; E's gradient is computed with E, and Qc has none."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, energy: EnergyAtStates) -> tuple[Tensor, Tensor]:
        energies, gradients, risks = energy.value_gradient_and_risk(action)
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(risks)
        return energies, risks

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (gradients,) = ctx.saved_tensors
        return slopes[0].unsqueeze(-1) * gradients, None
