"""Measurements of a run on throttle: λ over training, and the speed of its policies."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

import algd
from algd.algorithm.dual import Signal
from algd.envs.throttle import GAIN
from algd.storage.snapshots import snapshots_of
from analysis.runs.model import Run
from analysis.studies.throttle.theory import LAG, Floats, closed_loop, noisy_minimiser

ACTIONS = 2000  # sampled actions for a policy's noise and speed
WINDOW = 25  # training episodes in a moving average of the speed
EDGE = 1 - 1e-6  # actions nearer to 1 have no finite latent in single precision


@dataclass(frozen=True)
class Snapshot:
    """A policy during training, with its λ.

    Attributes:
        lam: λ.
        spread: standard deviation of the first latent action, atanh a_0.
        speed: mean speed of the stochastic policy.
        predicted: mean speed of the policy with this spread that minimises the mean energy at this λ.
    """

    lam: float
    spread: float
    speed: float
    predicted: float


@dataclass(frozen=True)
class MeasuredRun:
    """A run on throttle.

    Attributes:
        record: the run as read from its folder.
        rho: ρ; 0 for the plain Lagrangian.
        rule: rule for λ: the signal of dual ascent, with "hold N" if λ is held for N updates; "pid"; or "fixed".
        lam_steps, lams: steps, and λ at them, each (n,).
        snapshots: snapshots of the second half of training.
    """

    record: Run
    rho: float
    rule: str
    lam_steps: Floats
    lams: Floats
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def agent(self) -> str:
        return str(self.record.config["agent.name"])

    @property
    def is_predicted(self) -> bool:
        """Whether `closed_loop` can predict this rule."""
        return self.rule in get_args(Signal)

    @property
    def settled(self) -> float:
        """Mean cost of the deterministic policy over the evaluations of the second half."""
        return float(self.record.costs[len(self.record.costs) // 2:].mean())

    @property
    def spread(self) -> float:
        """Mean spread of the latent action over the snapshots; 0 without snapshots."""
        return float(np.mean([each.spread for each in self.snapshots])) if self.snapshots else 0.0

    def predicted(self, as_measured: bool = False) -> tuple[Floats, Floats]:
        """Return `closed_loop` with the run's settings, for a policy without noise and lag.

        With `as_measured` the policy has the run's noise, rounded to a tenth, and `LAG`. There is no lag for
        signal=replay, since it is short compared with the memory of the replay buffer.
        """
        config = self.record.config
        return closed_loop(self.record.limit, self.rho, int(config["total_steps"]) * int(config["updates_per_step"]),
                           int(config["initial_steps"]), float(config["guidance.dual.initial_multiplier"]),
                           float(config["guidance.dual.learning_rate"]), self.rule,  # type: ignore[arg-type]
                           round(self.spread, 1) if as_measured else 0.0,
                           LAG if as_measured and self.rule != "replay" else 0)

    def lags(self) -> list[float]:
        """Return the steps from each crossing of λ* by λ until the mean speed over `WINDOW` episodes crosses 1/2.

        Crossings are those of the second half which the speed follows before the next one. Requires episodes of one
        step.
        """
        steps, costs = _column(self.record, "episodes.csv", "cost")
        mean = np.convolve(costs, np.ones(WINDOW) / WINDOW, "same")
        above = np.log(self.lams / GAIN)
        found = []
        turns = np.flatnonzero((above[1:] * above[:-1] < 0) & (self.lam_steps[:-1] >= self.lam_steps[-1] / 2))
        rise = above[turns] / (above[turns] - above[turns + 1])
        times = self.lam_steps[turns] + rise * (self.lam_steps[turns + 1] - self.lam_steps[turns])
        for place, (start, end) in enumerate(zip(times, [*times[1:], np.inf][:len(times)], strict=True)):
            down = above[turns[place] + 1] > 0
            across = steps[(steps > start) & (steps < end) & ((mean < 0.5) if down else (mean > 0.5))]
            if len(across):
                found.append(float(across[0]) - start)
        return found


def measure(record: Run) -> MeasuredRun | None:
    """Measure a run; None if it is not a run of this study."""
    config = record.config
    rule = config.get("guidance.dual.name")
    if record.env != "throttle" or len(record.evaluations) < 2 or rule not in ("ascent", "pid", "fixed"):
        return None
    if config["guidance.name"] not in ("plain", "augmented") or config.get("guidance.level") == "batch":
        return None
    rho = float(config.get("guidance.rho", 0.0))
    if rule == "ascent":
        hold = int(config.get("guidance.dual.hold", 0))
        rule = str(config.get("guidance.dual.signal", "replay")) + (f", hold {hold}" if hold else "")
    lam_steps, lams = _column(record, "metrics.csv", "lam")
    return MeasuredRun(record, rho, rule, lam_steps, lams, tuple(_snapshots(record, rho)))


def _column(record: Run, file: str, name: str) -> tuple[Floats, Floats]:
    """Return steps and values of a column of a run's table after the initial steps, each (n,)."""
    with (record.folder / file).open(newline="") as rows:
        values = np.array([(float(row["step"]), float(row[name])) for row in csv.DictReader(rows)])
    values = values[(values[:, 0] > 0) & (values[:, 0] <= int(record.config["total_steps"]))]
    return values[:, 0], values[:, 1]


def _snapshots(record: Run, rho: float) -> list[Snapshot]:
    """Measure the snapshots of the second half of the run."""
    last = record.evaluations[-1].step
    return [_snapshot(path, record.limit, rho) for step, path in snapshots_of(record.folder / "snapshots").items()
            if last / 2 < step <= last]


def _snapshot(path: Path, limit: float, rho: float) -> Snapshot:
    loaded = algd.load(path)
    contexts = np.random.default_rng(0).uniform(-1, 1, (ACTIONS, 2))
    speeds = (np.asarray(loaded.act(contexts, noise=0), dtype=float)[:, 0] + 1) / 2
    spread = float(np.arctanh(np.clip(2 * speeds - 1, -EDGE, EDGE)).std())
    return Snapshot(loaded.multiplier, spread, float(speeds.mean()),
                    noisy_minimiser(loaded.multiplier, limit, rho, spread)[1])
