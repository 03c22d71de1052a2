"""The policy of CVPO: densities, divergences, their bounds during training, and the guidances it can be used with."""

from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from algd.algorithm.dual import EStep, Fixed
from algd.algorithm.guidance import Guidance
from algd.algorithm.policies.cvpo import CVPOPolicy, divergence_of_covariances, divergence_of_means, log_density
from algd.algorithm.rng import RandomGenerator
from algd.errors import UsageError
from algd.run.build import build_agent, build_task
from tests.support.command import TINY, compose

STATES, SIZE = 64, 2


def moments(seed: int) -> tuple[Tensor, Tensor]:
    """Return means and lower Cholesky factors of normal distributions."""
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(STATES, SIZE, generator=rng, dtype=torch.float64)
    factor = torch.tril(torch.randn(STATES, SIZE, SIZE, generator=rng, dtype=torch.float64), -1)
    return mean, factor + torch.diag_embed(0.5 + torch.rand(STATES, SIZE, generator=rng, dtype=torch.float64))


def test_densities_and_divergences_are_those_of_torch() -> None:
    (mean, factor), (other_mean, other_factor) = moments(0), moments(1)
    actions = torch.randn(STATES, 5, SIZE, dtype=torch.float64)
    of = MultivariateNormal
    torch.testing.assert_close(log_density(actions, mean, factor),
                               of(mean.unsqueeze(1), scale_tril=factor.unsqueeze(1)).log_prob(actions))
    torch.testing.assert_close(
        divergence_of_means(mean, factor, other_mean),
        kl_divergence(of(mean, scale_tril=factor), of(other_mean, scale_tril=factor)).mean())
    torch.testing.assert_close(
        divergence_of_covariances(factor, other_factor),
        kl_divergence(of(mean, scale_tril=factor), of(mean, scale_tril=other_factor)).mean())


class Bowl:
    """An energy with Q = −10 |a − a*|² and Qc = w · a₀ in every state."""

    def __init__(self, best: float, weight: float = 1.0):
        self.best, self.weight = best, weight

    def values(self, action: Tensor) -> tuple[Tensor, Tensor]:
        return -10 * (action - self.best).square().sum(-1), self.weight * action[..., 0]

    def of_values(self, q: Tensor, qc: Tensor) -> Tensor:
        return self.guidance.lagrangian(q, qc)

    guidance: Guidance


def trained(policy: CVPOPolicy, guidance: Guidance, energy: Bowl, updates: int) -> dict[str, list[float]]:
    """Train a policy and return the scalars of every update."""
    energy.guidance = guidance
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-3)
    rng, seen = RandomGenerator(0), {}
    observation = rng.normal(STATES, 3)
    for _ in range(updates):
        shaped: Any = energy
        _, metrics = policy.improve(observation, shaped, policy.draw_loss(STATES, rng), guidance, optimizer)
        for name, value in metrics.items():
            seen.setdefault(name, []).append(float(value))
    return seen


def small_policy(**changed: Any) -> CVPOPolicy:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_sizes": [32], "actions": 32, "epsilon": 0.1, "mean_bound": 0.01, "covariance_bound": 0.001,
        "m_steps": 6, "mean_rate": 1.0, "covariance_rate": 100.0, "mean_most": 0.1, "covariance_most": 10.0,
        "max_gradient_norm": 0.01, "polyak": 0.1}
    return CVPOPolicy(3, [-1.0, -1.0], [1.0, 1.0], **settings | changed)


def test_an_improvement_is_its_definition() -> None:
    """One E-step and one M-step in float64, by torch's distributions: actions and divergences are of the target
    network, and each of the three gradients is longer than its bound of 0.05, to which it is scaled."""
    policy = small_policy(m_steps=3, max_gradient_norm=0.05).double()
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    guidance, energy = Guidance("plain", Fixed(2.0), 0.1), Bowl(0.5)
    energy.guidance = guidance
    online, target = deepcopy(policy.network), deepcopy(policy.target_network)
    rng, shaped = RandomGenerator(0), cast(Any, energy)
    observation, normals = rng.normal(STATES, 3).double(), rng.normal(STATES, 32, SIZE).double()
    risk, metrics = policy.improve(observation, shaped, (normals,), guidance,
                                   torch.optim.Adam(policy.network.parameters(), lr=2e-3))

    mean, factor = policy.distribution(target, observation)
    old = MultivariateNormal(mean, scale_tril=factor)
    actions = mean.unsqueeze(1) + torch.einsum("bij,bnj->bni", factor, normals)
    q, qc = energy.values(actions.clamp(-1, 1))
    torch.testing.assert_close(risk, qc.mean(1))
    weights = torch.softmax((q - 2 * (qc - 0.1)) / policy.temperature, 1)
    torch.testing.assert_close(metrics["estep_cost"], (weights * qc).sum(1).mean())
    adam = torch.optim.Adam(online.parameters(), lr=2e-3)
    multipliers = [0.0, 0.0]
    for _ in range(3):
        new_mean, new_factor = policy.distribution(online, observation)
        moved, spread = MultivariateNormal(new_mean, scale_tril=factor), MultivariateNormal(mean, scale_tril=new_factor)
        divergences = [kl_divergence(old, one).mean() for one in (moved, spread)]
        multipliers = [min(max(lam + rate * (divergence.item() - bound), 0.0), most)
                       for lam, divergence, rate, bound, most in zip(multipliers, divergences, (1.0, 100.0),
                                                                     (0.01, 0.001), (0.1, 10.0), strict=True)]
        likelihood = (moved.log_prob(actions.movedim(1, 0)) + spread.log_prob(actions.movedim(1, 0))).T
        adam.zero_grad()
        loss = torch.tensor(multipliers).double() @ torch.stack(divergences) - (weights * likelihood).mean()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(online.parameters(), 0.05) > 0.05
        adam.step()
    torch.testing.assert_close(policy.network.state_dict(), online.state_dict())
    for found, expected, before in zip(policy.target_network.parameters(), online.parameters(), target.parameters(),
                                       strict=True):
        torch.testing.assert_close(found, 0.9 * before + 0.1 * expected)


def test_without_a_constraint_it_goes_to_the_best_action() -> None:
    policy = small_policy()
    trained(policy, Guidance("none", Fixed(0.0), 0.0), Bowl(0.5), 450)
    action = policy.deterministic(RandomGenerator(0).normal(STATES, 3)).detach()
    assert (action - 0.5).abs().mean() < 0.08


def test_with_its_own_multiplier_it_stops_at_the_threshold() -> None:
    """The best action costs 0.5 and the threshold is 0.1: its cost becomes 0.1, its other component stays optimal."""
    policy, guidance = small_policy(), Guidance("plain", EStep(0.1, threshold=0.1), 0.1)
    seen = trained(policy, guidance, Bowl(0.5), 350)
    action = policy.deterministic(RandomGenerator(0).normal(STATES, 3)).detach()
    assert seen["estep_cost"][-1] == pytest.approx(0.1, abs=0.05)
    assert action[:, 0].mean() == pytest.approx(0.1, abs=0.1) and action[:, 1].mean() == pytest.approx(0.5, abs=0.2)
    # −10 (a − 0.5)² − λ a is stationary at 0.1 for λ = 20 · 0.4.
    assert float(guidance.multiplier) == pytest.approx(8.0, rel=0.3)


def test_the_divergences_stay_near_their_bounds() -> None:
    """The M-steps' mean KL divergences stay near their bounds if the multipliers can grow, and exceed them if not."""
    nothing = Guidance("none", Fixed(0.0), 0.0)
    bounded = trained(small_policy(mean_most=1e3, covariance_most=1e3), nothing, Bowl(0.5), 120)
    free = trained(small_policy(mean_most=0.0, covariance_most=0.0), nothing, Bowl(0.5), 120)
    for name, bound in (("kl_mean", 0.01), ("kl_covariance", 0.001)):
        late = sorted(bounded[name][40:])
        assert late[len(late) // 2] < 2 * bound, name
        assert max(free[name]) > 3 * bound, name


def test_the_e_steps_multiplier_is_for_a_policy_with_an_e_step() -> None:
    config = compose(*TINY, "env=toy", "agent=vesde", "guidance=plain", "guidance/dual=estep")
    with pytest.raises(UsageError, match=r"guidance/dual=estep: .*agent=vesde has none"):
        build_agent(config, build_task(config))


def test_the_e_steps_multiplier_is_the_plain_lagrangians() -> None:
    """guidance/dual=estep is refused with guidance=augmented, since L_A's own penalty would count the cost twice."""
    config = compose(*TINY, "env=toy", "agent=cvpo", "guidance=augmented", "guidance/dual=estep")
    with pytest.raises(UsageError, match=r"guidance/dual=estep: .*guidance=augmented has another energy"):
        build_agent(config, build_task(config))


def test_reachability_needs_critics_of_the_worst_violation() -> None:
    config = compose(*TINY, "env=toy", "guidance=reachability")
    assert config["agent"]["cost_backup"] == "reach"
    config = compose(*TINY, "env=toy", "guidance=reachability", "agent.cost_backup=sum")
    with pytest.raises(UsageError, match=r"agent.cost_backup=sum: guidance=reachability needs agent.cost_backup=reach"):
        build_agent(config, build_task(config))
