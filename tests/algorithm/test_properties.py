"""Properties that hold for all inputs: schedules, energies, multipliers, replay, statistics, tables, names, sweeps."""

import copy
import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from algd.algorithm import lagrangian
from algd.algorithm.dual import PID, LogAscent, Signals
from algd.algorithm.noise_processes import DDPM, VESDE, reverse
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.cli.compose import quoted_path
from algd.config.identity import NOT_IDENTITY, identity
from algd.storage.table import Table
from analysis.runs.episodes import rows
from analysis.statistics.aggregates import pareto_front
from analysis.statistics.comparisons import probability_of_improvement
from analysis.statistics.estimators import (
    cvar,
    interquartile_mean,
    iqm_interval,
    stratified_resamples,
    time_to_stay_feasible,
)
from tests.support.command import compose

# The same examples in every run, so that results do not depend on chance.
always = settings(derandomize=True, deadline=None, max_examples=60, database=None,
                  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


values = st.lists(numbers(-1e4, 1e4), min_size=1, max_size=40)


# --- schedules -----------------------------------------------------------------------------------------------------


@always
@given(st.integers(1, 60), numbers(1e-3, 1.0), numbers(1.0, 100.0))
def test_variance_exploding_levels(steps: int, least: float, factor: float) -> None:
    """Levels rise from σ_min to σ_max in equal ratios, and the steps' variances add up to σ_max²."""
    process = VESDE(steps, least, least * factor)
    spreads = process.spreads.double().numpy()
    assert (np.diff(spreads) >= 0).all() and (process.scales == 1).all()
    assert math.isclose(spreads[-1], least * factor, rel_tol=1e-6) and process.prior_std == least * factor
    assert steps == 1 or math.isclose(spreads[0], least, rel_tol=1e-6)
    np.testing.assert_allclose(np.diff(np.log(spreads), n=2), 0, atol=1e-5)
    moved = [process.step(lambda head, x, level: torch.ones_like(x), torch.zeros(1, 1), level, None).item()
             for level in range(1, steps + 1)]
    assert min(moved) >= 0 and math.isclose(sum(moved), (least * factor) ** 2, rel_tol=1e-5)


@always
@given(st.integers(1, 60), numbers(-2, 2), numbers(-2, 2), st.integers(0, 2**32))
def test_the_exact_score_of_a_point_leads_to_it(steps: int, target: float, start: float, seed: int) -> None:
    """With φ = (x_0 − x)/σ_k² the last step ends at x_0, whatever the noise in earlier steps."""
    process, noise = VESDE(steps, 0.05, 2.0), RandomGenerator(seed)

    def score(head: str, x: torch.Tensor, level: Any) -> torch.Tensor:
        return (target - x) / process.spreads[int(level) - 1].double() ** 2

    path = reverse(process, score, torch.full((3, 2), start, dtype=torch.float64),
                   lambda: noise.normal(3, 2).double())
    torch.testing.assert_close(path[-1], torch.full((3, 2), target, dtype=torch.float64), rtol=1e-5, atol=1e-5)


schedules = st.one_of(
    st.tuples(st.just("linear"), st.integers(1, 60), numbers(1e-3, 0.05), numbers(0.05, 0.9)),
    st.tuples(st.just("variance_preserving"), st.integers(1, 60), numbers(0.1, 1.0), numbers(1.0, 20.0)))


@always
@given(schedules)
def test_variance_is_preserved(schedule: tuple[Any, int, float, float]) -> None:
    """scale² + spread² = 1 at every level; scales fall and spreads rise."""
    name, steps, least, most = schedule
    process = DDPM(steps, name, least, most, 0.0)
    scales, spreads = process.scales.double().numpy(), process.spreads.double().numpy()
    np.testing.assert_allclose(scales**2 + spreads**2, 1, rtol=1e-6)
    assert (np.diff(scales) <= 0).all() and (np.diff(spreads) >= 0).all()
    assert (scales >= 0).all() and (scales < 1).all() and (spreads > 0).all() and (spreads <= 1).all()


@always
@given(schedules, numbers(-3, 3), st.data())
def test_a_reverse_step_knows_a_point(schedule: tuple[Any, int, float, float], x0: float, data: st.DataObject) -> None:
    """Without noise, a step maps x_k = scale_k x_0 to scale_{k−1} x_0, and the last step to x_0."""
    name, steps, least, most = schedule
    process = DDPM(steps, name, least, most, 0.0)
    level = data.draw(st.integers(1, steps))
    assume(process.scales[level - 1] > 1e-3)
    x = process.scales[level - 1] * torch.full((1, 2), x0)
    before = 1.0 if level == 1 else process.scales[level - 2].item()
    stepped = process.step(lambda head, x, level: torch.zeros_like(x), x, level, None)
    np.testing.assert_allclose(stepped.numpy(), before * x0, rtol=1e-3, atol=1e-4)


# --- energies ------------------------------------------------------------------------------------------------------


energies = st.tuples(numbers(-50, 50), numbers(-50, 50), numbers(0, 20), numbers(-20, 20), numbers(0.05, 20))


def tensors(*given: float) -> list[torch.Tensor]:
    return [torch.tensor(one, dtype=torch.float64) for one in given]


@always
@given(energies, numbers(0, 500))
def test_the_augmented_lagrangian_is_a_greatest_value(given: tuple[float, ...], other: float) -> None:
    """L_A = max over μ ≥ 0 of −Q + μ (Qc − h) − (μ − λ)²/(2ρ), attained at μ = [λ + ρ (Qc − h)]₊."""
    q, qc, lam, threshold, rho = given

    def inner(mu: float) -> float:
        return -q + mu * (qc - threshold) - (mu - lam) ** 2 / (2 * rho)

    found = lagrangian.augmented(*tensors(q, qc), lam, threshold, rho).item()
    best = lagrangian.constraint_weight(*tensors(qc), lam, threshold, rho).item()
    assert best >= 0 and math.isclose(found, inner(best), rel_tol=1e-9, abs_tol=1e-7)
    assert found >= inner(other) - 1e-7


@always
@given(energies)
def test_it_lies_just_above_the_plain_one(given: tuple[float, ...]) -> None:
    """0 ≤ L_A − L ≤ ρ (Qc − h)²/2, with equality on the right where the constraint is active."""
    q, qc, lam, threshold, rho = given
    above = (lagrangian.augmented(*tensors(q, qc), lam, threshold, rho)
             - lagrangian.plain(*tensors(q, qc), lam, threshold)).item()
    most = rho * (qc - threshold) ** 2 / 2
    assert -1e-7 <= above <= most + 1e-7 * (1 + most)
    if lam + rho * (qc - threshold) >= 0:
        assert math.isclose(above, most, rel_tol=1e-7, abs_tol=1e-6)


@always
@given(energies, numbers(-10, 10), numbers(0.1, 10))
def test_units_do_not_matter(given: tuple[float, ...], shift: float, unit: float) -> None:
    """Cost and threshold may be shifted together; Q, Qc and h may be scaled together, with ρ in the inverse unit."""
    q, qc, lam, threshold, rho = given
    found = lagrangian.augmented(*tensors(q, qc), lam, threshold, rho).item()
    shifted = lagrangian.augmented(*tensors(q, qc + shift), lam, threshold + shift, rho).item()
    scaled = lagrangian.augmented(*tensors(unit * q, unit * qc), lam, unit * threshold, rho / unit).item()
    assert math.isclose(found, shifted, rel_tol=1e-7, abs_tol=1e-5)
    assert math.isclose(unit * found, scaled, rel_tol=1e-7, abs_tol=1e-5)


@always
@given(energies)
def test_gradients_against_differences(given: tuple[float, ...]) -> None:
    """∂L_A/∂Qc is the constraint's weight and ∂L_A/∂Q is −1, by autograd and by central differences."""
    q, qc, lam, threshold, rho = given
    assume(abs(lam + rho * (qc - threshold)) > 1e-3)
    at = [one.requires_grad_() for one in tensors(q, qc)]
    by_q, by_qc = torch.autograd.grad(lagrangian.augmented(*at, lam, threshold, rho), at)
    weight = lagrangian.constraint_weight(*tensors(qc), lam, threshold, rho).item()
    step = 1e-5
    up, down = (lagrangian.augmented(*tensors(q, qc + side), lam, threshold, rho).item() for side in (step, -step))
    assert by_q.item() == -1 and math.isclose(by_qc.item(), weight, rel_tol=1e-12, abs_tol=1e-12)
    assert math.isclose((up - down) / (2 * step), weight, rel_tol=1e-3, abs_tol=1e-2)


# --- multipliers ---------------------------------------------------------------------------------------------------


@always
@given(numbers(1e-3, 10), numbers(1e-4, 0.5), numbers(-5, 5), st.lists(
    st.lists(numbers(-10, 10), min_size=1, max_size=8), min_size=1, max_size=20), st.integers(0, 1000))
def test_log_ascent(initial: float, rate: float, threshold: float, batches: list[list[float]], seed: int) -> None:
    """λ stays positive and finite, takes its first step in the right direction, and ignores the order of a batch."""
    rules = LogAscent(initial, rate, threshold=threshold), LogAscent(initial, rate, threshold=threshold)
    for number, batch in enumerate(batches):
        before = rules[0].multiplier().item()
        shuffled = random.Random(seed).sample(batch, len(batch))
        for rule, values in zip(rules, (batch, shuffled), strict=True):
            replay = torch.tensor(values, dtype=torch.float64)
            rule.observe_batch(Signals(torch.zeros(len(values), 1), replay, torch.zeros(len(values))))
        after = rules[0].multiplier().item()
        assert 0 < after < math.inf
        violation = float(np.mean(batch)) - threshold
        if number == 0 and abs(violation) > 1e-3:
            assert (after > before) == (violation > 0)
            assert abs(math.log(after / before)) <= rate * (1 + 1e-6)
    assert math.isclose(rules[0].multiplier().item(), rules[1].multiplier().item(), rel_tol=1e-6)


@always
@given(numbers(0, 50), numbers(0, 3), numbers(1e-3, 3), numbers(0, 3), numbers(0, 0.99), st.integers(1, 6),
       numbers(0, 5), st.lists(numbers(0, 200), max_size=30))
def test_pid_against_its_formulas(limit: float, p: float, i: float, d: float, smoothing: float, delay: int,
                                  initial: float, costs: list[float]) -> None:
    """The rule equals Algorithm 2 of arXiv 2007.03964, written with lists instead of ring buffers."""
    rule = PID(p, i, d, smoothing, delay, initial, limit=limit)
    unit, total, violation, averages = max(limit, 1.0), initial / i, 0.0, []
    assert math.isclose(rule.multiplier().item(), initial)
    for number, cost in enumerate(costs):
        rule.observe_episode(cost)
        now = (cost - limit) / unit
        violation = now if number == 0 else smoothing * violation + (1 - smoothing) * now
        averages.append(cost / unit if number == 0 else smoothing * averages[-1] + (1 - smoothing) * cost / unit)
        total = max(0.0, total + now)
        rise = max(0.0, averages[-1] - averages[max(0, number - delay)])
        expected = max(0.0, p * violation + i * total + d * rise)
        assert math.isclose(rule.multiplier().item(), expected, rel_tol=1e-9, abs_tol=1e-9)


# --- replay --------------------------------------------------------------------------------------------------------


def transition(number: int) -> tuple[Any, ...]:
    one = float(number)
    return (np.array([one, -one], np.float32), np.array([one / 2], np.float32), one, one % 3,
            np.array([one + 1, -one - 1], np.float32), number % 5 == 0, number % 7 == 0)


@always
@given(st.integers(1, 17), st.lists(st.integers(0, 25), min_size=1, max_size=6), st.integers(0, 2**32), st.data())
def test_replay_against_a_list(capacity: int, counts: list[int], seed: int, data: st.DataObject) -> None:
    """A ring buffer of any size, filled in any portions and saved in any segments, holds the newest transitions."""
    replay, model = Replay(capacity, 2, 1), []
    for count in counts:
        for _ in range(count):
            replay.add(*transition(len(model)))
            model.append(len(model))
        newest = model[-capacity:]
        assert len(replay) == len(newest) and replay.added == len(model)
        if newest:
            batch = replay.sample(64, RandomGenerator(seed))
            drawn = batch.observation[:, 0].long()
            assert set(drawn.tolist()) <= set(newest)
            for row, number in enumerate(drawn.tolist()):
                observation, action, reward, cost, following, over, cost_over = transition(number)
                assert batch.observation[row].tolist() == observation.tolist()
                assert batch.action[row].tolist() == action.tolist()
                assert batch.next_observation[row].tolist() == following.tolist()
                assert (batch.reward[row], batch.cost[row]) == (reward, cost)
                assert (bool(batch.reward_done[row]), bool(batch.cost_done[row])) == (over, cost_over)
        if newest:
            first = data.draw(st.integers(newest[0], newest[-1]))
            written = np.concatenate(replay.written(first, len(model)))
            assert written[:, 0].tolist() == list(range(first, len(model)))
            restored = Replay(capacity, 2, 1)
            restored.restore(newest[0], np.concatenate(replay.written(newest[0], len(model))))
            assert restored.added == replay.added
            np.testing.assert_array_equal(restored.rows[:len(newest)], replay.rows[:len(newest)])


# --- statistics ----------------------------------------------------------------------------------------------------


@always
@given(values, numbers(-100, 100), numbers(0.01, 100), st.integers(0, 1000))
def test_interquartile_means(given: list[float], shift: float, unit: float, seed: int) -> None:
    """It equals the definition, ignores order, shifts and scales with the values, and lies within their range."""
    found = interquartile_mean(np.array(given))
    cut = len(given) // 4
    kept = sorted(given)[cut:len(given) - cut]
    assert math.isclose(found, math.fsum(kept) / len(kept), rel_tol=1e-9, abs_tol=1e-9)
    shuffled = random.Random(seed).sample(given, len(given))
    assert interquartile_mean(np.array(shuffled)) == found
    assert math.isclose(interquartile_mean(unit * np.array(given) + shift), unit * found + shift, rel_tol=1e-9,
                        abs_tol=1e-6)
    assert min(given) - 1e-9 <= found <= max(given) + 1e-9


@always
@given(st.lists(st.lists(numbers(-100, 100), min_size=3, max_size=8), min_size=1, max_size=3),
       st.sampled_from(["t", "percentile"]), numbers(-50, 50), numbers(0.1, 10))
def test_intervals(strata: list[list[float]], method: Any, shift: float, unit: float) -> None:
    """Intervals shift and scale with the values, t-intervals contain the estimate, resamples stay in their strata."""
    plain = [np.array(one) for one in strata]
    found = iqm_interval(plain, 3, method, resamples=100)
    moved = iqm_interval([unit * one + shift for one in plain], 3, method, resamples=100)
    assert found.low is not None and found.high is not None and moved.low is not None and moved.high is not None
    for before, after in ((found.value, moved.value), (found.low, moved.low), (found.high, moved.high)):
        assert math.isclose(unit * before + shift, after, rel_tol=1e-6, abs_tol=1e-4)
    assert found.low <= found.high and found == iqm_interval(plain, 3, method, resamples=100)
    assert method != "t" or found.low <= found.value <= found.high
    drawn = stratified_resamples(plain, 20, 7)
    ends = np.cumsum([0, *map(len, plain)])
    for one, (start, end) in zip(plain, itertools.pairwise(ends), strict=True):
        assert np.isin(drawn[:, start:end], one).all()


@always
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_probability_of_improvement(first: list[int], second: list[int]) -> None:
    """It is the share of pairs that the first wins, with ties as half; both directions add up to 1."""
    one, other = (np.array(values, dtype=float) for values in (first, second))
    wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(first, second)]
    found = probability_of_improvement([one], [other])
    back = probability_of_improvement([other], [one])
    assert math.isclose(found.value, float(np.mean(wins)), abs_tol=1e-12)
    assert math.isclose(found.value + back.value, 1, abs_tol=1e-12)


@always
@given(values, numbers(-10, 10))
def test_the_worst_tenth(given: list[float], shift: float) -> None:
    """CVaR lies between mean and maximum, shifts with the values, and is the mean of the worst tenth."""
    found = cvar(np.array(given))
    assert np.mean(given) - 1e-6 <= found <= max(given) + 1e-9
    assert math.isclose(cvar(np.array(given) + shift), found + shift, rel_tol=1e-9, abs_tol=1e-6)
    if len(given) % 10 == 0:
        worst = sorted(given)[-(len(given) // 10):]
        assert math.isclose(found, float(np.mean(worst)), rel_tol=1e-9, abs_tol=1e-9)


@always
@given(st.lists(st.booleans(), max_size=12))
def test_staying_feasible(feasible: list[bool]) -> None:
    """It is the first evaluation from which on all are feasible, or censored."""
    steps = [100 * number for number in range(len(feasible))]
    found = time_to_stay_feasible(steps, feasible)
    starts = [step for number, step in enumerate(steps) if all(feasible[number:])]
    if not steps:
        assert found is None
    else:
        assert found is not None and (found.step, found.censored) == ((starts[0], False) if starts
                                                                      else (steps[-1], True))


@always
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=10))
def test_pareto_fronts(points: list[tuple[int, int]]) -> None:
    """A point is on the front if and only if no other is at least as good in cost and return and better in one."""
    costs, returns = zip(*points, strict=True)
    front = set(pareto_front(costs, returns))

    def beaten(cost: int, gain: int) -> bool:
        return any((c <= cost and g >= gain) and (c < cost or g > gain) for c, g in points)

    assert {points[index] for index in front} == {one for one in points if not beaten(*one)}


# --- tables --------------------------------------------------------------------------------------------------------


cells = st.one_of(st.integers(-10**12, 10**12), st.floats(allow_nan=False, allow_infinity=False),
                  st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8), st.none())
tables = st.lists(st.tuples(st.integers(0, 10**6), cells), min_size=1, max_size=8)


def written(path: Path, content: list[tuple[int, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
    """Write a table and return the byte at which each row ends, and the position after each."""
    path.unlink(missing_ok=True)
    table = Table(path, ["step", "value"])
    ends, positions = [], []
    for step, value in content:
        table.append({"step": step, "value": value})
        table.sync()
        ends.append(path.stat().st_size)
        positions.append(table.position())
    table.close()
    return ends, positions


def spelled(value: Any) -> str:
    return "" if value is None else str(value)


@always
@given(tables, st.data())
def test_what_is_read_of_a_torn_table_is_its_beginning(tmp_path: Path, content: list[tuple[int, Any]],
                                                       data: st.DataObject) -> None:
    """A table that is cut off at any byte yields the complete rows before it, with exactly equal floats."""
    path = tmp_path / "t.csv"
    ends, _ = written(path, content)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = sum(end <= cut for end in ends)
    found = rows(path)
    assert [(int(row["step"]), row["value"]) for row in found] == [
        (step, spelled(value)) for step, value in content[:complete]]
    for row, (_, value) in zip(found, content, strict=False):
        if isinstance(value, float):
            assert float(row["value"]) == value


@always
@given(tables, st.binary(max_size=60), st.data())
def test_a_table_goes_on_from_a_position_whatever_came_after(tmp_path: Path, content: list[tuple[int, Any]],
                                                             garbage: bytes, data: st.DataObject) -> None:
    """Cutting removes whatever follows a position; continuing then gives the file of an uninterrupted run."""
    path = tmp_path / "t.csv"
    ends, positions = written(path, content)
    whole = path.read_bytes()
    kept = data.draw(st.integers(0, len(content) - 1))
    tail = data.draw(st.integers(ends[kept], len(whole)))
    path.write_bytes(whole[:tail] + garbage)
    table = Table(path, ["step", "value"])
    assert table.holds(positions[kept])
    table.cut(positions[kept])
    assert path.read_bytes() == whole[:ends[kept]]
    for step, value in content[kept + 1:]:
        table.append({"step": step, "value": value})
    table.close()
    assert path.read_bytes() == whole


@always
@given(tables, st.data(), st.integers(1, 255))
def test_a_changed_byte_before_a_position_is_noticed(tmp_path: Path, content: list[tuple[int, Any]],
                                                     data: st.DataObject, change: int) -> None:
    path = tmp_path / "t.csv"
    _, positions = written(path, content)
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= change
    path.write_bytes(damaged)
    try:
        table = Table(path, ["step", "value"])
    except UnicodeDecodeError:
        return  # a header that is not text: a new table is begun
    assert not table.holds(positions[-1])
    table.close()


# --- identities ----------------------------------------------------------------------------------------------------


BASE = compose("env=toy", "logger=none")


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    return [path]


def shuffled(node: Any, source: random.Random) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: shuffled(node[key], source) for key in source.sample(list(node), len(node))}


@always
@given(st.integers(0, 2**32))
def test_the_order_of_keys_is_no_part_of_an_identity(seed: int) -> None:
    assert identity(shuffled(BASE, random.Random(seed))) == identity(BASE)


@pytest.mark.parametrize("leaf", leaves(BASE), ids=".".join)
def test_every_value_is_a_part_of_it_or_is_not(leaf: tuple[str, ...]) -> None:
    """A key that determines the result changes the identity, differently for each value; other keys do not."""
    found = set()
    for value in (1, 2, 1.5, "1", "x", None, True, [1], [2], [1, 1]):
        changed = copy.deepcopy(BASE)
        node: Any = changed
        for key in leaf[:-1]:
            node = node[key]
        node[leaf[-1]] = value
        found.add(identity(changed))
    apart = leaf[0] not in NOT_IDENTITY and leaf != ("eval", "video")
    assert len(found) == (10 if apart else 1) and (apart or found == {identity(BASE)})


# --- sweeps --------------------------------------------------------------------------------------------------------


words = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
axis = st.one_of(st.lists(st.integers(-99, 99), min_size=1, max_size=4, unique=True),
                 st.lists(words.filter(lambda word: word not in ("null", "nan", "inf", "true", "false")), min_size=1,
                          max_size=4, unique=True))


@always
@given(st.dictionaries(words, axis, min_size=1, max_size=3))
def test_a_grid_is_the_product_of_its_axes(axes: dict[str, list[Any]]) -> None:
    """Every combination occurs once, in the order of nested loops."""
    typed = [f"{key}={','.join(map(str, listed))}" for key, listed in axes.items()]
    (grid,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    expected = [[f"{key}={value}" for key, value in zip(axes, combination, strict=True)]
                for combination in itertools.product(*axes.values())]
    assert [list(member) for member in grid] == expected


@always
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")),
               min_size=1, max_size=20))
def test_a_path_is_what_was_typed(path: str) -> None:
    """Any path that is typed reaches the configuration unchanged, without quotes for Hydra; commas in run alone."""
    assume("${" not in path and path[0] not in "'\"" and path != "null")
    for key in ("run",) if "," in path else ("run", "runs_dir"):
        (override,) = OverridesParser.create().parse_overrides([quoted_path(f"{key}={path}")])
        assert override.key_or_group == key and override.value() == path
