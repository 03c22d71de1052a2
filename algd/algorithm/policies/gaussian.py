"""The squashed Gaussian policy of soft actor-critic, with automatic temperature (arXiv 1812.05905)."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.networks import Perceptron, log_tanh_slope
from algd.algorithm.policies import Sample
from algd.algorithm.rng import RandomGenerator

LOG_STD_RANGE = (-20.0, 2.0)


class GaussianPolicy(nn.Module):
    """a = tanh(μ(s) + σ(s) ε)·scale + bias.

    Args:
        observation_size: s.
        action_low, action_high: (d,), the box of actions.
        hidden_sizes: widths of the ReLU layers.
        initial_temperature: α at the start; the entropy's weight in return and loss.
        target_entropy: the entropy towards which α is adjusted (nats, of actions in units of their half range);
            None: −d.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, observation_size: PositiveInt, action_low: Sequence[float], action_high: Sequence[float],
                 hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)], initial_temperature: PositiveFloat,
                 target_entropy: FiniteFloat | None):
        super().__init__()
        low, high = (torch.as_tensor(b, dtype=torch.float32) for b in (action_low, action_high))
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.register_buffer("bias", (high + low) / 2, persistent=False)
        self.target_entropy = -float(len(low)) if target_entropy is None else target_entropy
        self.network = Perceptron([observation_size, *hidden_sizes, 2 * len(low)])
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial_temperature)))

    def draw(self, batch: int, noise: RandomGenerator) -> Tensor:
        """(B, d)."""
        return noise.normal(batch, len(self.scale))

    def draw_loss(self, batch: int, noise: RandomGenerator) -> tuple[Tensor, ...]:
        return (self.draw(batch, noise),)

    def _sample(self, observation: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, d) and log π(a|s) (B,), of actions in units of their half range (arXiv 1812.05905, app. C)."""
        mean, log_std = self.network(observation).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        x = mean + log_std.exp() * z
        log_prob = (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi) - log_tanh_slope(x)).sum(-1)
        return torch.tanh(x) * self.scale + self.bias, log_prob

    def sample(self, observation: Tensor, normals: Tensor) -> Sample:
        action, log_prob = self._sample(observation, normals)
        return Sample(action, -self.log_temperature.detach().exp() * log_prob)

    def deterministic(self, observation: Tensor) -> Tensor:
        mean, _ = self.network(observation).chunk(2, dim=-1)
        return torch.tanh(mean) * self.scale + self.bias

    def loss(self, observation: Tensor, energy: EnergyAtStates,
             draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """mean (α log π + E), and for log α the loss −log α · (log π + target entropy)."""
        action, log_prob = self._sample(observation, *draws)
        energies, risk = energy.with_risk(action)
        entropy = -log_prob.detach().mean()
        actor = (self.log_temperature.detach().exp() * log_prob + energies).mean()
        temperature = self.log_temperature * (entropy - self.target_entropy)
        return actor + temperature, risk, {"energy": energies.detach().mean(), "entropy": entropy,
                                           "temperature": self.log_temperature.detach().exp()}
