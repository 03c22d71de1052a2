"""Multilayer perceptrons, of one network or of an ensemble's members at once: values, and gradients by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["relu", "silu"]


@dataclass(eq=False)
class Layer:
    """One fully connected layer, x Wᵀ + b, whose parameters do not change while it is in use.

    Args:
        weight: (out, in), or (m, out, in) for m members.
        bias: (out,) or (m, out); None: `start` replaces it.
        derived: a cache of an implementation, for rearranged copies of the weights.
    """

    weight: Tensor
    bias: Tensor | None = None
    derived: dict[str, Tensor] = field(default_factory=dict)


class MLP:
    """Fully connected layers with an activation after each but the last.

    This class is the reference implementation, in torch's operations: on any device, in any precision, differentiable
    any number of times. `algd.execution.native.mlp.NativeMLP` does the same in float32 on a CPU, faster.

    A leading (m) in a shape is present only for an ensemble of m members.

    Args:
        layers: from the first to the last.
        activation: after every layer but the last.
    """

    def __init__(self, layers: Sequence[Layer], activation: Activation):
        self.layers, self.activation = list(layers), activation

    def __call__(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """The values, (m, rows, out).

        Args:
            x: (m, rows, in), or (rows, in) for all members.
            start: added instead of the first layer's bias, (m, rows / n, width), each row for n rows of x.
        """
        return self.trace(x, start)[0]

    def trace(self, x: Tensor, start: Tensor | None = None, inputs: bool = False) -> tuple[Tensor, Any]:
        """The values, and the intermediate results that `pull` and (with `inputs`) `gradients` take."""
        trace = []
        for layer in self.layers[:-1]:
            y = self._multiply(layer, x, start)
            trace.append((x, y))
            # A ReLU's slope follows from its value, so one buffer is enough for both.
            x, start = torch.relu_(y) if self.activation == "relu" else F.silu(y), None
        values = self._multiply(self.layers[-1], x, start)
        return values, [*trace, (x, values)]

    @staticmethod
    def _multiply(layer: Layer, x: Tensor, start: Tensor | None) -> Tensor:
        single = layer.weight.dim() == 2
        if start is None:
            assert layer.bias is not None
            start = layer.bias if single else layer.bias.unsqueeze(1)
        elif start.shape[-2] != x.shape[-2]:
            start = start.repeat_interleave(x.shape[-2] // start.shape[-2], dim=-2)
        if single:
            return torch.addmm(start, x, layer.weight.t())
        return torch.baddbmm(start, x.expand(len(layer.weight), -1, -1), layer.weight.mT)

    def pull(self, trace: Any, gradient: Tensor) -> Tensor:
        """∂f/∂x of an x that all members share, (rows, in), from ∂f/∂values, (m, rows, out), for any scalar f.

        A row whose gradient is 0 contributes nothing, and the native implementation does not compute it.
        """
        gradient = self._backward(trace, gradient)[0] @ self.layers[0].weight
        return gradient.sum(0) if gradient.dim() == 3 else gradient

    def gradients(self, trace: Any, gradient: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Write ∂f/∂W and ∂f/∂b of every layer into `weights` and `biases`, from ∂f/∂values, (m, rows, out)."""
        for (x, _), own, weight, bias in zip(trace, self._backward(trace, gradient), weights, biases, strict=True):
            if own.dim() == 3:
                torch.bmm(own.mT, x.expand(len(own), -1, -1), out=weight)
            else:
                torch.mm(own.t(), x, out=weight)
            torch.sum(own, -2, out=bias)

    def _backward(self, trace: Any, gradient: Tensor) -> list[Tensor]:
        """∂f/∂(x Wᵀ + b) of every layer, (m, rows, width) each."""
        found = [gradient]
        for layer, (_, y) in zip(self.layers[:0:-1], trace[-2::-1], strict=True):
            gradient = found[-1] @ layer.weight
            found.append(torch.ops.aten.threshold_backward(gradient, y, 0) if self.activation == "relu" else
                         torch.ops.aten.silu_backward(gradient, y))
        return found[::-1]
