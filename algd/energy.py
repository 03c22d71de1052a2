"""The energy over actions that guides the policy: one object for actor loss, score target and pictures."""

from collections.abc import Callable

import torch
from torch import Tensor

from algd.networks import CriticEnsemble

Lagrangian = Callable[[Tensor, Tensor], Tensor]


class Energy:
    """E(s, a) = lagrangian(Q(s, a), Qc(s, a)), with Q the least of the reward critics and Qc the cost's risk.

    The critics' parameters get no gradient from here; the action does.

    Args:
        reward_critics: the online reward critics.
        cost_critics: the online ensemble of cost critics.
        risk_factor: k in Qc = mean + k · (unbiased) standard deviation over the ensemble.
        lagrangian: (Q, Qc) ↦ energy, elementwise.
    """

    def __init__(self, reward_critics: CriticEnsemble, cost_critics: CriticEnsemble, risk_factor: float,
                 lagrangian: Lagrangian):
        self.reward_critics, self.cost_critics = reward_critics, cost_critics
        self.risk_factor, self.lagrangian = risk_factor, lagrangian

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        return self.reward_critics(observation, action, frozen=True).amin(0)

    def risk(self, observation: Tensor, action: Tensor) -> Tensor:
        """Qc(s, a): (B,) for actions (B, d), (B, N) for (B, N, d)."""
        values = self.cost_critics(observation, action, frozen=True)
        mean = values.mean(0)
        if self.risk_factor == 0 or len(values) == 1:
            return mean
        # The floor only removes the infinite slope of the root where all members agree exactly.
        return mean + self.risk_factor * values.var(0).clamp_min(1e-20).sqrt()

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """E(s, a): (B,) for actions (B, d), (B, N) for N actions a state, (B, N, d)."""
        return self.lagrangian(self.reward(observation, action), self.risk(observation, action))

    def value_and_gradient(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """E and ∇_a E, both detached; ∇_a E has the actions' shape."""
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            energy = self(observation, action)
            (gradient,) = torch.autograd.grad(energy.sum(), action)
        return energy.detach(), gradient
