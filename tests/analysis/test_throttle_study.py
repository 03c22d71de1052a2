"""The study of throttle: its formulas against the Lagrangians themselves, its loop, and what it writes of runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from algd.algorithm import lagrangian
from algd.envs.throttle import GAIN
from algd.errors import UsageError
from analysis.studies.throttle import closed_loop, minimiser, run, swing
from tests.support.command import TINY, train_here

SPEEDS = torch.linspace(0, 1, 2001, dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.59, 0.61, 1.0, 5.0])
@pytest.mark.parametrize("rho", [0.0, 1.0, 5.0, 20.0])
def test_the_minimiser_minimises(lam: float, rho: float) -> None:
    """By search over speeds, on the Lagrangians that agents descend."""
    q, lam_ = GAIN * SPEEDS, torch.tensor(lam, dtype=torch.float64)
    energy = lagrangian.augmented(q, SPEEDS, lam_, 0.4, rho) if rho else lagrangian.plain(q, SPEEDS, lam_, 0.4)
    assert float(minimiser(lam, 0.4, rho)) == pytest.approx(float(SPEEDS[energy.argmin()]), abs=5e-4)


def test_an_error_of_the_multiplier_is_one_of_the_cost_over_rho() -> None:
    for rho in (2.0, 5.0, 20.0):
        assert minimiser(GAIN, 0.4, rho) == 0.4
        assert minimiser(GAIN + 0.1, 0.4, rho) == pytest.approx(0.4 - 0.1 / rho)


def test_the_loop_swings_less_with_a_larger_rho() -> None:
    """From end to end without augmentation, and the less the larger ρ is."""
    swings = [swing(closed_loop(0.4, rho, 1500, 300, 0.6931, 1e-2)[0]) for rho in (0.0, 1.0, 5.0)]
    assert swings[0] == 1 and swings == sorted(swings, reverse=True) and swings[-1] < 0.5


def test_the_swing_is_that_of_the_second_half() -> None:
    assert swing(np.array([9.0, -9.0, 0.1, 0.4])) == pytest.approx(0.3)


def test_tables_and_figures_of_runs(tmp_path: Path) -> None:
    for guidance in (["guidance=plain"], ["guidance=augmented", "guidance.rho=5"],
                     ["guidance=augmented", "guidance.dual.signal=policy"]):
        train_here(*TINY, *guidance, "env=throttle", "initial_steps=20", "total_steps=40", "eval.every=20",
                   "eval.episodes=2", "log_every=10", f"runs_dir={tmp_path / 'runs'}")
    run(tmp_path / "out", [str(tmp_path / "runs")])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"throttle_runs.csv", "throttle_runs.md", "throttle_cells.csv", "throttle_cells.md",
                       "throttle_training.png", "throttle_law.png", "throttle_landscape.png"}
    rows = (tmp_path / "out" / "throttle_runs.csv").read_text().splitlines()
    assert len(rows) == 3, "the run whose multiplier hears another signal is none of this study"


def test_without_runs_it_says_what_makes_them(tmp_path: Path) -> None:
    train_here(*TINY, "guidance=pid", "env=throttle", "initial_steps=20", "total_steps=20", "eval.episodes=1",
               f"runs_dir={tmp_path}")
    with pytest.raises(UsageError, match="experiment=throttle_guidance makes them"):
        run(tmp_path / "out", [str(tmp_path)])
