"""Figures of the study."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from algd.algorithm.noise_processes import DDPM, VESDE, Predict
from algd.algorithm.rng import RandomGenerator
from analysis.studies.closed_forms import chains, denoising, squashing
from analysis.studies.closed_forms.settings import Settings
from analysis.studies.closed_forms.targets import TARGETS, Mixture
from analysis.studies.style import BLACK, BLUE, COLOURS, GREEN, MARKERS, ORANGE, RED, WIDTH, write
from analysis.studies.tables import Row

LINES = ("gaussian_1", "mixture_1")
LOOKS = ((BLUE, "-"), (ORANGE, "-"), (RED, "-"), (GREEN, "-"))
Samples = dict[str, Tensor]


def write_figures(folder: Path, names: list[str], tables: dict[str, list[Row]], settings: Settings) -> None:
    """Write each figure as <figure>.png into the folder; densities only of one-dimensional targets."""
    lines = [name for name in LINES if name in names]
    write(folder, {
        "estimator": lambda: estimator(tables["estimator"], names, settings.sigma_max),
        "steps": lambda: steps(tables["sampler_steps"], names),
        "sampler": lambda: densities(lines, lambda target: _vesde(target, settings), (-1.5, 2), "a", boxed=False),
        "squashed": lambda: densities(lines, lambda target: _squashed(target, settings), (-1, 1), "action", boxed=True),
        "ddpm": lambda: densities(lines, lambda target: _ddpm(target, settings), (-2, 2), "a", boxed=False),
    })


def estimator(rows: list[Row], names: list[str], sigma_max: float) -> Figure:
    """Draw relative bias and deviation of φ* over N at the largest noise level: measured (marks) and laws (lines)."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    labels = {"bias": "‖bias‖ / ‖score‖", "deviation": "deviation / ‖score‖"}
    for axis, (key, label) in zip(panels, labels.items(), strict=True):
        for name, colour, mark in zip(names, COLOURS, MARKERS, strict=False):
            own = [row for row in rows if row["target"] == name and abs(row["sigma"] - sigma_max) < 1e-6]
            counts = np.array([row["N"] for row in own])
            scale = own[0]["score"]
            axis.plot(counts, [row[key] / scale for row in own], mark, color=colour, label=name)
            law = np.array([row[f"{key}_law"] / scale for row in own])
            # The law of the eight-dimensional target starts far above the axis limits.
            axis.plot(counts, np.where(law < 100, law, np.nan), "-", color=colour, linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylabel(label)
    panels[1].set_xlabel("N, samples of one score")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def steps(rows: list[Row], names: list[str]) -> Figure:
    """Draw errors of variance and mean over K with the exact score; exact start (solid) and prior (dashed).

    Those of Gaussians are without sampling noise. Their variance does not depend on d, nor does the error of the mean
    divided by √d.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    shown = [name for name in names if name not in ("gaussian_2", "gaussian_8")]
    for name, colour, mark in zip(shown, COLOURS, MARKERS, strict=False):
        for begin, style in (("exact", "-"), ("prior", "--")):
            own = [row for row in rows if row["target"] == name and row["start"] == begin]
            for axis, key in zip(panels, ("variance", "mean"), strict=True):
                values = [row[key] if row[f"{key}_exactly"] == "" else row[f"{key}_exactly"] for row in own]
                axis.plot([row["K"] for row in own], np.abs(values) if key == "variance" else values, style + mark,
                          color=colour, label=name if begin == "exact" else None)
    panels[0].set_xscale("log")
    panels[0].set_yscale("log")
    panels[0].set_ylim(1e-3, 2)  # below 1e-3 the mixtures show only sampling noise
    panels[0].set_ylabel("|variance error|")
    panels[1].axhline(0, color="0.7", linewidth=0.6)
    panels[1].set_ylabel("mean error")
    panels[1].set_xlabel("K, reverse steps")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def densities(names: list[str], draw: Callable[[Mixture], Samples], limits: tuple[float, float], label: str,
              boxed: bool) -> Figure | None:
    """Draw the exact density (black, shaded) and histograms of samplers, cut at twice its peak; a panel per target."""
    if not names:
        return None
    figure = Figure(figsize=(WIDTH, 1.5 * len(names) + 0.6), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(panels, names, strict=True):
        target = TARGETS[name]
        points = torch.linspace(*limits, 601, dtype=torch.float64)
        exact = target.log_density(points.unsqueeze(1)).exp().numpy()
        if boxed:
            exact = exact / np.trapezoid(exact, points.numpy())
        axis.fill_between(points.numpy(), exact, color="0.9", linewidth=0)
        axis.plot(points.numpy(), exact, color=BLACK, label="exact")
        highest = float(exact.max())
        for (caption, sample), (colour, style) in zip(draw(target).items(), LOOKS, strict=False):
            highest = max(highest, _histogram(axis, sample, limits, colour, style, caption))
        axis.set_title(name, loc="left", pad=2)
        axis.set_ylabel("density")
        axis.set_xlim(*limits)
        axis.set_ylim(0, min(1.05 * highest, 2.1 * exact.max()))
    panels[-1].set_xlabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _histogram(axis: Axes, sample: Tensor, limits: tuple[float, float], colour: str, style: str,
               label: str) -> float:
    """Draw a histogram normalised by the whole sample, including points outside the limits, and return its peak."""
    counts, edges = np.histogram(sample.numpy().ravel(), bins=70, range=limits)
    heights = counts / (len(sample) * (edges[1] - edges[0]))
    axis.stairs(heights, edges, color=colour, linestyle=style, label=label)
    return float(heights.max())


def _vesde(target: Mixture, settings: Settings) -> Samples:
    generator = settings.generator()
    coarse, fine = settings.vesde(settings.levels), settings.vesde(settings.fine_levels)
    k, n = settings.levels, settings.samples

    def end(process: VESDE, predict: Predict, prior: bool) -> Tensor:
        x = chains.start(process, target, not prior, 4 * settings.paths, generator)
        return chains.run(process, predict, x, generator)

    return {
        f"prior mismatch (K = {settings.fine_levels})": end(fine, chains.vesde_exact(fine, target), True),
        f"K = {k}": end(coarse, chains.vesde_exact(coarse, target), False),
        f"prior, K = {k}, N = {n}": end(
            coarse, chains.vesde_estimated(coarse, target, n, settings.beta, generator), True),
        f"N = {n} (K = {settings.fine_levels})": end(
            fine, chains.vesde_estimated(fine, target, n, settings.beta, generator), False),
    }


def _squashed(target: Mixture, settings: Settings) -> Samples:
    generator, noise = settings.generator(), RandomGenerator(settings.seed)
    coarse, fine = settings.vesde(settings.levels), settings.vesde(settings.squashed_fine_levels)
    samples = {}
    for space in squashing.SPACES:
        x = squashing.start(fine, target, True, 4 * settings.paths, generator).float()
        predict = squashing.exact(fine, target, space)
        samples[f"{space}, no other error"] = torch.tanh(chains.run(fine, predict, x, generator))
    for space in squashing.SPACES:
        x = squashing.start(coarse, target, False, 4 * settings.paths, generator).float()
        agent = squashing.policy(coarse, target.size, space, settings.samples, settings.beta)
        predict = squashing.estimated(agent, target, noise, squashing.point_of(agent))
        samples[f"{space}, K = {settings.levels}, N = {settings.samples}"] = torch.tanh(
            chains.run(coarse, predict, x, generator))
    return samples


def _ddpm(target: Mixture, settings: Settings) -> Samples:
    generator = settings.generator()
    k = settings.levels
    linear, pushed = (DDPM(k, "linear", *settings.linear_betas, push) for push in (0.0, settings.push))
    preserving = DDPM(k, "variance_preserving", *settings.preserving_betas, 0.0)

    def end(process: DDPM, prior: bool) -> Tensor:
        x = chains.start(process, target, not prior, 4 * settings.paths, generator)
        return chains.run(process, denoising.exact_noise(process, target), x, generator)

    return {"linear, from N(0, I)": end(linear, True), "linear, exact start": end(linear, False),
            "linear, exact start, push": end(pushed, False), "variance preserving": end(preserving, True)}
