"""The update in training, with gradients by hand, against automatic differentiation of the definitions."""

import copy
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from algd.algorithm.agent import Agent, Batch
from algd.algorithm.dual import Fixed, Signals
from algd.algorithm.energy import ROWS, Energy, risk
from algd.algorithm.lagrangian import augmented, constraint_weight
from algd.algorithm.networks import CriticEnsemble
from algd.algorithm.normalisation import Normaliser
from algd.algorithm.rng import RandomGenerator
from algd.run.build import build
from tests.support.command import TINY, compose

AGENTS, GUIDANCES = ("vesde", "ddpm", "gaussian"), ("augmented", "plain", "none", "pid")
EXACT = {"rtol": 0, "atol": 1e-9}


def small_agent(*overrides: str) -> Agent:
    """Return an agent with two critic layers in float64, on an asymmetric box of actions."""
    config = compose(*TINY, "env=toy", *overrides)
    torch.manual_seed(0)
    guidance = build(config["guidance"], threshold=0.3, limit=1.0, observation_size=5)
    agent: Agent = build(config["agent"], observation_size=5, action_low=[-1.0, 0.0], action_high=[1.0, 3.0],
                         guidance=guidance).double()
    for name in ("spreads", "scales"):
        process = getattr(agent.policy, "process", None)
        if process is not None:
            setattr(process, name, getattr(process, name).double())
    return agent


@pytest.mark.parametrize("agent", ["vesde", "cvpo"])
def test_target_networks_begin_as_the_networks(agent: str) -> None:
    made = small_agent(f"agent={agent}")
    state = made.state_dict()
    targets = {name for name in state if "target_" in name}
    assert {name.split(".")[0] for name in targets} >= {"target_critics", "target_cost_critics"}
    assert [name for name in targets if not torch.equal(state[name], state[name.replace("target_", "")])] == []
    # Members differ, so that equal networks are not so by their initialisation.
    assert not torch.equal(*made.critics.weights[0]) and not torch.equal(*made.cost_critics.weights[0][:2])


@pytest.mark.parametrize("agent", ["vesde", "gaussian"])
def test_two_threads_give_the_same_bits_each_time(agent: str) -> None:
    """At the default sizes, for which torch divides its operations among threads."""
    config = compose("env=toy", "logger=none", f"agent={agent}")
    random = torch.Generator().manual_seed(1)
    size = config["batch_size"]
    batch = Batch(*(torch.randn(size, *columns, generator=random) for columns in ([5], [2], [], [], [5])),
                  *torch.zeros(2, size))

    def updated() -> dict[str, Tensor]:
        torch.manual_seed(0)
        guidance = build(config["guidance"], threshold=0.3, limit=1.0, observation_size=5)
        made: Agent = build(config["agent"], observation_size=5, action_low=[-1.0, -1.0], action_high=[1.0, 1.0],
                            guidance=guidance)
        noise = RandomGenerator(0)
        for _ in range(3):
            made.update(batch, noise)
        return made.state_dict()

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, *others = [updated() for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert [name for name, value in first.items() if not torch.equal(value, other[name])] == []


class Draws64:
    """The random numbers of a `RandomGenerator`, in float64."""

    def __init__(self, seed: int):
        self._noise = RandomGenerator(seed)

    def normal(self, *shape: int) -> Tensor:
        return self._noise.normal(*shape).double()

    def integers(self, high: int, size: int) -> Tensor:
        return self._noise.integers(high, size)


class DefinitionAtStates:
    """`Energy.at`, implemented by differentiating the definition of the energy."""

    def __init__(self, energy: Energy, observation: Tensor):
        self._energy, self._observation = energy, observation

    def __call__(self, action: Tensor) -> Tensor:
        return self._energy(self._observation, action)

    def risk(self, action: Tensor) -> Tensor:
        return self._energy.risk(self._observation, action).detach()

    def with_risk(self, action: Tensor) -> tuple[Tensor, Tensor]:
        unconstrained = self._energy.weight is None
        return self(action), torch.zeros(len(action)).to(action) if unconstrained else self.risk(action)

    def value_and_gradient(self, action: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            energy = self(action)
            return energy.detach(), torch.autograd.grad(energy.sum(), action)[0]


def regress_by_definition(critics: CriticEnsemble) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `CriticEnsemble.regress`, implemented by differentiating the loss."""
    def regress(observation: Tensor, action: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        values = critics(observation, action)
        loss = weight * (values - target).square().mean(1).sum()
        critics.zero_grad()
        loss.backward()
        return loss.detach(), values.detach()
    return regress


def by_definition(agent: Agent) -> Agent:
    """Make an agent compute every gradient by automatic differentiation."""
    anything: Any = agent
    anything.energy.at = lambda observation: DefinitionAtStates(agent.energy, observation)
    anything.critics.regress = regress_by_definition(agent.critics)
    anything.cost_critics.regress = regress_by_definition(agent.cost_critics)
    return agent


def batch_of(number: int, size: int = 16) -> Batch:
    draw = torch.Generator().manual_seed(number)
    parts = [torch.randn(size, *shape, generator=draw, dtype=torch.float64) for shape in ((5,), (2,), (), (), (5,))]
    done = (torch.rand(2, size, generator=draw) < 0.2).double()
    return Batch(*parts[:3], parts[3].abs(), parts[4], *done)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("agent", AGENTS)
def test_30_updates_are_those_of_the_definition(agent: str, guidance: str) -> None:
    overrides = [f"agent={agent}", f"guidance={guidance}"]
    fast, slow = small_agent(*overrides), by_definition(small_agent(*overrides))
    draws = Draws64(1), Draws64(1)
    for number in range(30):
        found, expected = (agent.update(batch_of(number), noise)  # type: ignore[arg-type]
                           for agent, noise in zip((fast, slow), draws, strict=True))
        assert found.keys() == expected.keys()
        if number % 10 == 0 or number == 29:
            for name in found:
                torch.testing.assert_close(found[name], expected[name], **EXACT, msg=f"{name} in update {number}")
    for (name, value), definition in zip(fast.state_dict().items(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(value, definition, **EXACT, equal_nan=True, msg=name)


class Listens(Fixed):
    """A rule that keeps the signals it is given."""

    def observe_batch(self, signals: Signals) -> None:
        self.heard = signals


@pytest.mark.parametrize("agent", ["gaussian", "vesde"])
def test_a_rule_is_given_the_risk_at_the_replays_and_at_the_losss_actions(agent: str) -> None:
    """By the updated critics, at normalised states, and at the actions of the policy before its update."""
    made, rule, batch = small_agent(f"agent={agent}", "agent.cost_learning_rate=0.1"), Listens(0.5), batch_of(0)
    made.guidance.dual = rule
    made.normaliser = Normaliser(5, True, False, 0.99)
    for state in 3 * batch.observation:
        made.normaliser.observe(state, 0.0, False)
    state, before = made.normaliser.observations(batch.observation), deepcopy(made.policy)
    draws = made.draw(16, Draws64(1))  # type: ignore[arg-type]
    made.step(batch, draws, True)
    torch.testing.assert_close(rule.heard.observation, state)
    torch.testing.assert_close(rule.heard.replay, made.energy.risk(state, batch.action).detach())
    normals = draws.loss[0] if agent == "gaussian" else draws.loss[1]
    torch.testing.assert_close(rule.heard.policy,
                               made.energy.risk(state, before.sample(state, normals).action).detach())


@pytest.mark.parametrize("lam", [0.0, 0.6, 500.0])
@pytest.mark.parametrize(("states", "actions"), [(5, 7), (300, 4), (1, 2 * ROWS + 3), (ROWS + 1, 1)])
def test_pieces_of_an_energy_are_the_whole(states: int, actions: int, lam: float) -> None:
    """Values and gradients by parts equal the definition, with the constraint active nowhere, partly, everywhere."""
    torch.manual_seed(int(10 * lam) + states)
    q = CriticEnsemble(2, 4, 3, [16, 16, 16], "relu", "xavier").double()
    qc = CriticEnsemble(4, 4, 3, [16], "silu", "normal").double()
    for bias in (*q.biases, *qc.biases):
        torch.nn.init.normal_(bias)
    state, action = torch.randn(states, 4).double(), torch.randn(states, actions, 3).double()
    risks = risk(qc(state, action).detach(), 1.5)[0]
    threshold = float(risks.median())
    energy = Energy(q, qc, 1.5, lambda a, b: augmented(a, b, lam, threshold, 5.0),
                    lambda b: constraint_weight(b, lam, threshold, 5.0))
    weight = constraint_weight(risks, lam, threshold, 5.0)
    assert {0.0: (weight == 0).any(), 0.6: (weight == 0).any() and (weight > 0).any(), 500.0: (weight > 0).all()}[lam]
    values, gradients = energy.value_and_gradient(state, action)
    expected_values, expected_gradients = DefinitionAtStates(energy, state).value_and_gradient(action)
    torch.testing.assert_close(values, expected_values)
    torch.testing.assert_close(gradients, expected_gradients)
    # The actor's loss gets the same gradient through the autograd graph.
    start = (action[:, 0] / 2).requires_grad_()
    energy.at(state)(2 * start).square().sum().backward()
    slope = 2 * expected_values[:, :1] * 2 * expected_gradients[:, 0]
    torch.testing.assert_close(start.grad, slope)


def test_an_unconstrained_energy_does_not_ask_the_cost_critics() -> None:
    agent = small_agent("guidance=none")
    with torch.no_grad():
        for parameter in agent.cost_critics.parameters():
            parameter.fill_(float("nan"))
    state, action = torch.randn(6, 5).double(), torch.randn(6, 3, 2).double()
    values, gradients = agent.energy.value_and_gradient(state, action)
    torch.testing.assert_close(values, -agent.energy.reward(state, action).detach())
    assert gradients.isfinite().all()


def test_a_policy_may_have_parameters_that_are_frozen_or_not_used() -> None:
    agent = small_agent("agent=vesde")
    agent.policy.unused = torch.nn.Parameter(torch.ones(3).double())
    agent.policy.network.embedding.requires_grad_(False)
    agent.optimizers["policy"] = torch.optim.Adam(agent.policy.parameters(), lr=1e-3)
    before = {name: parameter.clone() for name, parameter in agent.policy.named_parameters()}
    agent.update(batch_of(0), Draws64(0))  # type: ignore[arg-type]
    still = {name for name, parameter in agent.policy.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {"unused", "network.embedding"}


def test_a_batch_level_weighs_the_batch_of_this_update() -> None:
    """w = [λ + ρ (mean Qc at the replay's actions − h)]₊ after the critics' update and before the policy's, whose
    energy is the mean of −Q + w (Qc − h) at its own actions; h = 0.3 and λ = 0.6931 before the update."""
    agent = small_agent("agent=gaussian", "guidance.level=batch", "guidance.rho=2")
    batch, policy = batch_of(0), copy.deepcopy(agent.policy)
    found = agent.update(batch, Draws64(1))  # type: ignore[arg-type]
    expected = agent.energy.risk(batch.observation, batch.action).mean()
    assert abs(expected.item() - 0.3) > 0.01  # where it starts
    torch.testing.assert_close(agent.guidance.batch_risk, expected.detach(), rtol=0, atol=1e-9)
    weight = max(0.6931 + 2 * (expected.item() - 0.3), 0)
    _, (normals,) = agent.draw(16, Draws64(1))  # type: ignore[arg-type]
    with torch.no_grad():
        action, _ = policy.sample(batch.observation, normals)
        q, qc = agent.energy.reward(batch.observation, action), agent.energy.risk(batch.observation, action)
    assert weight > 0.1
    torch.testing.assert_close(found["energy"], (-q + weight * (qc - 0.3)).mean(), rtol=0, atol=1e-7)
