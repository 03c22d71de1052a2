"""`python run.py experiment=closed_forms`: every table and figure of docs/closed_forms.md."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from algd.algorithm.noise_processes import DDPM, VESDE, Predict
from algd.algorithm.rng import RandomGenerator
from algd.errors import UsageError
from analysis.studies.closed_forms import chains, denoising, estimator, squashing
from analysis.studies.closed_forms.figures import write_figures
from analysis.studies.closed_forms.targets import TARGETS, Mixture
from analysis.studies.invariance.tables import Row, write_tables

EXACT = "∞"  # N of a score without Monte-Carlo error


@dataclass(frozen=True)
class Settings:
    """What `run` was given; see there."""

    beta: float
    sigma_min: float
    sigma_max: float
    levels: int
    fine_levels: int
    squashed_fine_levels: int
    level_sweep: tuple[int, ...]
    samples: int
    sample_sweep: tuple[int, ...]
    sampler_sweep: tuple[int, ...]
    repeats: int
    numbers: int
    paths: int
    tested: int
    permutations: int
    linear_betas: tuple[float, float]
    preserving_betas: tuple[float, float]
    push: float
    seed: int

    def vesde(self, steps: int) -> VESDE:
        return VESDE(steps, self.sigma_min, self.sigma_max)

    def betas(self, schedule: str) -> tuple[float, float]:
        return self.linear_betas if schedule == "linear" else self.preserving_betas

    def generator(self) -> torch.Generator:
        """The same draws for every table, so that a table does not depend on which others are made."""
        return torch.Generator().manual_seed(self.seed)


def run(
    folder: Path,
    targets: list[str],
    beta: PositiveFloat,
    sigma_min: PositiveFloat,
    sigma_max: PositiveFloat,
    levels: PositiveInt,
    fine_levels: PositiveInt,
    squashed_fine_levels: PositiveInt,
    level_sweep: list[PositiveInt],
    samples: PositiveInt,
    sample_sweep: list[PositiveInt],
    sampler_sweep: list[PositiveInt],
    repeats: PositiveInt,
    numbers: PositiveInt,
    paths: PositiveInt,
    tested: PositiveInt,
    permutations: PositiveInt,
    linear_betas: list[PositiveFloat],
    preserving_betas: list[PositiveFloat],
    push: NonNegativeFloat,
    seed: NonNegativeInt,
) -> None:
    """Measure the estimator and the samplers on every target, and write tables (CSV, Markdown) and figures (PNG).

    Args:
        folder: where to; files of the same name are replaced, each in one move.
        targets: names in `targets.TARGETS`, or ["all"].
        beta: temperature β.
        sigma_min, sigma_max, levels: the VE-SDE's noise levels; `levels` is DDPM's number of steps too.
        fine_levels, squashed_fine_levels: steps that stand for infinitely many, without and with tanh.
        level_sweep, sample_sweep, sampler_sweep: numbers of steps K, and of samples N of one score and of the scores
            along a path, that are compared.
        samples: N of the decompositions.
        repeats, numbers: repetitions of φ* at one point, at most; and so that repeats · N · d is at most `numbers`.
        paths: paths of each sampler.
        tested, permutations: of the permutation tests.
        linear_betas, preserving_betas: DDPM's two schedules, (beta_min, beta_max).
        push: DDPM's guidance_scale.
        seed: of every draw.

    Raises:
        UsageError: an unknown target, noise levels that do not grow, a schedule without two ends, more tested than
            sampled.
    """
    names = list(TARGETS) if list(targets) == ["all"] else list(targets)
    for name in names:
        if name not in TARGETS:
            raise UsageError(f"study.targets={name} is unknown; choose from {', '.join(TARGETS)} or all")
    if sigma_min >= sigma_max:
        raise UsageError(f"study.sigma_min={sigma_min:g} must be below study.sigma_max={sigma_max:g}")
    for key, betas in (("linear_betas", linear_betas), ("preserving_betas", preserving_betas)):
        if len(betas) != 2:
            raise UsageError(f"study.{key}={list(betas)} must name two values, the first and the last beta")
    if linear_betas[1] >= 1:
        raise UsageError(f"study.linear_betas={list(linear_betas)} must stay below 1")
    if not 2 <= tested <= paths:
        raise UsageError(f"study.tested={tested} must lie between 2 and study.paths={paths}")
    settings = Settings(beta, sigma_min, sigma_max, levels, fine_levels, squashed_fine_levels, tuple(level_sweep),
                        samples, tuple(sample_sweep), tuple(sampler_sweep), repeats, numbers, paths, tested,
                        permutations, (linear_betas[0], linear_betas[1]),
                        (preserving_betas[0], preserving_betas[1]), push, seed)
    begin = time.monotonic()
    parts: dict[str, Callable[[str, Settings], list[Row]]] = {
        "estimator": estimator_rows, "estimator_levels": estimator_level_rows,
        "sampler_steps": sampler_step_rows, "sampler_samples": sampler_sample_rows,
        "sampler_errors": sampler_error_rows,
        "squashed_errors": squashed_error_rows, "ddpm_levels": ddpm_level_rows, "ddpm_variants": ddpm_variant_rows,
        "ddpm_samples": ddpm_sample_rows, "ddpm_errors": ddpm_error_rows, "ddpm_push": ddpm_push_rows,
        "ddpm_rounding": ddpm_rounding_rows,
    }
    tables: dict[str, list[Row]] = {}
    for table, rows in parts.items():
        tables[table] = [{"target": name} | row for name in names for row in rows(name, settings)]
        seconds = time.monotonic() - begin
        print(f"closed forms: {table} done, {len(tables)} of {len(parts)}, {seconds:.0f} s", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, tables)
    write_figures(folder, names, tables, settings)
    print(f"closed forms: {len(names)} targets in {time.monotonic() - begin:.0f} s; tables and figures are in {folder}")


# The estimator


def estimator_rows(name: str, settings: Settings) -> list[Row]:
    """φ* at a typical point of the two largest noise levels, over N: norms over the coordinates."""
    target, generator = TARGETS[name], settings.generator()
    rows = []
    for sigma in settings.vesde(settings.levels).spreads[-2:].tolist():
        x = estimator.typical_point(target, sigma)
        law = estimator.laws(target, x, sigma)
        for samples in settings.sample_sweep:
            repeats = max(50, min(settings.repeats, settings.numbers // (samples * target.size)))
            measured = estimator.measure(target, x, sigma, samples, repeats, settings.beta, generator)
            rows.append({
                "sigma": sigma, "N": samples, "repeats": repeats, "score": float(law.score.norm()),
                "bias": float(measured.bias.norm()), "bias_error": float(measured.bias_error.norm()),
                "bias_law": float(law.bias.norm()) / samples,
                "deviation": float(measured.variance.sum().sqrt()),
                "deviation_law": float((law.variance.sum() / samples).sqrt()),
                "weight_square": law.weight_square,
            })
    return rows


def estimator_level_rows(name: str, settings: Settings) -> list[Row]:
    """The laws at a typical point of every noise level, and the N at which the laws' error is a tenth of the score."""
    target = TARGETS[name]
    rows = []
    for level, sigma in enumerate(settings.vesde(settings.levels).spreads.tolist(), 1):
        law = estimator.laws(target, estimator.typical_point(target, sigma), sigma)
        size, bias, variance = float(law.score.norm()), float(law.bias.norm()), float(law.variance.sum())
        # The positive root N of (bias/N)² + variance/N = (size/10)².
        goal = 0.01 * size**2
        samples = (variance + (variance**2 + 4 * bias**2 * goal) ** 0.5) / (2 * goal)
        rows.append({"level": level, "sigma": sigma, "weight_square": law.weight_square, "score": size,
                     "bias_times_N": bias, "variance_times_N": variance, "N_for_ten_percent": samples})
    return rows


# The VE-SDE


def sampler_step_rows(name: str, settings: Settings) -> list[Row]:
    """The exact score over K, from the exact start and from the prior; for Gaussians also without sampling."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    for prior, steps in product((False, True), settings.level_sweep):
        process = settings.vesde(steps)
        predict = chains.vesde_exact(process, target)
        x = chains.start(process, target, not prior, settings.paths, generator)
        sample = chains.run(process, predict, x, generator)
        rows.append({"start": "prior" if prior else "exact", "K": steps}
                    | _row(_result(sample, truth, settings, generator))
                    | _without_sampling(process, target, prior))
    return rows


def _without_sampling(process: VESDE, target: Mixture, prior: bool) -> Row:
    """Deviations of mean and variance of a Gaussian's coordinates, to rounding; of the axis for the mean."""
    if len(target.weights) > 1:
        return {"mean_exactly": "", "variance_exactly": ""}
    one = squashing.one_coordinate(target)
    mean, variance = float(one.means), float(one.variances)
    begin = (0.0, process.prior_std**2) if prior else (mean, variance + process.prior_std**2)
    end = chains.affine_moments(process, chains.vesde_exact(process, one), *begin)
    return {"mean_exactly": (end[0] - mean) * target.size**0.5, "variance_exactly": end[1] - variance}


def sampler_sample_rows(name: str, settings: Settings) -> list[Row]:
    """K steps from the prior over N, and with the exact score."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    coarse = [(settings.levels, samples) for samples in (*settings.sampler_sweep, None)]
    for steps, samples in [*coarse, (settings.fine_levels, settings.samples), (settings.fine_levels, None)]:
        process = settings.vesde(steps)
        predict = _vesde(process, target, samples, settings, generator)
        x = chains.start(process, target, False, settings.paths, generator)
        sample = chains.run(process, predict, x, generator)
        rows.append({"K": steps, "N": samples or EXACT, "start": "prior"}
                    | _row(_result(sample, truth, settings, generator)))
    return rows


def _vesde(process: VESDE, target: Mixture, samples: int | None, settings: Settings,
           generator: torch.Generator) -> Predict:
    if samples is None:
        return chains.vesde_exact(process, target)
    return chains.vesde_estimated(process, target, samples, settings.beta, generator)


def sampler_error_rows(name: str, settings: Settings) -> list[Row]:
    """The three errors of the VE-SDE, one at a time and in turn."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)

    def end(prior: bool, coarse: bool, estimated: bool) -> Tensor:
        process = settings.vesde(settings.levels if coarse else settings.fine_levels)
        predict = _vesde(process, target, settings.samples if estimated else None, settings, generator)
        x = chains.start(process, target, not prior, settings.paths, generator)
        return chains.run(process, predict, x, generator)

    return _error_rows(end, truth, settings, generator)


def _error_rows(end: Callable[[bool, bool, bool], Tensor], truth: chains.Truth, settings: Settings,
                generator: torch.Generator) -> list[Row]:
    """Decompositions of mean, variance, first mode's weight and energy distance, from all eight samplers."""
    results = {(p, k, n): _result(end(p, k, n), truth, settings, generator)
               for p in (False, True) for k in (False, True) for n in (False, True)}
    single = {"floor": chains.NONE, **chains.ALONE, "total": chains.EVERY}
    rows = []
    for quantity in chains.QUANTITIES:
        if quantity == "first" and truth.first is None:
            continue
        cells = {key: None if result is None else getattr(result, quantity) for key, result in results.items()}
        for part in chains.decompose(cells):
            result = results[single[part["error"]]]
            p_value = "" if result is None or quantity != "distance" else result.p_value
            rows.append({"quantity": quantity} | part | {"p_value_alone": p_value})
    return rows


def _result(sample: Tensor, truth: chains.Truth, settings: Settings,
            generator: torch.Generator) -> chains.Result | None:
    """None where the sample has diverged."""
    if chains.diverged(sample):
        return None
    return chains.compare(sample, truth, settings.permutations, generator)


# Through tanh


def squashed_error_rows(name: str, settings: Settings) -> list[Row]:
    """The same three errors on the box, with the score of the latent and with the authors' score of the action."""
    target, generator = TARGETS[name], settings.generator()
    truth = squashing.box_truth(target, settings.tested, generator)
    rows = []
    for space in squashing.SPACES:
        processes = {coarse: settings.vesde(settings.levels if coarse else settings.squashed_fine_levels)
                     for coarse in (False, True)}
        exact = {coarse: squashing.exact(process, target, space) for coarse, process in processes.items()}
        noise = RandomGenerator(settings.seed)

        def end(prior: bool, coarse: bool, estimated: bool, space: squashing.Space = space,
                processes: dict[bool, VESDE] = processes, exact: dict[bool, Predict] = exact,
                noise: RandomGenerator = noise) -> Tensor:
            predict = exact[coarse]
            if estimated:
                agent = squashing.policy(processes[coarse], target.size, space, settings.samples, settings.beta)
                predict = squashing.estimated(agent, target, noise, squashing.point_of(agent))
            x = squashing.start(processes[coarse], target, not prior, settings.paths, generator).float()
            return torch.tanh(chains.run(processes[coarse], predict, x, generator))

        rows += [{"space": space} | row for row in _error_rows(end, truth, settings, generator)]
    return rows


# DDPM


def _ddpm(schedule: str, settings: Settings, push: float) -> DDPM:
    return DDPM(settings.levels, "linear" if schedule == "linear" else "variance_preserving",
                *settings.betas(schedule), push)


def ddpm_level_rows(name: str, settings: Settings) -> list[Row]:
    """What each schedule's levels are, and how long the score's own step is beside the push."""
    target = TARGETS[name]
    rows = []
    for schedule in ("linear", "variance_preserving"):
        process = _ddpm(schedule, settings, settings.push)
        for k, length in enumerate(denoising.score_steps(process, target)):
            level = target.diffused(float(process.scales[k]), float(process.spreads[k]))
            rows.append({
                "schedule": schedule, "level": k + 1, "alpha_bar": float(process.scales[k] ** 2),
                "spread": float(process.spreads[k]), "mean": float(level.mean() @ target.axis),
                "deviation": level.variance() ** 0.5, "prior_deviation": process.prior_std,
                "sample_spread": float(process.spreads[k] / process.scales[k]),
                "score_step": length, "push": settings.push, "push_over_score_step": settings.push / length,
            })
    return rows


def ddpm_variant_rows(name: str, settings: Settings) -> list[Row]:
    """K steps with exact heads, over schedule, start and centre, with and without the push."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    for schedule, prior, centre, push in product(
            ("linear", "variance_preserving"), (False, True), ("rescaled", "raw"), (0.0, settings.push)):
        process = _ddpm(schedule, settings, push)
        predict = (denoising.exact_noise if centre == "rescaled" else denoising.uncentred_noise)(process, target)
        x = chains.start(process, target, not prior, settings.paths, generator)
        sample = chains.run(process, predict, x, generator)
        rows.append({"schedule": schedule, "start": "prior" if prior else "exact", "centre": centre, "push": push}
                    | _row(_result(sample, truth, settings, generator)))
    return rows


def ddpm_sample_rows(name: str, settings: Settings) -> list[Row]:
    """K steps from the exact start over N; samples centred as they should be, or (the authors') on x_k itself."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    for schedule, centre, samples in product(
            ("linear", "variance_preserving"), ("rescaled", "raw"), settings.sampler_sweep):
        process = _ddpm(schedule, settings, 0.0)
        predict = denoising.estimated_noise(process, target, samples, settings.beta, centre == "rescaled",
                                            RandomGenerator(settings.seed))
        x = chains.start(process, target, True, settings.paths, generator)
        sample = chains.run(process, predict, x, generator)
        rows.append({"schedule": schedule, "centre": centre, "N": samples}
                    | _row(_result(sample, truth, settings, generator)))
    return rows


def ddpm_error_rows(name: str, settings: Settings) -> list[Row]:
    """The three errors of DDPM without its push, for both schedules."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    for schedule in ("linear", "variance_preserving"):
        coarse_process = _ddpm(schedule, settings, 0.0)
        fine_process = denoising.refined(coarse_process, schedule, *settings.betas(schedule), settings.fine_levels)
        noise = RandomGenerator(settings.seed)

        def end(prior: bool, coarse: bool, estimated: bool, coarse_process: DDPM = coarse_process,
                fine_process: DDPM = fine_process, noise: RandomGenerator = noise) -> Tensor:
            process = coarse_process if coarse else fine_process
            if estimated:
                predict = denoising.estimated_noise(process, target, settings.samples, settings.beta, True, noise)
            else:
                predict = denoising.exact_noise(process, target)
            x = chains.start(process, target, not prior, settings.paths, generator)
            return chains.run(process, predict, x, generator)

        rows += [{"schedule": schedule} | row for row in _error_rows(end, truth, settings, generator)]
    return rows


def ddpm_push_rows(name: str, settings: Settings) -> list[Row]:
    """What drives the chain when the noise head says nothing: the push alone, with the score's size changed."""
    target = TARGETS[name]
    rows = []
    for schedule, push, size in product(("linear", "variance_preserving"), (0.0, settings.push), (0.01, 1.0, 100.0)):
        if push == 0 and size != 1:
            continue
        process, generator = _ddpm(schedule, settings, push), settings.generator()
        truth = chains.truth(target, settings.tested, generator)
        alone = denoising.no_noise(process, target)
        x = chains.start(process, target, False, settings.paths, generator)
        sample = chains.run(process, _times(alone, size), x, generator)
        rows.append({"schedule": schedule, "push": push, "score_times": size}
                    | _row(_result(sample, truth, settings, generator)))
    return rows


def ddpm_rounding_rows(name: str, settings: Settings) -> list[Row]:
    """A Gaussian drawn from N(0, 1) in ever finer steps, with DDPM's own constants and without rounding."""
    target = TARGETS[name]
    if len(target.weights) > 1:
        return []
    one = squashing.one_coordinate(target)
    mean, variance = float(one.means), float(one.variances)
    rows = []
    for schedule, steps in product(
            ("linear", "variance_preserving"), (settings.levels, settings.fine_levels, 10 * settings.fine_levels)):
        factor = settings.levels if schedule == "linear" else 1
        low, high = (factor * beta for beta in settings.betas(schedule))
        process = DDPM(steps, "variance_preserving", low, high, 0.0)
        found = chains.affine_moments(process, denoising.exact_noise(process, one), 0.0, 1.0)
        exact = denoising.gaussian_moments(steps, low, high, mean, variance)
        rows.append({"schedule": schedule, "K": steps, "alpha_bar": float(process.scales[-1] ** 2),
                     "mean": found[0], "mean_without_rounding": exact[0],
                     "variance": found[1], "variance_without_rounding": exact[1]})
    return rows


def _times(predict: Predict, size: float) -> Predict:
    return lambda head, x, level: size * predict(head, x, level)


def _row(result: chains.Result | None) -> Row:
    if result is None:
        return dict.fromkeys((*chains.QUANTITIES, "p_value"), chains.DIVERGED)
    return {"mean": result.mean, "variance": result.variance, "first": "" if result.first is None else result.first,
            "distance": result.distance, "p_value": result.p_value}
