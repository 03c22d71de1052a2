"""The networks: an ensemble of critics, the score network of a diffusion policy, and the Gaussian actor's trunk."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Initialisation = Literal["xavier", "normal", "truncated_normal"]


def _initialise(weight: Tensor, how: Initialisation) -> None:
    """Fill one layer's weight, shape (out, in)."""
    if how == "xavier":
        nn.init.xavier_uniform_(weight)
        return
    std = 1 / (2 * weight.shape[1] ** 0.5)
    if how == "normal":
        nn.init.normal_(weight, std=std)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class _Activation(NamedTuple):
    """An activation y of x: the definition, one that may overwrite x, and (∂/∂y, what is then in x) ↦ ∂/∂x."""

    definition: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


# A ReLU's slope can be told from its value, so that one buffer does for both.
ACTIVATIONS = {"relu": _Activation(F.relu, torch.relu_, lambda g, x: torch.ops.aten.threshold_backward(g, x, 0)),
               "silu": _Activation(F.silu, F.silu, torch.ops.aten.silu_backward)}


def stacked(tensor: Tensor) -> bool:
    """Whether all members and rows are multiplied at once: everywhere but on a CPU, whose caches are small."""
    return tensor.device.type != "cpu"


class CriticEnsemble(nn.Module):
    """`members` independent multilayer perceptrons (s, a) ↦ scalar, evaluated together.

    Each layer's weights are stored stacked, (members, out, in). A GPU multiplies them stacked; a CPU member by
    member, whose small products stay in cache where one batched product does not.

    `forward` is the definition, differentiable in everything. Training asks for two gradients only, and gets them
    by hand, at the cost of their matrix products: the action's, from `at`, and the parameters', from `regress`.

    Args:
        members: how many networks.
        observation_size, action_size: sizes of s and a.
        hidden_sizes: widths of the hidden layers.
        activation: "relu" or "silu".
        initialisation: of the weights, biases are zero. "xavier": uniform; "normal": std 1/(2√fan_in);
            "truncated_normal": the same, cut at two standard deviations.
    """

    def __init__(self, members: int, observation_size: int, action_size: int, hidden_sizes: Sequence[int],
                 activation: Literal["relu", "silu"], initialisation: Initialisation):
        super().__init__()
        self.members, self.observation_size = members, observation_size
        self.activation = ACTIVATIONS[activation]
        sizes = [observation_size + action_size, *hidden_sizes, 1]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, o, i)) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, o)) for o in sizes[1:])
        with torch.no_grad():
            for weights in self.weights:
                for weight in weights:
                    _initialise(weight, initialisation)

    def forward(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Values of shape (members, B) for actions (B, d), or (members, B, N) for N actions a state, (B, N, d).

        Args:
            observation: (B, s).
            action: (B, d) or (B, N, d).
            frozen: no gradient for the parameters (there still is one for the action).
        """
        if action.dim() == 3:
            observation = observation.unsqueeze(1).expand(-1, action.shape[1], -1)
        inputs = torch.cat([observation, action], dim=-1).flatten(0, -2)
        values = []
        for weights, biases in self._groups(frozen):
            hidden = inputs.expand(len(weights[0]), -1, -1)
            for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                hidden = self.activation.definition(hidden) if layer else hidden
                hidden = torch.baddbmm(bias, hidden, weight.mT)
            values.append(hidden.squeeze(-1))
        return torch.cat(values).unflatten(1, action.shape[:-1])

    def at(self, observation: Tensor) -> "CriticsAtStates":
        """The ensemble at states (B, s), with the parameters that it has now, held fixed."""
        return CriticsAtStates(self, observation)

    @torch.no_grad()
    def regress(self, observation: Tensor, action: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Set the parameters' `grad` to that of a squared error.

        Args:
            observation: (B, s).
            action: (B, d).
            target: (B,) or (members, B), what the values should be.
            weight: w in the loss, w Σ_members mean_B (value − target)².

        Returns:
            The loss, a scalar, and the values (members, B).
        """
        inputs = torch.cat([observation, action], dim=1)
        target = target.expand(self.members, -1)
        for parameter in self.parameters():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        values, at = [], 0
        for weights, biases in self._groups(frozen=True):
            group = slice(at, at + len(weights[0]))
            at = group.stop
            layers, x = [inputs.expand(len(weights[0]), -1, -1)], []
            for layer_weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                x.append(torch.baddbmm(bias, layers[-1], layer_weight.mT))
                layers.append(self.activation.forward(x[-1]))
            values.append(torch.baddbmm(biases[-1], layers[-1], weights[-1].mT).squeeze(-1))
            gradient = (2 * weight / len(inputs)) * (values[-1] - target[group]).unsqueeze(-1)
            for layer in reversed(range(len(weights))):
                torch.bmm(gradient.mT, layers[layer], out=self.weights[layer].grad[group])
                torch.sum(gradient, 1, out=self.biases[layer].grad[group])
                if layer:
                    gradient = self.activation.backward(torch.bmm(gradient, weights[layer]), x[layer - 1])
        all_values = torch.cat(values)
        return weight * (all_values - target).square().mean(1).sum(), all_values

    def _groups(self, frozen: bool) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Weights (m, out, in) and biases (m, 1, out) of members multiplied together: all on a GPU, one on a CPU."""
        size = self.members if stacked(self.weights[0]) else 1
        weights, biases = ([p.detach() if frozen else p for p in parameters]
                           for parameters in (self.weights, self.biases))
        layers = [p.split(size) for p in (*weights, *(b.unsqueeze(1) for b in biases))]
        for parts in zip(*layers, strict=True):
            yield list(parts[:len(weights)]), list(parts[len(weights):])


class CriticsAtStates:
    """An ensemble at B states, with fixed parameters: values of actions and their gradients with respect to actions.

    The states' part of the first layer is computed once, here, for whatever actions follow.

    Args:
        critics: the ensemble.
        observation: (B, s).
    """

    @torch.no_grad()
    def __init__(self, critics: CriticEnsemble, observation: Tensor):
        self._activation = critics.activation
        self._groups = []
        for (first, *weights), biases in critics._groups(frozen=True):
            of_state, of_action = first.split([observation.shape[1], first.shape[2] - observation.shape[1]], dim=2)
            inputs = observation.expand(len(first), -1, -1)
            from_state = torch.baddbmm(biases[0], inputs, of_state.mT)
            # A product with so few columns is several times faster over rows that lie together.
            self._groups.append((from_state, of_action.mT.contiguous(), weights, biases[1:]))

    @torch.no_grad()
    def values(self, states: slice, action: Tensor) -> tuple[Tensor, "Pullback"]:
        """Values of n actions at each of some of the states.

        Args:
            states: which b of the B states.
            action: (b, n, d).

        Returns:
            (members, b·n), and what takes ∂f/∂values to ∂f/∂actions for any f.
        """
        rows = action.flatten(0, 1)
        values, passes = [], []
        for from_state, of_action, weights, biases in self._groups:
            x, inputs = from_state[:, states], rows.expand(len(from_state), -1, -1)
            if action.shape[1] == 1:
                x = torch.baddbmm(x, inputs, of_action)
            else:
                x = x.repeat_interleave(action.shape[1], dim=1).baddbmm_(inputs, of_action)
            before = [x]
            for weight, bias in zip(weights, biases, strict=True):
                hidden = self._activation.forward(before[-1])
                before.append(torch.baddbmm(bias, hidden, weight.mT))
            values.append(before.pop().squeeze(-1))
            passes.append((before, [of_action.mT, *weights]))
        return torch.cat(values), Pullback(self._activation, passes)


class Pullback:
    """The gradient of an ensemble's values with respect to the actions, as a linear map of ∂f/∂values.

    Args:
        activation: the hidden layers'.
        passes: for every group of members the hidden layers before activation, (m, rows, width) each, and the
            weights that lead to them and on to the values.
    """

    def __init__(self, activation: _Activation, passes: list[tuple[list[Tensor], list[Tensor]]]):
        self._activation, self._passes = activation, passes

    @torch.no_grad()
    def __call__(self, slopes: Tensor) -> Tensor:
        """∂f/∂actions, (rows, d), from ∂f/∂values, (members, rows).

        Where a slope is 0, so is its share of the gradient: a CPU leaves such rows out, which halves the work on the
        lesser of two critics and spares it on costs that a clipped multiplier ignores.
        """
        total = slopes.new_zeros(slopes.shape[1], self._passes[0][1][0].shape[2])
        at = 0
        for before, weights in self._passes:
            slope = slopes[at:at + len(weights[0])]
            at += len(slope)
            rows = None if stacked(slopes) or torch.compiler.is_compiling() else slope[0].nonzero().squeeze(1)
            if rows is None or len(rows) == len(total):
                total += self._pull(before, weights, slope).sum(0)
            elif len(rows):
                chosen = [x.index_select(1, rows) for x in before]
                total.index_add_(0, rows, self._pull(chosen, weights, slope.index_select(1, rows))[0])
        return total

    def _pull(self, before: list[Tensor], weights: list[Tensor], slope: Tensor) -> Tensor:
        """One group's part, (m, rows, d)."""
        gradient = slope.unsqueeze(-1) * weights[-1]
        for x, weight in zip(reversed(before), reversed(weights[:-1]), strict=True):
            gradient = torch.bmm(self._activation.backward(gradient, x), weight)
        return gradient


class ScoreNetwork(nn.Module):
    """MLP over (state, action at a noise level, learned embedding of that level), with one linear head an output.

    Args:
        observation_size, action_size: sizes of s and a.
        levels: number of noise levels K; a level is an integer 1 … K.
        hidden_sizes: widths of the ReLU layers.
        embedding_size: width of the embedding.
        heads: names of the outputs, each of the action's size.
    """

    def __init__(self, observation_size: int, action_size: int, levels: int, hidden_sizes: Sequence[int],
                 embedding_size: int, heads: Sequence[str]):
        super().__init__()
        self.sizes = [observation_size, action_size, embedding_size]
        self.embedding = nn.Parameter(torch.randn(levels, embedding_size))
        layers = [nn.Linear(i, o) for i, o in pairwise([sum(self.sizes), *hidden_sizes])]
        outputs = {name: nn.Linear(hidden_sizes[-1], action_size) for name in heads}
        self.trunk, self.heads = nn.ModuleList(layers), nn.ModuleDict(outputs)
        for layer in (*layers, *outputs.values()):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def at(self, observation: Tensor) -> Callable[[str, Tensor, Tensor | int], Tensor]:
        """The network at these states, (B, s), as a function (head, action (B, d), level) ↦ (B, d).

        A level is one integer for all rows, or an integer tensor (B,). The state's and the levels' parts of the
        first layer are computed here, once for all calls.
        """
        first, *trunk = cast(list[nn.Linear], list(self.trunk))
        of_state, of_action, of_level = first.weight.split(self.sizes, dim=1)
        of_action = of_action.t()
        from_state, from_level = F.linear(observation, of_state, first.bias), F.linear(self.embedding, of_level)
        from_each_level = from_level.unbind()
        # Calling a module costs as much as multiplying one row by its weights.
        layers = [(layer.weight.t(), layer.bias) for layer in trunk]
        heads = {name: (head.weight.t(), head.bias) for name, head in cast(dict[str, nn.Linear], self.heads).items()}

        def predict(head: str, action: Tensor, level: Tensor | int) -> Tensor:
            start = from_state + (from_each_level[level - 1] if isinstance(level, int) else from_level[level - 1])
            hidden = torch.addmm(start, action, of_action).relu_()
            for weight, bias in layers:
                hidden = torch.addmm(bias, hidden, weight).relu_()
            weight, bias = heads[head]
            return torch.addmm(bias, hidden, weight)

        return predict


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them, Xavier-uniform weights and zero biases."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        linear = nn.Linear(i, o)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
