"""Simulated coverage of the intervals and false positive rate of the tests:
python -m analysis.statistics.coverage prints the tables of docs/analysis.md.

A value is the result of one seed, the mean over the episodes of an evaluation. A return is a random policy's expected
return plus the noise of its episodes, which decreases with their number. A cost has no such noise: there the
difficulty is that a few seeds say little about rare seeds that were not drawn.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom, norm

from analysis.markdown import markdown_table
from analysis.statistics.comparisons import holm, mean_interval, probability_of_improvement, sign_flip
from analysis.statistics.estimators import (
    Estimate,
    Floats,
    Method,
    interquartile_means,
    iqm_interval,
    proportion_interval,
)

Draw = Callable[[np.random.Generator, int], Floats]
EPISODE_NOISE = 1.0  # standard deviation over a policy's episodes, in units of that over seeds
REPETITIONS, OF_COSTS = 1000, 4000

RETURNS: dict[str, Draw] = {
    "normal": lambda random, count: random.normal(size=count),
    "skewed": lambda random, count: random.lognormal(0, 0.75, size=count),
    "three in ten fail": lambda random, count: random.normal(0, 0.3, size=count) + 2.0 * (random.random(count) < 0.7),
}
# Expectation and sampler of each: nearly symmetric, heavy-tailed, with many zeros, with a rare dangerous seed.
COSTS: dict[str, tuple[float, Draw]] = {
    "around 20": (20.0, lambda random, count: random.gamma(16, 20 / 16, size=count)),
    "lognormal, σ = 1.5": (float(np.exp(1.125)), lambda random, count: random.lognormal(0, 1.5, size=count)),
    "seven in ten are 0": (3.0, lambda random, count: random.exponential(10, size=count)
                           * (random.random(count) < 0.3)),
    "one in five is 100": (20.8, lambda random, count: np.where(random.random(count) < 0.2, 100.0,
                                                               random.uniform(0, 2, size=count))),
}
# Upper bound on the coverage of any interval computed from the values alone: the probability that at least one of the
# drawn seeds is of the rare kind.
CEILINGS: dict[str, Callable[[int], float]] = {
    "seven in ten are 0": lambda count: 1 - 0.7**count,
    "one in five is 100": lambda count: 1 - 0.8**count,
}


def with_episodes(policies: Draw, episodes: int) -> Draw:
    """Add to each policy's value the noise of a mean over this many episodes."""
    def draw(random: np.random.Generator, count: int) -> Floats:
        return policies(random, count) + random.normal(size=count) * EPISODE_NOISE / np.sqrt(episodes)
    return draw


def holds(interval: Estimate, truth: float) -> bool:
    """Return whether the interval contains the truth."""
    assert interval.low is not None and interval.high is not None
    return bool(interval.low <= truth <= interval.high)


def coverage(draw: Draw, count: int, repetitions: int, seed: int, method: Method = "t", resamples: int = 500) -> float:
    """Return the coverage of `iqm_interval` for the expectation of the interquartile mean of `count` values.

    Args:
        draw: draws values: (generator, n) -> (n,).
        count: values (seeds) in each repetition.
        repetitions: number of intervals.
        seed: seed of the simulation.
        method, resamples: see `iqm_interval`.
    """
    random = np.random.default_rng(seed)
    truth = float(interquartile_means(draw(random, 100_000 * count).reshape(-1, count)).mean())
    return float(np.mean([holds(iqm_interval([draw(random, count)], repetition, method, resamples=resamples), truth)
                          for repetition in range(repetitions)]))


def cost_coverage(shape: str, count: int, repetitions: int, seed: int, method: str) -> float:
    """Return the coverage of an interval for the expected cost.

    Args:
        shape: a key of COSTS.
        count, repetitions, seed: see `coverage`.
        method: "t": Student's t interval of the mean; "percentile": bootstrap percentile interval of the mean;
            "IQM, t": `iqm_interval`, as for returns, which a reader would take as an interval of the expected cost.
    """
    random, (truth, draw) = np.random.default_rng(seed), COSTS[shape]

    def interval(values: Floats, repetition: int) -> Estimate:
        if method == "IQM, t":
            return iqm_interval([values], repetition, "t", resamples=500)
        if method == "t":
            return mean_interval(values)
        means = values[np.random.default_rng(repetition).integers(count, size=(500, count))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return Estimate(float(values.mean()), float(low), float(high), count)

    return float(np.mean([holds(interval(draw(random, count), repetition), truth)
                          for repetition in range(repetitions)]))


def share_coverage(share: float, count: int) -> float:
    """Return the exact coverage of Wilson's interval for the share of safe seeds."""
    return float(sum(binom.pmf(successes, count, share) * holds(proportion_interval(successes, count), share)
                     for successes in range(count + 1)))


def improvement_coverage(shift: float, count: int, repetitions: int, seed: int, spread: float = 1.0,
                         tasks: int = 1) -> float:
    """Return the coverage of the interval of `probability_of_improvement` for normal values.

    Args:
        shift: difference of the means.
        count, repetitions, seed: see `coverage`.
        spread: standard deviation of the first; that of the second is 1.
        tasks: number of tasks that are averaged.
    """
    random, truth = np.random.default_rng(seed), float(norm.cdf(shift / np.sqrt(1 + spread**2)))
    return float(np.mean([holds(probability_of_improvement(
        [random.normal(size=count) * spread + shift for _ in range(tasks)],
        [random.normal(size=count) for _ in range(tasks)]), truth) for _ in range(repetitions)]))


def false_finds(tests: int, count: int, repetitions: int, seed: int) -> tuple[float, float]:
    """Return the family-wise error rate at 5% of this many tests of equal algorithms, without and with Holm."""
    random = np.random.default_rng(seed)
    raw = adjusted = 0
    for repetition in range(repetitions):
        p_values = [sign_flip([random.normal(size=count)], repetition) for _ in range(tests)]
        raw += min(p for p in p_values if p is not None) <= 0.05
        adjusted += min(p for p in holm(p_values) if p is not None) <= 0.05
    return raw / repetitions, adjusted / repetitions


def _percent(values: Sequence[float]) -> list[str]:
    return [f"{value:.1%}" for value in values]


def main() -> None:
    """Print the tables of docs/analysis.md."""
    counts: tuple[int, ...] = (3, 5, 10, 20)
    lines = []
    methods: tuple[Method, ...] = ("t", "percentile")
    for shape, policies in RETURNS.items():
        for episodes in (5, 20):
            for method in methods:
                draw = with_episodes(policies, episodes)
                lines.append([shape, str(episodes), method,
                              *_percent([coverage(draw, count, REPETITIONS, 0, method) for count in counts])])
    print(markdown_table(["seeds' returns", "episodes", "interval", *(f"{count} seeds" for count in counts)], lines,
                         right=3), flush=True)
    counts, lines = (3, 5, 10), []
    for shape in COSTS:
        for name in ("t", "percentile", "IQM, t"):
            lines.append([shape, name, *_percent([cost_coverage(shape, count, OF_COSTS, 0, name)
                                                  for count in counts])])
        if shape in CEILINGS:
            lines.append([shape, "the most that any can", *_percent([CEILINGS[shape](count) for count in counts])])
    header = [f"{count} seeds" for count in counts]
    print("\n" + markdown_table(["seeds' costs", "interval", *header], lines, right=2), flush=True)
    lines = [[f"{share:.0%}", *_percent([share_coverage(share, count) for count in counts])]
             for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)]
    print("\n" + markdown_table(["share of safe seeds", *header], lines), flush=True)
    lines = [[f"{norm.cdf(shift / np.sqrt(1 + spread**2)):.2f}", f"{spread:g}", str(tasks),
              *_percent([improvement_coverage(shift, count, REPETITIONS, 0, spread, tasks) for count in counts])]
             for spread, shift, tasks in ((1, 0.0, 1), (1, 1.0, 1), (1, 2.0, 1), (4, 0.0, 1), (4, 4.0, 1), (1, 0.0, 4),
                                          (1, 0.0, 12))]
    print("\n" + markdown_table(["P(improvement) of normal seeds", "ratio of deviations", "tasks", *header], lines),
          flush=True)
    lines = [[str(tests), str(count), *_percent(false_finds(tests, count, REPETITIONS, 0))]
             for tests, count in ((1, 8), (12, 8), (12, 10))]
    print("\n" + markdown_table(["tests of equal algorithms", "seeds", "a false find without Holm", "with Holm"], lines,
                                right=0))


if __name__ == "__main__":
    main()
