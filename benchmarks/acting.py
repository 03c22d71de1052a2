"""Measure the milliseconds in which each agent chooses an action for one observation, as in training.

    python -m benchmarks.acting [--quick]

Each agent and pair of sizes runs in its own process on one thread. The processes take turns; numbers are medians over
the rounds.
"""

import argparse
from collections.abc import Callable

from benchmarks.turns import serve, take_turns

SIZES = [(76, 2), (27, 8), (45, 17)]
AGENTS, SAMPLERS = ("vesde", "ddpm", "gaussian", "cvpo"), ("stochastic", "deterministic")


def prepare(name: str) -> Callable[[], object]:
    """Return the default agent of this name as a function to time; name: agent/sampler/states/actions."""
    from types import SimpleNamespace

    import gymnasium
    import numpy as np
    import torch

    from algd.algorithm.rng import RandomGenerator
    from algd.execution.step import prepare_agent
    from algd.run.acting import Actor
    from benchmarks.setting import default_agent, long_run

    torch.set_num_threads(1)
    agent_name, sampler, states, actions = name.split("/")
    agent, _ = default_agent(agent_name, "augmented", int(states), int(actions))
    prepare_agent(agent, long_run())
    box = SimpleNamespace(action_space=gymnasium.spaces.Box(-1, 1, (int(actions),), np.float32))
    act = Actor(agent, box, RandomGenerator(0) if sampler == "stochastic" else None)  # type: ignore[arg-type]
    observation = np.random.default_rng(0).normal(size=int(states))
    return lambda: act(observation)


def main(rounds: int, count: int) -> None:
    """Measure every variant and print the table."""
    names = [f"{agent}/{sampler}/{s}/{d}" for s, d in SIZES for agent in AGENTS for sampler in SAMPLERS]
    workers = take_turns("benchmarks.acting", names, rounds, count, burn_in=count)
    print("| ms an action | " + " | ".join(f"({s}, {d})" for s, d in SIZES) + " |\n|---|" + "---:|" * len(SIZES))
    for agent in AGENTS:
        for sampler in SAMPLERS:
            cells = [f"{1e3 * workers[f'{agent}/{sampler}/{s}/{d}'].median:.2f}" for s, d in SIZES]
            print(f"| {agent}, {sampler} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(prepare(given.worker))
    else:
        main(*(1, 3) if given.quick else (9, 300))
