"""Building the objects that a checked configuration describes."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from algd.algorithm.agent import Agent
from algd.algorithm.dual import EStep
from algd.algorithm.guidance import accepted
from algd.algorithm.normalisation import Normaliser
from algd.algorithm.policies import ImprovingPolicy
from algd.config.schema import DEVICE
from algd.config.targets import locate, require_trust
from algd.envs.task import Task
from algd.errors import UsageError


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """Build a node's `_target_` with further arguments. Errors that the user can correct are UsageErrors."""
    require_trust(node, f"the configuration, in _target_={node.get('_target_')},")
    try:
        return instantiate(node, _convert_="all", **supplied)
    except InstantiationException as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from error
        if is_out_of_memory(error.__cause__):
            sizes = {key: value for key, value in [*node.items(), *dict(node.get("policy", {})).items()]
                     if key in ("critic_hidden_sizes", "cost_hidden_sizes", "cost_members", "hidden_sizes")}
            raise UsageError(", ".join(f"{key}={value}" for key, value in sizes.items())
                             + ": networks of these sizes cannot be allocated here; smaller ones are needed") from error
        raise


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed, which on a CPU only torch's message shows."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | TypeError)
        and any(word in str(error).lower() for word in ("allocate memory", "overflow")))


def check_memory(config: Mapping[str, Any], task: Task, device: torch.device) -> None:
    """Check that the replay and a batch's largest intermediate, of one network and of all cost critics, can be
    allocated; each is freed again.

    On a GPU the replay is in its memory and in the host's, the batch only in its own.

    Raises:
        UsageError: one of them cannot.
    """
    observation_size, action_size = task.observation_space.shape[0], task.action_space.shape[0]
    agent = config["agent"]
    # An agent of the user's need not have these keys.
    cost_sizes, members = agent.get("cost_hidden_sizes", []), agent.get("cost_members", 1)
    samples = config["batch_size"] * agent.get("policy", {}).get("mc_samples", 1)
    widest = max([*agent.get("critic_hidden_sizes", []), *cost_sizes, observation_size + action_size])
    replay = config["buffer_size"] * (2 * observation_size + action_size + 4)
    host = torch.device("cpu")
    for key, value, numbers, where in (
            ("buffer_size", config["buffer_size"], replay, host),
            ("buffer_size", config["buffer_size"], replay, device),
            ("batch_size", config["batch_size"], samples * widest, device),
            ("agent.cost_members", members, samples * members * max([*cost_sizes, 1]), device)):
        try:
            torch.empty(numbers, device=where)
        except (RuntimeError, TypeError) as error:
            if not is_out_of_memory(error):
                raise
            place = "here" if where == host else f"on {where}"
            raise UsageError(f"{key}={value}: it would take {4e-9 * numbers:.3g} GB of memory, more than can be "
                             f"allocated {place}; it should be smaller") from error


def build_task(config: Mapping[str, Any], render_mode: str | None = None) -> Task:
    """The task of `env`, a new instance at every call.

    Raises:
        UsageError: it cannot be made, or is not a task.
    """
    made = build(config["env"], render_mode=render_mode)
    if not isinstance(made, Task):
        raise UsageError(f"env={config['env']['name']}: {config['env']['_target_']} returned a {type(made).__name__}; "
                         "an algd.envs.task.Task is needed, which takes an environment and its budget")
    return made


def build_logger(config: Mapping[str, Any]) -> Any:
    """What mirrors the run's folder elsewhere (`algd.logging`)."""
    return build(config["logger"])


def build_agent(config: Mapping[str, Any], task: Task) -> Agent:
    """The agent of `agent` with the guidance of `guidance` for a task, on the CPU.

    The initial weights come from torch's global generator.
    """
    observation_size = task.observation_space.shape[0]
    agent = config["agent"]
    backup = agent.get("cost_backup", "sum")
    if config["guidance"].get("cost_backup", backup) != backup:
        raise UsageError(f"agent.cost_backup={backup}: guidance={config['guidance']['name']} needs "
                         f"agent.cost_backup={config['guidance']['cost_backup']}")
    threshold = 0.0 if backup == "reach" else task.budget.threshold(agent["cost_discount"])
    target = locate(config["guidance"]["_target_"], "guidance")
    guidance = build(config["guidance"], **accepted(target, threshold=threshold, limit=task.budget.limit,
                                                    observation_size=observation_size))
    normalise = config["normalise"]
    normaliser = Normaliser(observation_size, normalise["observation"], normalise["reward"], agent["discount"])
    made: Agent = build(agent, observation_size=observation_size, action_low=task.action_space.low.tolist(),
                        action_high=task.action_space.high.tolist(), guidance=guidance, normaliser=normaliser)
    if isinstance(guidance.dual, EStep):
        if not isinstance(made.policy, ImprovingPolicy):
            raise UsageError("guidance/dual=estep: λ comes from a policy's E-step, and "
                             f"agent={agent['name']} has none; it is for agent=cvpo")
        if guidance.kind != "plain":
            raise UsageError("guidance/dual=estep: it finds the plain Lagrangian's λ, and "
                             f"guidance={config['guidance']['name']} has another energy; it is for guidance=plain")
    return made


def resolve_device(name: str) -> torch.device:
    """The device of `device`; auto is a GPU where there is one.

    Raises:
        UsageError: it is no device's name, or the requested GPU does not exist.
    """
    if not DEVICE.fullmatch(name):
        raise UsageError(f"device={name}: it should be auto, cpu, cuda or cuda:N")
    # With a driver that is too old there are devices that cannot be used.
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise UsageError(f"device={name}: torch finds {available or 'no'} CUDA device{'s' * (available != 1)} here; "
                         "allowed are auto, cpu" + "".join(f", cuda:{i}" for i in range(available)))
    return device
