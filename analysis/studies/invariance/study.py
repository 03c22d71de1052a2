"""`python run.py experiment=invariance`: all tables and figures of docs/invariance.md, computed without training."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from algd.errors import UsageError
from analysis.studies.invariance import denoising, multipliers, policies, policy_level, zero_temperature
from analysis.studies.invariance.basins import descend, modes
from analysis.studies.invariance.figures import write_figures
from analysis.studies.invariance.problems import PROBLEMS, Problem
from analysis.studies.invariance.quadrature import resolution
from analysis.studies.tables import Row, write_tables

KINDS: tuple[multipliers.Kind, ...] = ("optimal", "code", "saddle")
BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Settings:
    """The arguments of `run`."""

    beta: float
    rhos: tuple[float, ...]
    betas: tuple[float, ...]
    ratios: tuple[float, ...]
    cold_betas: tuple[float, ...]
    cold_rhos: tuple[float, ...]
    landscape_rhos: tuple[float, ...]
    sigma_min: float
    sigma_max: float
    levels: int
    starts: int
    draws: int
    directions: int
    cells: int
    probes: int
    seed: int


def run(
    folder: Path,
    problems: list[str],
    beta: PositiveFloat,
    rhos: list[PositiveFloat],
    betas: list[PositiveFloat],
    ratios: list[PositiveFloat],
    cold_betas: list[PositiveFloat],
    cold_rhos: list[PositiveFloat],
    landscape_rhos: list[PositiveFloat],
    sigma_min: PositiveFloat,
    sigma_max: PositiveFloat,
    levels: PositiveInt,
    starts: PositiveInt,
    draws: PositiveInt,
    directions: PositiveInt,
    cells: PositiveInt,
    probes: PositiveInt,
    seed: NonNegativeInt,
    processes: PositiveInt,
) -> None:
    """Solve every problem under every reading, and write tables (CSV, Markdown) and figures (PNG) into the folder.

    Args:
        folder: output folder; files of the same name are replaced atomically.
        problems: names in `problems.PROBLEMS`, or ["all"].
        beta: temperature β of the main tables.
        rhos: penalties ρ of the main tables.
        betas, ratios: grid of β and ρ/β.
        cold_betas, cold_rhos: grid of β → 0 at fixed ρ; in two dimensions β below 0.003 is omitted.
        landscape_rhos: penalties for which curvature and denoising paths are computed.
        sigma_min, sigma_max, levels: noise schedule.
        starts, draws: denoising paths per energy: number of x_K, and of noise samples for each.
        directions: directions of the sliced Wasserstein distance in two dimensions.
        cells: approximate number of cells in the optimisation over the simplex.
        probes: approximate number of points at which curvature is measured.
        seed: seed of the denoising paths.
        processes: number of problems solved in parallel.

    Raises:
        UsageError: a problem is unknown, or noise levels do not increase.
    """
    names = list(PROBLEMS) if list(problems) == ["all"] else list(problems)
    for name in names:
        if name not in PROBLEMS:
            raise UsageError(f"study.problems={name} is unknown; choose from {', '.join(PROBLEMS)} or all")
    if sigma_min >= sigma_max:
        raise UsageError(f"study.sigma_min={sigma_min:g} must be below study.sigma_max={sigma_max:g}")
    settings = Settings(beta, tuple(rhos), tuple(betas), tuple(ratios), tuple(cold_betas), tuple(cold_rhos),
                        tuple(landscape_rhos), sigma_min, sigma_max, levels, starts, draws, directions, cells, probes,
                        seed)
    begin = time.monotonic()
    solved: dict[str, dict[str, list[Row]]] = {}
    with _one_blas_thread(), ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        # Two-dimensional problems take longest, so they start first.
        order = sorted(names, key=lambda name: -PROBLEMS[name].dimension)
        futures = {pool.submit(_solve, name, settings): name for name in order}
        for future in as_completed(futures):
            solved[futures[future]] = future.result()
            seconds = time.monotonic() - begin
            print(f"invariance: {futures[future]} done, {len(solved)} of {len(names)}, {seconds:.0f} s", flush=True)
    tables = {table: [row for name in names for row in solved[name][table]] for table in solved[names[0]]}
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, tables)
    write_figures(folder, names, tables, settings.beta)

    print(f"invariance: {len(names)} problems in {time.monotonic() - begin:.0f} s; tables and figures are in {folder}")


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread in workers started within, which would otherwise compete for the cores.

    Workers read the environment variables when they import NumPy.
    """
    before = {name: os.environ.get(name) for name in BLAS}
    os.environ.update(dict.fromkeys(BLAS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _solve(name: str, settings: Settings) -> dict[str, list[Row]]:
    problem = PROBLEMS[name]
    zero = zero_temperature.limit(problem)
    return {
        "problems": [summary(problem, zero, settings)],
        "policy_level": policy_level_rows(problem, settings),
        "pointwise": pointwise_rows(problem, settings),
        "ratio": ratio_rows(problem, settings),
        "temperature": temperature_rows(problem, zero, settings),
        **landscape_rows(problem, settings),
    }


def summary(problem: Problem, zero: zero_temperature.Limit, settings: Settings) -> Row:
    """Return a row on π* and the limit β → 0."""
    panels = resolution(problem.dimension, settings.beta, 1.0)
    star = multipliers.solve(problem, settings.beta, 0.0, "optimal", panels)
    cost = problem.cost.value(star.rule.points)
    third = star.mean((cost - star.cost) ** 3) / star.cost_deviation**3
    return {
        "problem": problem.name, "d": problem.dimension, "formula": problem.formula, "about": problem.about,
        "beta": settings.beta, "lam_star": star.energy.lam, "reward": star.reward,
        "cost_minus_h": star.cost - problem.threshold, "risk": star.risk, "cost_sd": star.cost_deviation,
        "cost_skew": third,
        "modes": len(modes(star.energy)), "release_rho": multipliers.release(problem, settings.beta, panels),
        "mixed_value": zero.mixed, "pure_value": zero.pure, "duality_gap": zero.gap, "zero_lam": zero.lam,
        "sharpness_at_rho_1": zero_temperature.sharpness(problem, zero, 1.0),
    }


def policy_level_rows(problem: Problem, settings: Settings) -> list[Row]:
    """Reading A at λ*: distance of its minimiser from π*, by two methods, and steps of the method of multipliers."""
    panels = resolution(problem.dimension, settings.beta, 1.0)
    star = multipliers.solve(problem, settings.beta, 0.0, "optimal", panels)
    grid = policy_level.cells(problem, settings.cells if problem.dimension == 1 else round(settings.cells**0.5))
    lam = grid.optimal_multiplier(settings.beta)
    target = grid.boltzmann(settings.beta, lam)
    rows = []
    for rho in settings.rhos:
        fixed = policy_level.by_fixed_point(problem, settings.beta, rho, star.energy.lam, panels)
        simplex = policy_level.by_convex_optimisation(grid, settings.beta, rho, lam)
        rows.append({
            "problem": problem.name, "beta": settings.beta, "rho": rho, "lam_star": star.energy.lam,
            "bracket_minus_lam_star": fixed.energy.lam - star.energy.lam, "kl_fixed_point": policies.kl(fixed, star),
            "cells": len(target), "tv_simplex": 0.5 * float(np.abs(simplex - target).sum()),
            "multiplier_steps": policy_level.multiplier_steps(grid, settings.beta, rho),
        })
    return rows


def _compare(problem: Problem, beta: float, rho: float, kind: multipliers.Kind, directions: int,
             refine: int = 1) -> Row:
    """Compare a policy of reading B with π*; `refine` multiplies the panels, also for the multipliers."""
    panels = refine * resolution(problem.dimension, beta, rho)
    optimal = multipliers.solve(problem, beta, 0.0, "optimal", panels)
    policy = multipliers.solve(problem, beta, rho, kind, panels)
    star = policies.boltzmann(optimal.energy, beta, policy.rule)
    forward = policies.kl(policy, star)
    identity = (star.objective - policy.objective) - (
        beta * forward + star.energy.lam * (problem.threshold - policy.cost))
    if problem.dimension == 1:
        distance = policies.wasserstein_line(policy, star)
    else:
        distance = policies.wasserstein_sliced(policy, star, directions)
    return {
        "problem": problem.name, "beta": beta, "rho": rho, "ratio": rho / beta, "multiplier": kind,
        "lam": policy.energy.lam, "lam_star": star.energy.lam,
        "kl": forward, "kl_reverse": policies.kl(star, policy), "tv": policies.total_variation(policy, star, panels),
        "w1": distance, "w1_kind": "exact" if problem.dimension == 1 else f"sliced, {directions} directions",
        "reward": policy.reward, "reward_loss": star.reward - policy.reward,
        "cost": policy.cost, "cost_minus_h": policy.cost - problem.threshold, "cost_sd": policy.cost_deviation,
        "cost_sd_star": star.cost_deviation, "risk": policy.risk, "risk_star": star.risk,
        "objective_loss": star.objective - policy.objective, "identity_error": identity,
        "equation_residual": multipliers.residual(policy, kind),
    }


MEASURED = ("kl", "kl_reverse", "tv", "reward", "cost", "risk", "lam")


def pointwise_rows(problem: Problem, settings: Settings) -> list[Row]:
    """Reading B at the three multipliers over ρ, with modes, and the largest change when panels are doubled."""
    rows = []
    star = multipliers.solve(problem, settings.beta, 0.0, "optimal", resolution(problem.dimension, settings.beta, 1.0))
    for rho in settings.rhos:
        for kind in KINDS:
            row = _compare(problem, settings.beta, rho, kind, settings.directions)
            fine = _compare(problem, settings.beta, rho, kind, settings.directions, refine=2)
            energy = multipliers.Energy(problem, row["lam"], rho)
            found = modes(energy)
            row |= {
                "kl_small_rho": float("nan") if kind == "saddle" else rho**2 * multipliers.small_rho_kl(star, kind),
                "integration_error": max(abs(fine[key] - row[key]) for key in MEASURED),
                "w1_error": abs(fine["w1"] - row["w1"]),
                "modes": len(found), "mode_list": "; ".join(" ".join(f"{x:.3f}" for x in mode) for mode in found),
                "top_mode_excess": float(energy.excess(found[0])) if len(found) else float("nan"),
            }
            rows.append(row)
    return rows


def ratio_rows(problem: Problem, settings: Settings) -> list[Row]:
    """Reading B with the code's multiplier over β and ρ/β."""
    return [_compare(problem, beta, ratio * beta, "code", settings.directions)
            for beta in settings.betas for ratio in settings.ratios]


def temperature_rows(problem: Problem, zero: zero_temperature.Limit, settings: Settings) -> list[Row]:
    """Reading B with the code's multiplier as β → 0 at fixed ρ."""
    rows = []
    for rho in settings.cold_rhos:
        limit = zero_temperature.limiting_kl(zero_temperature.sharpness(problem, zero, rho))
        for beta in settings.cold_betas:
            if problem.dimension == 2 and beta < 0.003:
                continue
            row = _compare(problem, beta, rho, "code", settings.directions)
            short = zero.mixed - row["reward"]
            rows.append(row | {"limiting_kl": limit, "duality_gap": zero.gap, "below_mixed_value": short,
                               "star_below_mixed_value": short - row["reward_loss"]})
    return rows


def landscape_rows(problem: Problem, settings: Settings) -> dict[str, list[Row]]:
    """Curvature of the smoothed energies, and denoising paths with exact scores and the same noise for all energies."""
    if not (problem.cost.differentiable and problem.reward.differentiable):
        return {"curvature": [], "paths": []}
    d, beta = problem.dimension, settings.beta
    rng = np.random.default_rng(settings.seed)
    sigmas = denoising.noise_levels(settings.sigma_min, settings.sigma_max, settings.levels)
    start = settings.sigma_max * np.repeat(rng.standard_normal((settings.starts, d)), settings.draws, axis=0)
    noise = rng.standard_normal((settings.levels - 1, settings.starts * settings.draws, d))
    points = denoising.probes(d, settings.probes if d == 1 else round(settings.probes**0.5))
    cases: list[tuple[float, multipliers.Kind]] = [(0.0, "optimal")]
    cases += [(rho, kind) for rho in settings.landscape_rhos for kind in ("optimal", "code")]
    curvature, paths = [], []
    for rho, kind in cases:
        policy = multipliers.solve(problem, beta, rho, kind, resolution(d, beta, rho))
        smooth = denoising.smoother(policy.energy, beta)
        case = {"problem": problem.name, "beta": beta, "energy": "plain" if rho == 0 else "augmented", "rho": rho,
                "multiplier": kind, "lam": policy.energy.lam}
        raw = np.linalg.eigvalsh(policy.energy.hessian(points))[:, 0]
        weights = np.exp(-(policy.energy.value(points) - policy.energy.value(points).min()) / beta)
        curvature.append(case | _curvature(0, 0.0, raw, weights))
        for k, sigma in enumerate(sigmas, 1):
            smallest = smooth.curvature(points, sigma)
            curvature.append(case | _curvature(k, sigma, smallest, smooth.density(points, sigma)))
        path = denoising.reverse(smooth, sigmas, start, noise)
        end = descend(policy.energy, path[-1])
        excess = policy.energy.excess(end)
        groups = path[-1].reshape(settings.starts, settings.draws, d)
        own = policy.mean(((policy.rule.points - policy.mass @ policy.rule.points) ** 2).sum(1))
        paths.append(case | {
            "paths": len(end), "policy_spread": own**0.5,
            **{f"spread_x{settings.levels - i}": float(np.sqrt(x.var(0).sum())) for i, x in enumerate(path)},
            "spread_given_start": float(np.sqrt(groups.var(1, ddof=1).sum(-1).mean())),
            "unsafe_basin_share": float((excess > 1e-3).mean()),
            "minimiser_excess": float(np.maximum(excess, 0).mean()),
            "unsafe_end_share": float((policy.energy.excess(path[-1]) > 0).mean()),
            "minima": len(modes(policy.energy)),
        })
    return {"curvature": curvature, "paths": paths}


def _curvature(level: int, sigma: float, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    return {"level": level, "sigma": sigma, "smallest": float(values.min()),
            "mean_over_policy": float(weights @ values / weights.sum()),
            "negative_share_of_box": float((values < 0).mean()),
            "negative_share_of_policy": float(weights @ (values < 0) / weights.sum())}
