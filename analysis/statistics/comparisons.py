"""Comparisons of two algorithms: probability of improvement, paired differences, and sign-flip tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test, t

from analysis.statistics.estimators import CONFIDENCE, SEEDS_FOR_INTERVAL, Estimate, Floats

EXACT_PAIRS = 16  # up to this many pairs the test is exact: it enumerates all 2^n signs
SIGN_DRAWS = 20_000


def probability_of_improvement(first: Sequence[Floats], second: Sequence[Floats],
                               confidence: float = CONFIDENCE) -> Estimate:
    """Return the probability that a run of the first has a larger value than one of the second, averaged over tasks.

    On each task θ̂ = (#{x > y} + ½ #{x = y}) / (m n), Mann and Whitney's statistic (arXiv 2108.13264, section 4.3).
    Its interval is Newcombe's method 5 (Statistics in Medicine 25, 2006, 559–573): all θ with

        (θ̂ − θ)² ≤ t² θ(1 − θ) [1 + N ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n),    N = (m + n)/2 − 1

    It has a positive width also if θ̂ = 1, where a bootstrap interval is [1, 1]. Newcombe uses the normal quantile; with
    three seeds of two equal algorithms that interval excludes 1/2 in one case of ten, so t is Student's quantile
    with m + n − 2 degrees of freedom. Tasks are combined by the squared distances from the estimate to its bounds (Zou
    and Donner, Statistics in Medicine 27, 2008).

    Args:
        first, second: values (m,) and (n,) of each task, in the same order; no interval if one has fewer than three.
        confidence: nominal coverage.
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
    """Return the bounds of Newcombe's interval, found by bisection on both sides of the estimate."""
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
    """Paired comparison of two algorithms on the common seeds of a task.

    Attributes:
        seeds: common seeds, sorted.
        unpaired: seeds of only one of the algorithms; they are not used.
        differences: first − second for each common seed.
        difference: mean difference with Student's t interval.
        wins, ties, losses: number of seeds on which the first is larger, equal, smaller.
        p_value: two-sided p-value of the sign-flip test of the mean; None for fewer than three pairs.
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
    """Compare two algorithms seed by seed.

    Under the null hypothesis of no difference the sign of each difference is arbitrary. p is the share of the 2^n sign
    assignments whose |mean| is at least the observed one (Fisher's randomisation test; exact up to 16 seeds, 20,000
    random draws beyond). It is at least 2/2^n: 0.25 for three seeds, 0.0625 for five.

    Args:
        first, second: value for each seed.
        seed: seed of the random draws.

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
    """Return the mean of (n,) values, with Student's t interval if n ≥ 3."""
    mean, count = float(values.mean()), len(values)
    if count < SEEDS_FOR_INTERVAL:
        return Estimate(mean, None, None, count)
    half = float(t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half, count)


def sign_flip(strata: Sequence[Floats], seed: int = 0) -> float | None:
    """Return the two-sided p-value of the sign-flip test over tasks; None with fewer than three differences.

    The null hypothesis is that the differences of every task are symmetric about 0. The statistic is
    |Σ_tasks mean(d) / rms(d)|: tasks have equal weight, and the scale rms(d) does not change when a sign is flipped.
    For one task this is the test of the mean.

    Args:
        strata: differences (n_s,) of each task.
        seed: seed of the random draws, which are used for more than 16 differences.
    """
    scaled = [values / (len(values) * size) for values in strata
              if len(values) and (size := float(np.sqrt(np.mean(values**2)))) > 0]
    if sum(map(len, strata)) < SEEDS_FOR_INTERVAL:
        return None
    if sum(map(len, scaled)) < 2:
        return 1.0  # no difference at all, or a single one, of which both signs are as far from 0

    def size_of_sum(values: Floats, axis: int) -> Floats:
        return np.abs(values.sum(axis=axis)).round(12)  # rounded, since equal sums must compare equal in any order

    pairs = np.concatenate(scaled)
    draws = np.inf if len(pairs) <= EXACT_PAIRS else SIGN_DRAWS
    # With one sample, permutation_type="samples" flips signs.
    return float(permutation_test((pairs,), size_of_sum, permutation_type="samples", vectorized=True, n_resamples=draws,
                                  alternative="greater", rng=np.random.default_rng(seed)).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of a family of tests by Holm's method, which controls the family-wise error rate.

    The method (Scandinavian Journal of Statistics 6, 1979) is valid under any dependence of the tests: the k-th
    smallest of m p-values is multiplied by m − k + 1, and the results are made monotone by a running maximum.

    Args:
        p_values: None where there was no test; not counted in m.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = highest
    return adjusted
