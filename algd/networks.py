"""The networks: an ensemble of critics, the score network of a diffusion policy, and the Gaussian actor's trunk."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

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


class CriticEnsemble(nn.Module):
    """`members` independent multilayer perceptrons (s, a) ↦ scalar, evaluated together.

    Each layer's weights are stored stacked, (members, out, in), but multiplied member by member: on a CPU the
    small products stay in cache where one batched product does not.

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
        self.activation: Callable[[Tensor], Tensor] = {"relu": F.relu, "silu": F.silu}[activation]
        sizes = [observation_size + action_size, *hidden_sizes, 1]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, o, i)) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, o)) for o in sizes[1:])
        with torch.no_grad():
            for weights in self.weights:
                for weight in weights:
                    _initialise(weight, initialisation)

    def forward(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Values of shape (members, B) for actions (B, d), or (members, B, N) for N actions a state, (B, N, d).

        The state's part of the first layer is computed once per state, whatever N is.

        Args:
            observation: (B, s).
            action: (B, d) or (B, N, d).
            frozen: no gradient for the parameters (there still is one for the action).
        """
        (first, *weights), biases = (
            [p.detach() if frozen else p for p in parameters] for parameters in (self.weights, self.biases))
        of_state, of_action = (w.unbind() for w in first.split([self.observation_size, action.shape[-1]], dim=2))
        # One unbind a layer: its backward is one stack, where indexing each member would fill zeros for the others.
        weights, biases = [w.unbind() for w in weights], [b.unbind() for b in biases]
        values = []
        for i in range(self.members):
            from_state = F.linear(observation, of_state[i], biases[0][i])
            hidden = F.linear(action, of_action[i]) + (from_state if action.dim() == 2 else from_state.unsqueeze(1))
            for weight, bias in zip(weights, biases[1:], strict=True):
                hidden = F.linear(self.activation(hidden), weight[i], bias[i])
            values.append(hidden.squeeze(-1))
        return torch.stack(values)


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
        first = self.trunk[0]
        assert isinstance(first, nn.Linear)
        of_state, of_action, of_level = first.weight.split(self.sizes, dim=1)
        from_state = F.linear(observation, of_state, first.bias)
        from_level = F.linear(self.embedding, of_level)

        def predict(head: str, action: Tensor, level: Tensor | int) -> Tensor:
            hidden = from_state + F.linear(action, of_action) + from_level[level - 1]
            for layer in self.trunk[1:]:
                hidden = layer(F.relu(hidden))
            return self.heads[head](F.relu(hidden))

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
