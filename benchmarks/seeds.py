"""Measure whether several seeds stacked in one process are faster than as many processes on a core.

    python -m benchmarks.seeds [--quick] [--device cuda]

The update of ALGD-VE-SDE with the augmented Lagrangian is written once, as a function of one seed's state and batch:
critics, cost critics, policy through the chain, score matching, Adam, targets. `alone` runs it for one seed;
`stacked-S` maps it over S seeds with torch.func.vmap, which turns every matrix product into a batched one. Processes on
one thread each take turns; numbers are medians over the rounds. On one core S processes share the rate of one, so
stacking S seeds pays if their updates per second, all seeds together, exceed those of `alone`.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.turns import serve, take_turns

STATES, ACTIONS, BATCH, LEVELS, SAMPLES, EMBEDDING = 76, 2, 256, 5, 4, 16
INPUTS = STATES + ACTIONS
SHAPES = {"critics": ((2,), [INPUTS, 256, 256, 1]), "cost": ((4,), [INPUTS, 256, 256, 1]),
          "policy": ((), [INPUTS + EMBEDDING, 128, 128, 128, ACTIONS])}
DISCOUNT, THRESHOLD, RATE, POLYAK = 0.99, 2.455, 3e-4, 0.005
SIGMAS = 0.01 * 100 ** torch.linspace(0, 1, LEVELS)
INCREMENTS = torch.diff(SIGMAS**2, prepend=torch.zeros(1)).tolist()
COUNTS = (1, 2, 4)

Weights = Sequence[Tensor]       # weight (in, out) and bias (1, out) of each layer in turn
Numbers = dict[str, Any]         # a seed's state: networks, targets, moments, level embedding, λ
Activation = Callable[[Tensor], Tensor]


def perceptron(weights: Weights, x: Tensor, activation: Activation) -> Tensor:
    """Return the output (..., B, out) at inputs (B, in)."""
    for layer in range(0, len(weights), 2):
        x = x @ weights[layer] + weights[layer + 1]
        x = activation(x) if layer + 2 < len(weights) else x
    return x


def values(weights: Weights, state: Tensor, action: Tensor, activation: Activation) -> Tensor:
    """Return an ensemble's values (members, B)."""
    return perceptron(weights, torch.cat([state, action], -1), activation).squeeze(-1)


def energy(seed: Numbers, state: Tensor, action: Tensor) -> Tensor:
    """Return L_A (B,) with ρ = 1."""
    cost = values(seed["cost"], state, action, F.silu)
    slack = cost.mean(0) + cost.var(0).clamp_min(1e-20).sqrt() - THRESHOLD
    weight = (seed["lam"] + slack).clamp_min(0)
    return -values(seed["critics"], state, action, F.relu).amin(0) + (weight**2 - seed["lam"] ** 2) / 2


def chain(policy: Weights, seed: Numbers, state: Tensor, noise: Tensor) -> list[Tensor]:
    """Return the K + 1 latents (B, d) of the reverse process; noise (K + 1, B, d)."""
    path = [noise[0]]
    for level in range(LEVELS, 0, -1):
        embedded = seed["embedding"][level - 1].expand(len(state), EMBEDDING)
        inputs = torch.cat([state, path[-1].tanh(), embedded], -1)
        x = path[-1] + INCREMENTS[level - 1] * perceptron(policy, inputs, F.relu)
        path.append(x + INCREMENTS[level - 1] ** 0.5 * noise[level] if level > 1 else x)
    return path


def policy_loss(policy: Weights, seed: Numbers, rows: Numbers) -> Tensor:
    """Return the mean energy at the chain's end plus 0.1 times the score-matching loss."""
    state, level = rows["state"], rows["level"]
    path = chain(policy, seed, state, rows["noise"][1])
    index = (LEVELS - level + 1)[None, :, None].expand(1, len(state), ACTIONS)
    point = torch.stack(path).gather(0, index)[0].tanh()
    spread = SIGMAS.to(state.device)[level - 1][:, None, None]
    states = state[:, None].expand(-1, SAMPLES, -1).reshape(-1, STATES)

    def energies(around: Tensor) -> tuple[Tensor, Tensor]:
        found = energy(seed, states, around.reshape(-1, ACTIONS)).reshape(len(state), SAMPLES)
        return found.sum(), found

    slopes, found = torch.func.grad(energies, has_aux=True)(point.detach()[:, None] + spread * rows["normals"])
    target = -((-found).softmax(1)[..., None] * slopes).sum(1).detach()
    predicted = perceptron(policy, torch.cat([state, point, seed["embedding"][level - 1]], -1), F.relu)
    return energy(seed, state, path[-1].tanh()).mean() + 0.1 * F.mse_loss(predicted, target)


def regression(weights: Weights, rows: Numbers, target: Tensor, activation: Activation) -> Tensor:
    """Return the critics' mean squared error."""
    return (values(weights, rows["state"], rows["action"], activation) - target).square().mean()


def adam(weights: Weights, slopes: Weights, moments: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """Return new weights and new moments (2, ...)."""
    new = [torch.stack([moment[0].lerp(slope, 0.1), moment[1].lerp(slope**2, 0.001)])
           for moment, slope in zip(moments, slopes, strict=True)]
    moved = [weight - RATE * moment[0] / (moment[1].sqrt() + 1e-8)
             for weight, moment in zip(weights, new, strict=True)]
    return moved, new


def update(seed: Numbers, rows: Numbers) -> Numbers:
    """Return a seed's state after one update."""
    following, new = rows["following"], dict(seed)
    action = chain(seed["policy"], seed, following, rows["noise"][0])[-1].tanh()
    targets = {"critics": rows["reward"] + DISCOUNT * values(seed["target_critics"], following, action, F.relu).amin(0),
               "cost": rows["cost"] + DISCOUNT * values(seed["target_cost"], following, action, F.silu)}
    for network, activation in (("critics", F.relu), ("cost", F.silu)):
        slopes = torch.func.grad(regression)(seed[network], rows, targets[network], activation)
        new[network], new[f"{network}_moments"] = adam(seed[network], slopes, seed[f"{network}_moments"])
        new[f"target_{network}"] = [old.lerp(now, POLYAK) for old, now in
                                    zip(seed[f"target_{network}"], new[network], strict=True)]
    slopes = torch.func.grad(policy_loss)(seed["policy"], new, rows)
    new["policy"], new["policy_moments"] = adam(seed["policy"], slopes, seed["policy_moments"])
    return new


def initial(count: int, device: str) -> Numbers:
    """Return the initial state of `count` seeds, each tensor (count, ...)."""
    held: Numbers = {"embedding": torch.randn(count, LEVELS, EMBEDDING, device=device),
                     "lam": torch.full((count,), 0.7, device=device)}
    for network, (members, sizes) in SHAPES.items():
        weights = []
        for fan, out in pairwise(sizes):
            weights += [torch.randn(count, *members, fan, out, device=device) / fan**0.5,
                        torch.zeros(count, *members, 1, out, device=device)]
        held |= {network: weights, f"target_{network}": [weight.clone() for weight in weights],
                 f"{network}_moments": [torch.zeros(count, 2, *weight.shape[1:], device=device) for weight in weights]}
    return held


def batch(count: int, device: str) -> Numbers:
    """Return random transitions and draws for `count` seeds, each tensor (count, ...)."""
    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, device=device)

    return {"state": normal(BATCH, STATES), "following": normal(BATCH, STATES), "action": normal(BATCH, ACTIONS).tanh(),
            "reward": normal(BATCH), "cost": normal(BATCH), "noise": normal(2, LEVELS + 1, BATCH, ACTIONS),
            "normals": normal(BATCH, SAMPLES, ACTIONS),
            "level": torch.randint(LEVELS, (count, BATCH), device=device) + 1}


def of_seed(held: Numbers, number: int) -> Numbers:
    """Return the state of one of the stacked seeds."""
    return {name: [tensor[number] for tensor in part] if isinstance(part, list) else part[number]
            for name, part in held.items()}


def prepare(name: str) -> Callable[[], object]:
    """Return a function that updates every seed once; name: alone/device or stacked-S/device."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    what, _, device = name.partition("/")
    count = int(what.partition("-")[2] or 1)
    held = initial(count, device)
    if what == "alone":
        held = of_seed(held, 0)

    def once() -> None:
        rows = batch(count, device)
        with torch.no_grad():
            held.update(update(held, of_seed(rows, 0)) if what == "alone" else torch.func.vmap(update)(held, rows))
        if device != "cpu":
            torch.cuda.synchronize()

    return once


def main(rounds: int, repetitions: int, device: str) -> None:
    """Measure every variant and print the table."""
    names = [f"alone/{device}", *(f"stacked-{count}/{device}" for count in COUNTS)]
    workers = take_turns("benchmarks.seeds", names, rounds, repetitions, burn_in=max(2, repetitions // 4))
    alone = 1 / workers[names[0]].median
    print(f"| on one {'core' if device == 'cpu' else 'GPU'} | updates/s, all seeds together | against one alone |\n"
          f"|---|---:|---:|\n| one seed | {alone:.1f} | 1.00 |")
    for count, name in zip(COUNTS, names[1:], strict=True):
        rate = count / workers[name].median
        print(f"| {count} stacked | {rate:.1f} | {rate / alone:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(prepare(given.worker))
    else:
        main(*(1, 1) if given.quick else (7, 20), given.device)
