"""The diffusion policy: a score network, a noise process, and the two losses of ALGD (arXiv 2602.02924)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.networks import ScoreNetwork, log_tanh_slope
from algd.algorithm.noise_processes import NoiseProcess, Predict, reverse
from algd.algorithm.policies import Sample
from algd.algorithm.rng import RandomGenerator
from algd.algorithm.score import monte_carlo_score


class DiffusionPolicy(nn.Module):
    """a = tanh(x_0)·scale + bias, where x_0 is the end of the reverse process of `process` with a score network.

    The defaults are the authors' algorithm; each switch's other value is the mathematically consistent one
    (docs/fidelity.md describes them).

    Args:
        observation_size: s.
        action_low, action_high: (d,), the box of actions.
        process: the noise process.
        hidden_sizes, embedding_size: the network's (see ScoreNetwork).
        beta: temperature β of the Boltzmann density.
        mc_samples: N, the estimator's samples per state.
        score_weight: weight of the score-matching loss.
        score_space: "action": the network gets the squashed action, the estimator's samples are squashed
            actions' neighbours and φ* is a gradient in action units, but is added to the latent (the authors');
            "latent": network, samples and energy are the latent's, with the energy's change of variables
            −β log|det ∂a/∂x|.
        score_level: which point of the chain is used for level τ. "after": the latent after reverse step τ,
            which has level τ − 1 (the authors'); "before": the one from which step τ starts.
        score_detach: whether the score-matching loss's gradient stops at that point (the authors' does not).
        mc_rescale: whether the samples are centred on x_τ / scale_τ, and spread by spread_τ / scale_τ, as is correct
            for a process that scales its signal (DDPM) (the authors' are not). No effect on VE-SDE.
        mc_clip: whether the samples are clipped to the box of actions (the authors' are not). Only for
            score_space=action.
    """

    scale: Tensor
    bias: Tensor
    mc_spreads: Tensor
    mc_factors: Tensor

    def __init__(self, observation_size: PositiveInt, action_low: Sequence[float], action_high: Sequence[float],
                 process: NoiseProcess, hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)],
                 embedding_size: PositiveInt, beta: PositiveFloat, mc_samples: PositiveInt,
                 score_weight: NonNegativeFloat, score_space: Literal["action", "latent"],
                 score_level: Literal["after", "before"], score_detach: bool, mc_rescale: bool, mc_clip: bool):
        super().__init__()
        low, high = (torch.as_tensor(b, dtype=torch.float32) for b in (action_low, action_high))
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.register_buffer("bias", (high + low) / 2, persistent=False)
        self.process = process
        self.network = ScoreNetwork(observation_size, len(low), process.steps, hidden_sizes, embedding_size,
                                    process.heads)
        spread = process.spreads / process.scales if mc_rescale else process.spreads
        self.register_buffer("mc_spreads", spread, persistent=False)
        self.register_buffer("mc_factors", 1 / process.scales if mc_rescale else torch.ones(process.steps),
                             persistent=False)
        self.beta, self.mc_samples, self.score_weight = beta, mc_samples, score_weight
        self.score_space, self.score_level = score_space, score_level
        self.score_detach, self.mc_clip = score_detach, mc_clip

    def squash(self, latent: Tensor) -> Tensor:
        """tanh(x)·scale + bias: a latent as an action."""
        return torch.addcmul(self.bias, torch.tanh(latent), self.scale)

    def _predict(self, observation: Tensor) -> Predict:
        """The process's `predict` at these states: the network, at latents (B, d)."""
        network = self.network.at(observation)
        if self.score_space == "latent":
            return network
        return lambda head, x, level: network(head, self.squash(x) if head == "score" else x, level)

    def draw(self, batch: int, noise: RandomGenerator) -> Tensor:
        """(K, B, d): x_K's normals, then those of the reverse steps in order."""
        return noise.normal(self.process.steps, batch, len(self.scale))

    def chain(self, observation: Tensor, normals: Tensor) -> list[Tensor]:
        """The latents [x_K, …, x_0], each (B, d), of one stochastic reverse process per state."""
        return self._reverse(self._predict(observation), normals)

    def _reverse(self, predict: Predict, normals: Tensor) -> list[Tensor]:
        start, *steps = normals.unbind()
        return reverse(self.process, predict, self.process.prior_std * start, iter(steps).__next__)

    def sample(self, observation: Tensor, normals: Tensor) -> Sample:
        return Sample(self.squash(self.chain(observation, normals)[-1]), 0.0)

    def deterministic(self, observation: Tensor) -> Tensor:
        """The reverse process from x_K = 0 without noise."""
        start = observation.new_zeros(len(observation), len(self.scale))
        return self.squash(reverse(self.process, self._predict(observation), start, None)[-1])

    def draw_loss(self, batch: int, noise: RandomGenerator) -> tuple[Tensor, ...]:
        """Levels (B,), the chain's normals (K, B, d), the estimator's (B, N, d)."""
        level = noise.integers(self.process.steps, batch) + 1
        return level, self.draw(batch, noise), noise.normal(batch, self.mc_samples, len(self.scale))

    def loss(self, observation: Tensor, energy: EnergyAtStates,
             draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """mean E(s, a_0), with the gradient through the whole chain, + score_weight · score-matching loss."""
        level, chain_normals, mc_normals = draws
        predict = self._predict(observation)
        path = self._reverse(predict, chain_normals)
        energies, risk = energy.with_risk(self.squash(path[-1]))
        # path[K − τ] has level τ: step τ starts there and ends at the next entry.
        index = self.process.steps - level + (self.score_level == "after")
        latent = torch.stack(path)[index, torch.arange(len(level), device=level.device)]
        if self.score_detach:
            latent = latent.detach()
        # φ* is estimated at the score network's input.
        point = latent if self.score_space == "latent" else self.squash(latent)
        target = self.score_target(energy, point, level, mc_normals)
        matching = nn.functional.mse_loss(predict("score", latent, level), target)
        loss = energies.mean() + self.score_weight * matching
        return loss, risk, {"energy": energies.detach().mean(), "score_loss": matching.detach()}

    def score_target(self, energy: EnergyAtStates, point: Tensor, level: Tensor, normals: Tensor) -> Tensor:
        """φ* of shape (B, d), at points (B, d) of the score's own space and levels (B,), from normals (B, N, d)."""
        centre = self.mc_factors[level - 1].unsqueeze(-1) * point.detach()
        return monte_carlo_score(lambda a: self._energy_of_score(energy, a), centre, self.mc_spreads[level - 1],
                                 normals, self.beta)

    def _energy_of_score(self, energy: EnergyAtStates, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B, N) and gradients (B, N, d) at samples (B, N, d), in the score's space."""
        if self.score_space == "action":
            if self.mc_clip:
                samples = samples.clamp(self.bias - self.scale, self.bias + self.scale)
            return energy.value_and_gradient(samples)
        action = self.squash(samples)
        energies, gradients = energy.value_and_gradient(action)
        # The latent's density is exp(−E(a(x))/β) ∏ |da/dx|, so its energy is E − β Σ log(scale (1 − tanh² x)).
        tanh = torch.tanh(samples)
        log_slope = self.scale.log() + log_tanh_slope(samples)
        gradients = gradients * self.scale * (1 - tanh**2) + 2 * self.beta * tanh
        return energies - self.beta * log_slope.sum(-1), gradients
