"""Estimators for few seeds and noisy episodes: what each computes, by which formula, and from where.

Pure functions of arrays. What is random takes a seed, and gives the same numbers for it. docs/analysis.md says how
often the intervals hold in simulation, and where they do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, binomtest, ecdf, norm, permutation_test, t, trim_mean

Floats = NDArray[np.float64]
Method = Literal["t", "percentile"]
SEEDS_FOR_INTERVAL = 3
RESAMPLES = 2000
CONFIDENCE = 0.95
EXACT_SEEDS = 16  # up to here all 2^n signs are tried
SIGN_DRAWS = 20_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; low and high are None where there are too few values for one."""

    value: float
    low: float | None
    high: float | None
    count: int


# --- one run's episodes --------------------------------------------------------------------------------------------


def cvar(values: Floats, share: float = 0.1) -> float:
    """The mean of the highest `share` of the values: CVaR at level α = share of a cost.

    CVaR = (1/α) [Σ_{i≤k} x_(i) / n + (α − k/n) x_(k+1)],  x_(1) ≥ x_(2) ≥ …,  k = ⌊α n⌋: the value on the edge
    counts with the part of it that is inside (Rockafellar and Uryasev, J. Banking and Finance 26, 2002, eq. 26).

    Args:
        values: (n,), n ≥ 1.
        share: α in (0, 1].
    """
    worst = np.sort(values)[::-1]
    inside = share * len(worst)
    whole = int(inside + 1e-9)  # 0.1 · 30 is a hair above 3, 0.1 · 20 exact: neither may lose or gain a value
    weights = np.zeros(len(worst))
    weights[:whole] = 1.0
    if whole < len(worst):
        weights[whole] = max(inside - whole, 0.0)
    return float(worst @ weights / weights.sum())


@dataclass(frozen=True)
class StayTime:
    """When a run became feasible for good.

    Attributes:
        step: the first evaluation from which on every one is feasible; of a censored run the last one, at which it
            was not yet.
        censored: its last evaluation was not feasible: the time is more than `step`, if there is one at all.
    """

    step: int
    censored: bool


def time_to_stay_feasible(steps: Sequence[int], feasible: Sequence[bool]) -> StayTime | None:
    """The first evaluation after which every evaluation is feasible, itself included; None without evaluations.

    Args:
        steps: of the evaluations, increasing.
        feasible: of each.
    """
    if not steps:
        return None
    if not feasible[-1]:
        return StayTime(steps[-1], True)
    first = len(steps) - 1
    while first > 0 and feasible[first - 1]:
        first -= 1
    return StayTime(steps[first], False)


def median_time(times: Sequence[StayTime]) -> tuple[float, bool]:
    """The median over runs, and whether it is only a lower bound.

    From Kaplan and Meier's survival curve S(t), the share of runs that are not feasible for good yet (J. Am. Stat.
    Assoc. 53, 1958): the first t with S(t) < 1/2; where S is 1/2 before, the middle of the stretch, as of any even
    number of values. If the curve never falls below 1/2, half of the runs or more were not yet, and the longest time
    seen is the bound.
    """
    seen = CensoredData(uncensored=[one.step for one in times if not one.censored],
                        right=[one.step for one in times if one.censored])
    curve = ecdf(seen).sf
    below = curve.quantiles[curve.probabilities < 0.5 - 1e-12]
    if not len(below):
        return float(max(one.step for one in times)), True
    half = curve.quantiles[np.abs(curve.probabilities - 0.5) <= 1e-12]
    return float((half[0] + below[0]) / 2 if len(half) else below[0]), False


def proportion_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with Wilson's score interval, which has a width also where all or none are successes (J. Am. Stat.
    Assoc. 22, 1927).

    Args:
        successes: how many.
        count: of how many, at least 1.
    """
    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high), count)


# --- across seeds --------------------------------------------------------------------------------------------------


def interquartile_mean(values: Floats) -> float:
    """The mean of what is left of n values without the ⌊n/4⌋ lowest and as many highest (arXiv 2108.13264)."""
    return float(interquartile_means(np.asarray(values, dtype=float)))


def interquartile_means(values: Floats) -> Floats:
    """The same along the last axis."""
    means: Floats = trim_mean(values, 0.25, axis=-1)
    return means


def stratified_resamples(strata: Sequence[Floats], resamples: int, seed: int) -> Floats:
    """(resamples, n) values: each row draws from every stratum, with replacement, as many as it has.

    A stratum is a task (arXiv 2108.13264, section 4.1): runs are exchangeable within it and nowhere else.
    """
    random = np.random.default_rng(seed)
    return np.concatenate([one[random.integers(len(one), size=(resamples, len(one)))] for one in strata], axis=1)


def iqm_interval(strata: Sequence[Floats], seed: int = 0, method: Method = "t", confidence: float = CONFIDENCE,
                 resamples: int = RESAMPLES) -> Estimate:
    """The interquartile mean of all values, with a stratified bootstrap interval.

    "percentile" takes the quantiles of the bootstrap distribution, as the field does (arXiv 2108.13264). For the
    three to five seeds of most papers that interval is far too short: it never leaves the range of the values, and a
    bootstrap variance is (n − S)/n of an unbiased one. "t" keeps the bootstrap's standard error s* and mends both:

        IQM ± t_{n−S}(1 − (1 − confidence)/2) · s* · √(n / (n − S)),   n values in S strata

    With one stratum of three seeds, where nothing is trimmed, that is Student's interval of the mean.

    Args:
        strata: values (n_s,) of each task; no interval if one has fewer than three.
        seed: of the resampling.

    Raises:
        ValueError: there is no value.
    """
    pooled = np.concatenate([np.asarray(one, dtype=float) for one in strata])
    if not len(pooled):
        raise ValueError("an interquartile mean needs at least one value")
    value = interquartile_mean(pooled)
    if min(len(one) for one in strata) < SEEDS_FOR_INTERVAL:
        return Estimate(value, None, None, len(pooled))
    draws = interquartile_means(stratified_resamples(strata, resamples, seed))
    tail = (1 - confidence) / 2
    if method == "percentile":
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), len(pooled))
    free = len(pooled) - len(strata)
    half = float(t.ppf(1 - tail, free) * draws.std() * np.sqrt(len(pooled) / free))
    return Estimate(value, value - half, value + half, len(pooled))


def probability_of_improvement(first: Sequence[Floats], second: Sequence[Floats],
                               confidence: float = CONFIDENCE) -> Estimate:
    """How likely a run of the first is better (larger) than one of the second, averaged over tasks.

    On each task θ = (#{x > y} + ½ #{x = y}) / (m n), Mann and Whitney's statistic (arXiv 2108.13264, section 4.3).
    Its interval is Newcombe's method 5 (Statistics in Medicine 25, 2006, 559–573): all θ with

        (θ̂ − θ)² ≤ z² θ(1 − θ) [1 + N ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n),    N = (m + n)/2 − 1

    which has a width also where all of the first are better; a bootstrap's would be [1, 1] there. Tasks are combined
    by the squares of the distances to their bounds (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        first, second: (m,) and (n,) values of each task, in the same order.
    """
    z = float(norm.ppf(1 - (1 - confidence) / 2))
    thetas, lows, highs = [], [], []
    for x, y in zip(first, second, strict=True):
        theta = float(((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean())
        low, high = _newcombe(theta, len(x), len(y), z)
        thetas.append(theta)
        lows.append(low)
        highs.append(high)
    value = float(np.mean(thetas))
    count = sum(map(len, first)) + sum(map(len, second))
    if min(len(one) for one in (*first, *second)) < SEEDS_FOR_INTERVAL:
        return Estimate(value, None, None, count)
    below = np.sqrt(sum((a - b) ** 2 for a, b in zip(thetas, lows, strict=True))) / len(thetas)
    above = np.sqrt(sum((a - b) ** 2 for a, b in zip(thetas, highs, strict=True))) / len(thetas)
    return Estimate(value, value - float(below), value + float(above), count)


def _newcombe(theta: float, m: int, n: int, z: float) -> tuple[float, float]:
    """The two ends of Newcombe's interval, by bisection on either side of the estimate."""
    pseudo = (m + n) / 2 - 1

    def outside(candidate: float) -> bool:
        spread = candidate * (1 - candidate) * (
            1 + pseudo * ((1 - candidate) / (2 - candidate) + candidate / (1 + candidate))) / (m * n)
        return (theta - candidate) ** 2 > z * z * spread

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
    """A comparison of two algorithms on the seeds that both have.

    Attributes:
        seeds: the common ones, in order.
        unpaired: seeds that only one of them has; they take no part.
        difference: interquartile mean of first − second, with its interval.
        wins, ties, losses: seeds on which the first is larger, equal, smaller.
        p_value: of the sign-flip test, two-sided; None for fewer than three pairs.
    """

    seeds: list[int]
    unpaired: list[int]
    difference: Estimate
    wins: int
    ties: int
    losses: int
    p_value: float | None


def paired_by_seed(first: dict[int, float], second: dict[int, float], seed: int = 0, method: Method = "t") -> Paired:
    """First minus second, seed by seed.

    If the two did not differ, each difference could as well have the other sign. p is the share of the 2^n signs whose
    |mean| is at least the one seen (Fisher's randomisation test; exact up to 16 seeds, 20,000 seeded draws beyond).
    It cannot be below 2/2^n: 0.25 for three seeds, 0.0625 for five.

    Args:
        first, second: value by seed.

    Raises:
        ValueError: there is no common seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("a paired comparison needs at least one common seed")
    differences = np.array([first[one] - second[one] for one in seeds])
    return Paired(seeds, sorted(first.keys() ^ second.keys()), iqm_interval([differences], seed, method),
                  int((differences > 0).sum()), int((differences == 0).sum()), int((differences < 0).sum()),
                  _sign_flip(differences, seed) if len(seeds) >= SEEDS_FOR_INTERVAL else None)


def _sign_flip(differences: Floats, seed: int) -> float:
    def size(values: Floats, axis: int) -> Floats:
        return np.abs(values.mean(axis=axis))

    draws = np.inf if len(differences) <= EXACT_SEEDS else SIGN_DRAWS
    # Of one sample, "samples" permutes the signs.
    return float(permutation_test((differences,), size, permutation_type="samples", vectorized=True, n_resamples=draws,
                                  alternative="greater", rng=np.random.default_rng(seed)).pvalue)


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs above each threshold, and the ends of its pointwise band, or None."""

    thresholds: Floats
    share: Floats
    low: Floats | None
    high: Floats | None


def performance_profile(strata: Sequence[Floats], thresholds: Floats, seed: int = 0, confidence: float = CONFIDENCE,
                        resamples: int = RESAMPLES) -> Profile:
    """The share of runs whose value is above τ, averaged over tasks, for each τ (arXiv 2108.13264, section 4.2).

    The band is the percentile one of the stratified bootstrap, point by point; none with fewer than three runs a task.
    """
    def shares(values: Sequence[Floats]) -> Floats:
        return np.mean([(one[..., None] > thresholds).mean(axis=-2) for one in values], axis=0)

    share = shares(strata)
    if min(len(one) for one in strata) < SEEDS_FOR_INTERVAL:
        return Profile(thresholds, share, None, None)
    random = np.random.default_rng(seed)
    draws = shares([one[random.integers(len(one), size=(resamples, len(one)))] for one in strata])
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
