"""python -m algd check guidance=mine: test the parts of a configuration, one line each, before training.

It is for code of your own: the effect of a wrong slope, a float64 or a forgotten buffer on a run shows late, or never.
"""

import io
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.guidance import Guidance
from algd.algorithm.replay import Batch
from algd.algorithm.rng import RandomGenerator
from algd.config.schema import resolve
from algd.envs.task import Task, probe
from algd.errors import ExitCode
from algd.run.build import build_agent, build_task

POINTS = 257
EXTREMES = (0.0, 1e-6, 1.0, 1e3, 1e6)
TOLERANCE = 1e-6  # of slopes in float64, relative
STEPS = 50
UPDATES = 5


def check(config: DictConfig) -> int:
    """Build the parts of a configuration and test them, one line per test. Returns 0, or 1 if a test failed.

    Raises:
        UsageError: the configuration is wrong, or a part cannot be built.
    """
    checked = resolve(config)
    torch.set_num_threads(1 if checked["threads"] == "auto" else checked["threads"])
    task = build_task(checked)
    agent = _agent(checked, task)
    names = {group: checked[group]["name"] for group in ("guidance", "agent", "env")}
    print(f"guidance={names['guidance']} agent={names['agent']} env={names['env']}: built")
    tests: dict[str, Callable[[], str]] = {
        "environment": lambda: _environment(task), "dtype": lambda: _dtype(agent.guidance),
        "shape": lambda: _shape(agent.guidance), "slope": lambda: _slope(agent.guidance),
        "extremes": lambda: _extremes(agent.guidance), "policy": lambda: _policy(agent, task),
        "learning": lambda: _learning(checked, task), "resume": lambda: _resume(checked, task),
        "speed": lambda: _speed(checked, task)}
    failed = 0
    for name, test in tests.items():
        try:
            found = f"ok      {test()}"
        except Exception as error:
            failed += 1
            found = f"FAILED  {' '.join(str(error).split()) or type(error).__name__}"
        print(f"{name:<12} {found}")
    return ExitCode.FAILED if failed else ExitCode.FINISHED


def _agent(config: Mapping[str, Any], task: Task) -> Agent:
    torch.manual_seed(0)
    return build_agent(config, task)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def _points(guidance: Guidance, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Reward and cost values, (POINTS,): the costs on both sides of the threshold."""
    random = torch.Generator().manual_seed(0)
    q, qc = (torch.randn(POINTS, generator=random, dtype=dtype) for _ in range(2))
    return 10 * q, guidance.threshold + max(1.0, abs(guidance.threshold)) * qc


def _weight(guidance: Guidance, qc: Tensor) -> Tensor:
    """The weight of the cost's slope, broadcast to the costs' shape."""
    return torch.zeros_like(qc) if guidance.kind == "none" else \
        torch.as_tensor(guidance.constraint_weight(qc)).expand_as(qc)


def _environment(task: Task) -> str:
    """An episode ends, and the same seed and actions give the same one, which an exact resume needs."""
    probe(task)
    space = task.action_space

    def episode(most: int) -> list[Any]:
        random = np.random.default_rng(0)
        seen = [np.asarray(task.reset(seed=0)[0]).tolist()]
        for _ in range(most):
            observation, reward, terminated, truncated, info = task.step(
                random.uniform(space.low, space.high).astype(space.dtype))
            seen.append((np.asarray(observation).tolist(), reward, info["cost"]))
            if terminated or truncated:
                break
        return seen

    first, again = episode(task.budget.horizon), episode(STEPS)
    _require(first[:len(again)] == again, "the same seed and the same actions gave another episode: a run that is "
             "resumed cannot come back to where it was")
    count, lowest = len(again) - 1, min(cost for *_, cost in first[1:])
    warning = f"\n{'environment':<12} warning the cost was {lowest:g} at the lowest; a negative cost offsets others, " \
        "and may have the wrong sign" if lowest < 0 else ""
    return f"{count} step{'s' * (count != 1)}, the same twice; observations {task.observation_space.shape}{warning}"


def _dtype(guidance: Guidance) -> str:
    q, qc = _points(guidance, torch.float32)
    energy = guidance.lagrangian(q, qc)
    _require(energy.dtype == torch.float32, f"the Lagrangian of float32 values is {energy.dtype}; the networks are "
             "float32 (λ is float64: convert what is made of it with .to(qc.dtype))")
    weight = _weight(guidance, qc) if guidance.kind == "none" else torch.as_tensor(guidance.constraint_weight(qc))
    _require(weight.dim() == 0 or weight.dtype == torch.float32, f"the weight of float32 values is {weight.dtype}")
    return "float32 in, float32 out"


def _shape(guidance: Guidance) -> str:
    for shape in ((POINTS,), (POINTS, 1), (1, POINTS)):
        q, qc = (values.reshape(shape) for values in _points(guidance, torch.float32))
        found = guidance.lagrangian(q, qc).shape
        _require(found == shape, f"the Lagrangian of values of shape {shape} has shape {tuple(found)}")
        _weight(guidance, qc)
    return "as the values, in one dimension and two"


def _slope(guidance: Guidance) -> str:
    """`constraint_weight` is ∂E/∂Qc, and ∂E/∂Q is −1, against automatic differentiation."""
    q, qc = (values.requires_grad_() for values in _points(guidance, torch.float64))
    of_q, of_qc = torch.autograd.grad(guidance.lagrangian(q, qc).sum(), (q, qc), allow_unused=True)
    _require(of_q is not None and bool(torch.allclose(of_q, -torch.ones_like(q))), "∂E/∂Q is not −1")
    qc = qc.detach()
    of_qc = torch.zeros_like(qc) if of_qc is None else of_qc
    weight = _weight(guidance, qc).detach().double()
    worst = int((of_qc - weight).abs().argmax())
    error = float((of_qc - weight).abs().max() / of_qc.abs().max().clamp_min(1))
    at = float(qc.detach()[worst])
    _require(error <= TOLERANCE, f"constraint_weight is {float(weight[worst]):.6g} at Qc = {at:.6g}, where the "
             f"Lagrangian's slope is {float(of_qc[worst]):.6g}")
    return f"constraint_weight is the Lagrangian's slope, to {error:.1e}"


def _extremes(guidance: Guidance) -> str:
    values = torch.tensor([sign * size for size in EXTREMES for sign in (-1, 1)])
    q, qc = (grid.reshape(-1) for grid in torch.meshgrid(values, values, indexing="ij"))
    for name, found in (("Lagrangian", guidance.lagrangian(q, qc)), ("weight", _weight(guidance, qc))):
        wrong = (~found.isfinite()).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(f"the {name} is {float(found[at])} at Q = {float(q[at]):g}, Qc = {float(qc[at]):g}")
    return f"finite up to |Q|, |Qc| = {EXTREMES[-1]:g}"


def _policy(agent: Agent, task: Task) -> str:
    observation = torch.as_tensor(np.asarray(task.reset(seed=0)[0]), dtype=torch.float32).expand(POINTS, -1)
    low, high = (torch.as_tensor(bound) for bound in (task.action_space.low, task.action_space.high))
    for name, noise in (("deterministic", None), ("stochastic", RandomGenerator(0))):
        action = agent.act(observation, noise)
        _require(action.shape == (POINTS, len(low)), f"{name} actions at {POINTS} states have shape "
                 f"{tuple(action.shape)} instead of {(POINTS, len(low))}")
        inside = (action >= low - 1e-5) & (action <= high + 1e-5)  # nan is not
        if not inside.all():
            raise ValueError(f"a {name} action, {action[~inside.all(1)][0].tolist()}, is outside the bounds")
    return "both samplers act within the bounds"


def _batch(config: Mapping[str, Any], task: Task) -> Batch:
    random = torch.Generator().manual_seed(1)
    size = min(config["batch_size"], 256)
    observations = [torch.randn(size, task.observation_space.shape[0], generator=random) for _ in range(2)]
    low, high = (torch.as_tensor(bound) for bound in (task.action_space.low, task.action_space.high))
    action = low + (high - low) * torch.rand(size, len(low), generator=random)
    rest = torch.rand(size, 4, generator=random)
    flags = torch.zeros(size)
    return Batch(observations[0], action, rest[:, 0], rest[:, 1], observations[1], flags, flags)


def _learning(config: Mapping[str, Any], task: Task) -> str:
    """Every trainable network is changed by updates. λ may be constant, and is part of the guidance."""
    agent, batch, noise = _agent(config, task), _batch(config, task), RandomGenerator(0)
    before = {name: value.detach().clone() for name, value in agent.named_parameters()
              if value.requires_grad and not name.startswith("guidance.")}
    for _ in range(UPDATES):
        agent.update(batch, noise)
    after = dict(agent.named_parameters())
    changed = {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    same = sorted({name.partition(".")[0] for name in before} - changed)
    _require(not same, f"{UPDATES} updates did not change {', '.join(same)}")
    return f"{UPDATES} updates changed {', '.join(sorted(changed))}"


def _resume(config: Mapping[str, Any], task: Task) -> str:
    """The updates of a saved and restored agent give the same numbers."""
    batch = _batch(config, task)

    def updated(agent: Agent, seed: int) -> None:
        noise = RandomGenerator(seed)
        for _ in range(UPDATES):
            scalars = agent.update(batch, noise)
            wrong = [name for name, value in scalars.items() if not math.isfinite(float(value))]
            _require(not wrong, f"{', '.join(wrong)} of an update is not finite")
        agent.guidance.observe_episode(1.0)

    first, second = _agent(config, task), _agent(config, task)
    updated(first, 0)
    saved = io.BytesIO()
    torch.save(first.checkpoint(), saved)
    saved.seek(0)
    second.restore(torch.load(saved, weights_only=True))
    updated(first, 1)
    updated(second, 1)
    kept, restored = first.state_dict(), second.state_dict()
    different = [key for key, value in kept.items() if not torch.equal(value, restored[key])]
    _require(not different, f"after a restored checkpoint the updates differ: {', '.join(different[:3])}; "
             "all state that training changes has to be a parameter, a buffer or an optimizer's")
    return f"{2 * UPDATES} updates, saved and restored in between: the same numbers"


def _speed(config: Mapping[str, Any], task: Task) -> str:
    agent, batch, noise = _agent(config, task), _batch(config, task), RandomGenerator(0)
    agent.update(batch, noise)
    before = time.process_time()
    for _ in range(UPDATES):
        agent.update(batch, noise)
    seconds = (time.process_time() - before) / UPDATES
    q, qc = _points(agent.guidance, torch.float32)
    before = time.process_time()
    for _ in range(100):
        agent.guidance.lagrangian(q, qc)
    own = (time.process_time() - before) / 100
    return f"{1e3 * seconds:.3g} ms an update, {1e6 * own:.3g} µs of it a Lagrangian of {POINTS} values"
