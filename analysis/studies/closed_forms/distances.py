"""Energy distance between two samples, with its permutation test (Székely and Rizzo, 2013)."""

import torch
from torch import Tensor


def permutation_test(x: Tensor, y: Tensor, permutations: int, generator: torch.Generator) -> tuple[float, float]:
    """Return the energy distance of two samples, and the p-value of the hypothesis that they have the same density.

    The distance is the unbiased estimate of 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, which can be negative.

    p = (1 + number of permutations with at least this distance) / (1 + permutations), so that p ≥ 1/(1 + permutations),
    and P(p ≤ u) ≤ u under the hypothesis.

    Args:
        x, y: samples, (n, d) and (m, d).
        permutations: number of random assignments of the points to two samples.
        generator: of the permutations.
    """
    n, total = len(x), len(x) + len(y)
    labels = torch.empty(total, permutations + 1, dtype=torch.bool)
    labels[:, 0] = torch.arange(total) < n
    for column in range(1, permutations + 1):
        labels[:, column] = torch.randperm(total, generator=generator) < n
    values = _statistics(_distances(x, y), labels)
    # The first column is not permuted and counts itself: the 1 in the numerator. 1e-9 keeps ties despite rounding.
    return float(values[0]), float((values >= values[0] - 1e-9).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    points = torch.cat([x, y]).double()
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _statistics(distances: Tensor, inside: Tensor) -> Tensor:
    """Return the energy distance for each column of labels (total, c), which are True for the first sample."""
    first = inside.double()
    second = 1 - first
    n, m = first.sum(0), second.sum(0)
    reach = distances @ first
    rest = distances.sum(1, keepdim=True) - reach
    across = (second * reach).sum(0) / (n * m)
    within = (first * reach).sum(0) / (n * (n - 1)) + (second * rest).sum(0) / (m * (m - 1))
    return 2 * across - within
