"""An MLP in C (mlp.c)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from algd.algorithm.mlp import MLP, Activation, Layer
from algd.execution.native.network import Network, choose


class Trace(NamedTuple):
    """Saved by a forward pass for the backward one: its x, and all hidden layers' values and SiLU's slopes."""

    x: Tensor
    inputs: Tensor | None
    slopes: Tensor | None


class NativeMLP(MLP):
    """An MLP in float32 on a CPU, once differentiable; see MLP.

    With autograd all calls of one MLP have one more argument, a vector of all its parameters. C writes each call's
    gradient for it as one vector; autograd adds these up, and one node distributes the sum to the parameters:

        parameters ── _Parameters ── vector ──┬── _Values ── values
                                     x, start ┤
                                              └── _Values ── values    (one for each call)
    """

    def __init__(self, layers: Sequence[Layer], activation: Activation):
        super().__init__(layers, activation)
        self.network = Network(self.layers, activation)
        self._vector: Tensor | None = None

    def __call__(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            if self._vector is None:
                self._vector = _Parameters.apply(*(p for layer in self.layers for p in (layer.weight, layer.bias)
                                                   if p is not None))
            values: Tensor = _Values.apply(self, self._vector, x, start)
            return values
        return self.network.forward(x.contiguous(), start, None, None)

    @torch.no_grad()
    def trace(self, x: Tensor, start: Tensor | None = None, inputs: bool = False) -> tuple[Tensor, Trace]:
        silu, rows = self.activation == "silu", x.shape[-2]
        trace = Trace(x.contiguous(), self.network.hidden_buffer(rows) if inputs or not silu else None,
                      self.network.hidden_buffer(rows) if silu else None)
        return self.network.forward(trace.x, start, trace.inputs, trace.slopes), trace

    @torch.no_grad()
    def pull(self, trace: Trace, gradient: Tensor) -> Tensor:
        gradient, shape = gradient.contiguous(), (*gradient.shape[:-1], self.network.inputs)
        if gradient.shape[-1] != 1:
            result = torch.empty(shape)
            self.network.backward(self._kept(trace), gradient, None, None, result)
        else:
            result = torch.zeros(shape)
            chosen = choose(gradient.view(self.network.members, gradient.shape[-2]))
            self.network.backward(self._kept(trace), gradient, chosen, None, result)
        return result.sum(0) if self.network.lead else result

    @torch.no_grad()
    def gradients(self, trace: Trace, gradient: Tensor, weights: Sequence[Tensor],
                  biases: Sequence[Tensor | None]) -> None:
        self.network.write_to(weights, biases)
        self.differentiate(trace, gradient, None)

    def differentiate(self, trace: Trace, gradient: Tensor, of_x: Tensor | None) -> Tensor:
        """Write the parameters' gradients and, where it is wanted, ∂f/∂x.

        Returns:
            ∂f/∂(x Wᵀ + b) of the first layer, (m, rows, width).
        """
        network, gradient = self.network, gradient.contiguous()
        rows, several = gradient.shape[-2], len(self.layers) > 1
        found = network.hidden_buffer(rows) if several else None
        if several or of_x is not None:
            network.backward(self._kept(trace), gradient, None, found, of_x)
        network.gradients(trace.x, trace.inputs, found, gradient)
        return gradient if found is None else network.first(found, rows)

    def _kept(self, trace: Trace) -> Tensor | None:
        return trace.slopes if self.activation == "silu" else trace.inputs


class _Parameters(torch.autograd.Function):
    """Parameters as one vector. Its values are never read; it only passes the gradient to the parameters."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.shapes = [parameter.shape for parameter in parameters]
        return parameters[0].new_zeros(()).expand(sum(shape.numel() for shape in ctx.shapes))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        parts = slopes[0].split([shape.numel() for shape in ctx.shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


class _Values(torch.autograd.Function):
    """An MLP's values, with gradients for its parameters, for x, and for `start`."""

    @staticmethod
    def forward(ctx: Any, mlp: NativeMLP, vector: Tensor, x: Tensor, start: Tensor | None) -> Tensor:
        values, trace = mlp.trace(x, start, inputs=True)
        ctx.mlp, ctx.trace, ctx.with_start = mlp, trace, start is not None
        return values

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("create_graph: a network in C is differentiable once only")
        of_parameters = torch.empty(ctx.mlp.network.size)
        ctx.mlp.network.write_to_vector(of_parameters)
        of_x = torch.empty(ctx.trace.x.shape) if ctx.needs_input_grad[2] else None
        start = ctx.mlp.differentiate(ctx.trace, slopes[0], of_x)
        return None, of_parameters, of_x, start if ctx.with_start else None
