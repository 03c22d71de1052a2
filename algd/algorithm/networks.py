"""The networks: an ensemble of critics, the score network of a diffusion policy, and the Gaussian actor's trunk."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algd.algorithm.mlp import MLP, Activation, Layer

Initialisation = Literal["xavier", "normal", "truncated_normal"]


def log_tanh_slope(x: Tensor) -> Tensor:
    """log d tanh(x)/dx = log(1 − tanh² x), of x's shape, in a form that does not underflow."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


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


class CriticEnsemble(nn.Module):
    """`members` independent multilayer perceptrons (s, a) ↦ scalar, evaluated together.

    Each layer's weights are stored stacked, (members, out, in).

    `forward` is the reference implementation, differentiable in all its arguments and parameters. Training needs two
    gradients only, and computes them without autograd: the action's, in `at`, and the parameters', in `regress`.

    Args:
        members: how many networks.
        observation_size, action_size: sizes of s and a.
        hidden_sizes: widths of the hidden layers.
        activation: "relu" or "silu".
        initialisation: of the weights, biases are zero. "xavier": uniform; "normal": std 1/(2√fan_in);
            "truncated_normal": the same, cut at two standard deviations.
    """

    mlp: type[MLP] = MLP
    """The implementation of values and gradients where autograd is not used."""

    def __init__(self, members: int, observation_size: int, action_size: int, hidden_sizes: Sequence[int],
                 activation: Activation, initialisation: Initialisation):
        super().__init__()
        self.members, self.observation_size, self.activation = members, observation_size, activation
        sizes = [observation_size + action_size, *hidden_sizes, 1]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, o, i)) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, o)) for o in sizes[1:])
        with torch.no_grad():
            for weights in self.weights:
                for weight in weights:
                    _initialise(weight, initialisation)

    def forward(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Values of shape (members, B) for actions (B, d), or (members, B, N) for N actions per state, (B, N, d).

        Args:
            observation: (B, s).
            action: (B, d) or (B, N, d).
            frozen: no gradient for the parameters (there still is one for the action).
        """
        if action.dim() == 3:
            observation = observation.unsqueeze(1).expand(-1, action.shape[1], -1)
        inputs = torch.cat([observation, action], dim=-1).flatten(0, -2)
        return self._members(frozen)(inputs).squeeze(-1).unflatten(1, action.shape[:-1])

    def at(self, observation: Tensor) -> "CriticsAtStates":
        """The ensemble at states (B, s), with its current parameters held fixed."""
        return CriticsAtStates(self, observation)

    @torch.no_grad()
    def regress(self, observation: Tensor, action: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Set the parameters' `grad` to that of a squared error.

        Args:
            observation: (B, s).
            action: (B, d).
            target: (B,) or (members, B), the targets.
            weight: w in the loss, w Σ_members mean_B (value − target)².

        Returns:
            The loss, a scalar, and the values (members, B).
        """
        for parameter in self.parameters():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        mlp = self._members(frozen=True)
        values, trace = mlp.trace(torch.cat([observation, action], dim=1), inputs=True)
        error = values.squeeze(-1) - target
        mlp.gradients(trace, (2 * weight / len(action)) * error.unsqueeze(-1), [w.grad for w in self.weights],
                      [b.grad for b in self.biases])
        return weight * error.square().mean(1).sum(), values.squeeze(-1)

    def _members(self, frozen: bool) -> MLP:
        if torch.is_grad_enabled():
            layers = [Layer(weight.detach(), bias.detach()) if frozen else Layer(weight, bias)
                      for weight, bias in zip(self.weights, self.biases, strict=True)]
            return MLP(layers, self.activation)
        return self.mlp([*map(Layer, self.weights, self.biases)], self.activation)


class CriticsAtStates:
    """An ensemble at B states, with fixed parameters: values of actions and their gradients with respect to actions.

    The states' part of the first layer is computed once, here, for all later actions.

    Args:
        critics: the ensemble.
        observation: (B, s).
    """

    @torch.no_grad()
    def __init__(self, critics: CriticEnsemble, observation: Tensor):
        first, *weights = critics.weights
        bias, *biases = critics.biases
        of_state, of_action = first.split([observation.shape[1], first.shape[2] - observation.shape[1]], dim=2)
        self._from_state = critics.mlp([Layer(of_state, bias)], critics.activation)(observation)
        self._mlp = critics.mlp([Layer(of_action), *map(Layer, weights, biases)], critics.activation)

    @torch.no_grad()
    def values(self, action: Tensor) -> Tensor:
        """Values (members, B) of one action at each state, (B, d)."""
        return self._mlp(action, self._from_state).squeeze(-1)

    @torch.no_grad()
    def values_of_several(self, states: slice, action: Tensor) -> Tensor:
        """Values (members, b·n) of n actions, (b, n, d), at each of b of the states, those of the slice."""
        return self._mlp(action.flatten(0, 1), self._from_state[:, states]).squeeze(-1)

    @torch.no_grad()
    def values_and_pullback(self, states: slice, action: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Values (members, b·n) of n actions, (b, n, d), at each of the slice's b states, and their pullback: the
        function from ∂f/∂values, (members, b·n), to ∂f/∂actions, (b·n, d), for any scalar f.

        Networks in C skip rows whose ∂f/∂values is 0: half of them for the minimum of two critics, and all for costs
        whose weight is clipped to 0.
        """
        values, trace = self._mlp.trace(action.flatten(0, 1), self._from_state[:, states])
        return values.squeeze(-1), lambda slopes: self._mlp.pull(trace, slopes.unsqueeze(-1))


class ScoreNetwork(nn.Module):
    """MLP over (state, action at a noise level, learned embedding of that level), with one linear head per output.

    Args:
        observation_size, action_size: sizes of s and a.
        levels: number of noise levels K; a level is an integer 1 … K.
        hidden_sizes: widths of the ReLU layers.
        embedding_size: width of the embedding.
        heads: names of the outputs, each of the action's size.
    """

    mlp: type[MLP] = MLP
    """The implementation of values and gradients."""

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
        from_state = self.mlp([Layer(of_state, first.bias)], "relu")(observation)
        from_level = F.linear(self.embedding, of_level)
        from_each_level = from_level.unbind()
        shared = [Layer(of_action), *(Layer(layer.weight, layer.bias) for layer in trunk)]
        networks = {name: self.mlp([*shared, Layer(head.weight, head.bias)], "relu")
                    for name, head in cast(dict[str, nn.Linear], self.heads).items()}

        def predict(head: str, action: Tensor, level: Tensor | int) -> Tensor:
            # Not from_level[level - 1], whose gradient several threads add up in no fixed order.
            at_level = from_each_level[level - 1] if isinstance(level, int) else F.embedding(level - 1, from_level)
            return networks[head](action, from_state + at_level)

        return predict


class Perceptron(nn.Sequential):
    """Linear layers of these sizes with ReLU between them, Xavier-uniform weights and zero biases."""

    mlp: type[MLP] = MLP
    """The implementation of values and gradients."""

    def __init__(self, sizes: Sequence[int]):
        layers: list[nn.Module] = []
        for i, o in pairwise(sizes):
            linear = nn.Linear(i, o)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, last size) at inputs (B, first size)."""
        layers = [Layer(linear.weight, linear.bias) for linear in cast(list[nn.Linear], list(self)[::2])]
        return self.mlp(layers, "relu")(x)
