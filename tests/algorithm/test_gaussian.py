"""The Gaussian policy: its density and its loss against torch's distributions and by hand."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, Transform, TransformedDistribution

from algd.algorithm.energy import EnergyAtStates
from algd.algorithm.policies.gaussian import GaussianPolicy

LOW, HIGH = [-1.0, 0.0], [1.0, 3.0]
CENTRE, HALF = torch.tensor([0.0, 1.5]).double(), torch.tensor([1.0, 1.5]).double()


def policy(target_entropy: float | None = None) -> GaussianPolicy:
    """Return a policy in float64 with temperature 0.2 and biases, so that mean and spread differ between actions."""
    torch.manual_seed(0)
    made = GaussianPolicy(5, LOW, HIGH, [16], 0.2, target_entropy).double()
    with torch.no_grad():
        cast(Tensor, made.network[-1].bias).copy_(torch.tensor([0.3, -0.2, -0.5, 0.4]))
    return made


class Slope:
    """An energy that is 3 a₀ + a₁ in every state, with Qc = a₁."""

    def with_risk(self, action: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * action[:, 0] + action[:, 1], action[:, 1].detach()


def loss(made: GaussianPolicy, state: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    energy: Any = Slope()
    return made.loss(state, cast(EnergyAtStates, energy), (normals,))


def test_actions_and_their_density_are_those_of_torch() -> None:
    """The density is of actions in units of their half range: that in the box, with the volume of these units."""
    made = policy()
    state, normals = torch.randn(50, 5).double(), torch.randn(50, 2).double()
    mean, log_std = made.network(state).chunk(2, dim=1)
    steps: list[Transform] = [TanhTransform(cache_size=1), AffineTransform(CENTRE, HALF, cache_size=1)]
    latent = Independent(Normal(mean, log_std.exp()), 1)
    squashed = TransformedDistribution(latent, [*steps])
    action, bonus = made.sample(state, normals)
    torch.testing.assert_close(action, CENTRE + HALF * torch.tanh(mean + log_std.exp() * normals))
    torch.testing.assert_close(bonus, -0.2 * (squashed.log_prob(action) + HALF.log().sum()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made.deterministic(state), CENTRE + HALF * torch.tanh(mean))


def test_a_density_at_the_edge_of_the_box_is_finite() -> None:
    """At x = ±60, where tanh² x is 1, log(1 − tanh² x) = 2 log 2 − 2 |x|."""
    made = policy()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.zero_()
    bonus = made.sample(torch.zeros(1, 5).double(), torch.tensor([[60.0, -60.0]]).double()).entropy_bonus
    expected = 2 * (-0.5 * 60**2 - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * 60)
    assert isinstance(bonus, Tensor) and bonus.item() == pytest.approx(-0.2 * expected)


@pytest.mark.parametrize(("head", "log_std"), [(9.0, 2.0), (-99.0, -20.0)])
def test_the_spread_is_bounded(head: float, log_std: float) -> None:
    made = policy()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.zero_()
        cast(Tensor, made.network[-1].bias)[2:] = head
    action, _ = made.sample(torch.zeros(1, 5).double(), torch.tensor([[0.1, -0.1]]).double())
    x = 0.1 * math.exp(log_std)
    torch.testing.assert_close(action, CENTRE + HALF * torch.tensor([[math.tanh(x), -math.tanh(x)]]).double())


def test_the_loss_by_hand() -> None:
    """mean(α log π + E), with the gradient in the network, −log α (log π + target entropy), and Qc at the actions."""
    made = policy(target_entropy=-1.5)
    state, normals = torch.randn(50, 5).double(), torch.randn(50, 2).double()
    found, risk, metrics = loss(made, state, normals)
    action, bonus = made.sample(state, normals)
    assert isinstance(bonus, Tensor)
    actor = (3 * action[:, 0] + action[:, 1] - bonus).mean()
    entropy = bonus.mean().item() / 0.2
    torch.testing.assert_close(found, actor + math.log(0.2) * (entropy + 1.5))
    torch.testing.assert_close(risk, action[:, 1])
    assert not risk.requires_grad
    assert metrics["entropy"].item() == pytest.approx(entropy) and metrics["temperature"].item() == pytest.approx(0.2)
    weights = list(made.network.parameters())
    for one, other in zip(torch.autograd.grad(found, weights), torch.autograd.grad(actor, weights), strict=True):
        torch.testing.assert_close(one, other)


def test_the_temperature_falls_with_more_entropy_than_its_target_and_grows_with_less() -> None:
    """∂loss/∂log α is the entropy minus its target, which is −d by default."""
    state, normals = torch.randn(50, 5).double(), torch.randn(50, 2).double()
    entropy = loss(policy(), state, normals)[2]["entropy"].item()
    for target in (entropy - 1, entropy + 1, None):
        made = policy(target)
        (slope,) = torch.autograd.grad(loss(made, state, normals)[0], [made.log_temperature])
        assert slope.item() == pytest.approx(entropy - (-2 if target is None else target), abs=1e-6)
