"""Tables of the score estimator and of the VE-SDE's sampler, without and with tanh."""

from itertools import product

import torch
from torch import Tensor

from algd.algorithm.noise_processes import VESDE, Predict
from algd.algorithm.rng import RandomGenerator
from analysis.studies.closed_forms import chains, estimator, squashing
from analysis.studies.closed_forms.errors import error_rows, result_of, result_row
from analysis.studies.closed_forms.settings import Settings
from analysis.studies.closed_forms.targets import TARGETS, Mixture
from analysis.studies.tables import Row

EXACT = "∞"  # entry for N if the score is exact


def estimator_rows(name: str, settings: Settings) -> list[Row]:
    """Bias and deviation of φ* over N at a typical point of the two largest noise levels: norms over coordinates."""
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
    """Laws at a typical point of each noise level, and the N at which the error by the laws is a tenth of the score."""
    target = TARGETS[name]
    rows = []
    for level, sigma in enumerate(settings.vesde(settings.levels).spreads.tolist(), 1):
        law = estimator.laws(target, estimator.typical_point(target, sigma), sigma)
        size, bias, variance = float(law.score.norm()), float(law.bias.norm()), float(law.variance.sum())
        # Solve (bias/N)² + variance/N = (size/10)² for N > 0.
        goal = 0.01 * size**2
        samples = (variance + (variance**2 + 4 * bias**2 * goal) ** 0.5) / (2 * goal)
        rows.append({"level": level, "sigma": sigma, "weight_square": law.weight_square, "score": size,
                     "bias_times_N": bias, "variance_times_N": variance, "N_for_ten_percent": samples})
    return rows


def sampler_step_rows(name: str, settings: Settings) -> list[Row]:
    """Deviations with the exact score over K, from exact start and prior; for Gaussians also without sampling."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)
    rows = []
    for prior, steps in product((False, True), settings.level_sweep):
        process = settings.vesde(steps)
        predict = chains.vesde_exact(process, target)
        x = chains.start(process, target, not prior, settings.paths, generator)
        sample = chains.run(process, predict, x, generator)
        rows.append({"start": "prior" if prior else "exact", "K": steps}
                    | result_row(result_of(sample, truth, settings, generator))
                    | _without_sampling(process, target, prior))
    return rows


def _without_sampling(process: VESDE, target: Mixture, prior: bool) -> Row:
    """Exact deviations of a Gaussian's mean along the axis and of its variance, from moments instead of samples."""
    if len(target.weights) > 1:
        return {"mean_exactly": "", "variance_exactly": ""}
    one = squashing.one_coordinate(target)
    mean, variance = float(one.means), float(one.variances)
    begin = (0.0, process.prior_std**2) if prior else (mean, variance + process.prior_std**2)
    end = chains.affine_moments(process, chains.vesde_exact(process, one), *begin)
    return {"mean_exactly": (end[0] - mean) * target.size**0.5, "variance_exactly": end[1] - variance}


def sampler_sample_rows(name: str, settings: Settings) -> list[Row]:
    """Deviations after K steps from the prior, over N and with the exact score."""
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
                    | result_row(result_of(sample, truth, settings, generator)))
    return rows


def _vesde(process: VESDE, target: Mixture, samples: int | None, settings: Settings,
           generator: torch.Generator) -> Predict:
    if samples is None:
        return chains.vesde_exact(process, target)
    return chains.vesde_estimated(process, target, samples, settings.beta, generator)


def sampler_error_rows(name: str, settings: Settings) -> list[Row]:
    """Decomposition of the error of the VE-SDE."""
    target, generator = TARGETS[name], settings.generator()
    truth = chains.truth(target, settings.tested, generator)

    def end(prior: bool, coarse: bool, estimated: bool) -> Tensor:
        process = settings.vesde(settings.levels if coarse else settings.fine_levels)
        predict = _vesde(process, target, settings.samples if estimated else None, settings, generator)
        x = chains.start(process, target, not prior, settings.paths, generator)
        return chains.run(process, predict, x, generator)

    return error_rows(end, truth, settings, generator)


def squashed_error_rows(name: str, settings: Settings) -> list[Row]:
    """Decomposition of the error on the box, with the score of the latent and with the authors' score of the action."""
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

        rows += [{"space": space} | row for row in error_rows(end, truth, settings, generator)]
    return rows
