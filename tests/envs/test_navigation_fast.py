"""The fast navigation environments return exactly what the package's own do."""

import numpy as np
import pytest

from algd.envs.safety_gymnasium.fast_resets import RandomGenerator
from algd.envs.safety_gymnasium.fast_steps import accelerate, lidar
from algd.envs.safety_gymnasium.import_repairs import make_stock
from tests.support.episodes import FreshProcess, names, record, reference, task

STOCK, PAPER = names("stock", "navigation"), names("paper", "navigation")
SEEDS = [3, 11]


def steps(name: str) -> list[int]:
    """Return the lengths of a full episode and of the beginning of another."""
    return [400 if name in PAPER else 1000, 30]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FreshProcess]:
    processes = {}
    for family in (STOCK, PAPER):
        process = FreshProcess("reference", family, SEEDS, steps(family[0]), tmp_path_factory.mktemp("reference"))
        processes |= dict.fromkeys(family, process)
    return processes


@pytest.mark.parametrize("name", PAPER + STOCK)
def test_full_episodes_equal_the_unpatched_package(name: str, references: dict[str, FreshProcess]) -> None:
    fast = record(task(name), SEEDS, steps(name))
    slow = references[name].episodes(name)
    assert len(fast["reward"]) == sum(steps(name))
    assert fast["ends"][steps(name)[0] - 1].tolist() == [False, True]
    for key in slow:
        assert np.array_equal(fast[key], slow[key]), key
    if name in ("point_button1", "car_button2", "safety_point_goal1", "safety_point_button1"):
        assert fast["goal"].sum() >= 2 and fast["cost"].sum() >= 2, "these compare new goals and contacts too"


@pytest.mark.parametrize("name", ["safety_point_goal1", "safety_point_push1", "safety_car_button2"])
def test_layouts_and_the_generator_afterwards_equal_single_draws(name: str) -> None:
    env = task(name)
    env.reset(seed=0)
    generator = env.unwrapped.task.random_generator
    for seed in range(2 if "button" in name else 100):
        generator.set_random_seed(seed)
        fast = generator.build_layout()
        after = generator.random_generator.random_sample(5)
        generator.set_random_seed(seed)
        slow = RandomGenerator.build_layout(generator)
        assert list(fast) == list(slow)
        assert all(np.array_equal(fast[thing], slow[thing]) for thing in slow)
        assert np.array_equal(after, generator.random_generator.random_sample(5))


@pytest.mark.parametrize(("max_dist", "alias"), [(3.0, True), (3.0, False), (None, True)])
def test_lidar_equals_the_packages_beam_by_beam(max_dist: float | None, alias: bool) -> None:
    from safety_gymnasium.bases.base_task import BaseTask

    env = task("point_button2")
    env.reset(seed=0)
    inner = env.unwrapped.task
    inner.lidar_conf.max_dist, inner.lidar_conf.alias = max_dist, alias
    generator = np.random.default_rng(0)
    for _ in range(200):
        groups = [generator.uniform(-3, 3, (n, 3)) for n in (1, 4, 11)]
        beams = lidar(inner.agent.pos, inner.agent.mat, groups, inner.lidar_conf)
        for beam, group in zip(beams, groups, strict=True):
            assert np.array_equal(beam, BaseTask._obs_lidar_pseudo(inner, group))


def test_only_the_accelerated_environment_changes() -> None:
    before, fast, after = reference("safety_point_goal1"), task("safety_point_goal1"), reference("safety_point_goal1")
    for untouched in (before, after):
        parts = untouched.unwrapped.task
        assert {type(part).__module__.split(".")[0] for part in (parts, parts.agent, *parts._obstacles)} == {
            "safety_gymnasium"}
    assert type(fast.unwrapped.task).__name__ == "FastGoalLevel1"


def test_what_has_no_fast_methods_is_left_alone() -> None:
    env = make_stock("SafetyDoggoGoal1-v0", 1000, None).unwrapped
    assert not accelerate(env)
    assert type(env.task).__name__ == "GoalLevel1"


def test_accelerating_after_a_reset_is_refused() -> None:
    env = task("point_button2")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset already"):
        accelerate(env.unwrapped)
