"""Measure the errors of three estimators of a smoothed energy's Hessian, and the cost of the curvature columns.

    python -m benchmarks.curvature

Prints Markdown. Each error is the root mean square over 2000 repetitions of the error's Frobenius norm, relative to the
norm of the true Hessian, at equal numbers of evaluations. The second number is the mean error of the smallest
eigenvalue, relative to the largest absolute eigenvalue.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import hydra
import torch
from torch import Tensor

from algd.algorithm.curvature import curvature, draw, smallest_eigenvalue, smoothed_hessian
from algd.algorithm.rng import RandomGenerator
from algd.config.schema import resolve
from algd.run.build import build_agent, build_task

REPETITIONS = 2000
Function = Callable[[Tensor], Tensor]


class FormulaEnergy:
    """Energy of a function of actions (B, N, d)."""

    def __init__(self, function: Function):
        self._function = function

    def value_and_gradient(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return E (B, N) and ∇E (B, N, d)."""
        action = action.detach().requires_grad_()
        energy = self._function(action)
        return energy.detach(), torch.autograd.grad(energy.sum(), action)[0]


def antithetic(function: Function, at: Tensor, sigma: float, count: int,
               noise: RandomGenerator) -> tuple[Tensor, Tensor]:
    """Return estimates (B, d, d) from count/2 pairs ±ε: E[(εεᵀ − I) E(a + σε)]/σ² and E[∇E(a + σε) εᵀ]/σ."""
    size = at.shape[1]
    normals = noise.normal(len(at), count // 2, size)
    energy = FormulaEnergy(function)
    sides = [energy.value_and_gradient(at, at[:, None] + sign * sigma * normals) for sign in (1, -1)]
    (up, slope_up), (down, slope_down) = sides
    centred = (up + down) / 2 - function(at[:, None])
    outer = normals[..., None] * normals[..., None, :] - torch.eye(size)
    of_values = (outer * centred[..., None, None]).mean(1) / sigma**2
    of_slopes = ((slope_up - slope_down)[..., None] * normals[..., None, :]).mean(1) / (2 * sigma)
    return of_values, (of_slopes + of_slopes.mT) / 2


def errors(found: Tensor, truth: Tensor) -> str:
    """Return the matrix's relative error and the smallest eigenvalue's mean error, as text."""
    matrix = ((found - truth).square().sum((1, 2)).mean().sqrt() / truth.norm()).item()
    spectrum = torch.linalg.eigvalsh(truth)
    low = ((smallest_eigenvalue(found).mean() - spectrum[0]) / spectrum.abs().max()).item()
    return f"{matrix:.2g} / {low:+.2g}"


def estimators(samples: int = 16) -> None:
    """Print the table of errors."""
    print(f"| energy | σ | values | gradients | rule ({samples} draws) |\n|---|---:|---:|---:|---:|")
    for size in (2, 8, 17):
        generator = torch.Generator().manual_seed(size)
        half = torch.randn(size, size, generator=generator)
        matrix, direction = half + half.T, torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0)

        def quadratic(a: Tensor, matrix: Tensor = matrix) -> Tensor:
            return (a * (a @ matrix)).sum(-1) / 2

        def kink(a: Tensor, direction: Tensor = direction) -> Tensor:
            return (a @ direction).abs()

        at, noise = torch.zeros(REPETITIONS, size), RandomGenerator(0)
        for sigma in (0.1, 1.0):
            peak = 2 / math.sqrt(2 * math.pi) / sigma * torch.outer(direction, direction)
            for name, function, truth in (("quadratic", quadratic, matrix), ("kink", kink, peak)):
                others = antithetic(function, at, sigma, 2 * size * samples, noise)
                rule = smoothed_hessian(FormulaEnergy(function), at, at, sigma, draw(samples, len(at), size, noise))
                print(f"| {name}, d = {size} | {sigma} | " + " | ".join(errors(e, truth) for e in (*others, rule)),
                      "|", flush=True)


def cost() -> None:
    """Print the seconds of one evaluation's curvature columns with networks of the default size."""
    torch.set_num_threads(1)
    with hydra.initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
        config = resolve(hydra.compose("config", overrides=["env=toy", "logger=none"]))
    task = build_task(config)
    agent = build_agent(config, task)
    observation = torch.randn(64, task.observation_space.shape[0])
    curvature(agent, observation, 1, RandomGenerator(0))
    begin = time.process_time()
    curvature(agent, observation, 16, RandomGenerator(0))
    print(f"\ncurvature.states=64 curvature.samples=16: {time.process_time() - begin:.2f} s of one core, d = 2, K = 5, "
          "256-wide critics")


if __name__ == "__main__":
    estimators()
    cost()
