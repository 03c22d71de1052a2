"""Tables of DDPM's sampler: schedules, starts, rounding, and the push (its guidance term, `guidance_scale`)."""

from itertools import product

from torch import Tensor

from algd.algorithm.noise_processes import DDPM, Predict
from algd.algorithm.rng import RandomGenerator
from analysis.studies.closed_forms import chains, denoising, squashing
from analysis.studies.closed_forms.errors import error_rows, result_of, result_row
from analysis.studies.closed_forms.settings import Settings
from analysis.studies.closed_forms.targets import TARGETS
from analysis.studies.tables import Row


def _ddpm(schedule: str, settings: Settings, push: float) -> DDPM:
    return DDPM(settings.levels, "linear" if schedule == "linear" else "variance_preserving",
                *settings.betas(schedule), push)


def ddpm_level_rows(name: str, settings: Settings) -> list[Row]:
    """Levels of each schedule, and the length of the score's step compared with the push."""
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
    """Deviations after K steps with exact heads, over schedule, start and centre, with and without the push."""
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
                    | result_row(result_of(sample, truth, settings, generator)))
    return rows


def ddpm_sample_rows(name: str, settings: Settings) -> list[Row]:
    """Deviations after K steps from the exact start, over N, for both centres of the samples (the authors' is x_k)."""
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
                    | result_row(result_of(sample, truth, settings, generator)))
    return rows


def ddpm_error_rows(name: str, settings: Settings) -> list[Row]:
    """Decomposition of the error of DDPM without its push, for both schedules."""
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

        rows += [{"schedule": schedule} | row for row in error_rows(end, truth, settings, generator)]
    return rows


def ddpm_push_rows(name: str, settings: Settings) -> list[Row]:
    """Deviations of the push alone, with predicted noise 0 and the score multiplied by several factors."""
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
                    | result_row(result_of(sample, truth, settings, generator)))
    return rows


def ddpm_rounding_rows(name: str, settings: Settings) -> list[Row]:
    """Moments for a Gaussian from N(0, 1) over increasing K, with DDPM's own constants and without rounding."""
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
