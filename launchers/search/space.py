"""Parse the search space from Hydra's overrides: `interval`, `log`, `range`, `choice`, and lists of values."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from algd.errors import UsageError

HOW = "give a key an interval(a, b), tag(log, interval(a, b)), range(a, b, step) or choice(x, y)"


@dataclass(frozen=True)
class Space:
    """The searched keys, and the overrides that all trials share.

    Attributes:
        distributions: key ↦ Optuna's distribution of its values. The values of a choice are strings, as typed.
        seeds: the seeds of each trial; empty: the configuration's own seed.
        fixed: the other overrides.
    """

    distributions: Mapping[str, BaseDistribution]
    seeds: tuple[int, ...]
    fixed: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that identify the search."""
        searched = {key: repr(distribution) for key, distribution in self.distributions.items()}
        about = [searched, self.seeds, sorted(self.fixed)]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]

    def members(self, params: Mapping[str, Any]) -> list[list[str]]:
        """Return the overrides of a trial's runs, one list per seed."""
        own = [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items()]
        return [[*self.fixed, *own, *seed] for seed in [[f"seed={seed}"] for seed in self.seeds] or [[]]]


def parse(overrides: Sequence[Override]) -> Space:
    """Parse the space from a command line and an experiment's `params`.

    Raises:
        UsageError: nothing is searched, or a key has values that cannot be searched.
    """
    distributions: dict[str, BaseDistribution] = {}
    seeds: tuple[int, ...] = ()
    fixed = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(override.input_line or f"{key}={override.get_value_element_as_str()}")
        elif key == "seed":
            seeds = _seeds(override)
        else:
            distributions[key] = _distribution(override)
    if twice := sorted(set(distributions) & {text.partition("=")[0].lstrip("+") for text in fixed}):
        raise UsageError(f"{twice[0]}: it is both searched and set; give only one of them")
    if not distributions:
        raise UsageError(f"hydra/sweeper=optuna: nothing is searched; {HOW}")
    return Space(distributions, seeds, tuple(fixed))


def _seeds(override: Override) -> tuple[int, ...]:
    if not override.is_discrete_sweep():
        raise UsageError(f"{override.input_line}: the seeds of a trial are a list, as in seed=0,1,2")
    try:
        return tuple(int(text) for text in override.sweep_string_iterator())
    except ValueError as error:
        raise UsageError(f"{override.input_line}: a seed is a whole number") from error


def _distribution(override: Override) -> BaseDistribution:
    values, typed = override.value(), override.input_line
    if tags := sorted(str(tag) for tag in getattr(values, "tags", ()) if
                      tag != "log" or not isinstance(values, IntervalSweep)):
        raise UsageError(f"{typed}: the tag {tags[0]} has no meaning here; {HOW}")
    try:
        if isinstance(values, IntervalSweep):
            low, high, log = values.start, values.end, "log" in values.tags
            if low is not None and high is not None and low > high:
                raise ValueError("interval(a, b) needs a < b")
            if log and low is not None and low <= 0:
                raise ValueError("tag(log, interval(a, b)) needs a > 0")
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            assert low is not None and high is not None
            return FloatDistribution(float(low), float(high), log=log)
        if isinstance(values, RangeSweep):
            return _of_range(values)
        if isinstance(values, ChoiceSweep):
            return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{typed}: {' '.join(str(error).split())}") from error
    raise UsageError(f"{typed}: these values cannot be searched; {HOW}")


def _of_range(values: RangeSweep) -> BaseDistribution:
    """Return the distribution of Hydra's range: from start in steps to below stop."""
    start, stop, step = values.start or 0, values.stop, values.step
    if stop is None:
        start, stop = 0, start
    count = int(-((start - stop) // step))
    if count < 1 or step <= 0:
        raise ValueError("a range needs a positive step, and a first value before its stop")
    last = start + (count - 1) * step
    if all(isinstance(value, int) for value in (start, last, step)):
        return IntDistribution(int(start), int(last), step=int(step))
    return FloatDistribution(float(start), float(last), step=float(step))
