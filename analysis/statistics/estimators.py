"""Estimators for few seeds and noisy episodes: what each computes, by which formula, and from where.

Pure functions of arrays. What is random takes a seed, and gives the same numbers for it. docs/analysis.md says how
often the intervals hold in simulation, and where they do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, binomtest, ecdf, t, trim_mean

Floats = NDArray[np.float64]
Method = Literal["t", "percentile"]
SEEDS_FOR_INTERVAL = 3
RESAMPLES = 2000
CONFIDENCE = 0.95


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
    seen = CensoredData(uncensored=[time.step for time in times if not time.censored],
                        right=[time.step for time in times if time.censored])
    curve = ecdf(seen).sf
    below = curve.quantiles[curve.probabilities < 0.5 - 1e-12]
    if not len(below):
        return float(max(time.step for time in times)), True
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
    return np.concatenate([part[random.integers(len(part), size=(resamples, len(part)))] for part in strata], axis=1)


def iqm_interval(strata: Sequence[Floats], seed: int = 0, method: Method = "t", confidence: float = CONFIDENCE,
                 resamples: int = RESAMPLES) -> Estimate:
    """The interquartile mean of all values, with a stratified bootstrap interval.

    "percentile" takes the quantiles of the bootstrap distribution, as is usual (arXiv 2108.13264). For the
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
    return stratified_interval(strata, interquartile_means, seed, method, confidence, resamples)


def means(values: Floats) -> Floats:
    """The plain mean along the last axis."""
    found: Floats = values.mean(axis=-1)
    return found


def stratified_interval(strata: Sequence[Floats], statistic: Callable[[Floats], Floats], seed: int = 0,
                        method: Method = "t", confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Estimate:
    """A statistic of all values that is a kind of mean, with the interval of `iqm_interval`.

    Args:
        strata: values (n_s,) of each task; no interval if one has fewer than three.
        statistic: of values along the last axis.
        seed, method, confidence, resamples: see `iqm_interval`.

    Raises:
        ValueError: there is no value.
    """
    pooled = np.concatenate([np.asarray(part, dtype=float) for part in strata])
    if not len(pooled):
        raise ValueError("an interval needs at least one value")
    value = float(statistic(pooled))
    if min(len(part) for part in strata) < SEEDS_FOR_INTERVAL:
        return Estimate(value, None, None, len(pooled))
    draws = statistic(stratified_resamples(strata, resamples, seed))
    tail = (1 - confidence) / 2
    if method == "percentile":
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), len(pooled))
    free = len(pooled) - len(strata)
    half = float(t.ppf(1 - tail, free) * draws.std() * np.sqrt(len(pooled) / free))
    return Estimate(value, value - half, value + half, len(pooled))
