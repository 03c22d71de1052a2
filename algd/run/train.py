"""A run from its configuration: started, resumed, extended, skipped or refused."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from algd.algorithm.agent import Agent
from algd.algorithm.time_constants import time_constants
from algd.budget import budget_of
from algd.config.identity import identity
from algd.envs.registered import SAFETY_GYMNASIUM, module_of
from algd.envs.task import Task, probe
from algd.errors import ExitCode, RunError, UsageError
from algd.execution.step import Execution, is_capturable, keep_freed_memory, products_of, resolve_execution
from algd.logging.console import Console, answer
from algd.logging.mirror import Mirror
from algd.run.build import build, build_agent, build_logger, build_task, check_memory, resolve_device
from algd.run.callbacks import Callback, Callbacks
from algd.run.checks import check_identity, check_total_steps, is_finished, say_finished
from algd.run.clock import Clock
from algd.run.faults.requests import Requests
from algd.run.loading import load
from algd.run.result import write_result
from algd.run.start import record_start
from algd.run.trainer import Trainer
from algd.run.video import check_rendering, record_evaluation
from algd.seeding import stream
from algd.storage.lock import Lock
from algd.storage.run_folder import RunFolder, refuse_links, run_path


@dataclass(frozen=True)
class Prepared:
    """The objects of a run, built before anything is written: a configuration that cannot be built leaves no files."""

    device: torch.device
    task: Task
    agent: Agent
    mirror: Any
    execution: Execution
    callbacks: list[Callback]


def train(config: Mapping[str, Any], requests: Requests | None = None) -> int:
    """Train the run of this configuration, starting from the state of its folder.

    A finished run is left alone, an unfinished or failed one resumes from its last checkpoint, and a finished one with
    a larger total_steps is extended.

    Args:
        config: checked (`algd.config.schema.resolve`).
        requests: signals received since the process started; None: none yet.

    Returns:
        The exit code: 0 finished, 143 stopped on request at a checkpoint. Failures raise.

    Raises:
        UsageError: before anything is created or changed.
    """
    folder = RunFolder(run_path(config))
    refuse_links(folder.path)
    check_identity(folder, config)
    if is_finished(folder, config):
        return _leave_alone(folder, config)
    check_total_steps(folder, config)
    prepared = prepare(config)
    with contextlib.ExitStack() as stack:
        stack.callback(_open(folder, config).release)
        if is_finished(folder, {**config, "fresh": False}):
            # Another process has trained it in the meantime.
            return _leave_alone(folder, config)
        console = Console(config["total_steps"], prepared.task.budget)
        stack.callback(console.close)
        requests = stack.enter_context((requests or Requests()).listening())
        callbacks = Callbacks(prepared.callbacks, folder.path, console.warn)
        trainer = _set_up(folder, config, prepared, console, requests, callbacks)
        state = _run(trainer, prepared, folder, config, console, callbacks)
        console.close()
        _say_what_next(folder, state, requests)
    return ExitCode.FINISHED if state == "finished" else ExitCode.TERMINATED


def _leave_alone(folder: RunFolder, config: Mapping[str, Any]) -> int:
    """A run that is finished: its result.json is written if an earlier version did not."""
    say_finished(folder, config)
    had_one = folder.result.exists()
    if budget := budget_of(config):
        with contextlib.suppress(OSError):  # the folder may be read-only
            if write_result(folder, budget, config["eval"]["episodes"]) and had_one:
                print(f"warning: {folder.result} does not match the run's tables: it is rewritten", file=sys.stderr)
    mirror = build_logger(config)
    if isinstance(mirror, Mirror) and mirror.lacks(folder.path):
        # A W&B sweep requests this configuration again, as another trial: it needs the same rows.
        mirror.hand_over(folder.path)
        for warning in mirror.warnings():
            print(f"warning: {warning}", file=sys.stderr)
    answer(folder.path)
    return ExitCode.FINISHED


def prepare(config: Mapping[str, Any]) -> Prepared:
    """Build the objects of the run.

    Raises:
        UsageError: one of them cannot be built, or does not work.
    """
    device = resolve_device(config["device"])
    task = build_task(config)
    probe(task)
    check_memory(config, task, device)
    torch.manual_seed(stream(config["seed"], "networks"))
    agent = build_agent(config, task).to(device)
    mirror = build_logger(config)
    execution = resolve_execution(config["compile"], device, products_of(agent, config["batch_size"]),
                                  config["total_steps"] * config["updates_per_step"], is_capturable(agent))
    if config["eval"]["video"]:
        check_rendering(partial(build_task, config, "rgb_array"))
    callbacks = [build(node) for node in config["callbacks"]]
    return Prepared(device, task, agent, mirror, execution, callbacks)


def _open(folder: RunFolder, config: Mapping[str, Any]) -> Lock:
    """Make the folder if needed, with fresh=true after moving the existing one aside, and lock it."""
    if config["fresh"] and folder.path.exists():
        print(f"fresh=true: the folder that was there is now {_move_aside(folder)}", file=sys.stderr)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"runs_dir={config['runs_dir']}: {folder.path} cannot be made "
                         f"({_obstacle(folder.path) or error.strerror})") from error
    return Lock(folder.path / "lock")


def _move_aside(folder: RunFolder) -> Path:
    lock = Lock(folder.path / "lock")
    try:
        return folder.move_aside()
    finally:
        lock.release()


def _set_up(folder: RunFolder, config: Mapping[str, Any], prepared: Prepared, console: Console,
            requests: Requests, callbacks: Callbacks) -> Trainer:
    """Record the start in the locked folder, print how the run continues, and make its trainer."""
    folder.remove_leftovers()
    damage = folder.damage(identity(config))
    before = folder.status()
    if not folder.is_own(before):
        before = {}
    folder.write_config(config)
    start, notes = record_start(folder, config, prepared.device, prepared.execution)
    torch.set_num_threads(start["threads"])
    keep_freed_memory()
    how = {"eager": "", "native": ", networks in C"}.get(start["execution"], f", {start['execution']}")
    console.say(f"{folder.path}  on {prepared.device}, {start['threads']} thread{'s' * (start['threads'] != 1)}{how}")
    updates = config["total_steps"] * config["updates_per_step"]
    if constants := time_constants(prepared.agent, prepared.task.budget, updates):
        console.say(constants.sentence())
        if short := constants.warning():
            console.warn(short)
    for problem in damage:
        console.warn(f"{problem}: it is rewritten")
    for note in notes:
        console.warn(note)
    if before.get("state") == "finished" and before.get("step", 0) < config["total_steps"]:
        console.say(f"this run finished at step {before.get('step')}: extending it to {config['total_steps']}")
    elif before.get("state") == "failed":
        console.say(f"this run failed before ({before.get('reason')}): trying again from its last checkpoint")
    return Trainer(config, folder, prepared.agent, prepared.task, partial(build_task, config), console,
                   prepared.mirror.warnings, requests, Clock(before, _synchronise(prepared.device)), start["execution"],
                   callbacks)


def _synchronise(device: torch.device) -> Callable[[], None]:
    """A function that returns when the device has done all its work."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _run(trainer: Trainer, prepared: Prepared, folder: RunFolder, config: Mapping[str, Any], console: Console,
         callbacks: Callbacks) -> str:
    """Train, with the mirror running. Returns how the run ended: "finished" or "interrupted". Failures raise."""
    prepared.mirror.start(folder.path)
    state = "failed"
    try:
        callbacks.on_start(config)
        state = trainer.run()
        if state == "finished":
            write_result(folder, prepared.task.budget, config["eval"]["episodes"])
        if state == "finished" and config["eval"]["video"]:
            _film(folder, prepared.device, console)
        callbacks.on_end(state)
    except BaseException as error:
        # A second Ctrl-C: no checkpoint was saved, but the run has not failed.
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError):
            trainer.write_status(state, f"{type(error).__name__}: {error}")
        with contextlib.suppress(RunError):
            callbacks.on_end(state)
        if isinstance(error, FileNotFoundError) and not folder.path.exists():
            raise RunError(f"{folder.path} was removed while the run trained: nothing is left to resume") from error
        raise
    finally:
        prepared.mirror.close(state)
        for warning in prepared.mirror.warnings():
            console.warn(warning)
    return state


def _film(folder: RunFolder, device: torch.device, console: Console) -> None:
    """Record the finished run's video: an episode that fails does not make the run a failed one."""
    try:
        console.say(f"video: {record_evaluation(load(folder.path, str(device), 'rgb_array'))}")
    except RunError as error:
        console.warn(f"the run is finished, but there is no video of it: {error}")


def _obstacle(path: Path) -> str | None:
    """The dangling link in a path, which the error calls a file that exists; None: there is none."""
    lost = next((part for part in (path, *path.parents) if os.path.islink(part) and not os.path.exists(part)), None)
    return f"{lost} is a link to {os.readlink(lost)}, which is not there" if lost else None


def _say_what_next(folder: RunFolder, state: str, requests: Requests) -> None:
    """Print hints on standard error, and on standard output only the folder, for programs."""
    answer(folder.path)
    if state == "finished":
        # Ready to paste: with the modules to trust, quoted for Python and for the shell.
        config = folder.config()
        module = module_of(config["env"])
        trusted = list(dict.fromkeys([*config["trusted"], *[module] * (module not in ("", SAFETY_GYMNASIUM))]))
        loaded = f"{str(folder.path)!r}" + f", trusted={trusted!r}" * bool(trusted)
        typed = ["mode=eval", f"run={folder.path}", *[f"trusted=[{','.join(trusted)}]"] * bool(trusted)]
        print(f"finished: {folder.path}\n"
              f"  in a notebook:   import algd; agent = algd.load({loaded})\n"
              f"  evaluate again:  python -m algd {shlex.join(typed)}", file=sys.stderr)
    else:
        print(f"stopped by {requests.stop} at a checkpoint: {folder.path}\n"
              "  the same command resumes from there", file=sys.stderr)
