"""Reachability: the backup against a reachable set computed exactly, and a multiplier that depends on the state."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from algd.algorithm.dual import Signals, Statewise
from tests.algorithm.test_update import Draws64, batch_of, small_agent

CELLS, BRAKE = 12, 3


def next_cell(cell: Tensor, action: int) -> Tensor:
    """A slope with a cliff at the last cell: action 0 goes up by one cell, action 1 slides down by two."""
    return (cell + (2 if action else -1)).clamp(0, CELLS - 1)


def is_unsafe(cell: Tensor) -> Tensor:
    return cell == CELLS - 1


def slippery(cell: Tensor, action: int) -> Tensor:
    """The same, but in the last BRAKE cells every action leads down."""
    return torch.where(cell >= CELLS - BRAKE, (cell + 1).clamp(max=CELLS - 1), next_cell(cell, action))


def reachable() -> Tensor:
    """Compute the cells from which the cliff can be avoided for ever: the largest set that some action never leaves."""
    cells = torch.arange(CELLS)
    safe = ~is_unsafe(cells)
    while True:
        stays = torch.stack([safe[slippery(cells, action)] for action in (0, 1)]).any(0)
        if torch.equal(safe & stays, safe):
            return safe
        safe = safe & stays


@pytest.mark.parametrize("discount", [0.9, 0.99, 0.998])
def test_the_backups_fixed_point_is_the_reachable_set(discount: float) -> None:
    """The value's sign separates the reachable set from the rest, for every discount that is large enough for the
    longest slide to count, and the value tends to −1 and 1 as the discount goes to 1."""
    agent = small_agent("agent.cost_backup=reach", f"agent.cost_discount={discount}")
    cells = torch.arange(CELLS)
    value = torch.zeros(2, CELLS, dtype=torch.float64)
    for _ in range(round(20 / (1 - discount))):
        targets = []
        for action in (0, 1):
            following = slippery(cells, action)
            best = value[:, following].amin(0)
            targets.append(agent.cost_target(is_unsafe(following).double(), torch.zeros(CELLS).double(), best))
        value = torch.stack(targets)
    safest = value.amin(0)
    assert reachable().sum() == CELLS - BRAKE
    assert torch.equal(safest <= 0, reachable())
    if discount == 0.998:
        torch.testing.assert_close(safest, torch.where(reachable(), -1.0, 1.0).double(), atol=0.02, rtol=0)


def test_a_last_step_counts_as_what_it_is() -> None:
    agent = small_agent("agent.cost_backup=reach", "agent.unsafe_above=0.5")
    cost, done = torch.tensor([0.0, 0.4, 1.0]).double(), torch.ones(3).double()
    found = agent.cost_target(cost, done, torch.full((2, 3), 0.7).double())
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.0, 1.0]] * 2).double())
    going_on = agent.cost_target(cost, 0 * done, torch.full((2, 3), 0.7).double())
    assert going_on[0].tolist() == pytest.approx([-0.01 + 0.99 * 0.7] * 2 + [1.0])


def rule(learning_rate: float = 3e-3) -> Statewise:
    torch.manual_seed(0)
    return Statewise([32], learning_rate, "policy", 100.0, 3.0, threshold=0.0, observation_size=1)


def test_the_multiplier_grows_where_no_action_is_safe_and_vanishes_where_one_is() -> None:
    multiplier = rule()
    states = torch.linspace(-1, 1, 64).unsqueeze(1)
    risk = torch.where(states.squeeze(1) > 0, 0.5, -0.5)
    for _ in range(400):
        multiplier.observe_batch(Signals(states, -risk, risk))
    found = multiplier.multiplier(states)
    assert found[states.squeeze(1) > 0.3].min() > 3 and found[states.squeeze(1) < -0.5].max() < 0.1
    assert float(multiplier.multiplier()) == pytest.approx(float(found.mean()), rel=0.1)


def test_a_multiplier_that_has_sunk_returns_all_at_once() -> None:
    """Adam divides by past gradients, which had shrunk with λ(s): it takes long to reach 0.01, and a moment more 10."""
    torch.manual_seed(0)
    multiplier = Statewise([64, 64], 3e-3, "policy", 100.0, 3.0, threshold=2.0, observation_size=8)
    states = torch.randn(64, 8)

    def updates_until(risk: float, reached: Callable[[float], bool]) -> int:
        for count in range(1, 2000):
            multiplier.observe_batch(Signals(states, torch.zeros(64), torch.full((64,), risk)))
            if reached(float(multiplier.multiplier())):
                return count
        raise AssertionError("it never gets there")

    updates_until(1.0, lambda value: value < 2e-5)
    slow = updates_until(3.0, lambda value: value > 0.01)
    assert updates_until(3.0, lambda value: value > 10) < slow / 4


def test_on_the_threshold_the_multiplier_stays() -> None:
    multiplier = rule()
    states = torch.randn(16, 1)
    before = multiplier.multiplier(states)
    multiplier.observe_batch(Signals(states, torch.ones(16), torch.zeros(16)))
    torch.testing.assert_close(multiplier.multiplier(states), before)


@pytest.mark.parametrize("longest", [0.01, 100.0])
def test_an_excess_counts_up_to_the_clip_and_a_gradient_up_to_its_length(longest: float) -> None:
    """Three updates of λ(s) against the definition in float64, with excesses far outside of ±clip = ±0.5."""
    torch.manual_seed(0)
    multiplier = Statewise([32], 3e-3, "policy", 0.5, longest, threshold=0.2, observation_size=1)
    twin = deepcopy(multiplier.network).double()
    adam = torch.optim.Adam(twin.parameters(), lr=3e-3)
    states = torch.linspace(-1, 1, 5).unsqueeze(1)
    for risk, excess in (([1e6, 0.3, 0.2, -0.1, -1e6], [0.5, 0.1, 0.0, -0.3, -0.5]),
                         ([0.6, 0.8, 0.2, 0.2, 0.2], [0.4, 0.5, 0.0, 0.0, 0.0]),
                         ([0.2, 0.21, 0.2, -9.0, 0.2], [0.0, 0.01, 0.0, -0.5, 0.0])):
        adam.zero_grad()
        (-softplus(twin(states.double()).squeeze(1)) * torch.tensor(excess).double()).mean().backward()
        gradients = [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert 0.01 < length < 100
        for gradient in gradients:
            gradient *= min(1.0, longest / float(length))
        adam.step()
        multiplier.observe_batch(Signals(states, torch.zeros(5), torch.tensor(risk)))
        for found, expected in zip(multiplier.network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-7, check_dtype=False)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("agent", ["vesde", "ddpm", "gaussian"])
def test_a_states_multiplier_weighs_that_states_actions(agent: str) -> None:
    """The energy that training uses, its parts and its gradient equal the definition with λ(s)."""
    made = small_agent(f"agent={agent}", "guidance=reachability")
    state, action = torch.randn(7, 5).double(), torch.randn(7, 3, 2).double().requires_grad_()
    lam = made.guidance.dual.multiplier(state)
    assert lam.shape == (7,) and lam.std() > 0
    energy = -made.energy.reward(state, action) + lam.unsqueeze(1) * (made.energy.risk(state, action) - 0.3)
    torch.testing.assert_close(made.energy(state, action), energy)
    values, gradients = made.energy.value_and_gradient(state, action.detach())
    torch.testing.assert_close(values, energy.detach())
    torch.testing.assert_close(gradients, torch.autograd.grad(energy.sum(), action)[0])
    q, qc = made.energy.at(state).values(action.detach())
    torch.testing.assert_close(made.energy.at(state).of_values(q, qc), values)
    made.update(batch_of(0), Draws64(0))  # type: ignore[arg-type]
