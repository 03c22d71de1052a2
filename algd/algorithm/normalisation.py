"""Running normalisation of observations and rewards; part of the agent, so that it is saved and used with it."""

import torch
from torch import Tensor, nn

CLIP = 10.0


class RunningMoments(nn.Module):
    """Mean and variance of all vectors seen so far (Welford's recurrence, in float64).

    Args:
        size: the vectors' length.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    def observe(self, value: Tensor) -> None:
        """Add one vector."""
        self.count += 1
        delta = value.to(self.mean) - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value.to(self.mean) - self.mean)

    def std(self) -> Tensor:
        """The standard deviation, at least 1e-4; 1 before two vectors were seen."""
        # A branch on the count would wait for the device.
        std = (self.squares / self.count.clamp_min(1)).sqrt().clamp_min(1e-4)
        return torch.where(self.count < 2, torch.ones_like(std), std)


class Normaliser(nn.Module):
    """Normalises observations and rewards for the networks. The replay has the raw ones.

    Args:
        observation_size: s.
        observation: whether observations are centred and scaled by their running moments, and clipped to ±10.
        reward: whether rewards are divided by the running standard deviation of the discounted return
            Σ γ^k r_{t−k}, the convention of gymnasium's NormalizeReward.
        discount: γ.

    Attributes:
        observed: number of observations in the moments; a copy with a smaller number is out of date.
    """

    discounted_return: Tensor

    def __init__(self, observation_size: int, observation: bool, reward: bool, discount: float):
        super().__init__()
        self.observation = RunningMoments(observation_size) if observation else None
        self.reward = RunningMoments(1) if reward else None
        self.discount = discount
        self.observed = 0
        self.register_buffer("discounted_return", torch.zeros(1, dtype=torch.float64))

    def observe(self, observation: Tensor, reward: float, episode_over: bool) -> None:
        """Add one training step: the observation (s,) that was reached, and its reward."""
        if self.observation is not None:
            self.observation.observe(observation)
            self.observed += 1
        if self.reward is not None:
            self.discounted_return.mul_(self.discount).add_(reward)
            self.reward.observe(self.discounted_return)
            if episode_over:
                self.end_episode()

    def end_episode(self) -> None:
        """Reset the discounted return: the next observation is of another episode."""
        self.discounted_return.zero_()

    def observations(self, observation: Tensor) -> Tensor:
        """Observations (..., s) for the networks, float32."""
        if self.observation is None:
            return observation
        centred = (observation - self.observation.mean.float()) / self.observation.std().float()
        return centred.clamp(-CLIP, CLIP)

    def reward_unit(self) -> float:
        """The divisor of rewards."""
        return 1.0 if self.reward is None else self.reward.std().item()

    def rewards(self, reward: Tensor) -> Tensor:
        """Rewards (B,) for the critics."""
        return reward if self.reward is None else reward / self.reward.std().float()
