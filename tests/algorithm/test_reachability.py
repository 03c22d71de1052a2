"""Reachability: the backup against a reachable set computed exactly, and a multiplier that depends on the state."""

import pytest
import torch
from torch import Tensor

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


def test_on_the_threshold_the_multiplier_stays() -> None:
    multiplier = rule()
    states = torch.randn(16, 1)
    before = multiplier.multiplier(states)
    multiplier.observe_batch(Signals(states, torch.ones(16), torch.zeros(16)))
    torch.testing.assert_close(multiplier.multiplier(states), before)


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
