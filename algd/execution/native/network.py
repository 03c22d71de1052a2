"""The functions of mlp.c as functions of tensors; the only module with pointers.

Since C does not check its arguments, every tensor is checked here: type, shape, contiguous, on the CPU.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from algd.algorithm.mlp import Activation, Layer
from algd.execution.native import library

ACTIVATIONS = {"relu": 1, "silu": 2}
"""mlp.c's numbers."""

FEW = 8
"""Fewer rows or columns than these are multiplied one sum at a time: making panels of the weights takes longer."""


def address(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> int:
    """Return the address of a tensor of this shape.

    Raises:
        TypeError: its type, shape, layout or device is another.
    """
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_cpu or not tensor.is_contiguous():
        raise TypeError(f"networks in C take contiguous {dtype} of shape {shape} on the CPU, not {tensor.dtype} of "
                        f"shape {tuple(tensor.shape)} with strides {tensor.stride()} on {tensor.device}")
    return tensor.data_ptr()


def choose(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows in which slopes (members, rows) are not 0.

    Returns:
        Row numbers (members, rows), of which each member's first `count` are valid, and these counts (members,).
    """
    members, rows = slopes.shape
    chosen, counts = torch.empty(members, rows, dtype=torch.int32), torch.empty(members, dtype=torch.int32)
    library.library().choose(members, rows, address(slopes, members, rows), chosen.data_ptr(), counts.data_ptr())
    return chosen, counts


class Network:
    """One network, or the networks of an ensemble's members, in C.

    A leading (m) in a shape is present only for an ensemble of m members. A hidden buffer has the values of all hidden
    layers, each (m, rows, width), one after the other.

    Args:
        layers: from the first to the last; C reads their parameters in place.
        activation: after every layer but the last.

    Attributes:
        layers: as given.
        lead, members: () or (m,), and m or 1.
        inputs, outputs: widths of x and of the values.
        size: number of parameters.

    Raises:
        TypeError: the parameters are not contiguous rows of float32 on the CPU.
    """

    def __init__(self, layers: Sequence[Layer], activation: Activation):
        self._library, self.layers = library.library(), layers
        self.lead = tuple(layers[0].weight.shape[:-2])
        self.members = self.lead[0] if self.lead else 1
        self._structs = (library.LayerStruct * len(layers))()
        self._offsets: list[tuple[int, int | None]] = []  # of weights and biases in a vector of all parameters
        self.size = 0
        for layer, struct in zip(layers, self._structs, strict=True):
            weight, bias = layer.weight, layer.bias
            for tensor in (weight,) if bias is None else (weight, bias):
                if tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.stride(-1) != 1:
                    raise TypeError(f"parameters of networks in C are rows of float32 on the CPU, not {tensor.dtype} "
                                    f"on {tensor.device} with strides {tensor.stride()}")
            struct.n, struct.k = weight.shape[-2:]
            if bias is not None:
                struct.bias, struct.bias_by_member = bias.data_ptr(), bias.stride(0) if self.lead else 0
            self._offsets.append((self.size, None if bias is None else self.size + weight.numel()))
            self.size += weight.numel() + (0 if bias is None else bias.numel())
        widths = [layer.weight.shape[-2] for layer in layers]
        self.inputs, self.outputs = layers[0].weight.shape[-1], widths[-1]
        self._first, self._hidden, widest = widths[0], sum(widths[:-1]), max(self.inputs, *widths)
        threads = torch.get_num_threads()
        self._scratch = torch.empty(threads * self._library.scratch_size(widest))
        self._struct = library.NetworkStruct(threads, self.members, len(layers), ACTIVATIONS[activation], widest,
                                             ctypes.addressof(self._structs), self._scratch.data_ptr())
        self._self = ctypes.addressof(self._struct)
        self._ready: set[str] = set()

    def hidden_buffer(self, rows: int) -> Tensor:
        """Return an uninitialised hidden buffer for this many rows."""
        return torch.empty(self.members * rows * self._hidden)

    def forward(self, x: Tensor, start: Tensor | None, inputs: Tensor | None, slopes: Tensor | None) -> Tensor:
        """Return the values (m, rows, out) at x, (m, rows, in) or (rows, in) for all members.

        Args:
            start: replaces the first layer's bias, (m, rows / n, width), each row for n rows of x; float32.
            inputs, slopes: hidden buffers to be filled with the activations' values and with SiLU's slopes; None: not
                needed.
        """
        rows = x.shape[-2]
        values = torch.empty(*self.lead, rows, self.outputs)
        self._prepare("forward" if rows >= FEW else "few")
        at, by_member, by_row, repeat = None, 0, 0, 1
        if start is not None:
            if rows % start.shape[-2]:
                raise ValueError(f"{start.shape[-2]} starts do not divide {rows} rows")
            if (start.dtype != torch.float32 or start.stride(-1) != 1 or not start.is_cpu
                    or start.shape != (*self.lead, start.shape[-2], self._first)):
                raise TypeError(f"starts of networks in C are rows of float32 on the CPU, {self._first} wide, not "
                                f"{start.dtype} of shape {tuple(start.shape)} with strides {start.stride()}")
            at, by_row, repeat = start.data_ptr(), start.stride(-2), rows // start.shape[-2]
            by_member = start.stride(0) if self.lead else 0
        elif self.layers[0].bias is None:
            raise ValueError("a first layer without a bias needs what stands in its place")
        self._library.forward(self._self, rows, *self._matrix_of(x, rows), at, by_member, by_row, repeat,
                              self._hidden_address(inputs, rows), self._hidden_address(slopes, rows),
                              values.data_ptr())
        return values

    def backward(self, kept: Tensor | None, gradient: Tensor, chosen: tuple[Tensor, Tensor] | None,
                 found: Tensor | None, result: Tensor | None) -> None:
        """Compute ∂f/∂sums of the hidden layers and ∂f/∂x from ∂f/∂values, (m, rows, out).

        Args:
            kept: the hidden buffer that `forward` filled: ReLU's values, or SiLU's slopes; None: no hidden layers.
            chosen: the rows to compute (`choose`), with `found` None; None: all rows.
            found: hidden buffer for ∂f/∂sums, or None.
            result: output for ∂f/∂x, (m, rows, in), or None.
        """
        rows = gradient.shape[-2]
        self._prepare("backward")
        numbers, counts = (None, None) if chosen is None else (
            address(chosen[0], self.members, rows, dtype=torch.int32),
            address(chosen[1], self.members, dtype=torch.int32))
        self._library.backward(self._self, rows, self._hidden_address(kept, rows),
                               address(gradient, *self.lead, rows, self.outputs), numbers, counts,
                               self._hidden_address(found, rows),
                               None if result is None else address(result, *self.lead, rows, self.inputs))

    def gradients(self, x: Tensor, inputs: Tensor | None, found: Tensor | None, gradient: Tensor) -> None:
        """Write the parameters' gradients to the tensors of the last `write_to` or `write_to_vector`.

        Args:
            x: the argument of `forward`.
            inputs: the buffer that `forward` filled.
            found: the buffer that `backward` filled.
            gradient: ∂f/∂values, (m, rows, out).

        Raises:
            MemoryError: a transposed copy of the layers' inputs cannot be allocated.
        """
        rows = gradient.shape[-2]
        if not self._library.gradients(self._self, rows, *self._matrix_of(x, rows),
                                       self._hidden_address(inputs, rows), self._hidden_address(found, rows),
                                       address(gradient, *self.lead, rows, self.outputs)):
            raise MemoryError(f"no memory for a gradient over {rows} rows")

    def write_to(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Set where the parameters' gradients are written, in the parameters' shapes; the caller keeps the tensors."""
        for layer, struct, weight, bias in zip(self.layers, self._structs, weights, biases, strict=True):
            struct.of_weight = address(weight, *layer.weight.shape)
            struct.of_bias = None if bias is None else address(bias, *self.lead, layer.weight.shape[-2])

    def write_to_vector(self, gradient: Tensor) -> None:
        """Set a vector (size,) to which the gradients are written: weight and bias of each layer in turn."""
        begin = address(gradient, self.size)
        for struct, (weight, bias) in zip(self._structs, self._offsets, strict=True):
            struct.of_weight, struct.of_bias = begin + 4 * weight, None if bias is None else begin + 4 * bias

    def first(self, found: Tensor, rows: int) -> Tensor:
        """Return the first layer's part of a hidden buffer, (m, rows, width)."""
        return found[:self.members * rows * self._first].view(*self.lead, rows, self._first)

    def _matrix_of(self, x: Tensor, rows: int) -> tuple[int, int]:
        """Return the address of x and its stride between members; 0 if all members share x."""
        if x.dim() == 2:
            return address(x, rows, self.inputs), 0
        return address(x, *self.lead, rows, self.inputs), rows * self.inputs

    def _hidden_address(self, buffer: Tensor | None, rows: int) -> int | None:
        return None if buffer is None else address(buffer, self.members * rows * self._hidden)

    def _prepare(self, what: str) -> None:
        """Set the structs' pointers to the matrices for "forward", "few" (forward for few rows) or "backward"."""
        if what in self._ready:
            return
        self._ready = self._ready - {"forward", "few"} | {what}
        for layer, struct in zip(self.layers, self._structs, strict=True):
            matrix, by_row = self._matrix(layer, what)
            pointer, by_member = matrix.data_ptr(), matrix.stride(0) if self.lead else 0
            if what == "backward":
                struct.backward, struct.backward_by_member, struct.backward_by_row = pointer, by_member, by_row
            else:
                struct.forward, struct.forward_by_member, struct.forward_by_row = pointer, by_member, by_row

    def _matrix(self, layer: Layer, what: str) -> tuple[Tensor, int]:
        """Return a layer's weights in panels, and 0; for few rows its transpose and the stride of the rows.

        Each copy is made once per layer and shared by all networks that the layer is part of.
        """
        weight = layer.weight
        n, k = weight.shape[-2:]
        by_member, by_row = weight.stride(0) if self.lead else 0, weight.stride(-2)
        if what == "few" or (what == "forward" and n < FEW):
            return weight, by_row
        few = what == "backward" and k < FEW
        if few and what not in layer.derived:
            layer.derived[what] = weight.mT.contiguous()
        elif what not in layer.derived:
            strides = (k, n, 1, by_row) if what == "forward" else (n, k, by_row, 1)
            panels = torch.empty(self.members, self._library.panel_size(*strides[:2]))
            self._library.pack(self.members, *strides[:2], weight.data_ptr(), by_member, *strides[2:],
                               panels.data_ptr())
            layer.derived[what] = panels
        return layer.derived[what], n if few else 0
