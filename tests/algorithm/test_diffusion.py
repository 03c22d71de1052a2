"""The diffusion policy's loss and its switches (docs/fidelity.md), and the critics' first weights, by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.networks import CriticEnsemble
from tests.algorithm.test_update import Draws64, batch_of, small_agent

POLICY = "agent.policy."
LOW, HIGH = torch.tensor([-1.0, 0.0]).double(), torch.tensor([1.0, 3.0]).double()  # small_agent's box


def squashed(latent: Tensor) -> Tensor:
    return (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * torch.tanh(latent)


def slope(agent: Agent, state: Tensor, actions: Tensor, latent: bool) -> tuple[Tensor, Tensor]:
    """Energies (N,) and gradients (N, d) at samples (N, d) of one state; of latents with −β log|∂a/∂x|, β = 1."""
    samples = actions.detach().requires_grad_()
    at = squashed(samples) if latent else samples
    energies = agent.energy(state.expand(len(at), -1), at)
    if latent:
        energies = energies - ((HIGH - LOW) / 2 * (1 - torch.tanh(samples) ** 2)).log().sum(-1)
    return energies.detach(), torch.autograd.grad(energies.sum(), samples)[0]


def loss_by_hand(agent: Agent, observation: Tensor, draws: tuple[Tensor, ...], space: str = "action",
                 level: str = "after", detach: bool = False, rescale: bool = False, clip: bool = False) -> Tensor:
    """mean E(s, a_0) + 0.1 · mean over rows and components of (φ_θ − φ*)², each row on its own."""
    policy: Any = agent.policy
    levels, chain_normals, normals = draws
    path = policy.chain(observation, chain_normals)
    steps, differences = len(path) - 1, []
    for row, tau in enumerate(levels.tolist()):
        after = next(index for index in range(steps + 1) if steps - index == tau - 1)
        x = path[after if level == "after" else after - 1][row]
        x = x.detach() if detach else x
        at = x if space == "latent" else squashed(x)
        unit = policy.process.scales[tau - 1] if rescale else torch.tensor(1.0)
        samples = at.detach() / unit + policy.process.spreads[tau - 1] / unit * normals[row]
        if clip:
            samples = torch.minimum(torch.maximum(samples, LOW), HIGH)
        energies, gradients = slope(agent, observation[row], samples, space == "latent")
        weights = torch.exp(-energies) / torch.exp(-energies).sum()
        target = -(weights[:, None] * gradients).sum(0)
        predicted = policy.network.at(observation[row:row + 1])("score", at[None], torch.tensor([tau]))[0]
        differences.append(predicted - target)
    energy = agent.energy(observation, squashed(path[-1])).mean()
    return energy + 0.1 * torch.stack(differences).square().mean()


SWITCHES = {"level": ["score_level=before"], "detach": ["score_detach=true"], "clip": ["mc_clip=true"],
            "rescale": ["mc_rescale=true"], "space": ["score_space=latent"]}
VALUES: dict[str, Any] = {"level": "before", "detach": True, "clip": True, "rescale": True, "space": "latent"}


@pytest.mark.parametrize("switch", [None, *SWITCHES])
@pytest.mark.parametrize("process", ["vesde", "ddpm"])
def test_the_loss_with_each_switch(process: str, switch: str | None) -> None:
    """Its value and its gradient for every parameter of the score network."""
    chosen = [f"{POLICY}{one}" for one in SWITCHES[switch]] if switch else []
    agent = small_agent(f"agent={process}", *chosen)
    policy: Any = agent.policy
    observation, draws = batch_of(0).observation, policy.draw_loss(16, Draws64(1))
    parameters = list(policy.parameters())

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, parameters)

    found = policy.loss(observation, agent.energy.at(observation), draws)[0]
    expected = loss_by_hand(agent, observation, draws, **({switch: VALUES[switch]} if switch else {}))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for one, other in zip(gradients(found), gradients(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


class Flat:
    """An energy that is 0 everywhere, so that only the score-matching loss has a gradient."""

    def with_risk(self, action: Tensor) -> tuple[Tensor, Tensor]:
        return 0 * action.sum(-1), torch.zeros(len(action)).double()

    def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(action.shape[:-1]).double(), torch.zeros_like(action)


@pytest.mark.parametrize("detach", [True, False])
def test_score_detach_stops_the_gradient_at_the_chain(detach: bool) -> None:
    """The gradient with respect to the chain's normals: 0 with the switch, and not without."""
    policy: Any = small_agent(f"{POLICY}score_detach={str(detach).lower()}").policy
    level, chain, normals = policy.draw_loss(16, Draws64(1))
    loss = policy.loss(batch_of(0).observation, Flat(), (level, chain.requires_grad_(), normals))[0]
    (gradient,) = torch.autograd.grad(loss, chain)
    assert loss > 0 and bool((gradient == 0).all()) == detach


@pytest.mark.parametrize(("initialisation", "most"), [("truncated_normal", 2.0), ("normal", math.inf)])
def test_first_weights_of_the_cost_critics(initialisation: str, most: float) -> None:
    """Std 1/(2√fan_in), and cut at two of them: then the values' own std is 0.8796 of it, that of a normal within ±2.

    Of 4 · 64 · 64 normals about 750 are beyond two standard deviations.
    """
    agent = small_agent(f"agent.cost_initialisation={initialisation}", "agent.cost_hidden_sizes=[64,64]")
    assert isinstance(agent.cost_critics, CriticEnsemble)
    for weights in agent.cost_critics.weights:
        std = 1 / (2 * math.sqrt(weights.shape[2]))
        assert weights.abs().max() <= most * std * (1 + 1e-6)
    values = agent.cost_critics.weights[1].detach() / (1 / 16)
    density, within = math.exp(-2) * 2 / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    expected = math.sqrt(1 - 2 * density / within) if most == 2 else 1.0
    assert values.std().item() == pytest.approx(expected, abs=0.02)
    assert bool((values.abs() > 2).any()) == (most == math.inf)
