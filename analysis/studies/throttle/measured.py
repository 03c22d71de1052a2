"""What is read of a run on throttle: how λ moved, and what its policies did at it."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

import algd
from algd.algorithm.dual import Signal
from algd.envs.throttle import GAIN
from analysis.runs.model import Run
from analysis.studies.throttle.theory import LAG, Floats, closed_loop, noisy_minimiser

ACTIONS = 2000  # of which a policy's noise is measured
WINDOW = 25  # training episodes in a mean speed
EDGE = 1 - 1e-6  # from where on an action has no latent in single precision


@dataclass(frozen=True)
class Snapshot:
    """A policy in training, and the λ that it had.

    Attributes:
        lam: λ.
        spread: standard deviation of its first latent action, atanh a_0.
        speed: its mean speed, with noise.
        predicted: the mean speed of the policy of this spread that has the least energy at this λ.
    """

    lam: float
    spread: float
    speed: float
    predicted: float


@dataclass(frozen=True)
class MeasuredRun:
    """A run on throttle.

    Attributes:
        record: what was read of it.
        rho: ρ; 0 of the plain Lagrangian.
        rule: what moves λ: the signal of the ascent, also with "hold" and the updates of it, "pid" or "fixed".
        lam_steps, lams: λ over steps.
        snapshots: of the second half.
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
        """Whether `closed_loop` has this rule."""
        return self.rule in get_args(Signal)

    @property
    def settled(self) -> float:
        """The mean cost of the second half's evaluations, of the policy without noise."""
        return float(self.record.costs[len(self.record.costs) // 2:].mean())

    @property
    def spread(self) -> float:
        """Of the latent action, the mean over the snapshots; 0 without any."""
        return float(np.mean([each.spread for each in self.snapshots])) if self.snapshots else 0.0

    def predicted(self, as_measured: bool = False) -> tuple[Floats, Floats]:
        """`closed_loop` with the run's settings, of a policy without noise and lag; or with the run's noise, to a
        tenth, and with `LAG` unless signal=replay, beside whose memory it is short."""
        config = self.record.config
        return closed_loop(self.record.limit, self.rho, int(config["total_steps"]) * int(config["updates_per_step"]),
                           int(config["initial_steps"]), float(config["guidance.dual.initial_multiplier"]),
                           float(config["guidance.dual.learning_rate"]), self.rule,  # type: ignore[arg-type]
                           round(self.spread, 1) if as_measured else 0.0,
                           LAG if as_measured and self.rule != "replay" else 0)

    def lags(self) -> list[float]:
        """Steps from λ crossing λ* until the speed of training, a mean over `WINDOW` episodes, is across 1/2: of each
        crossing in the second half that the speed follows before the next. Only where episodes are one step long."""
        steps, costs = _episodes(self.record)
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
    """What the study wants to know of a run; None of one that is none of its own."""
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
    lam_steps, lams = _multipliers(record)
    return MeasuredRun(record, rho, rule, lam_steps, lams, tuple(_snapshots(record, rho)))


def _multipliers(record: Run) -> tuple[Floats, Floats]:
    """Steps and λ of a run's metrics."""
    with (record.folder / "metrics.csv").open(newline="") as file:
        values = np.array([(float(row["step"]), float(row["lam"])) for row in csv.DictReader(file)])
    values = values[values[:, 0] <= int(record.config["total_steps"])]
    return values[:, 0], values[:, 1]


def _episodes(record: Run) -> tuple[Floats, Floats]:
    """Steps and costs of a run's training episodes after the initial steps."""
    with (record.folder / "episodes.csv").open(newline="") as file:
        values = np.array([(float(row["step"]), float(row["cost"])) for row in csv.DictReader(file)])
    values = values[(values[:, 0] > 0) & (values[:, 0] <= int(record.config["total_steps"]))]
    return values[:, 0], values[:, 1]


def _snapshots(record: Run, rho: float) -> list[Snapshot]:
    """Of the second half of the run."""
    last = record.evaluations[-1].step
    found = []
    for path in sorted((record.folder / "snapshots").glob("step=*.safetensors")):
        if last / 2 < int(path.stem.removeprefix("step=")) <= last:
            found.append(_snapshot(path, record.limit, rho))
    return found


def _snapshot(path: Path, limit: float, rho: float) -> Snapshot:
    loaded = algd.load(path)
    contexts = np.random.default_rng(0).uniform(-1, 1, (ACTIONS, 2))
    speeds = (np.asarray(loaded.act(contexts, noise=0), dtype=float)[:, 0] + 1) / 2
    spread = float(np.arctanh(np.clip(2 * speeds - 1, -EDGE, EDGE)).std())
    return Snapshot(loaded.multiplier, spread, float(speeds.mean()),
                    noisy_minimiser(loaded.multiplier, limit, rho, spread)[1])
