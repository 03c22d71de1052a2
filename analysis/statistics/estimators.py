"""Estimators for few seeds and noisy episodes, each with its formula and source.

All are pure functions of arrays. Random ones take a seed and are reproducible. docs/analysis.md has the coverage of
the intervals in simulation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, binomtest, ecdf, t

Floats = NDArray[np.float64]
Method = Literal["t", "percentile"]
SEEDS_FOR_INTERVAL = 3
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A point estimate from `count` values; low and high are None if there are too few values for an interval."""

    value: float
    low: float | None
    high: float | None
    count: int


# --- one run's episodes --------------------------------------------------------------------------------------------


def cvar(values: Floats, share: float = 0.1) -> float:
    """Return the conditional value at risk (CVaR) of a cost: the mean of the highest `share` of the values.

    CVaR = (1/α) [Σ_{i≤k} x_(i) / n + (α − k/n) x_(k+1)],  x_(1) ≥ x_(2) ≥ …,  k = ⌊α n⌋,  α = share: the value at
    the boundary has a fractional weight (Rockafellar and Uryasev, J. Banking and Finance 26, 2002, eq. 26).

    Args:
        values: (n,), n ≥ 1.
        share: α in (0, 1].
    """
    worst = np.sort(values)[::-1]
    inside = share * len(worst)
    whole = int(inside + 1e-9)  # in floating point 0.29 · 100 is just below 29
    weights = np.zeros(len(worst))
    weights[:whole] = 1.0
    if whole < len(worst):
        weights[whole] = max(inside - whole, 0.0)
    counted = weights > 0  # infinity times 0 is not a number
    return float(worst[counted] @ weights[counted] / weights.sum())


@dataclass(frozen=True)
class StayTime:
    """The step from which a run stays feasible, possibly right-censored.

    Attributes:
        step: first evaluation from which all are feasible; if censored, the last evaluation.
        censored: whether the last evaluation is infeasible, so that the time is greater than `step` or infinite.
    """

    step: int
    censored: bool


def time_to_stay_feasible(steps: Sequence[int], feasible: Sequence[bool]) -> StayTime | None:
    """Return the first evaluation from which all are feasible, itself included; None without evaluations.

    Args:
        steps: steps of the evaluations, increasing.
        feasible: whether each evaluation is feasible.
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
    """Return the Kaplan–Meier median of the times, and whether it is only a lower bound.

    S(t) is the survival curve: the share of runs that do not yet stay feasible at t (J. Am. Stat. Assoc. 53, 1958). The
    median is the first t with S(t) < 1/2, or the midpoint of the interval on which S = 1/2, as for an even number of
    values. If S never falls below 1/2, the longest time is the lower bound.
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
    """Return a proportion with Wilson's score interval (J. Am. Stat. Assoc. 22, 1927).

    Unlike Wald's, the interval has a positive width also if all or none of the trials are successes.

    Args:
        successes: number of successes.
        count: number of trials, at least 1.
    """
    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high), count)


# --- across seeds --------------------------------------------------------------------------------------------------


def interquartile_mean(values: Floats) -> float:
    """Return the mean of n values without the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest (IQM, arXiv 2108.13264)."""
    return float(interquartile_means(np.asarray(values, dtype=float)))


def interquartile_means(values: Floats) -> Floats:
    """Return the interquartile mean along the last axis, the same to the last bit for any order of the values.

    It is NaN if a value is not finite: sorted and trimmed, NaN would count as the highest value.
    """
    cut = values.shape[-1] // 4
    means: Floats = np.sort(values, axis=-1)[..., cut:values.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isfinite(values).all(axis=-1), means, np.nan)


def stratified_resamples(strata: Sequence[Floats], resamples: int, seed: int) -> Floats:
    """Return stratified bootstrap samples, (resamples, n): each row resamples every stratum with replacement.

    A stratum is a task (arXiv 2108.13264, section 4.1): only runs of the same task are exchangeable.
    """
    random = np.random.default_rng(seed)
    return np.concatenate([part[random.integers(len(part), size=(resamples, len(part)))] for part in strata], axis=1)


def iqm_interval(strata: Sequence[Floats], seed: int = 0, method: Method = "t", confidence: float = CONFIDENCE,
                 resamples: int = RESAMPLES) -> Estimate:
    """Return the interquartile mean of all values with a stratified bootstrap interval.

    "percentile" uses the quantiles of the bootstrap distribution, as is usual (arXiv 2108.13264). With three to five
    seeds that interval is much too short: it never leaves the range of the values, and the bootstrap variance is
    (n − S)/n of the unbiased one. "t" corrects both, from the bootstrap standard error s*:

        IQM ± t_{n−S}(1 − (1 − confidence)/2) · s* · √(n / (n − S)),   n values in S strata

    With one stratum of three seeds nothing is trimmed, and this is Student's t interval of the mean.

    Args:
        strata: values (n_s,) of each task; no interval if a task has fewer than three.
        seed: seed of the resampling.
        method: "t" or "percentile".
        confidence: nominal coverage.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: there are no values.
    """
    return stratified_interval(strata, interquartile_means, seed, method, confidence, resamples)


def means(values: Floats) -> Floats:
    """Return the mean along the last axis."""
    found: Floats = values.mean(axis=-1)
    return found


def stratified_interval(strata: Sequence[Floats], statistic: Callable[[Floats], Floats], seed: int = 0,
                        method: Method = "t", confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Estimate:
    """Return a mean-like statistic of all values with the interval of `iqm_interval`.

    Args:
        strata: values (n_s,) of each task; no interval if a task has fewer than three, or a value is not finite.
        statistic: reduces the last axis of an array.
        seed, method, confidence, resamples: see `iqm_interval`.

    Raises:
        ValueError: there are no values.
    """
    pooled = np.concatenate([np.asarray(part, dtype=float) for part in strata])
    if not len(pooled):
        raise ValueError("an interval needs at least one value")
    value = float(statistic(pooled))
    if min(len(part) for part in strata) < SEEDS_FOR_INTERVAL or not np.isfinite(value):
        return Estimate(value, None, None, len(pooled))
    draws = statistic(stratified_resamples(strata, resamples, seed))
    tail = (1 - confidence) / 2
    if method == "percentile":
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), len(pooled))
    free = len(pooled) - len(strata)
    half = float(t.ppf(1 - tail, free) * draws.std() * np.sqrt(len(pooled) / free))
    return Estimate(value, value - half, value + half, len(pooled))
