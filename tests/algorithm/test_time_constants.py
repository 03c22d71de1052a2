"""Time constants of a constraint: values in the authors' setting, and the options that shorten them."""

import pytest

from algd.algorithm.time_constants import TimeConstants, configured, time_constants
from algd.run.build import build_agent, build_task
from analysis.runs.select import flat
from tests.support.command import TINY, compose


def of(*arguments: str) -> TimeConstants | None:
    """Return the time constants of a built agent, after checking that the configuration alone gives the same."""
    config = compose(*TINY[:3], "logger=none", "env=toy", *arguments)
    task = build_task(config)
    found = time_constants(build_agent(config, task), task.budget, config["total_steps"] * config["updates_per_step"])
    assert configured(flat(config)) == found
    return found


def test_the_authors() -> None:
    found = of("total_steps=100000")
    assert found is not None and found.critics == pytest.approx(40_000) and found.run == 1_000_000
    assert found.multiplier == pytest.approx(3333.3, abs=0.1)
    assert found.needed == pytest.approx(100_000) and found.warning() is None


@pytest.mark.parametrize(("arguments", "critics", "multiplier"), [
    (["agent.cost_discount=0.9"], 4_000, 3333.3), (["agent.polyak=0.05"], 4_000, 3333.3),
    (["agent.target_interval=1"], 20_000, 3333.3), (["guidance.dual.learning_rate=3e-3"], 40_000, 333.3),
    (["guidance/dual=fixed"], 40_000, None), (["guidance=pid"], 40_000, None),
    (["env=throttle"], 0, 3333.3), (["env=throttle", "env.horizon=5"], 1_600, 3333.3)])
def test_what_shortens_them(arguments: list[str], critics: float, multiplier: float | None) -> None:
    found = of(*arguments)
    assert found is not None and found.critics == pytest.approx(critics)
    assert found.multiplier == (None if multiplier is None else pytest.approx(multiplier, abs=0.1))


def test_a_run_that_is_too_short_is_told() -> None:
    short, long = of("total_steps=9999"), of("total_steps=10000", "guidance.dual.hold=0")
    assert short is not None and long is not None and long.warning() is None
    assert "99,990 updates are too few" in str(short.warning()) and "100,000" in str(short.warning())
    held = of("total_steps=10000", "guidance.dual.hold=500")
    assert held is not None and "100,500" in str(held.warning()) and "constant for the first 500" in held.sentence()


def test_without_a_constraint_there_is_nothing_to_say() -> None:
    assert of("guidance=none") is None


def test_a_configuration_that_does_not_say_has_none() -> None:
    """Configurations that lack the needed keys, such as another framework's, have no time constants."""
    assert configured({"guidance.name": "augmented", "agent.polyak": 0.005}) is None
