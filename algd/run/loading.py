"""Loading a trained agent from a run's folder, which may be from another person."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

import torch

from algd.algorithm.agent import Agent
from algd.config.identity import identity
from algd.config.targets import how_to_trust, require_trust
from algd.config.trust import is_trusted, trust
from algd.envs.registered import SAFETY_GYMNASIUM, module_of
from algd.errors import UsageError
from algd.run.build import build_agent, build_task, resolve_device
from algd.run.loaded_agent import LoadedAgent
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.checkpoint_state import checked
from algd.storage.run_folder import RunFolder
from algd.storage.snapshots import DamagedSnapshot, is_of_critics, newest_snapshot, read_snapshot


def load(path: str | Path, device: str = "cpu", render_mode: str | None = None,
         trusted: Collection[str] = ()) -> LoadedAgent:
    """The agent of a run's folder (its newest good checkpoint), or of one of its snapshots.

    Nothing in the folder is executed: configurations name only this project's code, and tensors are plain data. A
    configuration alone imports nothing: neither the modules that it lists as `trusted`, nor one that registers the
    environment, as in env.id=module:Id-v0.

    Args:
        path: a run's folder, or a file in its snapshots/; ~ is the home directory. A folder without checkpoints is
            loaded from its newest snapshot, which of a published run holds the policy alone.
        device: auto, cpu, cuda or cuda:N.
        render_mode: of the task; "rgb_array" for pictures.
        trusted: modules whose code the configuration may name, in this process from now on. One that only registers the
            environment may also have been imported already.

    Raises:
        UsageError: the path is not a run, has nothing that can be loaded, or its module is not trusted.
    """
    trust(trusted)
    path = Path(os.path.expanduser(path))
    snapshot = path if path.suffix == ".safetensors" else None
    # Of a snapshot named relative to snapshots/, the folder is above the working directory.
    folder = RunFolder(path.absolute().parent.parent if snapshot else path)
    if snapshot is None and not folder.checkpoints.exists():
        snapshot = newest_snapshot(folder.snapshots)
    config = folder.config()
    recorded = folder.meta().get("identity")
    if recorded is not None and recorded != identity(config):
        raise UsageError(f"{folder.config_file} is damaged or changed: its identity is {identity(config)}, and "
                         f"meta.json has {recorded}")
    require_trust(config, str(folder.path))
    module = module_of(config["env"])
    if module and module != SAFETY_GYMNASIUM and not is_trusted(module) and module not in sys.modules:
        raise UsageError(f"{folder.path}: its env.id={config['env']['id']} imports {module}, which is not this "
                         f"project's; {how_to_trust([module])}")
    task = build_task(config, render_mode)
    agent = build_agent(config, task)
    step, has_critics = _load_snapshot(agent, snapshot, folder) if snapshot else (_load_newest(agent, folder), True)
    return LoadedAgent(agent.to(resolve_device(device)).eval(), config, task, step, folder, has_critics)


def _load_newest(agent: Agent, folder: RunFolder) -> int:
    checkpoints = Checkpoints(folder.checkpoints, folder.meta().get("identity"))
    problems = []
    for number in reversed(checkpoints.numbers()):
        try:
            state = checked(checkpoints.load(number))
            agent.load_state_dict(state["agent"]["model"])
        except (DamagedCheckpoint, KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            problems.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        return state["step"]
    raise UsageError(f"{folder.path} has no checkpoint that can be loaded" + "".join(f"; {p}" for p in problems))


def _load_snapshot(agent: Agent, path: Path, folder: RunFolder) -> tuple[int, bool]:
    """Returns its step, and whether it has the critics."""
    try:
        tensors, step = read_snapshot(path, folder.meta().get("identity"))
    except DamagedSnapshot as error:
        raise UsageError(str(error)) from error
    has_critics = any(map(is_of_critics, tensors))
    if not has_critics:
        # Anything computed with them is NaN, not the value of untrained networks.
        tensors |= {name: torch.full_like(value, torch.nan) for name, value in agent.state_dict().items()
                    if is_of_critics(name)}
    try:
        agent.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit the networks of {folder.config_file} ({reason})") from error
    return step, has_critics
