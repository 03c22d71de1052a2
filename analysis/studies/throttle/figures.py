"""The figures of docs/throttle.md."""

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
from analysis.studies.throttle.measured import Examined
from analysis.studies.throttle.theory import minimiser, swing

COLOURS = {0.0: RED, 1.0: ORANGE, 4.0: SKY, 5.0: BLUE, 6.0: PINK, 8.0: YELLOW, 20.0: GREEN}
MARKERS = {"vesde": "o", "ddpm": "s", "gaussian": "^"}
AT_PLAIN = 3.0  # where plain stands on an axis of 1/ρ


def _name(rho: float) -> str:
    return "plain" if rho == 0 else f"ρ = {rho:g}"


def training_figure(runs: Sequence[Examined]) -> Figure | None:
    """Cost, λ and return over steps, a column for plain and for each ρ; one line a run. Predicted: dashed
    without the policy's noise and lag, dash-dotted with them. Dotted: the limit, λ* and the best feasible return."""
    agent = "vesde" if any(one.agent == "vesde" for one in runs) else runs[0].agent
    shown = [one for one in runs if one.agent == agent]
    rhos = sorted({one.rho for one in shown})
    figure, axes = plt.subplots(3, len(rhos), figsize=(2 * WIDTH, 3.6), sharex=True, sharey="row", squeeze=False,
                                layout="constrained")
    for column, rho in zip(axes.T, rhos, strict=True):
        here = [one for one in shown if one.rho == rho]
        for style, as_measured in (("--", False), ("-.", True)):
            for axis, values in zip(column, here[0].predicted(as_measured), strict=False):
                axis.plot(np.arange(1, len(values) + 1), values, color=BLACK, linestyle=style, linewidth=0.7)
        for one in here:
            look = {"color": COLOURS.get(rho, GREY), "alpha": 0.75, "linewidth": 0.9}
            column[0].plot(one.run.steps, one.run.costs, **look)
            column[1].plot(one.lam_steps, one.lams, **look)
            column[2].plot(one.run.steps, one.run.returns, **look)
        column[0].axhline(here[0].run.limit, color=GREY, linestyle=":")
        column[1].axhline(GAIN, color=GREY, linestyle=":")
        column[1].set_yscale("log")
        column[2].axhline(optimum(here[0].run.limit, int(here[0].run.config["env.horizon"])), color=GREY, linestyle=":")
        column[0].set_title(_name(rho))
        column[2].set_xlabel("environment steps")
    for axis, label in zip(axes[:, 0], ("cost", "λ", "return"), strict=True):
        axis.set_ylabel(label)
    return figure


def law_figure(moving: Sequence[Examined], fixed: Sequence[Examined]) -> Figure | None:
    """Left, if λ was held in runs: where they settled, on v(λ). Middle: the mean speed of policies in training, against
    what is predicted from their λ and their noise. Right: the swing against 1/ρ, with what is predicted."""
    figure, axes = plt.subplots(1, 3 if fixed else 2, figsize=(2 * WIDTH, 2.4), layout="constrained")
    if fixed:
        _settled(axes[0], fixed)
    _at_snapshots(axes[-2], moving)
    _swings(axes[-1], moving)
    return figure


def _settled(axis: Axes, fixed: Sequence[Examined]) -> None:
    lams, limit = np.linspace(0.2, 0.8, 301), fixed[0].run.limit
    for rho in sorted({one.rho for one in fixed}):
        here = [one for one in fixed if one.rho == rho]
        colour = COLOURS.get(rho, GREY)
        axis.plot(lams, minimiser(lams, limit, rho), color=colour, label=_name(rho), linewidth=0.9)
        for one in here:
            axis.plot(one.lams[0], one.settled, MARKERS.get(one.agent, "^"), color=colour, alpha=0.8, clip_on=False)
    axis.axhline(limit, color=GREY, linestyle=":", linewidth=0.8)
    axis.set(xlabel="λ, held", ylabel="cost where it settles", ylim=(-0.03, 1.03))
    axis.legend(frameon=False)


def _at_snapshots(axis: Axes, moving: Sequence[Examined]) -> None:
    axis.plot([0, 1], [0, 1], color=BLACK, linestyle="--", linewidth=0.8)
    for one in moving:
        axis.plot([each.predicted for each in one.snapshots], [each.speed for each in one.snapshots],
                  MARKERS.get(one.agent, "^"), color=COLOURS.get(one.rho, GREY), alpha=0.5, markersize=2.5)
    for rho in sorted({one.rho for one in moving}):
        axis.plot([], [], "o", color=COLOURS.get(rho, GREY), label=_name(rho))
    axis.set(xlabel="predicted from λ and the noise", ylabel="mean speed, in training", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))
    axis.legend(frameon=False, loc="lower right")


def _swings(axis: Axes, moving: Sequence[Examined]) -> None:
    """Filled: λ hears the replay, with what is predicted for that; open: another signal."""
    def place(rho: float) -> float:
        return 1 / rho if rho else AT_PLAIN

    rhos = sorted({one.rho for one in moving}, key=place)
    for one in moving:
        colour, heard = COLOURS.get(one.rho, GREY), one.rule == "replay"
        axis.plot(place(one.rho) * (1 if heard else 1.12), swing(one.run.costs), MARKERS.get(one.agent, "^"),
                  color=colour, markerfacecolor=colour if heard else "none", alpha=0.7)
        if heard and one.snapshots:
            axis.plot(place(one.rho), swing(one.predicted(as_measured=True)[0]), "_", color=BLACK, markersize=9)
    firsts = [next((one for one in moving if one.rho == rho and one.rule == "replay"), None) for rho in rhos]
    line = [(place(one.rho), swing(one.predicted()[0])) for one in firsts if one]
    axis.plot(*zip(*line, strict=True) if line else ([], []), color=BLACK, linestyle="--", linewidth=0.8,
              label="predicted, no noise")
    axis.plot([], [], "_", color=BLACK, markersize=9, label="with the run's noise")
    axis.set_xscale("log")
    axis.set_xticks([place(rho) for rho in rhos], ["plain" if rho == 0 else f"1/{rho:g}" for rho in rhos])
    axis.minorticks_off()
    axis.set(xlabel="1/ρ", ylabel="swing of the cost, second half", ylim=(-0.03, 1.05))
    axis.legend(frameon=False, loc="upper left")


def landscape_figure(runs: Sequence[Examined], seed: int | None, states: int) -> Figure | None:
    """L and L_A over the speed as λ passes λ*: above as they are, below on the critics of trained agents."""
    augmented = [one for one in runs if one.rho > 0]
    if not augmented:
        return None
    rho = max({one.rho for one in augmented}, key=lambda r: (r == 5.0, r))
    chosen = min((one for one in augmented if one.rho == rho and seed in (None, one.run.seed)),
                 key=lambda one: (one.agent != "vesde", one.rule != "replay", one.run.seed), default=None)
    if chosen is None:
        raise UsageError(f"study.seed_shown={seed}: there is no augmented run of this seed")
    loaded, limit, speeds = algd.load(chosen.run.folder), chosen.run.limit, np.linspace(0, 1, 201)
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
