"""The Monte-Carlo estimate of the diffused Boltzmann density's score."""

from collections.abc import Callable

import torch
from torch import Tensor

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def monte_carlo_score(energy: ValueAndGradient, centre: Tensor, spread: Tensor, normals: Tensor, beta: float) -> Tensor:
    """φ* ≈ ∇ log π_τ(a_τ), from N energies and gradients around a_τ (arXiv 2602.02924; arXiv 2402.06121).

        a_0^i = a_τ + σ_τ ε_i,   w = softmax_i(−E(a_0^i)/β),   φ* = −(1/β) Σ_i w_i ∇E(a_0^i)

    It is biased for finite N (a ratio of two averages); bias and variance fall as 1/N.

    Args:
        energy: actions (B, N, d) ↦ energies (B, N) and their gradients (B, N, d).
        centre: (B, d), a_τ.
        spread: (B,) or (), σ_τ.
        normals: (B, N, d), standard normals.
        beta: temperature β of the density exp(−E/β).

    Returns:
        (B, d), detached.
    """
    with torch.no_grad():
        samples = centre.unsqueeze(1) + spread[..., None, None] * normals
        energies, gradients = energy(samples)
        weights = torch.softmax(-energies / beta, dim=1)
        return (gradients * weights.unsqueeze(-1)).sum(1) / -beta
