"""Read this first: the algorithm's update in one file, in the style of the authors' code.

It has two separate reward MLPs, a stacked cost ensemble on repeated inputs, automatic differentiation through
everything with all critic parameters requiring gradients, torch's Adam, and a Python list of tuples as replay. Start at
`PlainAgent.update_from`. The mathematics is that of `algd.algorithm.agent` with `agent=vesde|ddpm` and
`guidance=augmented`; `tests/benchmarks/test_benchmarks.py` checks that both agree.

`benchmarks/updates.py` measures what such an implementation costs, `benchmarks/plain_run.py` what it learns.
"""

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algd.algorithm.agent import Agent


class TwinCritic(nn.Module):
    """Two separate reward MLPs."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden),
                                                 nn.ReLU(), nn.Linear(hidden, 1)) for _ in range(2))

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([state, action], dim=-1)
        return self.first(x), self.second(x)


class StackedEnsemble(nn.Module):
    """Cost critics as batched products over stacked weights (members, in, out)."""

    def __init__(self, size: int, hidden: int, members: int):
        super().__init__()
        self.members = members
        shapes = [(size, hidden), (hidden, hidden), (hidden, 1)]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(members, i, o) / (2 * i**0.5)) for i, o in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, o)) for _, o in shapes)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([state, action], dim=-1).unsqueeze(0).repeat(self.members, 1, 1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = F.silu(x) if layer < 2 else x
        return x.squeeze(-1)


class PlainAgent:
    """An agent with the weights of an `algd.algorithm.agent.Agent`, updated in the straightforward way.

    Args:
        twin: the agent whose weights, noise process and constants are copied.
        batch_size: transitions per update.
    """

    def __init__(self, twin: Agent, batch_size: int):
        policy: Any = twin.policy
        self.process, self.batch_size = policy.process, batch_size
        self.scale, self.bias, self.beta, self.samples = policy.scale, policy.bias, policy.beta, policy.mc_samples
        self.score_weight, self.discount, self.cost_discount = policy.score_weight, twin.discount, twin.cost_discount
        self.threshold, self.rho = twin.guidance.threshold, twin.guidance.rho
        self.risk_factor, self.polyak, self.interval = twin.energy.risk_factor, twin.polyak, twin.target_interval
        states, actions = twin.critics.observation_size, len(self.scale)
        hidden, cost_hidden = twin.critics.biases[0].shape[1], twin.cost_critics.biases[0].shape[1]
        self.critic, self.target_critic = (TwinCritic(states + actions, hidden) for _ in range(2))
        self.cost, self.target_cost = (StackedEnsemble(states + actions, cost_hidden, twin.cost_critics.members)
                                       for _ in range(2))
        with torch.no_grad():
            for ours, theirs in ((self.critic, twin.critics), (self.target_critic, twin.target_critics)):
                for member, network in enumerate((ours.first, ours.second)):
                    for layer in range(3):
                        network[2 * layer].weight.copy_(theirs.weights[layer][member])
                        network[2 * layer].bias.copy_(theirs.biases[layer][member])
            for mine, other in ((self.cost, twin.cost_critics), (self.target_cost, twin.target_cost_critics)):
                for layer in range(3):
                    mine.weights[layer].copy_(other.weights[layer].mT)
                    mine.biases[layer].copy_(other.biases[layer].unsqueeze(1))
        trunk = [nn.Linear(layer.in_features, layer.out_features) for layer in policy.network.trunk]
        self.trunk, self.embedding = nn.ModuleList(trunk), nn.Embedding(*policy.network.embedding.shape)
        self.heads = nn.ModuleDict({name: nn.Linear(head.in_features, actions)
                                    for name, head in policy.network.heads.items()})
        self.trunk.load_state_dict(policy.network.trunk.state_dict())
        self.heads.load_state_dict(policy.network.heads.state_dict())
        self.embedding.load_state_dict({"weight": policy.network.embedding})
        self.log_lam = twin.guidance.multiplier.log().clone().requires_grad_()
        rates = [optimizer.param_groups[0]["lr"] for optimizer in twin.optimizers.values()]
        parameters = [[*self.trunk.parameters(), *self.embedding.parameters(), *self.heads.parameters()],
                      [*self.critic.parameters()], [*self.cost.parameters()], [self.log_lam]]
        self.policy_adam, self.critic_adam, self.cost_adam, self.lam_adam = (
            torch.optim.Adam(p, lr=rate) for p, rate in zip(parameters, rates, strict=True))
        self.replay: list[tuple[np.ndarray, np.ndarray, float, float, np.ndarray, bool, bool]] = []
        self.updates = 0

    def squash(self, latent: Tensor) -> Tensor:
        return torch.tanh(latent) * self.scale + self.bias

    def head(self, name: str, state: Tensor, x: Tensor, level: Tensor) -> Tensor:
        h = torch.cat([state, x, self.embedding(level - 1)], dim=-1)
        for layer in self.trunk:
            h = F.relu(layer(h))
        return self.heads[name](h)

    def start(self, state: Tensor) -> Tensor:
        return self.process.prior_std * torch.randn(len(state), len(self.scale))

    @torch.no_grad()
    def act(self, state: Tensor, deterministic: bool) -> Tensor:
        """Return actions (B, d) at states (B, s)."""
        start = torch.zeros(len(state), len(self.scale)) if deterministic else self.start(state)
        return self.squash(self.chain(state, start, not deterministic)[-1])

    def chain(self, state: Tensor, start: Tensor, noisy: bool = True) -> list[Tensor]:
        def predict(name: str, x: Tensor, level: Tensor | int) -> Tensor:
            levels = torch.full((len(state),), int(level), dtype=torch.long)
            return self.head(name, state, self.squash(x) if name == "score" else x, levels)

        path = [start]
        for level in range(self.process.steps, 0, -1):
            z = torch.randn_like(path[-1]) if noisy and level > 1 else None
            path.append(self.process.step(predict, path[-1], level, z))
        return path

    def risk(self, state: Tensor, action: Tensor) -> Tensor:
        values = self.cost(state, action)
        return values.mean(0) + self.risk_factor * values.std(0)

    def energy(self, state: Tensor, action: Tensor) -> Tensor:
        q = torch.min(*self.critic(state, action)).squeeze(-1)
        lam = self.log_lam.exp().detach()
        weight = torch.clamp(lam + self.rho * (self.risk(state, action) - self.threshold), min=0)
        return -q + (weight**2 - lam**2) / (2 * self.rho)

    def score_target(self, state: Tensor, centre: Tensor, level: Tensor) -> Tensor:
        spread = self.process.spreads[level - 1].view(-1, 1, 1)
        samples = centre.unsqueeze(1) + spread * torch.randn(len(centre), self.samples, centre.shape[1])
        flat = samples.reshape(-1, centre.shape[1]).detach().requires_grad_()
        energy = self.energy(state.repeat_interleave(self.samples, 0), flat)
        (gradient,) = torch.autograd.grad(energy.sum(), flat)
        weights = torch.softmax(-energy.detach().view(-1, self.samples) / self.beta, dim=1)
        return -(weights.unsqueeze(-1) * gradient.view(samples.shape)).sum(1) / self.beta

    def update(self) -> None:
        """Update from a fresh batch of the replay."""
        rows = random.sample(self.replay, self.batch_size)
        self.update_from(*(torch.as_tensor(np.stack(column).astype(np.float32)) for column in zip(*rows, strict=True)))

    def update_from(self, state: Tensor, action: Tensor, reward: Tensor, cost: Tensor, following: Tensor,
                    done: Tensor, cost_done: Tensor) -> None:
        """Update critics, policy, λ and targets from a batch."""
        with torch.no_grad():
            next_action = self.squash(self.chain(following, self.start(following))[-1])
            q_next = torch.min(*self.target_critic(following, next_action))
            target = reward.unsqueeze(1) + self.discount * (1 - done.unsqueeze(1)) * q_next
            cost_next = self.target_cost(following, next_action)
            cost_target = cost + self.cost_discount * (1 - cost_done) * cost_next
        first, second = self.critic(state, action)
        self.step(self.critic_adam, F.mse_loss(first, target) + F.mse_loss(second, target))
        self.step(self.cost_adam, F.mse_loss(self.cost(state, action), cost_target))
        level = torch.randint(self.process.steps, (len(state),)) + 1
        path = self.chain(state, self.start(state))
        latent = torch.stack(path)[self.process.steps - level + 1, torch.arange(len(state))]
        point = self.squash(latent)
        matching = F.mse_loss(self.head("score", state, point, level), self.score_target(state, point, level))
        self.step(self.policy_adam, self.energy(state, self.squash(path[-1])).mean() + self.score_weight * matching)
        risk = self.risk(state, action).detach()
        self.step(self.lam_adam, self.log_lam.exp() * (self.threshold - risk).mean())
        if self.updates % self.interval == 0:
            for online, target_network in ((self.critic, self.target_critic), (self.cost, self.target_cost)):
                for p, q in zip(online.parameters(), target_network.parameters(), strict=True):
                    q.data.copy_(self.polyak * p.data + (1 - self.polyak) * q.data)
        self.updates += 1

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
