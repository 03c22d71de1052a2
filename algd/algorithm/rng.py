"""Explicit random number generators, the only ones that an agent uses; their states are part of a checkpoint."""

import torch
from torch import Tensor


class RandomGenerator:
    """A seeded generator of normals and integers.

    Args:
        seed: any non-negative integer below 2⁶³.
        device: of the draws.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = torch.device(device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normals of this shape, float32."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, high: int, size: int) -> Tensor:
        """`size` integers, uniform on 0 … high − 1, int64."""
        return torch.randint(high, (size,), generator=self.generator, device=self.device)
