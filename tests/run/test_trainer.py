"""What the training loop passes on: seeds, noise, transitions, costs and moments, against the same loop by hand."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch

import algd
from algd.algorithm.agent import Agent, Batch
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.run.build import build_agent, build_task
from algd.run.train import train
from algd.seeding import episode_seed, stream
from algd.storage.checkpoint import Checkpoints
from tests.run.test_simulator_failure import StopsAfter, kept_replay, rows
from tests.support.command import TINY, compose, only_run, train_here

SEED, INITIAL, STEPS, LENGTH = 3, 10, 30, 8
DISCOUNT, COST_DISCOUNT, LIMIT = 0.8, 0.9, 4.0
RUN = [*TINY, "env=gymnasium", "env.id=tests.run.test_trainer:Ledger-v0", f"env.horizon={LENGTH}", f"env.limit={LIMIT}",
       "env.limit_kind=discounted", "guidance=pid", f"agent.discount={DISCOUNT}",
       f"agent.cost_discount={COST_DISCOUNT}", f"seed={SEED}", f"initial_steps={INITIAL}", f"total_steps={STEPS}",
       "eval.every=30", "eval.episodes=1", "log_every=1", "snapshots=0", "checkpoint.keep_replay=true",
       "normalise.observation=true", "normalise.reward=true", "compile=false"]


class Ledger(gymnasium.Env):
    """Costs 1 a step. The reward's return ends at step 3, the cost's at step 5, the episode at the time limit.

    The reward is step + action, the next observation the action and a normal of the episode's seed.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        info = {"cost": 1.0, "reward_done": self.steps == 3, "cost_done": self.steps == 5}
        return self._observation(float(action[0])), self.steps + float(action[0]), False, False, info

    def _observation(self, action: float) -> np.ndarray:
        return np.array([action, 5 + 3 * self.np_random.normal()], np.float32)


gymnasium.register("Ledger-v0", f"{__name__}:Ledger")


def training_seed(episode: int) -> int:
    return episode_seed(SEED, "training episode", episode)


def by_hand(config: dict[str, Any]) -> tuple[Agent, np.ndarray]:
    """Return the agent and the replay's rows of a run of RUN, written out as one loop."""
    task = build_task(config)
    torch.manual_seed(stream(SEED, "networks"))
    agent = build_agent(config, task)
    acting, updating = RandomGenerator(stream(SEED, "acting")), RandomGenerator(stream(SEED, "updates"))
    replay, episode = Replay(config["buffer_size"], 2, 1), 0
    observation, _ = task.reset(seed=training_seed(episode))
    spent, factor = 0.0, 1.0
    for number in range(INITIAL + STEPS):
        action = agent.act(torch.from_numpy(observation[None]), acting)[0].numpy().clip(-1, 1)
        following, reward, terminated, truncated, info = task.step(action)
        replay.add(observation, action, reward, info["cost"], following, info["reward_done"], info["cost_done"])
        agent.normaliser.observe(torch.from_numpy(following), reward, terminated or truncated)
        spent, factor = spent + factor * info["cost"], factor * COST_DISCOUNT
        observation = following
        if number >= INITIAL:
            agent.update(replay.sample(config["batch_size"], updating), updating)
        if terminated or truncated:
            agent.guidance.observe_episode(spent)
            spent, factor, episode = 0.0, 1.0, episode + 1
            observation, _ = task.reset(seed=training_seed(episode))
    return agent, replay.rows[:replay.added].numpy()


class Run(NamedTuple):
    """A finished run of RUN, with its replay's rows and the transitions in them."""

    folder: Path
    agent: Agent
    rows: np.ndarray
    transitions: Batch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    train_here(*RUN, f"runs_dir={runs}")
    folder = only_run(runs)
    replay = kept_replay(folder, 2, 1)
    assert replay.added == INITIAL + STEPS
    kept = replay.rows[:replay.added]
    return Run(folder, algd.load(folder).agent, kept.numpy(), replay.split(kept))


def test_a_run_is_the_loop_by_hand(run: Run) -> None:
    """Every transition, network, moment and multiplier at the end, bit for bit."""
    agent, transitions = by_hand(compose(*RUN))
    np.testing.assert_array_equal(run.rows, transitions)
    found = run.agent.state_dict()
    assert found.keys() == agent.state_dict().keys()
    for name, expected in agent.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_run_begins_with_what_follows_from_its_seed(tmp_path: Path) -> None:
    """The networks, and the generators of the actions' and the updates' noise, in the checkpoint before any step."""
    config = compose(*RUN, f"runs_dir={tmp_path}")
    train(config, StopsAfter(0))
    checkpoints = Checkpoints(only_run(tmp_path) / "checkpoints")
    state = checkpoints.load(checkpoints.numbers()[0])
    assert state["step"] == state["agent"]["updates"] == 0 and state["warm_up_left"] == INITIAL
    for noise, purpose in (("acting_noise", "acting"), ("update_noise", "updates")):
        expected = RandomGenerator(stream(SEED, purpose)).generator.get_state()
        assert torch.equal(state[noise]["generator"], expected), noise
    torch.manual_seed(stream(SEED, "networks"))
    for name, expected in build_agent(config, build_task(config)).state_dict().items():
        torch.testing.assert_close(state["agent"]["model"][name], expected, rtol=0, atol=0, equal_nan=True, msg=name)


def test_episodes_have_the_seeds_of_the_run(run: Run) -> None:
    """In the table, and in the environment, whose first observation follows from the seed."""
    seeds = [int(row["seed"]) for row in rows(run.folder, "episodes")]
    assert seeds == [training_seed(episode) for episode in range(5)] and len(set(seeds)) == 5
    firsts = run.transitions.observation[::LENGTH]
    expected = [Ledger().reset(seed=seed)[0] for seed in seeds]
    np.testing.assert_array_equal(firsts, np.stack(expected))


def test_training_acts_with_noise(run: Run) -> None:
    """The first action is the untrained policy's draw from the run's acting noise, and not its deterministic one."""
    config = compose(*RUN)
    torch.manual_seed(stream(SEED, "networks"))
    agent, first = build_agent(config, build_task(config)), run.transitions.observation[:1]
    assert torch.equal(run.transitions.action[:1], agent.act(first, RandomGenerator(stream(SEED, "acting"))))
    assert not torch.equal(run.transitions.action[:1], agent.act(first, None))


def test_each_transition_reaches_its_column_of_the_replay(run: Run) -> None:
    """Steps of five episodes of eight: rewards step + action, costs 1, and the two ends at steps 3 and 5."""
    step, kept = np.arange(INITIAL + STEPS) % LENGTH + 1, run.transitions
    assert np.array_equal(kept.reward_done, step == 3) and np.array_equal(kept.cost_done, step == 5)
    assert (kept.cost == 1).all()
    np.testing.assert_allclose(kept.reward, step + kept.action[:, 0].numpy(), rtol=1e-6)
    assert torch.equal(kept.next_observation[:, 0], kept.action[:, 0])
    inside = torch.from_numpy(step[1:] > 1)
    assert torch.equal(kept.observation[1:][inside], kept.next_observation[:-1][inside])


def test_a_discounted_limit_is_compared_with_the_discounted_cost(run: Run) -> None:
    """Eight costs of 1 spend d = (1 − γ_c⁸)/(1 − γ_c), so that n episodes give the PID's λ in closed form.

    All spend the same: Δ̄ = Δ = (d − 4)/4, D = 0, and the integral is its start and n Δ.
    """
    spent = (1 - COST_DISCOUNT**LENGTH) / (1 - COST_DISCOUNT)
    episodes = rows(run.folder, "episodes")
    assert [float(row["discounted_cost"]) for row in episodes] == pytest.approx([spent] * 5)
    assert [float(row["cost"]) for row in episodes] == [LENGTH] * 5
    violation = (spent - LIMIT) / LIMIT

    def multiplier(number: int) -> float:
        return 0.5 * violation + 0.6931 + 0.05 * number * violation

    with (run.folder / "metrics.csv").open(newline="") as file:
        lam = {int(row["step"]): float(row["lam"]) for row in csv.DictReader(file) if row["lam"]}
    # The updates of steps 1 to 6 come after one episode, those of steps 7 to 14 after two.
    assert [lam[step] for step in (1, 6, 7, 14, 15)] == pytest.approx([multiplier(n) for n in (1, 1, 2, 2, 3)])
    assert float(run.agent.guidance.multiplier) == pytest.approx(multiplier(5))


def test_the_moments_are_those_of_what_was_reached(run: Run) -> None:
    """Observations: NumPy's moments of the replay's next ones. Rewards: of the return that each step has had so far,
    discounted with γ and from its own episode's start."""
    normaliser = run.agent.normaliser
    assert normaliser.observation is not None and normaliser.reward is not None
    reached = run.transitions.next_observation.double().numpy()
    assert normaliser.observation.count == len(reached)
    np.testing.assert_allclose(normaliser.observation.mean, reached.mean(0), rtol=1e-9)
    np.testing.assert_allclose(normaliser.observation.std(), reached.std(0), rtol=1e-9)
    rewards = run.transitions.reward.double().numpy().reshape(5, LENGTH)
    returns = [sum(DISCOUNT**age * episode[step - age] for age in range(step + 1))
               for episode in rewards for step in range(LENGTH)]
    assert normaliser.reward_unit() == pytest.approx(np.std(returns), rel=1e-6)
    assert normaliser.discounted_return == 0  # the last episode is over
