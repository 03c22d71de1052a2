"""Multipliers: the sign of their steps, their fixed points, and budgets in the critics' units."""

import math

import pytest
import torch

from algd.algorithm import guidance
from algd.algorithm.dual import PID, LogAscent
from algd.budget import Budget


def test_budget_conversion() -> None:
    assert Budget(10, "episode", 400).threshold(0.99) == pytest.approx(2.4551, abs=5e-5)
    assert Budget(10, "episode", 400).threshold(1.0) == 10
    assert Budget(82.748, "discounted", 1000).threshold(0.99) == 82.748
    assert Budget(3, "discounted", 10).spent(5.0, 4.0) == 4.0
    assert Budget(3, "episode", 10).spent(5.0, 4.0) == 5.0


def test_log_ascent_moves_towards_feasibility() -> None:
    rule = LogAscent(0.6931, 3e-4, threshold=2.0)
    rule.observe_batch(torch.full((8,), 3.0))
    # Adam's first step is the learning rate, in log λ, up when Qc > h.
    assert rule.multiplier().log().item() == pytest.approx(math.log(0.6931) + 3e-4, abs=1e-7)
    down = LogAscent(0.6931, 3e-4, threshold=2.0)
    down.observe_batch(torch.full((8,), 1.0))
    assert down.multiplier().log().item() == pytest.approx(math.log(0.6931) - 3e-4, abs=1e-7)
    still = LogAscent(0.6931, 3e-4, threshold=2.0)
    still.observe_batch(torch.tensor([1.0, 3.0]))
    assert still.multiplier().item() == pytest.approx(0.6931, rel=1e-12)


def test_log_ascent_finds_the_multiplier_of_a_known_problem() -> None:
    """max q·a − a²/2 subject to a ≤ h: a*(λ) = q − λ, so λ* = q − h."""
    rule = LogAscent(0.1, 0.02, threshold=0.5)
    for _ in range(3000):
        rule.observe_batch(2.0 - rule.multiplier().reshape(1))
    assert rule.multiplier().item() == pytest.approx(1.5, abs=0.02)


def test_pid_by_hand() -> None:
    """Limit 10, so costs count in tens. K_P = 1, K_I = .5, K_D = 2, smoothing .5, delay 1."""
    rule = PID(10, 1.0, 0.5, 2.0, smoothing=0.5, delay=1, initial=0.0)
    rule.observe_episode(20.0)   # Δ = 1, I = 1, D = 0
    assert rule.multiplier().item() == pytest.approx(1 + 0.5)
    rule.observe_episode(30.0)   # Δ̄ = .5·1 + .5·2 = 1.5; I = 3; J̄ = .5·2 + .5·3 = 2.5, D = .5
    assert rule.multiplier().item() == pytest.approx(1.5 + 1.5 + 1.0)
    for _ in range(60):
        rule.observe_episode(0.0)   # I falls by 1 an episode and stops at 0
    assert rule.multiplier().item() == 0
    assert PID(10, 1.0, 0.5, 2.0, 0.5, 1, initial=0.7).accumulated.item() * 0.5 == pytest.approx(0.7)


def test_batch_level_has_one_weight() -> None:
    """L = −Q + w (Qc − h), w = [λ + ρ (mean Qc(data) − h)]₊, whatever Qc is at the action."""
    batch = guidance.augmented("augmented", 2.0, "batch", 0.5, 3e-4, threshold=1.0, limit=1.0)
    batch.observe_batch(torch.tensor([1.0, 2.0]))   # mean 1.5: w = .5 + 2·.5 = 1.5
    q, qc = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 3.0], requires_grad=True)
    energy = batch.lagrangian(q, qc)
    torch.testing.assert_close(energy.detach(), torch.tensor([-1.5, 3.0]))
    torch.testing.assert_close(torch.autograd.grad(energy.sum(), qc)[0], torch.tensor([1.5, 1.5]))
    pointwise = guidance.augmented("augmented", 2.0, "pointwise", 0.5, 3e-4, threshold=1.0, limit=1.0)
    torch.testing.assert_close(pointwise.lagrangian(q, qc.detach()),
                               torch.tensor([-0.25 / 4, (4.5**2 - 0.25) / 4]))


def test_none_ignores_cost_and_plain_does_not() -> None:
    q, qc = torch.tensor([1.0]), torch.tensor([100.0])
    assert guidance.none("none", threshold=1.0, limit=1.0).lagrangian(q, qc).item() == -1
    plain = guidance.plain("plain", 0.5, 3e-4, threshold=1.0, limit=1.0)
    assert plain.lagrangian(q, qc).item() == pytest.approx(-1 + 0.5 * 99)
    before = plain.multiplier.clone()
    assert plain.update(qc)["constraint"].item() == pytest.approx(99)
    assert plain.multiplier > before
