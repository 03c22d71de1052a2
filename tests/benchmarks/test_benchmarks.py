"""The implementations that the benchmarks compare with give the same results as the project's own."""

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from algd.algorithm.agent import Batch
from algd.algorithm.rng import RandomGenerator
from algd.execution.step import prepare_agent
from algd.run.acting import Actor
from algd.run.build import build, build_agent, build_task
from algd.run.evaluation import evaluate
from algd.seeding import stream
from benchmarks import plain_run, seeds
from benchmarks.__main__ import MEASUREMENTS
from benchmarks.plain_update import PlainAgent
from benchmarks.setting import configuration, long_run
from benchmarks.turns import take_turns
from benchmarks.whole_runs import SMALL, measure
from tests.support.command import ROOT, TINY, compose


class GlobalNoise:
    """Draws from torch's global generator, as the plain implementation does."""

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape)

    def integers(self, high: int, size: int) -> Tensor:
        return torch.randint(high, (size,))


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default precision, so that two implementations agree closely over several updates."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("agent_name", ["vesde", "ddpm"])
def test_the_plain_update_is_the_same_update(agent_name: str, float64: None) -> None:
    config = compose(*TINY, "env=toy", f"agent={agent_name}", "agent.policy.hidden_sizes=[16,16,16]")
    guidance = build(config["guidance"], threshold=0.3, limit=1.0)
    torch.manual_seed(0)
    agent = build(config["agent"], observation_size=5, action_low=[-1.0, 0.0], action_high=[1.0, 3.0],
                  guidance=guidance).double()
    plain = PlainAgent(agent, 16)
    for update in range(20):
        draw = torch.Generator().manual_seed(update)
        parts = [torch.randn(16, *size, generator=draw) for size in ((5,), (2,), (), (), (5,))]
        done = (torch.rand(2, 16, generator=draw) < 0.2).double()
        torch.manual_seed(100 + update)
        plain.update_from(*parts, *done)
        torch.manual_seed(100 + update)
        agent.update(Batch(*parts, *done), GlobalNoise())
    near = {"rtol": 0, "atol": 1e-9}
    for layer in range(3):
        torch.testing.assert_close(agent.cost_critics.weights[layer], plain.cost.weights[layer].mT, **near)
        torch.testing.assert_close(agent.target_critics.weights[layer][1],
                                   plain.target_critic.second[2 * layer].weight, **near)
    torch.testing.assert_close(agent.policy.network.embedding, plain.embedding.weight, **near)
    for head, linear in agent.policy.network.heads.items():
        torch.testing.assert_close(linear.weight, plain.heads[head].weight, **near)
    torch.testing.assert_close(agent.guidance.multiplier, plain.log_lam.exp(), **near)


def test_the_plain_update_is_the_same_at_full_size_on_a_real_task() -> None:
    """The default networks in C, and the straightforward ones, on transitions of point_button1, in float32."""
    config = configuration("agent=vesde", "guidance=augmented", "env=point_button1")
    task = build_task(config)
    torch.manual_seed(0)
    agent = build_agent(config, task)
    plain, act = PlainAgent(agent, 256), Actor(agent, task, RandomGenerator(1))
    observation, _ = task.reset(seed=0)
    transitions = []
    for _ in range(300):
        action = act(observation)
        following, reward, _, _, info = task.step(action)
        transitions.append((observation, action, reward, info["cost"], following, 0.0, 0.0))
        observation = following
    columns = [torch.as_tensor(np.stack(column), dtype=torch.float32) for column in zip(*transitions, strict=True)]
    step = prepare_agent(agent, long_run())
    for update in range(20):
        rows = torch.randint(300, (256,), generator=torch.Generator().manual_seed(update))
        parts = [column[rows] for column in columns]
        torch.manual_seed(update)
        plain.update_from(*parts)
        torch.manual_seed(update)
        agent.update(Batch(*parts), GlobalNoise(), step)
    states, actions = columns[:2]
    with torch.no_grad():
        mine = agent.critics(states, actions), agent.cost_critics(states, actions), agent.policy.deterministic(states)
        others = (torch.stack([q.squeeze(-1) for q in plain.critic(states, actions)]), plain.cost(states, actions),
                  plain.act(states, True))
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_plain_run_begins_as_the_projects_own(tmp_path: Path) -> None:
    """Both start from the same weights and evaluate on the same episodes; the plain run then trains."""
    config = configuration("agent=ddpm", "env=toy", "seed=3", "initial_steps=260", "total_steps=4", "eval.every=2",
                           "updates_per_step=1", "eval.episodes=2")
    plain_run.train(config, tmp_path)
    with (tmp_path / "evals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["sampler"]) for row in rows] == [
        (step, sampler) for step in "024" for sampler in ("deterministic", "stochastic") for _ in range(2)]
    task = build_task(config)
    torch.manual_seed(stream(3, "networks"))
    own = list(evaluate(build_agent(config, task), task, 3, 0, 2, "train"))
    for row, expected in zip(rows[:2], own[:2], strict=True):
        assert list(row) == list(expected) and row["seed"] == str(expected["seed"])
        assert float(row["return"]) == pytest.approx(expected["return"], abs=1e-4)
    # Initial steps are not counted, and the deterministic policy has changed after two updates.
    with (tmp_path / "episodes.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert int(first["step"]) == int(first["length"]) - 260
    assert [row["return"] for row in rows[4:6]] != [row["return"] for row in rows[:2]]


def test_stacked_seeds_compute_what_each_computes_alone(float64: None) -> None:
    torch.manual_seed(0)
    held, rows = seeds.initial(3, "cpu"), [seeds.batch(3, "cpu") for _ in range(3)]
    alone = [seeds.of_seed(held, number) for number in range(3)]
    with torch.no_grad():
        for drawn in rows:
            held = torch.func.vmap(seeds.update)(held, drawn)
            alone = [seeds.update(one, seeds.of_seed(drawn, number)) for number, one in enumerate(alone)]
    for number, one in enumerate(alone):
        torch.testing.assert_close(seeds.of_seed(held, number), one, rtol=0, atol=1e-9)
    assert not torch.equal(alone[0]["policy"][0], alone[1]["policy"][0])


def test_the_variants_take_turns_in_processes_of_their_own() -> None:
    workers = take_turns("benchmarks.replay", ["sample/20000", "add/20000"], rounds=3, count=2, burn_in=1)
    for worker in workers.values():
        assert len(worker.seconds) == 3 and 0 < min(worker.seconds) <= worker.median <= max(worker.seconds)
        # Small beside the process's own memory, so not much less than the 110% of a million.
        assert 0.9 < float(worker.said) < 1.3


def test_a_variant_that_fails_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="the process of nonsense/1 ended with exit code 1"):
        take_turns("benchmarks.replay", ["nonsense/1"], rounds=1, count=1, burn_in=1)


def test_where_a_run_spends_its_time_adds_up() -> None:
    begun = time.perf_counter()
    measured = measure(*SMALL, "total_steps=60", "checkpoint.every=20", "eval.every=30")
    elapsed = time.perf_counter() - begun
    parts = [measured.environment, measured.updating, measured.evaluating, measured.saving]
    assert measured.steps == 59 and all(part > 0 for part in parts) and sum(parts) < measured.seconds
    assert 0 < measured.to_first_update < elapsed - measured.seconds and 1e8 < measured.peak < 2e9


def test_the_peak_memory_of_a_process_is_its_own() -> None:
    child = "from benchmarks.memory import peak_resident; print(peak_resident())"
    parent = f"""
import subprocess, sys
from benchmarks.memory import peak_resident
held = bytearray(300_000_000)
print(peak_resident(), subprocess.check_output([sys.executable, "-c", {child!r}], text=True))
"""
    large, small = map(int, subprocess.check_output([sys.executable, "-c", parent], cwd=ROOT, text=True).split())
    assert large > 300_000_000 and 1_000_000 < small < 100_000_000


def test_there_is_one_door_to_all_measurements() -> None:
    assert set(MEASUREMENTS) <= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    result = subprocess.run([sys.executable, "-m", "benchmarks", "updats"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "updats: not one of updates, acting" in result.stderr
