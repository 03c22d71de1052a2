"""The dual problem of the E-step, against brute force, closed forms and the optimality conditions."""

import numpy as np
import pytest

from algd.algorithm.estep import MOST, Floats, Solution, dual, solve

EPSILON = 0.1


def batch(seed: int, states: int = 100, actions: int = 32) -> tuple[Floats, Floats]:
    """Return Q and Qc values of actions for which a higher reward means a higher cost."""
    rng = np.random.default_rng(seed)
    action = rng.normal(size=(states, actions))
    return 3 * action + 0.3 * rng.normal(size=action.shape), 4 * np.maximum(action, 0)


def weights(q: Floats, qc: Floats, found: Solution) -> Floats:
    x = np.exp((q - found.multiplier * qc - (q - found.multiplier * qc).max(1, keepdims=True)) / found.temperature)
    return x / x.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [1.0, 3.0])
def test_the_minimum_is_that_of_brute_force(seed: int, threshold: float) -> None:
    q, qc = batch(seed)
    found = solve(q, qc, threshold, EPSILON, 0.1)
    value = dual(*found, q, qc, threshold, EPSILON)[0]
    grid = [dual(temperature, multiplier, q, qc, threshold, EPSILON)[0]
            for temperature in np.geomspace(0.1, 100, 60) for multiplier in np.linspace(0, 6, 61)]
    assert value <= min(grid) + 1e-6
    assert min(grid) - value < 0.02 * abs(value) + 0.02  # the grid comes near it, so the minimum is inside


@pytest.mark.parametrize("seed", range(3))
def test_where_the_cost_binds_both_constraints_hold_with_equality(seed: int) -> None:
    q, qc = batch(seed)
    found = solve(q, qc, 1.0, EPSILON, 1.0)
    w = weights(q, qc, found)
    assert found.multiplier > 0.5
    assert (w * qc).sum(1).mean() == pytest.approx(1.0, abs=1e-3)
    assert (w * np.log(w * w.shape[1])).sum(1).mean() == pytest.approx(EPSILON, abs=1e-3)


def test_where_the_cost_is_low_anyway_its_multiplier_is_zero() -> None:
    q, qc = batch(0)
    found = solve(q, qc, 100.0, EPSILON, 1.0)
    assert found.multiplier == 0
    assert found.temperature == pytest.approx(solve(q, None, 0.0, EPSILON, 1.0).temperature, rel=1e-3)


def test_the_temperature_of_a_linear_q_is_the_closed_form() -> None:
    """For a ~ N(0, 1) and Q = k a the weighted actions are N(k/η, 1), with KL k²/(2η²), so η = k/√(2ε)."""
    action = np.random.default_rng(0).normal(size=(50, 20000))
    assert solve(3 * action, None, 0.0, 0.02, 0.0).temperature == pytest.approx(3 / np.sqrt(0.04), rel=0.02)


def test_the_gradient_is_that_of_finite_differences() -> None:
    q, qc = batch(1, 20, 8)
    _, slope = dual(2.0, 0.7, q, qc, 1.5, EPSILON)
    step = 1e-5
    numeric = [(dual(2.0 + step, 0.7, q, qc, 1.5, EPSILON)[0] - dual(2.0 - step, 0.7, q, qc, 1.5, EPSILON)[0]),
               (dual(2.0, 0.7 + step, q, qc, 1.5, EPSILON)[0] - dual(2.0, 0.7 - step, q, qc, 1.5, EPSILON)[0])]
    assert slope == pytest.approx(np.array(numeric) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("start", [0.0, 1.0, 1e3, MOST])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e2])
@pytest.mark.parametrize("cost_scale", [1e-2, 1e2])
def test_the_bounds_hold_on_every_scale_and_from_every_start(scale: float, cost_scale: float, start: float) -> None:
    q, qc = batch(0)
    found = solve(scale * q, cost_scale * qc, cost_scale, EPSILON, start)
    w = weights(scale * q, cost_scale * qc, found)
    assert (w * qc).sum(1).mean() == pytest.approx(1.0, abs=3e-3)
    assert (w * np.log(w * w.shape[1])).sum(1).mean() == pytest.approx(EPSILON, abs=3e-3)


def test_values_that_do_not_differ_and_values_that_are_no_numbers() -> None:
    same = np.full((10, 8), 3.0)
    assert solve(same, np.zeros_like(same), 1.0, EPSILON, 1.0).multiplier == 0
    assert 0 < solve(same, None, 0.0, EPSILON, 0.0).temperature < 1e-5
    solve(np.full_like(same, np.nan), np.full_like(same, np.nan), 1.0, EPSILON, 1.0)  # no error: the run finds it


def test_it_comes_back_from_where_no_policy_was_cheap_enough() -> None:
    q, qc = batch(2)
    stuck = solve(q, qc, 0.01, EPSILON, 1.0)
    assert stuck.multiplier >= MOST / 10 or stuck.temperature >= MOST / 10
    again, fresh = solve(q, qc, 1.0, EPSILON, stuck.multiplier), solve(q, qc, 1.0, EPSILON, 1.0)
    assert again == pytest.approx(fresh, rel=1e-3)


def test_large_values_do_not_overflow() -> None:
    q, qc = batch(3)
    found, shifted = solve(q, qc, 1.0, EPSILON, 1.0), solve(q + 1e6, qc, 1.0, EPSILON, 1.0)
    assert shifted == pytest.approx(found, rel=1e-3)
