"""The replay buffer: one preallocated array whose rows are transitions."""

import numpy as np
import torch
from torch import Tensor

from algd.algorithm.agent import Batch
from algd.algorithm.rng import RandomGenerator


class Replay:
    """A ring buffer of transitions, each one float32 row, so that a batch is a single gather.

    Columns: observation (s), action (d), reward, cost, next observation (s), reward_done, cost_done. The memory is
    reserved at once but the operating system commits it only as rows are written. For an agent on a GPU the rows are
    also there, so that sampling needs no transfer and no synchronisation; checkpoints use those on the CPU.

    Args:
        capacity: rows; the oldest is overwritten when full.
        observation_size, action_size: s and d.
        device: of the batches.
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int, device: torch.device | str = "cpu"):
        self.capacity = capacity
        self.widths = [observation_size, action_size, 1, 1, observation_size, 1, 1]
        self._host = torch.empty(capacity, sum(self.widths))
        self._rows = self._host.numpy()
        on_cpu = torch.device(device).type == "cpu"
        self.rows = self._host if on_cpu else torch.empty_like(self._host, device=device)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, observation: np.ndarray, action: np.ndarray, reward: float, cost: float,
            next_observation: np.ndarray, reward_done: bool, cost_done: bool) -> None:
        """Append one transition."""
        place = self.added % self.capacity
        np.concatenate((observation, action, (reward, cost), next_observation, (reward_done, cost_done)),
                       out=self._rows[place], casting="same_kind")
        if self.rows is not self._host:
            self.rows[place].copy_(self._host[place])
        self.added += 1

    def sample(self, size: int, noise: RandomGenerator) -> Batch:
        """`size` transitions drawn uniformly with replacement."""
        return self.split(self.rows[noise.integers(len(self), size).to(self.rows.device)])

    def split(self, rows: Tensor) -> Batch:
        """Rows (B, width) as a batch of views."""
        observation, action, reward, cost, following, reward_done, cost_done = rows.split(self.widths, dim=1)
        return Batch(observation, action, reward.squeeze(1), cost.squeeze(1), following, reward_done.squeeze(1),
                     cost_done.squeeze(1))

    def written(self, first: int, last: int) -> list[np.ndarray]:
        """The rows number `first` … `last` − 1 of all ever added, as one or two contiguous arrays (views).

        They must not be overwritten yet: last − capacity ≤ first ≤ last = `added`.
        """
        if not last - self.capacity <= first <= last == self.added:
            raise ValueError(f"rows {first} to {last} are not in a ring of {self.capacity} that has seen {self.added}")
        start, stop = first % self.capacity, first % self.capacity + last - first
        return [part for part in (self._rows[start:min(stop, self.capacity)],
                                  self._rows[:max(stop - self.capacity, 0)]) if len(part)]

    def restore(self, first: int, rows: np.ndarray) -> None:
        """Put back at most `capacity` rows, number `first` … `first` + len(rows) − 1 of all ever added."""
        start = first % self.capacity
        head = min(len(rows), self.capacity - start)
        for place, part in ((slice(start, start + head), rows[:head]), (slice(len(rows) - head), rows[head:])):
            self._rows[place] = part
            if self.rows is not self._host:
                self.rows[place].copy_(self._host[place])
        self.added = first + len(rows)
