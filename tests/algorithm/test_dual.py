"""Rules for the multiplier: direction of steps, fixed points, and the signals that each uses."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch

from algd.algorithm import guidance
from algd.algorithm.dual import PID, DualRule, Fixed, LogAscent, Signal, Signals

SIGNALS: tuple[Signal, ...] = ("replay", "policy", "episodes")


class OwnRule(Fixed):
    """A user's rule of the state that takes the threshold only."""

    statewise = True

    def __init__(self, threshold: float):
        super().__init__(2.0)
        self.threshold = threshold

    def multiplier(self, observation: torch.Tensor | None = None) -> torch.Tensor:
        return self.value if observation is None else observation.sum(1)


def test_a_rule_of_ones_own_is_given_what_it_takes_and_asked_at_states() -> None:
    made = guidance.plain("mine", OwnRule, threshold=3.0, limit=1.0, observation_size=4)
    assert made.is_statewise and made.dual.threshold == 3.0  # type: ignore[attr-defined]
    assert not guidance.plain("mine", partial(Fixed, 1.0), threshold=3.0, limit=1.0).is_statewise


def signals(replay: float | list[float], policy: float | list[float] = 0.0) -> Signals:
    replay, policy = (torch.tensor([v] if isinstance(v, float) else v, dtype=torch.float64) for v in (replay, policy))
    return Signals(torch.zeros(len(replay), 1), replay, policy)


def ascent(signal: Signal = "replay", initial: float = 0.6931, rate: float = 3e-4, hold: int = 0) -> LogAscent:
    """Return a rule with threshold h = 2 and limit 5."""
    return LogAscent(initial, rate, signal, hold, window=3, threshold=2.0, limit=5.0)


def move(rule: LogAscent, excess: float) -> None:
    """Give a rule a signal with this excess, and the opposite excess in all signals that it must ignore."""
    batch = {"replay": signals(2 + excess, 2 - excess), "policy": signals(2 - excess, 2 + excess),
             "episodes": signals(2 - excess, 2 - excess)}[rule.signal]
    rule.observe_episode(5 + excess if rule.signal == "episodes" else 5 - excess)
    rule.observe_batch(batch)


@pytest.mark.parametrize("signal", SIGNALS)
def test_ascent_moves_towards_feasibility(signal: Signal) -> None:
    """Adam's first step in log λ is the learning rate: up if the cost is too high, down if too low, 0 at the limit."""
    for excess, step in ((1.0, 3e-4), (-1.0, -3e-4), (0.0, 0.0)):
        rule = ascent(signal)
        move(rule, excess)
        assert rule.multiplier().log().item() == pytest.approx(math.log(0.6931) + step, abs=1e-7)


@pytest.mark.parametrize("signal", SIGNALS)
def test_ascent_finds_the_multiplier_of_a_known_problem(signal: Signal) -> None:
    """For max q·a − a²/2 subject to a ≤ h: a*(λ) = q − λ, so λ* = q − h; here q = 3.5, and the excess is 1.5 − λ."""
    rule = ascent(signal, initial=0.1, rate=0.02)
    for _ in range(3000):
        move(rule, 1.5 - rule.multiplier().item())
    assert rule.multiplier().item() == pytest.approx(1.5, abs=0.02)


def test_replay_and_policy_are_means_over_the_batch() -> None:
    rule = ascent("policy")
    rule.observe_batch(signals([9.0, 9.0], [1.0, 3.0]))
    assert rule.multiplier().item() == pytest.approx(0.6931, rel=1e-12)


def test_episodes_are_the_last_ones() -> None:
    """With window 3 and limit 5: λ stays without an episode and at a mean of 5; only the last three episodes count."""
    rule = ascent("episodes")
    rule.observe_batch(signals(100.0))
    rule.observe_episode(5.0)
    rule.observe_batch(signals(100.0))
    assert rule.multiplier().item() == pytest.approx(0.6931, rel=1e-12)
    for cost in (90.0, 6.0, 4.0, 4.9):   # the last three have a mean of 4.97
        rule.observe_episode(cost)
    rule.observe_batch(signals(100.0))
    assert rule.multiplier().item() < 0.6931


@pytest.mark.parametrize("signal", SIGNALS)
def test_hold(signal: Signal) -> None:
    """λ stays exactly constant for `hold` updates; the first step after that is not larger than usual."""
    rule = ascent(signal, hold=5)
    start = rule.multiplier().item()
    for _ in range(5):
        move(rule, 1.0)
        assert rule.multiplier().item() == start
    move(rule, 1.0)
    assert rule.multiplier().log().item() == pytest.approx(math.log(start) + 3e-4, abs=1e-6)


@pytest.mark.parametrize("make", [partial(ascent, "episodes", hold=4), partial(ascent, "policy", hold=4), ascent,
                                  partial(PID, 1.0, 0.5, 2.0, 0.5, 2, 0.1, limit=5.0), partial(Fixed, 0.3)])
def test_a_rule_that_was_saved_goes_on(make: Callable[[], DualRule]) -> None:
    rule, other = make(), make()
    for number in range(12):
        for one in (rule, other):
            one.observe_episode(4.0 + number % 3)
            one.observe_batch(signals(2.5, 1.5))
        if number == 5:
            state = deepcopy((rule.state_dict(), {name: o.state_dict() for name, o in rule.optimizers.items()}))
            other = make()
            other.load_state_dict(state[0])
            for name, optimizer in other.optimizers.items():
                optimizer.load_state_dict(state[1][name])
    assert rule.multiplier().item() == other.multiplier().item()


def test_a_checkpoint_holds_what_it_held() -> None:
    """State keys are those of the first version; new keys exist only for options that are not at their default."""
    assert set(ascent().state_dict()) == {"log_multiplier"}
    assert set(ascent("episodes", hold=1).state_dict()) == {"log_multiplier", "updates", "costs"}


def test_pid_by_hand() -> None:
    """Limit 10 (costs are divided by it), K_P = 1, K_I = .5, K_D = 2, smoothing .5, delay 1; computed by hand."""
    rule = PID(1.0, 0.5, 2.0, smoothing=0.5, delay=1, initial_multiplier=0.0, limit=10)
    rule.observe_episode(20.0)   # Δ = 1, I = 1, D = 0
    assert rule.multiplier().item() == pytest.approx(1 + 0.5)
    rule.observe_episode(30.0)   # Δ̄ = .5·1 + .5·2 = 1.5; I = 3; J̄ = .5·2 + .5·3 = 2.5, D = .5
    assert rule.multiplier().item() == pytest.approx(1.5 + 1.5 + 1.0)
    for _ in range(60):
        rule.observe_episode(0.0)   # I falls by 1 per episode, not below 0
    assert rule.multiplier().item() == 0
    assert PID(1.0, 0.5, 2.0, 0.5, 1, 0.7, limit=10).accumulated.item() * 0.5 == pytest.approx(0.7)


def test_pid_finds_the_multiplier_of_a_known_problem() -> None:
    """A policy whose cost is 10·(2.5 − λ), with limit 10, has λ* = 1.5."""
    rule = PID(0.5, 0.05, 0.1, 0.9, 10, 0.0, limit=10)
    for _ in range(2000):
        rule.observe_episode(10 * (2.5 - rule.multiplier().item()))
    assert rule.multiplier().item() == pytest.approx(1.5, abs=1e-3)


def test_fixed_does_not_move() -> None:
    rule = Fixed(0.25)
    rule.observe_episode(100.0)
    rule.observe_batch(signals(100.0, 100.0))
    assert rule.multiplier().item() == 0.25


def test_batch_level_has_one_weight() -> None:
    """L = −Q + w (Qc − h) with w = [λ + ρ (mean Qc of the batch − h)]₊, independent of Qc at the action."""
    half = partial(Fixed, 0.5)
    batch = guidance.augmented("augmented", 2.0, "batch", half, threshold=1.0, limit=1.0)
    batch.observe_batch(torch.tensor([1.0, 2.0]))   # mean 1.5: w = .5 + 2·.5 = 1.5
    q, qc = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 3.0], requires_grad=True)
    energy = batch.lagrangian(q, qc)
    torch.testing.assert_close(energy.detach(), torch.tensor([-1.5, 3.0]))
    torch.testing.assert_close(torch.autograd.grad(energy.sum(), qc)[0], torch.tensor([1.5, 1.5]))
    pointwise = guidance.augmented("augmented", 2.0, "pointwise", half, threshold=1.0, limit=1.0)
    torch.testing.assert_close(pointwise.lagrangian(q, qc.detach()),
                               torch.tensor([-0.25 / 4, (4.5**2 - 0.25) / 4]))


def test_a_multiplier_may_differ_between_states() -> None:
    """With λ (B, 1) and Q, Qc (B, N), each row is the energy with its own λ."""
    q, qc, lam = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([[0.0], [0.5], [2.0]])
    for one in (guidance.plain("plain", partial(Fixed, 9.0), threshold=0.1, limit=1.0),
                guidance.augmented("augmented", 2.0, "pointwise", partial(Fixed, 9.0), threshold=0.1, limit=1.0)):
        energies, weights = one.lagrangian(q, qc, lam), one.constraint_weight(qc, lam).expand(3, 4)
        for row in range(3):
            torch.testing.assert_close(energies[row], one.lagrangian(q[row], qc[row], lam[row, 0]))
            torch.testing.assert_close(weights[row], one.constraint_weight(qc[row], lam[row, 0]).expand(4))


def test_none_ignores_cost_and_plain_does_not() -> None:
    q, qc = torch.tensor([1.0]), torch.tensor([100.0])
    assert guidance.none("none", threshold=1.0, limit=1.0).lagrangian(q, qc).item() == -1
    plain = guidance.plain("plain", partial(LogAscent, 0.5, 3e-4), threshold=1.0, limit=1.0)
    assert plain.lagrangian(q, qc).item() == pytest.approx(-1 + 0.5 * 99)
    before = plain.multiplier.clone()
    assert plain.update(signals(100.0))["constraint"].item() == pytest.approx(99)
    assert plain.multiplier > before
