"""How often the 95% intervals hold what they should: python -m analysis.statistics.coverage prints the tables of
docs/analysis.md.

A value is what a table has of one seed: the mean over an evaluation's episodes. It is a random policy's true value plus
the noise of its episodes, which shrinks with their number; seeds are what intervals across seeds are about.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from analysis.statistics.estimators import Floats, Method, interquartile_means, iqm_interval, probability_of_improvement

Draw = Callable[[np.random.Generator, int], Floats]
EPISODE_NOISE = 1.0  # standard deviation of an episode, in units of that of the seeds


def _with_episodes(policies: Draw, episodes: int) -> Draw:
    def draw(random: np.random.Generator, count: int) -> Floats:
        return policies(random, count) + random.normal(size=count) * EPISODE_NOISE / np.sqrt(episodes)
    return draw


SHAPES: dict[str, Draw] = {
    "normal": lambda random, count: random.normal(size=count),
    "skewed": lambda random, count: random.lognormal(0, 0.75, size=count),
    "three in ten fail": lambda random, count: random.normal(0, 0.3, size=count) + 2.0 * (random.random(count) < 0.7),
}


def coverage(draw: Draw, count: int, repetitions: int, seed: int, method: Method = "t", resamples: int = 500) -> float:
    """How often the interval of the interquartile mean of `count` values holds that mean's own expectation.

    Args:
        draw: random values: (generator, how many) -> (n,).
        count: values (seeds) in each repetition.
        repetitions: how many intervals are made.
        seed: of everything random.
        method, resamples: see iqm_interval.
    """
    random = np.random.default_rng(seed)
    truth = interquartile_means(draw(random, 100_000 * count).reshape(-1, count)).mean()
    hits = 0
    for repetition in range(repetitions):
        one = iqm_interval([draw(random, count)], repetition, method, resamples=resamples)
        assert one.low is not None and one.high is not None
        hits += bool(one.low <= truth <= one.high)
    return hits / repetitions


def improvement_coverage(shift: float, count: int, repetitions: int, seed: int) -> float:
    """How often the interval of the probability of improvement holds it, for normal values this far apart."""
    random, truth = np.random.default_rng(seed), norm.cdf(shift / np.sqrt(2))
    hits = 0
    for _ in range(repetitions):
        one = probability_of_improvement([random.normal(size=count) + shift], [random.normal(size=count)])
        assert one.low is not None and one.high is not None
        hits += bool(one.low <= truth <= one.high)
    return hits / repetitions


def main() -> None:
    """Print the tables."""
    print("| seeds' values | episodes | interval | 3 seeds | 5 seeds | 10 seeds | 20 seeds |")
    print("|---|---:|---|---:|---:|---:|---:|")
    methods: tuple[Method, ...] = ("t", "percentile")
    for shape, policies in SHAPES.items():
        for episodes in (5, 20):
            for method in methods:
                held = (coverage(_with_episodes(policies, episodes), count, 1000, 0, method)
                        for count in (3, 5, 10, 20))
                print(f"| {shape} | {episodes} | {method} | " + " | ".join(f"{one:.1%}" for one in held) + " |")


    print("\n| P(improvement) of normal seeds | 3 seeds | 5 seeds | 10 seeds |\n|---:|---:|---:|---:|")
    for shift in (0.0, 1.0, 2.0):
        held = (improvement_coverage(shift, count, 1000, 0) for count in (3, 5, 10))
        print(f"| {norm.cdf(shift / np.sqrt(2)):.2f} | " + " | ".join(f"{one:.1%}" for one in held) + " |")


if __name__ == "__main__":
    main()
