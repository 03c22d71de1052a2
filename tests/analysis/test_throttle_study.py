"""The throttle study: its formulas against the Lagrangians, its simulated loop, and its measures of runs."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from algd.algorithm import lagrangian
from algd.envs.throttle import GAIN
from algd.errors import UsageError
from analysis.runs.model import Evaluation, Run
from analysis.studies.throttle.measured import MeasuredRun
from analysis.studies.throttle.study import run, slopes
from analysis.studies.throttle.theory import LAG, closed_loop, minimiser, noisy_minimiser, swing
from tests.support.command import TINY, train_here

SPEEDS = torch.linspace(0, 1, 2001, dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.59, 0.61, 1.0, 5.0])
@pytest.mark.parametrize("rho", [0.0, 1.0, 5.0, 20.0])
def test_the_minimiser_minimises(lam: float, rho: float) -> None:
    """The formula equals the minimum over a grid of speeds of the Lagrangians that agents use."""
    q, lam_ = GAIN * SPEEDS, torch.tensor(lam, dtype=torch.float64)
    energy = lagrangian.augmented(q, SPEEDS, lam_, 0.4, rho) if rho else lagrangian.plain(q, SPEEDS, lam_, 0.4)
    assert float(minimiser(lam, 0.4, rho)) == pytest.approx(float(SPEEDS[energy.argmin()]), abs=5e-4)


def test_an_error_of_the_multiplier_is_one_of_the_cost_over_rho() -> None:
    for rho in (2.0, 5.0, 20.0):
        assert minimiser(GAIN, 0.4, rho) == 0.4
        assert minimiser(GAIN + 0.1, 0.4, rho) == pytest.approx(0.4 - 0.1 / rho)


@pytest.mark.parametrize("rho", [1.0, 5.0, 20.0])
def test_without_noise_the_noisy_minimiser_is_the_minimiser(rho: float) -> None:
    for lam in (0.3, 0.6, 0.8):
        found = noisy_minimiser(lam, 0.4, rho, 1e-4)
        assert found == pytest.approx((float(minimiser(lam, 0.4, rho)),) * 2, abs=0.006)  # grid of the latents


@pytest.mark.parametrize(("lam", "rho", "spread"), [(0.3, 1.0, 1.0), (0.02, 5.0, 0.9), (0.3, 5.0, 0.5)])
def test_the_noisy_minimiser_feels_the_shadow_price(lam: float, rho: float, spread: float) -> None:
    """At the minimiser the constraint's weight, averaged over actions by how much each moves, is λ*; the mean speed is
    that of samples."""
    deterministic, mean = noisy_minimiser(lam, 0.4, rho, spread)
    normals = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tanh = torch.tanh(np.arctanh(2 * deterministic - 1) + spread * normals)
    speeds, moves = (1 + tanh) / 2, 1 - tanh**2
    felt = lagrangian.constraint_weight(speeds, torch.tensor(lam, dtype=torch.float64), 0.4, rho)
    assert float((moves * felt).sum() / moves.sum()) == pytest.approx(GAIN, abs=0.02)
    assert float(speeds.mean()) == pytest.approx(mean, abs=0.005)


def test_noise_holds_the_loop_where_the_penalty_alone_does() -> None:
    """With VE-SDE's noise and ρ = 5 the speed stays below the limit while λ falls, without oscillation."""
    speeds, lams = closed_loop(0.4, 5.0, 1500, 300, 0.6931, 1e-2, spread=0.92)
    assert swing(speeds) < 0.1 and speeds[-1] < 0.4 and lams[-1] < 0.2


def test_a_lag_makes_plain_guidance_swing_and_not_augmented() -> None:
    """With signal=policy plain guidance is stable without a lag and oscillates with one; augmented does not."""
    for rho, lag, expected in ((0.0, 0, 0.0), (0.0, LAG, 1.0), (5.0, LAG, 0.0)):
        speeds, _ = closed_loop(0.4, rho, 1500, 300, 0.6931, 1e-2, "policy", 0.9, lag)
        assert swing(speeds) == pytest.approx(expected, abs=0.05)


def test_the_loop_swings_less_with_a_larger_rho() -> None:
    """Without augmentation the speed oscillates over the whole range, and less the larger ρ is."""
    swings = [swing(closed_loop(0.4, rho, 1500, 300, 0.6931, 1e-2)[0]) for rho in (0.0, 1.0, 5.0)]
    assert swings[0] == 1 and swings == sorted(swings, reverse=True) and swings[-1] < 0.5


def test_the_swing_is_that_of_the_second_half() -> None:
    assert swing(np.array([9.0, -9.0, 0.1, 0.4])) == pytest.approx(0.3)


def test_tables_and_figures_of_runs(tmp_path: Path) -> None:
    fixed = [["guidance=augmented", "guidance.rho=5", "guidance/dual=fixed", f"guidance.dual.multiplier={lam}"]
             for lam in (0.3, 0.5, 0.7)]
    for guidance in (["guidance=plain"], ["guidance=augmented", "guidance.rho=5"],
                     ["guidance=augmented", "guidance.dual.signal=policy"],
                     ["guidance=plain", "guidance/dual=pid"], ["guidance=plain", "guidance.dual.hold=5"], *fixed):
        train_here(*TINY, *guidance, "env=throttle", "initial_steps=20", "total_steps=40", "eval.every=20",
                   "eval.episodes=2", "log_every=10", "snapshots=2", f"runs_dir={tmp_path / 'runs'}")
    run(tmp_path / "out", [str(tmp_path / "runs")])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {f"throttle_{name}.{kind}" for name in ("runs", "cells", "slopes", "snapshots")
              for kind in ("csv", "md")}
    assert written == tables | {f"throttle_{name}.png" for name in ("training", "training_policy", "law", "landscape")}
    with (tmp_path / "out" / "throttle_cells.csv").open(newline="") as file:
        cells = {(row["rho"], row["rule for λ"]): row for row in csv.DictReader(file)}
    assert {rule for rho, rule in cells if rho == "plain"} == {"replay", "replay, hold 5", "pid"}
    assert {rule for rho, rule in cells if rho == "5"} == {"replay", "fixed 0.3", "fixed 0.5", "fixed 0.7"}
    assert cells["plain", "replay"]["predicted"] and not cells["plain", "pid"]["predicted"]
    assert len((tmp_path / "out" / "throttle_slopes.csv").read_text().splitlines()) == 2


def fixed_run(lam: float, cost: float) -> MeasuredRun:
    """Return a run with ρ = 5, constant λ and this final cost."""
    config = {"agent.name": "gaussian", "env.limit": 0.4, "guidance.rho": 5.0}
    evaluations = [Evaluation(step, 0.0, cost, 0.0, None, None, 1, 1) for step in (0, 100)]
    record = Run(Path("run"), config, "finished", None, 100, evaluations, {}, None, None, None)
    return MeasuredRun(record, 5.0, "fixed", np.zeros(1), np.array([lam]))


def test_the_slope_of_a_held_multiplier_by_hand() -> None:
    """On v(λ) the slope is −1/ρ and the distance 0; a point 0.03 above it is found as the distance."""
    (on_the_line,) = slopes([fixed_run(lam, 0.4 + (GAIN - lam) / 5) for lam in (0.3, 0.5, 0.7)])
    assert on_the_line["slope"] == pytest.approx(-0.2) == on_the_line["predicted"]
    assert on_the_line["greatest_distance"] == pytest.approx(0, abs=1e-12)
    (above,) = slopes([fixed_run(0.3, 0.46), fixed_run(0.5, 0.42 + 0.03), fixed_run(0.7, 0.38)])
    assert above["slope"] == pytest.approx(-0.2) and above["greatest_distance"] == pytest.approx(0.03)
    assert above["standard_error"] > 0.01


def test_the_lag_of_a_policy_by_hand(tmp_path: Path) -> None:
    """λ crosses λ* upwards at step 1,050 and downwards at 1,550; the speed follows 40 and 70 steps later."""
    (tmp_path / "episodes.csv").write_text("step,cost\n" + "".join(
        f"{step},{0.0 if 1090 <= step < 1620 else 1.0}\n" for step in range(1, 2001)))
    lam_steps = np.arange(0.0, 2001, 100)
    lams = np.where((lam_steps > 1050) & (lam_steps < 1550), 2 * GAIN, GAIN / 2)
    record = replace(fixed_run(0.3, 0.4).record, folder=tmp_path, config={"total_steps": 2000})
    assert MeasuredRun(record, 0.0, "policy", lam_steps, lams).lags() == pytest.approx([40, 70], abs=1)
    assert MeasuredRun(record, 0.0, "policy", lam_steps, lams / 4).lags() == []


def test_without_runs_it_says_what_makes_them(tmp_path: Path) -> None:
    train_here(*TINY, "guidance=pid", "env=throttle", "initial_steps=20", "total_steps=20", "eval.episodes=1",
               f"runs_dir={tmp_path}")
    with pytest.raises(UsageError, match="experiment=throttle_guidance makes them"):
        run(tmp_path / "out", [str(tmp_path)])
