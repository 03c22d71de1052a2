"""Two algorithms against each other: how likely one is better, and tests by flipping signs, of one task or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test, t

from analysis.statistics.estimators import CONFIDENCE, SEEDS_FOR_INTERVAL, Estimate, Floats

EXACT_PAIRS = 16  # up to here all 2^n signs are tried
SIGN_DRAWS = 20_000


def probability_of_improvement(first: Sequence[Floats], second: Sequence[Floats],
                               confidence: float = CONFIDENCE) -> Estimate:
    """How likely a run of the first is better (larger) than one of the second, averaged over tasks.

    On each task θ = (#{x > y} + ½ #{x = y}) / (m n), Mann and Whitney's statistic (arXiv 2108.13264, section 4.3).
    Its interval is Newcombe's method 5 (Statistics in Medicine 25, 2006, 559–573): all θ with

        (θ̂ − θ)² ≤ t² θ(1 − θ) [1 + N ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n),    N = (m + n)/2 − 1

    which has a width also where all of the first are better; a bootstrap's would be [1, 1] there. Newcombe has the
    normal quantile for t; with it, three seeds of two equal algorithms exclude 1/2 in one case of ten, so that t is
    Student's with m + n − 2 degrees of freedom. Tasks are combined by the squares of the distances to their bounds
    (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        first, second: (m,) and (n,) values of each task, in the same order.
    """
    count = sum(map(len, first)) + sum(map(len, second))
    thetas, lows, highs = [], [], []
    for x, y in zip(first, second, strict=True):
        theta = float(((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean())
        free = max(len(x) + len(y) - 2, 1)
        low, high = _newcombe(theta, len(x), len(y), float(t.ppf(1 - (1 - confidence) / 2, free)))
        thetas.append(theta)
        lows.append(low)
        highs.append(high)
    value = float(np.mean(thetas))
    if min(len(sample) for sample in (*first, *second)) < SEEDS_FOR_INTERVAL:
        return Estimate(value, None, None, count)
    below = np.sqrt(sum((a - b) ** 2 for a, b in zip(thetas, lows, strict=True))) / len(thetas)
    above = np.sqrt(sum((a - b) ** 2 for a, b in zip(thetas, highs, strict=True))) / len(thetas)
    return Estimate(value, value - float(below), value + float(above), count)


def _newcombe(theta: float, m: int, n: int, quantile: float) -> tuple[float, float]:
    """The two ends of Newcombe's interval, by bisection on either side of the estimate."""
    pseudo = (m + n) / 2 - 1

    def outside(candidate: float) -> bool:
        spread = candidate * (1 - candidate) * (
            1 + pseudo * ((1 - candidate) / (2 - candidate) + candidate / (1 + candidate))) / (m * n)
        return (theta - candidate) ** 2 > quantile**2 * spread

    def end(far: float) -> float:
        if not outside(far):
            return far
        inside, beyond = theta, far
        for _ in range(60):
            middle = (inside + beyond) / 2
            inside, beyond = (inside, middle) if outside(middle) else (middle, beyond)
        return (inside + beyond) / 2

    return end(0.0), end(1.0)


@dataclass(frozen=True)
class Paired:
    """A comparison of two algorithms on the seeds of a task that both have.

    Attributes:
        seeds: the common ones, in order.
        unpaired: seeds that only one of them has; they take no part.
        differences: first − second, by seed.
        difference: their mean, with Student's interval.
        wins, ties, losses: seeds on which the first is larger, equal, smaller.
        p_value: of the sign-flip test of that mean, two-sided; None for fewer than three pairs.
    """

    seeds: list[int]
    unpaired: list[int]
    differences: list[float]
    difference: Estimate
    wins: int
    ties: int
    losses: int
    p_value: float | None


def paired_by_seed(first: Mapping[int, float], second: Mapping[int, float], seed: int = 0) -> Paired:
    """First minus second, seed by seed.

    If the two did not differ, each difference could as well have the other sign. p is the share of the 2^n signs whose
    |mean| is at least the one seen (Fisher's randomisation test; exact up to 16 seeds, 20,000 seeded draws beyond).
    It cannot be below 2/2^n: 0.25 for three seeds, 0.0625 for five.

    Args:
        first, second: value by seed.
        seed: of the draws.

    Raises:
        ValueError: there is no common seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("a paired comparison needs at least one common seed")
    differences = np.array([first[common] - second[common] for common in seeds])
    return Paired(seeds, sorted(first.keys() ^ second.keys()), differences.tolist(), mean_interval(differences),
                  int((differences > 0).sum()), int((differences == 0).sum()), int((differences < 0).sum()),
                  sign_flip([differences], seed))


def mean_interval(values: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """The mean, with Student's interval from three values on."""
    mean, count = float(values.mean()), len(values)
    if count < SEEDS_FOR_INTERVAL:
        return Estimate(mean, None, None, count)
    half = float(t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half, count)


def sign_flip(strata: Sequence[Floats], seed: int = 0) -> float | None:
    """The two-sided sign-flip test that no task's differences lean to one side; None with fewer than three of them.

    The statistic is |Σ_tasks mean(d) / rms(d)|: each task counts alike, in units of its own differences, whose root
    mean square flipping a sign does not change. Of one task it is the test of the mean.

    Args:
        strata: differences (n_s,) of each task.
        seed: of the draws, where there are more signs than can be tried.
    """
    scaled = [values / (len(values) * size) for values in strata
              if len(values) and (size := float(np.sqrt(np.mean(values**2)))) > 0]
    if sum(map(len, strata)) < SEEDS_FOR_INTERVAL:
        return None
    if not scaled:
        return 1.0

    def size_of_sum(values: Floats, axis: int) -> Floats:
        return np.abs(values.sum(axis=axis)).round(12)  # sums that are equal, in whatever order, stay so

    pairs = np.concatenate(scaled)
    draws = np.inf if len(pairs) <= EXACT_PAIRS else SIGN_DRAWS
    # Of one sample, "samples" permutes the signs.
    return float(permutation_test((pairs,), size_of_sum, permutation_type="samples", vectorized=True, n_resamples=draws,
                                  alternative="greater", rng=np.random.default_rng(seed)).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values of a family of tests, adjusted so that the chance of any false find is at most the level.

    Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), valid whatever the tests' dependence: the
    k-th smallest of m is multiplied by m − k + 1, and none is below a smaller one's.

    Args:
        p_values: None where there was no test, which counts for nothing.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = highest
    return adjusted
