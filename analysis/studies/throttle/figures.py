"""Figures of docs/throttle.md."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import algd
from algd.algorithm.curvature import both_energies
from algd.envs.throttle import GAIN, optimum
from algd.errors import UsageError
from analysis.studies.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, WIDTH, YELLOW
from analysis.studies.throttle.measured import MeasuredRun
from analysis.studies.throttle.theory import minimiser, swing

COLOURS = {0.0: RED, 1.0: ORANGE, 4.0: SKY, 4.75: YELLOW, 5.0: BLUE, 6.0: PINK, 20.0: GREEN}
MARKERS = {"vesde": "o", "ddpm": "s", "gaussian": "^"}
AT_PLAIN = 3.0  # position of plain guidance on an axis of 1/ρ


def _name(rho: float) -> str:
    return "plain" if rho == 0 else f"ρ = {rho:g}"


def training_figure(runs: Sequence[MeasuredRun]) -> Figure | None:
    """Draw cost, λ and return over steps: a column for plain guidance and for each ρ, a line for each run.

    Dash-dotted: prediction with the policy's noise and lag. Dashed, with signal=replay only: prediction without them
    (with signal=policy and no lag, plain guidance would oscillate at every update). Dotted: the limit, λ* and the best
    feasible return.
    """
    agent = "vesde" if any(run.agent == "vesde" for run in runs) else runs[0].agent
    shown = [run for run in runs if run.agent == agent]
    rhos = sorted({run.rho for run in shown})
    figure, axes = plt.subplots(3, len(rhos), figsize=(2 * WIDTH, 3.6), sharex=True, sharey="row", squeeze=False,
                                layout="constrained")
    for column, rho in zip(axes.T, rhos, strict=True):
        here = [run for run in shown if run.rho == rho]
        lines = {"-.": True} | ({"--": False} if here[0].rule == "replay" else {})
        for style, as_measured in lines.items():
            for axis, values in zip(column, here[0].predicted(as_measured), strict=False):
                axis.plot(np.arange(1, len(values) + 1), values, color=BLACK, linestyle=style, linewidth=0.7)
        for run in here:
            look = {"color": COLOURS.get(rho, GREY), "alpha": 0.75, "linewidth": 0.9}
            column[0].plot(run.record.steps, run.record.costs, **look)
            column[1].plot(run.lam_steps, run.lams, **look)
            column[2].plot(run.record.steps, run.record.returns, **look)
        first = here[0].record
        best = optimum(first.limit, int(first.config["env.horizon"]))
        for axis, level in zip(column, (first.limit, GAIN, best), strict=True):
            axis.axhline(level, color=GREY, linestyle=":")
        column[1].set_yscale("log")
        column[0].set_title(_name(rho))
        column[2].set_xlabel("environment steps")
    for axis, label in zip(axes[:, 0], ("cost", "λ", "return"), strict=True):
        axis.set_ylabel(label)
    return figure


def law_figure(moving: Sequence[MeasuredRun], fixed: Sequence[MeasuredRun]) -> Figure | None:
    """Draw the measured laws beside their predictions.

    Left, if there are runs with fixed λ: settled cost over λ, with v(λ). Middle: mean speed of policies in training
    against the prediction from their λ and noise. Right: swing of the cost over 1/ρ.
    """
    figure, axes = plt.subplots(1, 3 if fixed else 2, figsize=(2 * WIDTH, 2.4), layout="constrained")
    if fixed:
        _settled(axes[0], fixed)
    _at_snapshots(axes[-2], moving)
    _swings(axes[-1], moving)
    return figure


def _settled(axis: Axes, fixed: Sequence[MeasuredRun]) -> None:
    lams, limit = np.linspace(0.2, 0.8, 301), fixed[0].record.limit
    for rho in sorted({run.rho for run in fixed}):
        here = [run for run in fixed if run.rho == rho]
        colour = COLOURS.get(rho, GREY)
        axis.plot(lams, minimiser(lams, limit, rho), color=colour, label=_name(rho), linewidth=0.9)
        for run in here:
            axis.plot(run.lams[0], run.settled, MARKERS.get(run.agent, "^"), color=colour, alpha=0.8, clip_on=False)
    axis.axhline(limit, color=GREY, linestyle=":", linewidth=0.8)
    axis.set(xlabel="λ, held", ylabel="cost where it settles", ylim=(-0.03, 1.03))
    axis.legend(frameon=False)


def _at_snapshots(axis: Axes, moving: Sequence[MeasuredRun]) -> None:
    axis.plot([0, 1], [0, 1], color=BLACK, linestyle="--", linewidth=0.8)
    for run in moving:
        axis.plot([each.predicted for each in run.snapshots], [each.speed for each in run.snapshots],
                  MARKERS.get(run.agent, "^"), color=COLOURS.get(run.rho, GREY), alpha=0.5, markersize=2.5)
    for rho in sorted({run.rho for run in moving}):
        axis.plot([], [], "o", color=COLOURS.get(rho, GREY), label=_name(rho))
    axis.set(xlabel="predicted from λ and the noise", ylabel="mean speed, in training", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))
    axis.legend(frameon=False, loc="lower right")


def _swings(axis: Axes, moving: Sequence[MeasuredRun]) -> None:
    """Draw the swing over 1/ρ; filled: signal=replay, with its prediction; open: other signals."""
    def place(rho: float) -> float:
        return 1 / rho if rho else AT_PLAIN

    rhos = sorted({run.rho for run in moving}, key=place)
    for run in moving:
        colour, of_replay = COLOURS.get(run.rho, GREY), run.rule == "replay"
        axis.plot(place(run.rho) * (1 if of_replay else 1.12), swing(run.record.costs), MARKERS.get(run.agent, "^"),
                  color=colour, markerfacecolor=colour if of_replay else "none", alpha=0.7)
        if of_replay and run.snapshots:
            axis.plot(place(run.rho), swing(run.predicted(as_measured=True)[0]), "_", color=BLACK, markersize=9)
    firsts = [next((run for run in moving if run.rho == rho and run.rule == "replay"), None) for rho in rhos]
    line = [(place(run.rho), swing(run.predicted()[0])) for run in firsts if run]
    axis.plot(*zip(*line, strict=True) if line else ([], []), color=BLACK, linestyle="--", linewidth=0.8,
              label="predicted, no noise")
    axis.plot([], [], "_", color=BLACK, markersize=9, label="with the run's noise")
    axis.set_xscale("log")
    axis.set_xticks([place(rho) for rho in rhos], ["plain" if rho == 0 else f"1/{rho:g}" for rho in rhos], rotation=90)
    axis.minorticks_off()
    axis.set(xlabel="1/ρ", ylabel="swing of the cost, second half", ylim=(-0.03, 1.05))
    axis.legend(frameon=False, loc="upper left")


def landscape_figure(runs: Sequence[MeasuredRun], seed: int | None, states: int) -> Figure | None:
    """Draw L and L_A over the speed for λ around λ*: exact (top) and from the critics of trained agents (bottom)."""
    augmented = [run for run in runs if run.rho > 0]
    if not augmented:
        return None
    rho = max({run.rho for run in augmented}, key=lambda r: (r == 5.0, r))
    chosen = min((run for run in augmented if run.rho == rho and seed in (None, run.record.seed)),
                 key=lambda run: (run.agent != "vesde", run.rule != "replay", run.record.seed), default=None)
    if chosen is None:
        raise UsageError(f"study.seed_shown={seed}: there is no augmented run of this seed")
    loaded, limit, speeds = algd.load(chosen.record.folder), chosen.record.limit, np.linspace(0, 1, 201)
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
