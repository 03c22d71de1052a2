"""Measure the updates per second of every agent and guidance, relative to a straightforward implementation.

    python -m benchmarks.updates [--rounds 9] [--updates 10] [--minimum] [--sizes 76x2 ...] [--parts] [--compiled]
                                 [--device cuda]

Ratios are to `benchmarks/plain_update.py` at the same sizes. Networks in C skip costs that a clipped multiplier
ignores, so `augmented` is measured twice: at the start of training, with λ = 0.69 and costs below the threshold
(nothing active), and with λ = 20 (all active); `plain` is always active. `/eager` executes networks in torch's
operations (compile=false). The share is the rate of the update's matrix products relative to the machine's rate for
a product of 1024³, measured in the same rounds.

On a CPU, times are CPU times of one thread: equal to wall time on an idle core, and on a busy one only what the update
uses. --minimum, with --updates 1 and many rounds, reports least times instead of medians.

--parts times the parts of one update; --compiled adds torch.compile, which takes minutes to compile. --device cuda
measures the diffusion policies on a GPU, captured as a graph (compile=auto), against separate kernel launches, and with
--compiled the compiled graph (compile=true).
"""

import argparse
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from algd.algorithm.agent import Agent
from algd.algorithm.rng import RandomGenerator
from algd.execution.native.network import Network
from algd.execution.step import Execution, keep_freed_memory, prepare_agent
from benchmarks.plain_update import PlainAgent
from benchmarks.setting import default_agent, long_run, random_replay
from benchmarks.turns import serve, take_turns

SIZES = ["76x2", "27x8", "45x17"]
AGENTS, GUIDANCES = ("vesde", "ddpm", "gaussian"), ("augmented", "augmented-active", "plain", "none")
HARD = ("gaussian/reachability", "gaussian/statewise", "vesde/reachability", "cvpo/estep")  # docs/hard_constraints.md
ACTIVE_MULTIPLIER = 20.0


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, including those in C.

    torch's own counter uses module hooks, which fail for gradients taken inside a module.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result

    def __enter__(self) -> "Counter":
        self._patches = contextlib.ExitStack()
        for name in ("forward", "backward", "gradients"):
            self._patches.enter_context(mock.patch.object(Network, name, self._counted(getattr(Network, name))))
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *raised: object) -> None:
        self._patches.close()
        super().__exit__(*raised)

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method of networks in C to count its operations."""
        def call(network: Network, *args: Any) -> Any:
            layers = network.layers
            if method.__name__ == "backward":
                _, gradient, chosen, _, of_x = args
                rows = math.prod(gradient.shape[:-1]) if chosen is None else int(chosen[1].sum())
                layers = layers if of_x is not None else layers[1:]
            else:
                rows = math.prod(network.lead) * args[0].shape[-2]
            self.total += 2 * rows * sum(layer.weight.shape[-2:].numel() for layer in layers)
            return method(network, *args)

        return call


def products(device: str) -> Callable[[], object]:
    """Return the matrix product 1024³, which measures the machine's rate."""
    left, right = torch.randn(1024, 1024, device=device), torch.randn(1024, 1024, device=device)
    return lambda: left @ right


def subject(name: str) -> tuple[Agent, dict[str, object]]:
    """Return the agent of a variant, agent/guidance/sizes[/…], and its configuration."""
    agent_name, guidance, sizes = name.split("/")[:3]
    states, actions = map(int, sizes.split("x"))
    agent, config = default_agent(agent_name, guidance.removesuffix("-active"), states, actions)
    if guidance.endswith("-active"):
        with torch.no_grad():
            agent.guidance.dual.log_multiplier.fill_(ACTIVE_MULTIPLIER).log_()
    return agent, config


def updates(name: str, device: str = "cpu") -> Callable[[], object]:
    """Return one update of a variant, agent/guidance/sizes[/plain|/compiled|/eager], including sampling."""
    agent, config = subject(name)
    agent.to(device)
    states, actions = map(int, name.split("/")[2].split("x"))
    replay, size = random_replay(20_000, 10_000, states, actions, device), config["batch_size"]
    if name.endswith("/plain"):
        plain = PlainAgent(agent, size)
        batch = replay.split(replay.rows[:10_000])
        columns = [column.numpy() for column in batch]
        plain.replay.extend(zip(*columns, strict=True))
        return plain.update
    keep_freed_memory()
    noise = RandomGenerator(0, device)
    step = prepare_agent(agent, execution(name, device))
    return lambda: agent.update(replay.sample(size, noise), noise, step)


def execution(name: str, device: str = "cpu") -> Execution:
    """Return how a variant's updates are executed: as its name ends, or as in a long run."""
    last = name.split("/")[-1]
    if last == "compiled":
        return "compiled" if device == "cpu" else "compiled graph"
    return "eager" if last == "eager" else long_run(device)


def parts(name: str) -> dict[str, Callable[[], object]]:
    """Return the parts of a variant's update, in order."""
    agent, config = subject(name)
    states, actions = map(int, name.split("/")[2].split("x"))
    keep_freed_memory()
    replay, noise, size = random_replay(20_000, 10_000, states, actions), RandomGenerator(0), config["batch_size"]
    batch, draws = replay.sample(size, noise), agent.draw(size, noise)
    step = prepare_agent(agent, execution(name))
    for _ in range(5):
        agent.update(batch, noise, step)
    policy, energy = agent.policy, agent.energy.at(batch.observation)

    def next_action() -> Tensor:
        with torch.no_grad():
            return policy.sample(batch.next_observation, draws.next_action).action

    def targets() -> None:
        with torch.no_grad():
            agent.target_critics(batch.next_observation, batch.action)
            agent.target_cost_critics(batch.next_observation, batch.action)

    level, chain, normals = draws.loss
    samples = batch.action.unsqueeze(1) + normals

    def policy_gradient() -> None:
        policy.zero_grad()
        latents = policy.chain(batch.observation, chain)
        score = policy.network.at(batch.observation)("score", batch.action, level)
        (policy.squash(latents[-1]).sum() + score.sum()).backward()

    return {
        "sampling and random numbers": lambda: (replay.sample(size, noise), agent.draw(size, noise)),
        "next actions": next_action,
        "target critics": targets,
        "regression of the reward critics": lambda: agent.critics.regress(
            batch.observation, batch.action, batch.reward, 1.0),
        "regression of the cost critics": lambda: agent.cost_critics.regress(
            batch.observation, batch.action, batch.cost, 0.25),
        "states' part of the first layers": lambda: agent.energy.at(batch.observation),
        "risk of the batch": lambda: energy.risk(batch.action),
        "energy and gradient at the policy's actions": lambda: energy.value_and_gradient(batch.action),
        "energy and gradient at the estimator's samples": lambda: energy.value_and_gradient(samples),
        "the policy's chain and score, both ways": policy_gradient,
        "optimisers": lambda: [optimizer.step() for optimizer in agent.optimizers.values()],
        "target networks, every second update": agent._update_targets,
    }


def report_parts(name: str, repetitions: int = 30) -> None:
    """Print the medians of an update's parts."""
    found = parts(name)
    times: dict[str, list[float]] = {part: [] for part in found}
    for _ in range(repetitions):
        for part, once in found.items():
            begin = time.process_time()
            once()
            times[part].append(time.process_time() - begin)
    medians = {part: sorted(seconds)[len(seconds) // 2] for part, seconds in times.items()}
    print(f"\n{name}\n")
    for part, seconds in medians.items():
        print(f"{part:<50} {1e3 * seconds:>6.2f} ms  {seconds / sum(medians.values()):>4.0%}")


def report(sizes: str, rounds: int, count: int, compiled: bool, device: str, minimum: bool) -> None:
    """Measure every variant at these sizes and print the table."""
    if device == "cpu":
        how, agents, guidances = "plain", AGENTS, GUIDANCES
    else:
        how, agents, guidances = "eager", AGENTS[:2], ("augmented", "none")
    cells = [f"{agent}/{guidance}/{sizes}" for agent in agents for guidance in guidances]
    references = [f"{agent}/augmented/{sizes}/{how}" for agent in AGENTS[:2]]
    extra = [f"{agent}/{guidance}/{sizes}/eager" for agent in AGENTS[:2] for guidance in GUIDANCES[:2]]
    extra = [*extra, *(f"{cell}/{sizes}" for cell in HARD)] if device == "cpu" else []
    extra += [f"vesde/{guidance}/{sizes}/compiled" for guidance in ("augmented", "plain")] if compiled else []
    workers = take_turns(__spec__.name, ["products", *references, *cells, *extra], rounds, count, 5,
                         ["--device", device])

    def seconds(name: str) -> float:
        return workers[name].least if minimum else workers[name].median

    rate = int(workers["products"].said) / seconds("products")
    print(f"{'matrix product 1024³':<34} {rate / 1e9:>32.0f} GFLOP/s")
    for name in [*references, *cells, *extra]:
        reference, ratio, took = f"{name.split('/')[0]}/augmented/{sizes}/{how}", "", seconds(name)
        if reference in workers:
            # Ratios are taken within rounds, so that what slows the machine for a while slows both.
            times = seconds(reference) / took if minimum else workers[name].ratio_to(workers[reference])
            ratio = f"{times:.2f}"
        operations = int(workers[name].said)
        print(f"{name:<34} {1e3 * took:>10.1f} {1 / took:>10.1f} {ratio:>11} {operations / 1e9:>7.2f} "
              f"{operations / took / rate:>6.0%}", flush=True)


def main() -> None:
    """Measure what the command line asks for, or serve as a worker."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="STATESxACTIONS")
    parser.add_argument("--minimum", action="store_true", help="least times in place of medians, on a busy machine")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.device == "cuda" and given.parts:
        parser.error("--parts --device cuda: the parts are those of an update on a CPU")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that torch can use")
    if given.worker:
        once = products(given.device) if given.worker == "products" else updates(given.worker, given.device)
        once()
        with Counter() as counter:
            once()
        if given.device == "cuda":
            serve(once, str(counter.total), torch.cuda.synchronize)
        else:
            serve(once, str(counter.total), clock=time.process_time)
        return
    if given.parts:
        for guidance in ("augmented", "augmented-active"):
            report_parts(f"vesde/{guidance}/{given.sizes[0]}")
        return
    ratio = "plain/ours" if given.device == "cpu" else "eager/graph"
    print(f"{'variant':<34} {'ms/update':>10} {'updates/s':>10} {ratio:>11} {'GFLOP':>7} {'share':>6}")
    for sizes in given.sizes:
        report(sizes, given.rounds, given.updates, given.compiled, given.device, given.minimum)


if __name__ == "__main__":
    main()
