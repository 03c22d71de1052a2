"""Plain against augmented guidance on throttle: what the algebra predicts, and what runs did (docs/throttle.md).

With Q = GAIN·v − … and Qc = v for a speed v in [0, 1], the minimisers over v are

    L    1 for λ < λ*, 0 for λ > λ*, anything at λ = λ* = GAIN
    L_A  h + (λ* − λ)/ρ, cut to [0, 1]

A policy that always is at the minimiser, and a rule for λ that hears the mean of all speeds so far (the replay's), make
a loop that `closed_loop` computes with the rule itself. Nothing in it is fitted to a run.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import algd
from algd.algorithm.curvature import both_energies
from algd.algorithm.dual import LogAscent, Signals
from algd.envs.throttle import GAIN, optimum
from algd.errors import UsageError
from analysis.runs.find import find_runs
from analysis.runs.model import Run
from analysis.runs.read import read_run
from analysis.statistics.comparisons import sign_flip
from analysis.studies.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, WIDTH, write
from analysis.studies.tables import Row, write_tables

Floats = NDArray[np.float64]
COLOURS = {0.0: RED, 1.0: ORANGE, 5.0: BLUE, 20.0: GREEN}
MARKERS = {"vesde": "o", "ddpm": "s", "gaussian": "^"}


def minimiser(lam: Floats | float, limit: float, rho: float) -> Floats:
    """The speed of least L (rho = 0) or L_A at λ."""
    lam = np.asarray(lam, dtype=float)
    if rho == 0:
        return np.where(lam < GAIN, 1.0, 0.0)
    return np.clip(limit + (GAIN - lam) / rho, 0, 1)


@cache
def closed_loop(limit: float, rho: float, updates: int, initial_steps: int, initial_multiplier: float,
                learning_rate: float, start: float = 0.5) -> tuple[Floats, Floats]:
    """Speeds and λ, each (updates,), of a policy that always is at the minimiser.

    Args:
        limit: h.
        rho: ρ; 0: the plain Lagrangian.
        updates: one after every step, from a replay that keeps everything.
        initial_steps: steps before them, at the mean speed `start` of an untrained policy.
        initial_multiplier, learning_rate: of the ascent on the replay's mean.
    """
    rule = LogAscent(initial_multiplier, learning_rate, threshold=limit)
    total, speeds, lams = initial_steps * start, np.empty(updates), np.empty(updates)
    nothing = torch.zeros(1, 1)
    for update in range(updates):
        lams[update] = rule.multiplier().item()
        speeds[update] = minimiser(lams[update], limit, rho)
        total += speeds[update]
        mean = torch.tensor([total / (initial_steps + update + 1)], dtype=torch.float64)
        rule.observe_batch(Signals(nothing, mean, mean))
    return speeds, lams


def swing(values: Floats) -> float:
    """Greatest minus least value over the second half."""
    half = values[len(values) // 2:]
    return float(half.max() - half.min())


def run(folder: Path, runs: list[str], steps: PositiveInt | None = None, seed_shown: NonNegativeInt | None = None,
        states: PositiveInt = 1, swing_floor: PositiveFloat = 0.5) -> None:
    """Tables and figures of the runs of experiment=throttle_guidance, as far as they have come.

    Args:
        folder: where to.
        runs: run folders, or folders with runs in them.
        steps: what happened later is left out; None: nothing is.
        seed_shown: seed of the landscape's runs; None: the least that there is.
        states: contexts that the trained landscapes are averaged over.
        swing_floor: from which swing of the cost on a run counts as swinging.

    Raises:
        UsageError: there is no run of throttle with λ from the ascent on the replay.
    """
    found = [_until(read_run(one), steps) for one in find_runs(runs).folders]
    kept = [one for one in found if one.env == "throttle" and len(one.evaluations) > 1
            and one.config.get("guidance.dual.name") == "ascent"
            and one.config.get("guidance.dual.signal", "replay") == "replay"]
    if not kept:
        raise UsageError(f"study.runs={','.join(runs)}: there is no run of env=throttle with "
                         "guidance.dual.signal=replay; python run.py experiment=throttle_guidance makes them")
    rows = [_row(one, swing_floor) for one in kept]
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, {"throttle_runs": rows, "throttle_cells": _cells(rows)})
    write(folder, {"throttle_training": lambda: training_figure(kept), "throttle_law": lambda: law_figure(kept),
                   "throttle_landscape": lambda: landscape_figure(kept, seed_shown, states)})


def _until(one: Run, steps: int | None) -> Run:
    """The run as if it had ended after so many steps."""
    if steps is None or steps >= int(one.config["total_steps"]):
        return one
    return replace(one, config=one.config | {"total_steps": steps},
                   evaluations=[each for each in one.evaluations if each.step <= steps])


def rho_of(one: Run) -> float:
    """ρ; 0 of the plain Lagrangian."""
    return float(one.config.get("guidance.rho", 0.0))


def multipliers(one: Run) -> tuple[Floats, Floats]:
    """Steps and λ of a run's metrics."""
    with (one.folder / "metrics.csv").open(newline="") as file:
        values = np.array([(float(row["step"]), float(row["lam"])) for row in csv.DictReader(file)])
    values = values[values[:, 0] <= int(one.config["total_steps"])]
    return values[:, 0], values[:, 1]


def predicted(one: Run) -> tuple[Floats, Floats]:
    """`closed_loop` with a run's settings."""
    config = one.config
    return closed_loop(one.limit, rho_of(one), int(config["total_steps"]) * int(config["updates_per_step"]),
                       int(config["initial_steps"]), float(config["guidance.dual.initial_multiplier"]),
                       float(config["guidance.dual.learning_rate"]))


def _row(one: Run, floor: float) -> Row:
    last, best = one.evaluations[-1], optimum(one.limit, int(one.config["env.horizon"]))
    late = one.costs[len(one.costs) // 2:]
    return {"agent": one.config["agent.name"], "rho": rho_of(one), "seed": one.seed, "step": last.step,
            "return": last.mean_return, "share": last.mean_return / best, "cost": last.mean_cost,
            "feasible": last.mean_cost <= one.limit, "mean_late_cost": float(late.mean()), "swing": swing(one.costs),
            "predicted_swing": swing(predicted(one)[0]), "swings": swing(one.costs) >= floor,
            "largest_lambda": float(multipliers(one)[1].max())}


def _cells(rows: list[Row]) -> list[Row]:
    """Means over seeds of each agent and ρ, and whether the swings differ from plain's by more than chance."""
    cells = []
    plain = {(row["agent"], row["seed"]): row["swing"] for row in rows if row["rho"] == 0}
    for agent, rho in sorted({(row["agent"], row["rho"]) for row in rows}):
        here = [row for row in rows if (row["agent"], row["rho"]) == (agent, rho)]
        means = {key: float(np.mean([row[key] for row in here])) for key in
                 ("share", "cost", "mean_late_cost", "swing", "predicted_swing")}
        counts = {key: f"{sum(row[key] for row in here)}/{len(here)}" for key in ("feasible", "swings")}
        pairs = [plain[agent, row["seed"]] - row["swing"] for row in here if rho and (agent, row["seed"]) in plain]
        p = sign_flip([np.array(pairs)])
        cells.append({"agent": agent, "rho": rho} | means | counts | {"p_against_plain": "" if p is None else p})
    return cells


def training_figure(runs: list[Run]) -> Figure | None:
    """Cost, λ and return over steps: plain, and augmented with each ρ; one line a run, dashed what is predicted."""
    agent = "vesde" if any(one.config["agent.name"] == "vesde" for one in runs) else runs[0].config["agent.name"]
    shown = [one for one in runs if one.config["agent.name"] == agent]
    rhos = sorted({rho_of(one) for one in shown})
    figure, axes = plt.subplots(3, len(rhos), figsize=(2 * WIDTH, 3.6), sharex=True, sharey="row", squeeze=False,
                                layout="constrained")
    for column, rho in zip(axes.T, rhos, strict=True):
        here = [one for one in shown if rho_of(one) == rho]
        speeds, lams = predicted(here[0])
        for axis, values in zip(column, (speeds, lams), strict=False):
            axis.plot(np.arange(1, len(values) + 1), values, color=BLACK, linestyle="--", linewidth=0.8)
        for one in here:
            look = {"color": COLOURS.get(rho, GREY), "alpha": 0.75, "linewidth": 0.9}
            column[0].plot(one.steps, one.costs, **look)
            column[1].plot(*multipliers(one), **look)
            column[2].plot(one.steps, one.returns, **look)
        column[0].axhline(here[0].limit, color=GREY, linestyle=":")
        column[1].axhline(GAIN, color=GREY, linestyle=":")
        column[1].set_yscale("log")
        column[2].axhline(optimum(here[0].limit, 1), color=GREY, linestyle=":")
        column[0].set_title("plain" if rho == 0 else f"augmented, ρ = {rho:g}")
        column[2].set_xlabel("environment steps")
    for axis, label in zip(axes[:, 0], ("cost", "λ", "return"), strict=True):
        axis.set_ylabel(label)
    return figure


def law_figure(runs: list[Run]) -> Figure | None:
    """Left: cost against λ at every evaluation, on the minimiser's line. Right: the swing against 1/ρ."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * WIDTH, 2.3), layout="constrained")
    lams = np.geomspace(1e-2, 1e2, 400)
    for rho in sorted({rho_of(one) for one in runs}):
        here = [one for one in runs if rho_of(one) == rho]
        colour, label = COLOURS.get(rho, GREY), "plain" if rho == 0 else f"ρ = {rho:g}"
        left.plot(lams, minimiser(lams, here[0].limit, rho), color=colour, label=label)
        for one in here:
            steps, values = multipliers(one)
            late = one.steps >= one.steps[-1] / 4
            at = np.interp(one.steps[late], steps, values)
            marker = MARKERS.get(one.config["agent.name"], "^")
            left.plot(np.clip(at, 1e-2, 1e2), one.costs[late], marker, color=colour, alpha=0.35, markersize=2)
            right.plot(0.0 if rho == 0 else rho, swing(one.costs), marker, color=colour, alpha=0.7, markersize=3.5)
    left.axhline(runs[0].limit, color=GREY, linestyle=":")
    left.set(xscale="log", xlabel="λ", ylabel="cost of the deterministic policy")
    left.legend(frameon=False)
    config = runs[0].config
    rhos = [0.0, *(0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0)]
    curve = [swing(closed_loop(runs[0].limit, rho, int(config["total_steps"]) * int(config["updates_per_step"]),
                               int(config["initial_steps"]), float(config["guidance.dual.initial_multiplier"]),
                               float(config["guidance.dual.learning_rate"]))[0]) for rho in rhos]
    right.plot(rhos, curve, color=BLACK, linestyle="--", linewidth=0.8, label="predicted")
    right.set_xscale("symlog", linthresh=0.3)
    right.set_xticks([0, 1, 5, 20], ["plain", "1", "5", "20"])
    right.minorticks_off()
    right.set(xlabel="ρ", ylabel="swing of the cost, second half", ylim=(-0.03, 1.05))
    right.legend(frameon=False)
    return figure


def landscape_figure(runs: list[Run], seed: int | None, states: int) -> Figure | None:
    """L and L_A over the speed as λ passes λ*: above as they are, below on the critics of trained agents."""
    augmented = [one for one in runs if rho_of(one) > 0]
    if not augmented:
        return None
    rho = max({rho_of(one) for one in augmented}, key=lambda r: (r == 5.0, r))
    chosen = min((one for one in augmented if rho_of(one) == rho and seed in (None, one.seed)),
                 key=lambda one: (one.config["agent.name"] != "vesde", one.seed), default=None)
    if chosen is None:
        raise UsageError(f"study.seed_shown={seed}: there is no augmented run of this seed")
    loaded, limit, speeds = algd.load(chosen.folder), chosen.limit, np.linspace(0, 1, 201)
    contexts = np.random.default_rng(0).uniform(-1, 1, (states, 2)) if states > 1 else np.zeros((1, 2))
    actions = np.stack([np.broadcast_to(2 * speeds - 1, (states, 201)),
                        np.broadcast_to(contexts[:, :1], (states, 201))], -1)
    observation, action = loaded.observations(contexts), torch.as_tensor(actions, dtype=torch.float32)
    figure, axes = plt.subplots(2, 2, figsize=(2 * WIDTH, 3.4), sharex=True, layout="constrained")
    colours = plt.get_cmap("viridis")
    for place, lam in enumerate(lams := (0.2, 0.4, 0.6, 0.8, 1.0)):
        weight = np.maximum(lam + rho * (speeds - limit), 0)
        exact = {"plain": lam * (speeds - limit) - GAIN * speeds,
                 "augmented": (weight**2 - lam**2) / (2 * rho) - GAIN * speeds}
        with torch.no_grad():
            trained = {name: energy(observation, action).double().mean(0).numpy()
                       for name, energy in both_energies(loaded.agent, lam, rho).items()}
        for row, energies in zip(axes, (exact, trained), strict=True):
            for axis, name in zip(row, ("plain", "augmented"), strict=True):
                values = energies[name] - energies[name].min()
                axis.plot(speeds, values, color=colours(place / len(lams)), label=f"λ = {lam:g}")
                axis.plot(speeds[values.argmin()], 0, "o", color=colours(place / len(lams)), clip_on=False)
    for axis, title in zip(axes[0], ("L", f"L_A, ρ = {rho:g}"), strict=True):
        axis.set_title(title)
    for row, label in zip(axes, ("exact", "trained critics"), strict=True):
        row[0].set_ylabel(f"energy above its minimum\n({label})")
        for axis in row:
            axis.axvline(limit, color=GREY, linestyle=":")
    for axis in axes[1]:
        axis.set_xlabel("speed")
    axes[0, 1].legend(frameon=False, loc="upper left")
    return figure
