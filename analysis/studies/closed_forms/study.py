"""`python run.py experiment=closed_forms`: all tables and figures of docs/closed_forms.md."""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from algd.errors import UsageError
from analysis.studies.closed_forms import ddpm_tables, vesde_tables
from analysis.studies.closed_forms.figures import write_figures
from analysis.studies.closed_forms.settings import Settings
from analysis.studies.closed_forms.targets import TARGETS
from analysis.studies.tables import Row, write_tables


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
        folder: output folder; files of the same name are replaced atomically.
        targets: names in `targets.TARGETS`, or ["all"].
        beta: temperature β.
        sigma_min, sigma_max, levels: noise levels of the VE-SDE; `levels` is DDPM's number of steps too.
        fine_levels, squashed_fine_levels: numbers of steps that approximate infinitely many, without and with tanh.
        level_sweep: numbers of steps K to compare.
        sample_sweep, sampler_sweep: numbers of samples N to compare, of a single score and of the scores along a path.
        samples: N of the decompositions.
        repeats, numbers: maximal repetitions of φ* at a point, and maximum of repeats · N · d.
        paths: number of paths of each sampler.
        tested, permutations: points and permutations of the permutation tests.
        linear_betas, preserving_betas: DDPM's two schedules, (beta_min, beta_max).
        push: DDPM's guidance_scale.
        seed: seed of all samples.

    Raises:
        UsageError: a target is unknown, noise levels do not increase, a schedule does not have two ends, or `tested`
            exceeds `paths`.
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
    vesde, ddpm = vesde_tables, ddpm_tables
    parts: dict[str, Callable[[str, Settings], list[Row]]] = {
        "estimator": vesde.estimator_rows, "estimator_levels": vesde.estimator_level_rows,
        "sampler_steps": vesde.sampler_step_rows, "sampler_samples": vesde.sampler_sample_rows,
        "sampler_errors": vesde.sampler_error_rows, "squashed_errors": vesde.squashed_error_rows,
        "ddpm_levels": ddpm.ddpm_level_rows, "ddpm_variants": ddpm.ddpm_variant_rows,
        "ddpm_samples": ddpm.ddpm_sample_rows, "ddpm_errors": ddpm.ddpm_error_rows,
        "ddpm_push": ddpm.ddpm_push_rows, "ddpm_rounding": ddpm.ddpm_rounding_rows,
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
