"""An MLP in C (mlp.c)."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from algd.algorithm.mlp import MLP, Activation, Layer
from algd.execution.native import library

ACTIVATIONS = {"relu": 1, "silu": 2}
"""mlp.c's numbers."""

FEW = 8
"""Fewer rows or columns than these are multiplied one sum at a time: making panels of the weights takes longer."""


class Trace(NamedTuple):
    """What a forward pass leaves for a backward one: its x, and all hidden layers' values and SiLU's slopes."""

    x: Tensor
    inputs: Tensor | None
    slopes: Tensor | None


class NativeMLP(MLP):
    """An MLP in float32 on a CPU, once differentiable; see MLP."""

    def __init__(self, layers: Sequence[Layer], activation: Activation):
        super().__init__(layers, activation)
        self._stacked = layers[0].weight.dim() == 3
        self._members = len(layers[0].weight) if self._stacked else 1
        self._library, self._layers = library.library(), (library.LayerStruct * len(layers))()
        self._about = self._members, len(layers), ctypes.addressof(self._layers)
        self._ready: set[str] = set()
        self._sums: tuple[Sums, Tensor] | None = None
        for layer, struct in zip(layers, self._layers, strict=True):
            weight, bias = layer.weight, layer.bias
            for tensor in (weight,) if bias is None else (weight, bias):
                if tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.stride(-1) != 1:
                    raise TypeError(f"parameters of networks in C are rows of float32 on the CPU, not {tensor.dtype} "
                                    f"on {tensor.device} with strides {tensor.stride()}")
            struct.n, struct.k = weight.shape[-2:]
            if bias is not None:
                struct.bias, struct.bias_by_member = bias.data_ptr(), bias.stride(0) if self._stacked else 0
        widths = [layer.weight.shape[-2] for layer in layers]
        self._in, self._first, self._out = layers[0].weight.shape[-1], widths[0], widths[-1]
        self._hidden, self._widest = sum(widths[:-1]), max(self._in, *widths)
        self._threads = torch.get_num_threads()
        self._scratch = torch.empty(self._threads * self._library.scratch_size(self._widest))

    def __call__(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            if self._sums is None:
                sums = Sums()
                parameters = [p for layer in self.layers for p in (layer.weight, layer.bias) if p is not None]
                self._sums = sums, _Sums.apply(sums, *parameters)
            values: Tensor = _Values.apply(self, *self._sums, x, start)
            return values
        return self._forward(x, start, False, False)[0]

    @torch.no_grad()
    def trace(self, x: Tensor, start: Tensor | None = None, inputs: bool = False) -> tuple[Tensor, Trace]:
        silu = self.activation == "silu"
        return self._forward(x, start, inputs or not silu, silu)

    def _forward(self, x: Tensor, start: Tensor | None, inputs: bool, slopes: bool) -> tuple[Tensor, Trace]:
        """The values, and the trace with what is asked for."""
        x, rows = x.contiguous(), x.shape[-2]
        trace = Trace(x, self._hidden_buffer(rows) if inputs else None, self._hidden_buffer(rows) if slopes else None)
        values = torch.empty((self._members, rows, self._out) if self._stacked else (rows, self._out))
        self._prepare("forward" if rows >= FEW else "few")
        from_where, by_member, by_row, repeat = None, 0, 0, 1
        if start is not None:
            if rows % start.shape[-2]:
                raise ValueError(f"{start.shape[-2]} starts do not divide {rows} rows")
            from_where, by_row, repeat = start.data_ptr(), start.stride(-2), rows // start.shape[-2]
            by_member = start.stride(0) if self._stacked else 0
        members, count, layers = self._about
        self._library.forward(self._threads, members, rows, count, layers, ACTIVATIONS[self.activation], x.data_ptr(),
                              _by_member(x), from_where, by_member, by_row, repeat, _pointer(trace.inputs),
                              _pointer(trace.slopes), values.data_ptr(), self._scratch.data_ptr(), self._widest)
        return values, trace

    @torch.no_grad()
    def pull(self, trace: Trace, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        rows = gradient.shape[-2]
        if gradient.shape[-1] != 1:
            result = torch.empty(*gradient.shape[:-1], self._in)
            self._propagate(trace, gradient, None, None, result)
        else:
            chosen = torch.empty(self._members, rows, dtype=torch.int32)
            counts = torch.empty(self._members, dtype=torch.int32)
            self._library.choose(self._members, rows, gradient.data_ptr(), chosen.data_ptr(), counts.data_ptr())
            result = torch.zeros(*gradient.shape[:-1], self._in)
            self._propagate(trace, gradient, (chosen, counts), None, result)
        return result.sum(0) if self._stacked else result

    @torch.no_grad()
    def gradients(self, trace: Trace, gradient: Tensor, weights: Sequence[Tensor],
                  biases: Sequence[Tensor | None]) -> None:
        self.write_gradients_to(weights, biases)
        self.add_gradients(trace, gradient, None, add=False)

    def write_gradients_to(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Where the parameters' gradients go from now on: somebody has to keep these tensors."""
        for struct, weight, bias in zip(self._layers, weights, biases, strict=True):
            struct.of_weight, struct.of_bias = weight.data_ptr(), _pointer(bias)

    @torch.no_grad()
    def add_gradients(self, trace: Trace, gradient: Tensor, of_x: Tensor | None, add: bool = True) -> Tensor:
        """Add to the parameters' gradients, and write ∂f/∂x. Returns ∂f/∂(x Wᵀ + b) of the first layer."""
        gradient = gradient.contiguous()
        rows = gradient.shape[-2]
        found = self._hidden_buffer(rows)
        if of_x is not None or len(self.layers) > 1:
            self._propagate(trace, gradient, None, found, of_x)
        members, count, layers = self._about
        if not self._library.gradients(self._threads, members, rows, count, layers, trace.x.data_ptr(),
                                       _by_member(trace.x), _pointer(trace.inputs), found.data_ptr(),
                                       gradient.data_ptr(), add):
            raise MemoryError(f"no memory for a gradient over {rows} rows")
        if count == 1:
            return gradient
        return found[:members * rows * self._first].view(*gradient.shape[:-1], self._first)

    def sum_gradients(self, sums: "Sums", trace: Trace, gradient: Tensor, of_x: Tensor | None) -> Tensor:
        """`add_gradients`, to these sums, which begin with the first call of a backward pass."""
        # A pass that asks for the input's gradient only leaves its sums behind.
        task = torch._C._current_graph_task_id()  # type: ignore[attr-defined]
        add = sums.task == task
        if not add:
            sums.task = task
            sums.weights = [torch.empty(layer.weight.shape) for layer in self.layers]
            sums.biases = [None if layer.bias is None else torch.empty(layer.bias.shape) for layer in self.layers]
            self.write_gradients_to(sums.weights, sums.biases)
        return self.add_gradients(trace, gradient, of_x, add)

    def _propagate(self, trace: Trace, gradient: Tensor, rows: tuple[Tensor, Tensor] | None, found: Tensor | None,
                   result: Tensor | None) -> None:
        """mlp.c's `backward`; rows: what its `choose` says; found and result are written."""
        self._prepare("backward")
        kept = trace.slopes if self.activation == "silu" else trace.inputs
        chosen, counts = rows or (None, None)
        members, count, layers = self._about
        self._library.backward(self._threads, members, gradient.shape[-2], count, layers,
                               ACTIVATIONS[self.activation], _pointer(kept), gradient.data_ptr(), _pointer(chosen),
                               _pointer(counts), _pointer(found), _pointer(result), self._scratch.data_ptr(),
                               self._widest)

    def _hidden_buffer(self, rows: int) -> Tensor:
        return torch.empty(self._members * rows * self._hidden)

    def _prepare(self, what: str) -> None:
        """Tell the structs where the matrices are: "forward", "few" (forward for few rows) or "backward"."""
        if what in self._ready:
            return
        self._ready = self._ready - {"forward", "few"} | {what}
        for layer, struct in zip(self.layers, self._layers, strict=True):
            matrix, by_row = self._matrix(layer, what)
            pointer, by_member = matrix.data_ptr(), matrix.stride(0) if self._stacked else 0
            if what == "backward":
                struct.backward, struct.backward_by_member, struct.backward_by_row = pointer, by_member, by_row
            else:
                struct.forward, struct.forward_by_member, struct.forward_by_row = pointer, by_member, by_row

    def _matrix(self, layer: Layer, what: str) -> tuple[Tensor, int]:
        """A layer's panels and 0; where few sums are asked for, the transpose and how far its rows are apart.

        What has to be made is made once a layer, and shared by all MLPs that the layer is part of.
        """
        weight = layer.weight
        n, k = weight.shape[-2:]
        by_member, by_row = weight.stride(0) if self._stacked else 0, weight.stride(-2)
        if what == "few" or (what == "forward" and n < FEW):
            return weight, by_row
        few = what == "backward" and k < FEW
        if few and what not in layer.derived:
            layer.derived[what] = weight.mT.contiguous()
        elif what not in layer.derived:
            strides = (k, n, 1, by_row) if what == "forward" else (n, k, by_row, 1)
            panels = torch.empty(self._members, self._library.panel_size(*strides[:2]))
            self._library.pack(self._members, *strides[:2], weight.data_ptr(), by_member, *strides[2:],
                               panels.data_ptr())
            layer.derived[what] = panels
        return layer.derived[what], n if few else 0


def _by_member(x: Tensor) -> int:
    """How far members' inputs are apart; 0: all members have one."""
    return x.stride(0) if x.dim() == 3 else 0


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@dataclass
class Sums:
    """Gradients of an MLP's parameters, summed over its calls in one backward pass, `task` in torch's count."""

    task: int | None = None
    weights: list[Tensor] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)


class _Sums(torch.autograd.Function):
    """Hands the parameters their gradients, once for all calls: autograd would add them up one by one.

    What it returns goes into each call, so that a graph runs this backward pass after those of all calls.
    """

    @staticmethod
    def forward(ctx: Any, sums: Sums, *parameters: Tensor) -> Tensor:
        ctx.sums = sums
        return torch.empty(0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        found = [p for pair in zip(ctx.sums.weights, ctx.sums.biases, strict=True) for p in pair if p is not None]
        ctx.sums.task, ctx.sums.weights, ctx.sums.biases = None, [], []
        return None, *found


class _Values(torch.autograd.Function):
    """An MLP's values, with gradients for x, for what the first layer starts from, and for the parameters' sums."""

    @staticmethod
    def forward(ctx: Any, mlp: NativeMLP, sums: Sums, handed: Tensor, x: Tensor, start: Tensor | None) -> Tensor:
        values, trace = mlp._forward(x, start, True, mlp.activation == "silu")
        ctx.mlp, ctx.sums, ctx.trace, ctx.with_start = mlp, sums, trace, start is not None
        return values

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("create_graph: a network in C is differentiable once only")
        of_x = torch.empty(ctx.trace.x.shape) if ctx.needs_input_grad[3] else None
        start = ctx.mlp.sum_gradients(ctx.sums, ctx.trace, slopes[0], of_x)
        return None, None, slopes[0].new_empty(0), of_x, start if ctx.with_start else None
