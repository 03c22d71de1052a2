"""Settings of the study."""

from dataclasses import dataclass

import torch

from algd.algorithm.noise_processes import VESDE


@dataclass(frozen=True)
class Settings:
    """The arguments of `study.run`."""

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
        """Return a new generator with the study's seed, so that a table does not depend on which others are made."""
        return torch.Generator().manual_seed(self.seed)
