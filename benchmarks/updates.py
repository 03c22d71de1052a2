"""Updates a second of every agent and guidance, against a straightforward implementation of the same update.

    python -m benchmarks.updates [--rounds 5] [--updates 20]

Each variant runs in a process of its own on one thread, after a burn-in, and the processes take turns, so that a busy
machine slows all alike; medians over the rounds. Ratios are to `benchmarks/plain_update.py` at the same sizes. The
share is that of the machine's own matrix-product rate, 1024³, measured in the same rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SIZES = [(76, 2), (27, 8), (45, 17)]
AGENTS, GUIDANCES = ("vesde", "ddpm", "gaussian"), ("augmented", "plain", "none")


class Worker:
    """A process that times what it is asked for. `name`: "products", or agent/guidance/states/actions[/plain]."""

    def __init__(self, name: str):
        self.name = name
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.updates", "--worker", name], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.seconds: list[float] = []
        self.operations = float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def time(self, count: int) -> None:
        """Take one more measurement, of `count` repetitions."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._answer()) / count)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def work(name: str) -> None:
    """Serve as a `Worker`'s process: the number of operations, then seconds for each count that comes in."""
    import torch

    torch.set_num_threads(1)
    once = products() if name == "products" else updates(name)
    once()
    print(operations(once), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            once()
        print(time.perf_counter() - start, flush=True)


def operations(once: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in one call."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        # torch's own counter follows modules with hooks, which autograd.grad inside a module does not survive.
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
            return result

    with Counter() as counter:
        once()
    return counter.total


def products() -> Callable[[], object]:
    """The machine's own matrix product, 1024³."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: left @ right


def updates(name: str) -> Callable[[], object]:
    """One update of the default agent of this name, sampling included."""
    import numpy as np
    import torch
    from hydra import compose, initialize_config_dir

    from algd.build import build
    from algd.cli import CONF
    from algd.config import resolve
    from algd.noise import Noise
    from algd.replay import Replay
    from benchmarks.plain_update import PlainAgent

    agent_name, guidance_name, states, actions, *plain = name.split("/")
    s, d = int(states), int(actions)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolve(compose("config", overrides=[f"agent={agent_name}", f"guidance={guidance_name}", "env=toy"]))
    torch.manual_seed(0)
    guidance = build(config["guidance"], threshold=2.455, limit=10.0)
    agent = build(config["agent"], observation_size=s, action_low=[-1.0] * d, action_high=[1.0] * d, guidance=guidance)
    rng, replay = np.random.default_rng(0), Replay(20_000, s, d)
    straightforward = PlainAgent(agent, config["batch_size"]) if plain else None
    for _ in range(10_000):
        row = (rng.normal(size=s), rng.uniform(-1, 1, d), rng.normal(), rng.random(), rng.normal(size=s))
        replay.add(*row, False, False)
        if straightforward:
            straightforward.replay.append((*row, False))
    if straightforward:
        return straightforward.update
    noise = Noise(0)
    return lambda: agent.update(replay.sample(config["batch_size"], noise), noise)


def main(rounds: int, count: int) -> None:
    """Measure every variant and print the table."""
    print(f"{'variant':<34} {'ms/update':>10} {'updates/s':>10} {'plain/ours':>11} {'GFLOP':>7} {'share':>6}")
    for s, d in SIZES:
        cells = [f"{agent}/{guidance}/{s}/{d}" for agent in AGENTS for guidance in GUIDANCES]
        plain = [f"{agent}/augmented/{s}/{d}/plain" for agent in ("vesde", "ddpm")]
        workers = {name: Worker(name) for name in ["products", *cells, *plain]}
        for worker in workers.values():
            worker.time(5)
            worker.seconds.clear()
        for _ in range(rounds):
            for worker in workers.values():
                worker.time(count)
        rate = workers["products"].operations / workers["products"].median
        for name, worker in workers.items():
            worker.stop()
            if name == "products":
                print(f"{'matrix product 1024³':<34} {rate / 1e9:>32.0f} GFLOP/s")
                continue
            reference = workers.get(f"{name}/plain")
            ratio = f"{reference.median / worker.median:.2f}" if reference else ""
            share = worker.operations / worker.median / rate
            print(f"{name:<34} {1e3 * worker.median:>10.1f} {1 / worker.median:>10.1f} {ratio:>11} "
                  f"{worker.operations / 1e9:>7.2f} {share:>6.0%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work(given.worker) if given.worker else main(given.rounds, given.updates)
