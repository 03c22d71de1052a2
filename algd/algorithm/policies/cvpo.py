"""The policy of constrained variational policy optimisation (CVPO; Liu et al., arXiv 2201.11927) and of MPO.

It is improved by expectation maximisation, not by descending its energy. The E-step weights actions of the target
policy (`algd.algorithm.estep`). The M-step fits the policy to them by weighted maximum likelihood, with a bound on the
mean's and one on the covariance's divergence from the target policy, each with a multiplier of its own.
"""

import copy
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from algd.algorithm.dual import EStep
from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.estep import solve
from algd.algorithm.guidance import Guidance
from algd.algorithm.networks import Perceptron
from algd.algorithm.policies import Sample
from algd.algorithm.rng import RandomGenerator

# The authors' bounds of the mean's head before its sigmoid and of the factor's head, and the minimum of its diagonal.
MEAN_RANGE, FACTOR_RANGE, LEAST_STD = (-5.0, 5.0), (-5.0, 20.0), 1e-4


class CVPOPolicy(nn.Module):
    """A normal distribution over actions, clipped to their box: mean in the box, covariance L Lᵀ with a full factor L.

    Args:
        observation_size: s.
        action_low, action_high: (d,), the box of actions.
        hidden_sizes: widths of the ReLU layers.
        actions: N, actions a state in the E-step.
        epsilon: bound of the E-step's mean KL divergence, nats.
        mean_bound, covariance_bound: bounds of the M-step's mean KL divergences, nats.
        m_steps: gradient steps of an M-step.
        mean_rate, covariance_rate: step sizes of the bounds' multipliers, per nat and gradient step.
        mean_most, covariance_most: upper bounds of these multipliers, which are at least 0.
        max_gradient_norm: gradients are scaled down to this length.
        polyak: weight of the policy in an update of the target policy.
    """

    capturable = False  # by a CUDA graph: the E-step's dual is solved on the CPU

    low: Tensor
    high: Tensor
    temperature: Tensor
    multipliers: Tensor

    def __init__(self, observation_size: PositiveInt, action_low: Sequence[float], action_high: Sequence[float],
                 hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)], actions: PositiveInt,
                 epsilon: PositiveFloat, mean_bound: PositiveFloat, covariance_bound: PositiveFloat,
                 m_steps: PositiveInt, mean_rate: NonNegativeFloat, covariance_rate: NonNegativeFloat,
                 mean_most: NonNegativeFloat, covariance_most: NonNegativeFloat, max_gradient_norm: PositiveFloat,
                 polyak: Annotated[float, Field(gt=0, le=1)]):
        super().__init__()
        low, high = (torch.as_tensor(b, dtype=torch.float32) for b in (action_low, action_high))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        size = len(low)
        self.network = Perceptron([observation_size, *hidden_sizes, size + size * (size + 1) // 2])
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("temperature", torch.tensor(0.1, dtype=torch.float64))
        self.register_buffer("multipliers", torch.zeros(2, dtype=torch.float64))
        self.actions, self.epsilon, self.m_steps = actions, epsilon, m_steps
        self.bounds, self.rates = (mean_bound, covariance_bound), (mean_rate, covariance_rate)
        self.most = mean_most, covariance_most
        self.max_gradient_norm, self.polyak = max_gradient_norm, polyak
        self._rows, self._columns = torch.tril_indices(size, size).tolist()

    def distribution(self, network: nn.Module, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (B, d) and the lower factor L (B, d, d) of the covariance at observations (B, s)."""
        heads = network(observation)
        size = len(self.low)
        mean = self.low + (self.high - self.low) * torch.sigmoid(heads[:, :size].clamp(*MEAN_RANGE))
        factor = heads.new_zeros(len(heads), size, size)
        factor[:, self._rows, self._columns] = heads[:, size:].clamp(*FACTOR_RANGE)
        diagonal = softplus(factor.diagonal(dim1=1, dim2=2)) + LEAST_STD
        return mean, torch.tril(factor, -1) + torch.diag_embed(diagonal)

    def draw(self, batch: int, rng: RandomGenerator) -> Tensor:
        """(B, d)."""
        return rng.normal(batch, len(self.low))

    def draw_loss(self, batch: int, rng: RandomGenerator) -> tuple[Tensor, ...]:
        """The E-step's normals, (B, N, d)."""
        return (rng.normal(batch, self.actions, len(self.low)),)

    def sample(self, observation: Tensor, normals: Tensor) -> Sample:
        mean, factor = self.distribution(self.network, observation)
        return Sample(self._clipped(mean + (factor @ normals.unsqueeze(-1)).squeeze(-1)), 0.0)

    def deterministic(self, observation: Tensor) -> Tensor:
        """The mean."""
        return self.distribution(self.network, observation)[0]

    def _clipped(self, action: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(action, self.low), self.high)

    def improve(self, observation: Tensor, energy: EnergyAtStates, draws: tuple[Tensor, ...], guidance: Guidance,
                optimizer: torch.optim.Optimizer) -> tuple[Tensor, dict[str, Tensor]]:
        """One E-step and one M-step at observations (B, s). Returns Qc (B,), the mean over the policy's actions, and
        scalars for the log."""
        with torch.no_grad():
            old_mean, old_factor = self.distribution(self.target_network, observation)
            actions = old_mean.unsqueeze(1) + draws[0] @ old_factor.mT
            weights, risk, metrics = self._weights(energy, self._clipped(actions), guidance)
        parameters = list(self.network.parameters())
        for _ in range(self.m_steps):
            mean, factor = self.distribution(self.network, observation)
            # The mean is fitted with the old covariance, the covariance with the old mean, so that each divergence has
            # a bound of its own.
            likelihood = log_density(actions, mean, old_factor) + log_density(actions, old_mean, factor)
            divergences = torch.stack([divergence_of_means(old_mean, old_factor, mean),
                                       divergence_of_covariances(old_factor, factor)])
            self._move_multipliers(divergences.detach())
            loss = (self.multipliers * divergences).sum() - (weights * likelihood).mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target_network.parameters()), list(self.network.parameters()), self.polyak)
        return risk, {"policy_loss": loss.detach(), **metrics, "kl_mean": divergences[0].detach(),
                      "kl_covariance": divergences[1].detach()}

    def _weights(self, energy: EnergyAtStates, actions: Tensor,
                 guidance: Guidance) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The E-step: weights (B, N) of actions (B, N, d), which sum to 1 at each state; and their mean Qc, (B,)."""
        q, qc = energy.values(actions)
        if isinstance(guidance.dual, EStep):
            found = solve(q.double().cpu().numpy(), qc.double().cpu().numpy(), guidance.threshold, self.epsilon,
                          float(guidance.multiplier))
            guidance.dual.take(found.multiplier)
        energies = energy.of_values(q, qc)
        if not isinstance(guidance.dual, EStep):
            found = solve(-energies.double().cpu().numpy(), None, 0.0, self.epsilon, 0.0)
        self.temperature.fill_(found.temperature)
        weights = torch.softmax(-energies / found.temperature, 1)
        return weights, qc.mean(1), {"energy": (weights * energies).sum(1).mean(),
                                     "estep_temperature": self.temperature.clone(),
                                     "estep_cost": (weights * qc).sum(1).mean()}

    def _move_multipliers(self, divergences: Tensor) -> None:
        """Gradient ascent on the multipliers of the M-step's bounds."""
        for index, (bound, rate, most) in enumerate(zip(self.bounds, self.rates, self.most, strict=True)):
            self.multipliers[index] = (self.multipliers[index] - rate * (bound - divergences[index])).clamp(0, most)


def log_density(actions: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """log N(a; μ, L Lᵀ), (B, N), at actions (B, N, d) with means (B, d) and lower factors (B, d, d)."""
    offset = (actions - mean.unsqueeze(1)).mT
    scaled = torch.linalg.solve_triangular(factor, offset, upper=False)
    log_scale = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * scaled.square().sum(1) - log_scale.unsqueeze(1) - 0.5 * actions.shape[2] * math.log(2 * math.pi)


def divergence_of_means(old_mean: Tensor, old_factor: Tensor, mean: Tensor) -> Tensor:
    """KL(N(μ', Σ') ‖ N(μ, Σ')), the mean over states: ½ (μ − μ')ᵀ Σ'⁻¹ (μ − μ')."""
    offset = torch.linalg.solve_triangular(old_factor, (mean - old_mean).unsqueeze(2), upper=False)
    return 0.5 * offset.square().sum((1, 2)).mean()


def divergence_of_covariances(old_factor: Tensor, factor: Tensor) -> Tensor:
    """KL(N(μ', Σ') ‖ N(μ', Σ)), the mean over states: ½ (tr(Σ⁻¹ Σ') − d + log det Σ − log det Σ')."""
    ratio = torch.linalg.solve_triangular(factor, old_factor, upper=False)
    log_determinants = 2 * (factor.diagonal(dim1=1, dim2=2).log() - old_factor.diagonal(dim1=1, dim2=2).log()).sum(1)
    return 0.5 * (ratio.square().sum((1, 2)) - factor.shape[1] + log_determinants).mean()
