"""From a checked configuration to the objects that it describes."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from algd.agent import Agent
from algd.envs.task import Task
from algd.errors import UsageError
from algd.normalisation import Normaliser


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """What a node's `_target_` names, with what the code supplies. What the user can put right stays a UsageError."""
    try:
        return instantiate(node, _convert_="all", **supplied)
    except InstantiationException as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from error
        raise


def build_task(config: Mapping[str, Any], render_mode: str | None = None) -> Task:
    """The task of `env`, a new instance at every call."""
    return build(config["env"], render_mode=render_mode)


def build_logger(config: Mapping[str, Any]) -> Any:
    """What mirrors the run's folder elsewhere (`algd.logging`)."""
    return build(config["logger"])


def build_agent(config: Mapping[str, Any], task: Task) -> Agent:
    """The agent of `agent` with the guidance of `guidance` for a task, on the CPU.

    The networks' first weights come from torch's global generator.
    """
    observation_size = task.observation_space.shape[0]
    agent = config["agent"]
    guidance = build(config["guidance"], threshold=task.budget.threshold(agent["cost_discount"]),
                      limit=task.budget.limit)
    normalise = config["normalise"]
    normaliser = Normaliser(observation_size, normalise["observation"], normalise["reward"], agent["discount"])
    return build(agent, observation_size=observation_size, action_low=task.action_space.low.tolist(),
                  action_high=task.action_space.high.tolist(), guidance=guidance, normaliser=normaliser)


def resolve_device(name: str) -> torch.device:
    """The device of `device`; auto is a GPU where there is one.

    Raises:
        UsageError: a GPU is asked for that is not there.
    """
    available = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise UsageError(f"device={name}: torch sees {available or 'no'} CUDA device{'s' * (available != 1)} here; "
                         "allowed are auto, cpu" + "".join(f", cuda:{i}" for i in range(available)))
    return device
