"""Many runs at once: performance profiles, and the points that no other dominates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.estimators import CONFIDENCE, RESAMPLES, Floats

RUNS_FOR_BAND = 10  # of all tasks; with fewer a band says nothing but that there are few


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs above each threshold, and the ends of its pointwise band, or None."""

    thresholds: Floats
    share: Floats
    low: Floats | None
    high: Floats | None


def optimality_gaps(scores: Floats) -> Floats:
    """The mean of max(0, 1 − score) along the last axis: what is missing to 1, which more elsewhere does not make up
    for (arXiv 2108.13264, section 4.3).
    """
    gaps: Floats = np.maximum(0.0, 1 - scores).mean(axis=-1)
    return gaps


def performance_profile(strata: Sequence[Floats], thresholds: Floats, seed: int = 0, confidence: float = CONFIDENCE,
                        resamples: int = RESAMPLES) -> Profile:
    """The share of runs whose value is above τ, averaged over tasks, for each τ (arXiv 2108.13264, section 4.2).

    The band is the percentile one of the stratified bootstrap, point by point; none with fewer than ten runs.
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
    """Indices of the points that no other dominates, by rising cost.

    A point dominates another if its cost is not higher, its return not lower, and one of the two better. Equal points
    do not dominate each other: both stay.
    """
    def dominated(i: int) -> bool:
        return any(costs[j] <= costs[i] and returns[j] >= returns[i]
                   and (costs[j] < costs[i] or returns[j] > returns[i]) for j in range(len(costs)))

    front = [i for i in range(len(costs)) if not dominated(i)]
    return sorted(front, key=lambda i: (costs[i], returns[i]))
