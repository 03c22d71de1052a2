"""What the benchmarks measure: the default agents, and a replay of random transitions."""

from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from algd.algorithm.agent import Agent
from algd.algorithm.replay import Replay
from algd.cli.compose import CONF
from algd.config.schema import resolve
from algd.execution.step import Execution, resolve_execution
from algd.run.build import build

RULES = ("estep", "statewise")


def configuration(*arguments: str) -> dict[str, Any]:
    """Return the checked configuration of a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", overrides=list(arguments)))


def default_agent(agent: str, guidance: str, states: int, actions: int) -> tuple[Agent, dict[str, Any]]:
    """Return an agent with default hyper-parameters for spaces of these sizes, and its configuration.

    `guidance` may also be one of RULES: plain guidance with that guidance/dual.
    """
    chosen = ["guidance=plain", f"guidance/dual={guidance}"] if guidance in RULES else [f"guidance={guidance}"]
    config = configuration(f"agent={agent}", *chosen, "env=toy")
    torch.manual_seed(0)
    rule = build(config["guidance"], threshold=2.455, limit=10.0, observation_size=states)
    built = build(config["agent"], observation_size=states, action_low=[-1.0] * actions, action_high=[1.0] * actions,
                  guidance=rule)
    return built, config


def long_run(device: str = "cpu") -> Execution:
    """Return how a long run's updates are executed; a benchmark has too few updates to choose this itself."""
    return resolve_execution("auto", torch.device(device), 10**9, 10**9)


def random_replay(capacity: int, count: int, states: int, actions: int, device: str = "cpu") -> Replay:
    """Return a replay of `count` random transitions, written in blocks."""
    replay, generator = Replay(capacity, states, actions, device), np.random.default_rng(0)
    for first in range(0, count, 50_000):
        rows = generator.standard_normal((min(50_000, count - first), replay.rows.shape[1]), np.float32)
        rows[:, -2:] = 0  # No return ends.
        replay.restore(first, rows)
    return replay
