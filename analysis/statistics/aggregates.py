"""Aggregates over runs and tasks: performance profiles, optimality gaps, Pareto fronts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.estimators import CONFIDENCE, RESAMPLES, Floats

RUNS_FOR_BAND = 10  # runs over all tasks; a band of fewer is too wide to be informative


@dataclass(frozen=True)
class Profile:
    """A performance profile, all (n,): share of runs above each threshold, and its pointwise band or None."""

    thresholds: Floats
    share: Floats
    low: Floats | None
    high: Floats | None


def optimality_gaps(scores: Floats) -> Floats:
    """Return the optimality gap, the mean of max(0, 1 − score), along the last axis (arXiv 2108.13264, section 4.3).

    Scores above 1 do not compensate for scores below 1.
    """
    gaps: Floats = np.maximum(0.0, 1 - scores).mean(axis=-1)
    return gaps


def performance_profile(strata: Sequence[Floats], thresholds: Floats, seed: int = 0, confidence: float = CONFIDENCE,
                        resamples: int = RESAMPLES) -> Profile:
    """Return the share of runs above each threshold, averaged over tasks (arXiv 2108.13264, section 4.2).

    The band is a pointwise percentile interval of the stratified bootstrap; None with fewer than ten runs.

    Args:
        strata: values (n_s,) of each task.
        thresholds: (n,).
        seed, confidence, resamples: of the bootstrap.
    """
    def shares(values: Sequence[Floats]) -> Floats:
        return np.mean([(part[..., None] > thresholds).mean(axis=-2) for part in values], axis=0)

    share = shares(strata)
    if sum(map(len, strata)) < RUNS_FOR_BAND:
        return Profile(thresholds, share, None, None)
    random = np.random.default_rng(seed)
    draws = shares([part[random.integers(len(part), size=(resamples, len(part)))] for part in strata])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Profile(thresholds, share, low, high)


def pareto_front(costs: Sequence[float], returns: Sequence[float]) -> list[int]:
    """Return the indices of the non-dominated points, sorted by cost.

    A point dominates another if its cost is not higher, its return not lower, and one of the two strictly better. Equal
    points do not dominate each other, so both are kept.
    """
    def dominated(i: int) -> bool:
        return any(costs[j] <= costs[i] and returns[j] >= returns[i]
                   and (costs[j] < costs[i] or returns[j] > returns[i]) for j in range(len(costs)))

    front = [i for i in range(len(costs)) if not dominated(i)]
    return sorted(front, key=lambda i: (costs[i], returns[i]))
