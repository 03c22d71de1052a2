"""Running normalisation against NumPy, and how agents apply it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algd.algorithm.agent import Batch
from algd.algorithm.normalisation import Normaliser, RunningMoments
from algd.algorithm.rng import RandomGenerator
from algd.run.build import build_agent, build_task
from tests.support.command import TINY, compose


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e-3, 1e-3)), min_size=2, max_size=40))
def test_moments_are_numpys(values: list[tuple[float, float]]) -> None:
    moments = RunningMoments(2)
    for value in values:
        moments.observe(torch.tensor(value, dtype=torch.float64))
    array = np.array(values)
    np.testing.assert_allclose(moments.mean, array.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.std(), np.maximum(array.std(0), 1e-4), rtol=1e-6, atol=1e-9)


def test_rewards_are_scaled_by_the_discounted_return() -> None:
    normaliser = Normaliser(1, False, True, discount=0.5)
    returns, running = [], 0.0
    for reward, over in ((1.0, False), (2.0, True), (4.0, False), (0.0, False)):
        running = running * 0.5 + reward
        returns.append(running)
        normaliser.observe(torch.zeros(1), reward, over)
        running = 0.0 if over else running
    assert returns == [1.0, 2.5, 4.0, 2.0]
    torch.testing.assert_close(normaliser.rewards(torch.tensor([3.0])),
                               torch.tensor([3.0 / np.std(returns)], dtype=torch.float32))


def test_observations_are_centred_and_clipped() -> None:
    normaliser = Normaliser(1, True, False, 0.9)
    assert normaliser.observations(torch.tensor([[7.0]])).item() == 7.0  # nothing was observed yet
    for value in (1.0, 3.0):
        normaliser.observe(torch.tensor([value]), 0.0, False)
    torch.testing.assert_close(normaliser.observations(torch.tensor([[4.0], [1e6]])), torch.tensor([[2.0], [10.0]]))


def test_acting_and_updating_see_the_same() -> None:
    """An agent that normalises acts on raw observations as its twin without normalisation does on normalised ones."""
    config = compose(*TINY, "env=toy", "normalise.observation=true")
    task = build_task(config)
    torch.manual_seed(0)
    agent = build_agent(config, task)
    torch.manual_seed(0)
    twin = build_agent(compose(*TINY, "env=toy"), task)
    for value in torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 3 + 1:
        agent.normaliser.observe(value, 0.0, False)
    raw = torch.tensor([[2.0, -1.0, 0.5]])
    torch.testing.assert_close(agent.act(raw, RandomGenerator(0)),
                               twin.act(agent.normaliser.observations(raw), RandomGenerator(0)))
    assert not torch.equal(agent.act(raw, RandomGenerator(0)), twin.act(raw, RandomGenerator(0)))


@pytest.mark.parametrize("name", ["vesde", "gaussian"])
def test_an_update_is_the_twins_on_what_was_normalised(name: str) -> None:
    """Updates from raw batches with both normalisations: a twin without any is given each part in the networks' units,
    (s − mean)/std clipped to ±10 for both observations and r/std for rewards."""
    on = ["normalise.observation=true", "normalise.reward=true"]
    config = compose(*TINY, "env=toy", f"agent={name}", *on)
    task = build_task(config)
    torch.manual_seed(0)
    agent = build_agent(config, task)
    torch.manual_seed(0)
    twin = build_agent(compose(*TINY, "env=toy", f"agent={name}"), task)
    random, (s, r) = torch.Generator().manual_seed(1), torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(2))
    for number in range(30):
        agent.normaliser.observe(s[number] * 3 + 1, r[number, 0].item() * 5, number % 7 == 6)
    assert agent.normaliser.observation is not None
    mean, std = agent.normaliser.observation.mean.float(), agent.normaliser.observation.std().float()
    noise, twins_noise = RandomGenerator(3), RandomGenerator(3)
    for _ in range(3):
        state, action, reward, cost, following = (torch.randn(16, *size, generator=random) * 3
                                                  for size in ((3,), (2,), (), (), (3,)))
        following[0] = 1e6  # is clipped
        dones = (torch.rand(2, 16, generator=random) < 0.2).float()
        found = agent.update(Batch(state, action.tanh(), reward, cost.abs(), following, *dones), noise)
        expected = twin.update(Batch(
            ((state - mean) / std).clamp(-10, 10), action.tanh(), reward / agent.normaliser.reward_unit(), cost.abs(),
            ((following - mean) / std).clamp(-10, 10), *dones), twins_noise)
        for scalar, value in expected.items():
            torch.testing.assert_close(found[scalar], value, rtol=1e-5, atol=1e-6, msg=scalar)
    state_of_agent = agent.state_dict()
    for part, value in twin.state_dict().items():
        if not part.startswith("normaliser."):
            torch.testing.assert_close(state_of_agent[part], value, rtol=1e-4, atol=1e-6, msg=part)
