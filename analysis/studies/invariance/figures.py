"""Figures of the study."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from analysis.studies.invariance.multipliers import solve
from analysis.studies.invariance.problems import PROBLEMS, Array
from analysis.studies.invariance.quadrature import resolution
from analysis.studies.style import BLACK, BLUE, COLOURS, GREEN, MARKERS, ORANGE, RED, STYLE, WIDTH, write
from analysis.studies.tables import Row

Tables = dict[str, list[Row]]


def write_figures(folder: Path, names: list[str], tables: Tables, beta: float) -> None:
    """Write each figure whose problems are among the names as <figure>.png into the folder."""
    write(folder, {
        "densities": lambda: densities([n for n in ("linear", "saturated", "gap", "slack") if n in names], beta),
        "plane": lambda: plane([n for n in ("valley", "gap_plane") if n in names], beta),
        "kl": lambda: divergence(tables["pointwise"]),
        "constraint": lambda: constraint(tables["pointwise"], ("saturated", "two_hills", "hazard", "gap", "slack")),
        "temperature": lambda: temperature(tables["temperature"]),
        "curvature": lambda: curvature(tables["curvature"], ("two_hills", "hazard", "disc", "valley")),
    })


def densities(names: list[str], beta: float) -> Figure | None:
    """Draw π* and the pointwise policies over the action, a panel for each problem; regions with Qc > h are shaded."""
    if not names:
        return None
    figure = Figure(figsize=(WIDTH, 1.15 * len(names) + 0.5), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(panels, names, strict=True):
        problem = PROBLEMS[name]
        lines = [(0.0, BLACK, "-", "π*"), (0.1, ORANGE, "--", "ρ = 0.1"), (1.0, BLUE, "-", "ρ = 1"),
                 (10.0, RED, "-.", "ρ = 10")]
        for rho, colour, style, label in lines:
            policy = solve(problem, beta, rho, "code", resolution(1, beta, rho))
            axis.plot(policy.rule.points[:, 0], np.exp(policy.log_density), style, color=colour, label=label,
                      linewidth=2 if rho == 0 else 1.1)
        actions = np.linspace(-1, 1, 2001)
        unsafe = problem.cost.value(actions[:, None]) > problem.threshold
        axis.fill_between(actions, 0, 1, where=unsafe, color="0.92", transform=axis.get_xaxis_transform(), linewidth=0)
        axis.set_title(name, loc="left", pad=2)
        axis.set_ylabel("density")
        axis.set_ylim(0)
        axis.set_xlim(-1, 1)
    panels[-1].set_xlabel("action a")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def plane(names: list[str], beta: float) -> Figure | None:
    """Draw π* and the pointwise policies as maps over two-dimensional actions, with the level set Qc = h."""
    if not names:
        return None
    figure = Figure(figsize=(WIDTH, 1.25 * len(names) + 0.3), layout="constrained")
    panels = figure.subplots(len(names), 3, sharex=True, sharey=True, squeeze=False)
    side = np.linspace(-1, 1, 161)
    points = np.stack(np.meshgrid(side, side, indexing="xy"), -1)
    for row, name in zip(panels, names, strict=True):
        problem = PROBLEMS[name]
        maps: list[Array] = []
        for rho in (0.0, 1.0, 10.0):
            energy = solve(problem, beta, rho, "code", resolution(2, beta, rho)).energy
            weights = np.exp(-(energy.value(points) - energy.value(points).min()) / beta)
            maps.append(weights / weights.mean() / 4)
        brightest = max(density.max() for density in maps)
        for axis, density, label in zip(row, maps, ("π*", "ρ = 1", "ρ = 10"), strict=True):
            axis.imshow(density, origin="lower", extent=(-1, 1, -1, 1), cmap="cividis", vmin=0, vmax=brightest)
            axis.contour(side, side, problem.cost.value(points), [problem.threshold], colors="white", linewidths=0.8)
            axis.set_title(label if axis is not row[0] else f"{name}: {label}", pad=2)
            axis.set_xticks([-1, 0, 1])
            axis.set_yticks([-1, 0, 1])
        row[0].set_ylabel("action $a_2$")
    for axis in panels[-1]:
        axis.set_xlabel("action $a_1$")
    return figure


def divergence(rows: list[Row]) -> Figure:
    """Draw KL(π_B‖π*) over ρ with the code's multiplier; values below 1e-9 are omitted."""
    dimensions = sorted({PROBLEMS[row["problem"]].dimension for row in rows})
    figure = Figure(figsize=(WIDTH, 2.05 * len(dimensions)), layout="constrained")
    panels = figure.subplots(len(dimensions), 1, sharex=True, squeeze=False)[:, 0]
    for axis, d in zip(panels, dimensions, strict=True):
        names = [n for n in PROBLEMS if PROBLEMS[n].dimension == d and any(row["problem"] == n for row in rows)]
        for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
            mine = [row for row in rows if row["problem"] == name and row["multiplier"] == "code" and row["kl"] > 1e-9]
            axis.plot(*_columns(mine, "rho", "kl"), color=colour, marker=marker,
                      label=name if mine else f"{name} (zero)")
        axis.set(xscale="log", yscale="log", ylabel="KL(π$_B$‖π*) [nats]", ylim=(1e-8, 5))
        axis.set_title(f"{d}-D actions", loc="left", pad=2)
        axis.legend(ncols=2, frameon=False, loc="lower right")
    panels[-1].set_xlabel("penalty ρ")
    return figure


def constraint(rows: list[Row], names: tuple[str, ...]) -> Figure:
    """Draw E[Qc] − h over ρ at the three multipliers."""
    names = tuple(name for name in names if any(row["problem"] == name for row in rows)) or (rows[0]["problem"],)
    figure = Figure(figsize=(WIDTH, 0.95 * len(names) + 0.6), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    labels = {"optimal": ("λ*", BLUE, "o-"), "code": ("code's λ", RED, "s--"),
              "saddle": ("saddle point's λ", GREEN, "^:")}
    for axis, name in zip(panels, names, strict=True):
        for kind, (label, colour, style) in labels.items():
            mine = [row for row in rows if row["problem"] == name and row["multiplier"] == kind]
            axis.plot(*_columns(mine, "rho", "cost_minus_h"), style, color=colour, label=label)
        axis.axhline(0, color="0.6", linewidth=0.6)
        axis.set_xscale("log")
        axis.set_title(name, loc="left", pad=2)
    figure.supylabel("E[Qc] − h [cost]", fontsize=STYLE["axes.labelsize"])
    panels[-1].set_xlabel("penalty ρ")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def temperature(rows: list[Row]) -> Figure | None:
    """Draw KL and W₁ as β → 0 at ρ = 1, with the theoretical limits of KL where they exist."""
    wanted = [n for n in ("linear", "quadratic", "two_hills", "hazard", "gap", "disc", "gap_plane")
              if any(row["problem"] == n and row["rho"] == 1 for row in rows)]
    if not wanted:
        return None
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for name, colour, marker in zip(wanted, COLOURS, MARKERS, strict=False):
        mine = [row for row in rows if row["problem"] == name and row["rho"] == 1]
        top.plot(*_columns(mine, "beta", "kl"), color=colour, marker=marker, label=name)
        bottom.plot(*_columns(mine, "beta", "w1"), color=colour, marker=marker)
        if np.isfinite(mine[0]["limiting_kl"]):
            top.axhline(mine[0]["limiting_kl"], color=colour, linestyle=":", linewidth=0.8)
    for axis, label in ((top, "KL(π$_B$‖π*) [nats]"), (bottom, "W₁ (2-D: sliced) [action]")):
        axis.set(xscale="log", yscale="log", ylabel=label)
    top.set_ylim(1e-5, 10)
    bottom.set_xlabel("temperature β")
    bottom.invert_xaxis()
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def curvature(rows: list[Row], names: tuple[str, ...]) -> Figure | None:
    """Draw the smallest Hessian eigenvalue of the smoothed energies in the box over the noise level."""
    names = tuple(name for name in names if any(row["problem"] == name for row in rows))
    if not names:
        return None
    figure = Figure(figsize=(WIDTH, 1.05 * len(names) + 0.6), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    lines = [(0.0, "optimal", BLACK, "o-", "L, λ*"), (1.0, "code", BLUE, "s--", "L$_A$, ρ = 1"),
             (10.0, "code", RED, "^-.", "L$_A$, ρ = 10")]
    for axis, name in zip(panels, names, strict=True):
        for rho, kind, colour, style, label in lines:
            mine = [row for row in rows if row["problem"] == name and row["rho"] == rho and row["multiplier"] == kind
                    and row["level"] > 0]
            axis.plot(*_columns(mine, "sigma", "smallest"), style, color=colour, label=label)
        _signed_log(axis)
        axis.set_title(name, loc="left", pad=2)
    figure.supylabel("smallest eigenvalue over the box [reward/action²]", fontsize=STYLE["axes.labelsize"])
    panels[-1].set_xlabel("noise level σ$_k$ [action]")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _columns(rows: list[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    return [row[x] for row in rows], [row[y] for row in rows]


def _signed_log(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=1)
    low, high = axis.get_ylim()
    ticks = (-1000, -100, -10, -1, 0, 10) if low < -20 else (-16, -8, -4, -2, -1, 0, 1, 2, 4, 8)
    axis.set_yticks([y for y in ticks if low <= y <= high])
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.axhline(0, color="0.6", linewidth=0.6)
