"""Measuring the effect of rounding: float32 computations with the sums of matrix products in random order."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "bmm", "addmm", "baddbmm")}


class ShuffledSums(TorchDispatchMode):
    """A context in which matrix products sum their terms in random order, which changes only rounding.

    Args:
        seed: seed of the orders.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in PRODUCTS:
            *start, left, right = args
            order = torch.randperm(left.shape[-1], generator=self._generator)
            args = *start, left[..., order], right[..., order, :]
        return func(*args, **(kwargs or {}))
