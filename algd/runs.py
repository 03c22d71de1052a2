"""A run from its configuration: found, skipped, started, resumed, extended, or refused."""

import contextlib
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from algd.build import build_agent, build_logger, build_task, resolve_device
from algd.checkpoint import Checkpoints
from algd.config import identity
from algd.envs.task import probe
from algd.errors import UsageError
from algd.files import Lock
from algd.loading import load
from algd.logging.console import Console
from algd.requests import Requests
from algd.run_folder import RunFolder, code_version, run_path, start_record
from algd.seeding import stream
from algd.trainer import Trainer
from algd.video import check_rendering, record_evaluation

EXIT_FINISHED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 143


def train(config: Mapping[str, Any], requests: Requests | None = None) -> int:
    """Train the run of this configuration from wherever its folder stands.

    A finished run is left alone, an unfinished or failed one goes on from its last checkpoint, a finished one with
    a larger total_steps goes on from its end.

    Args:
        config: checked (`algd.config.resolve`).
        requests: what somebody may have asked for since the process started; None: nothing yet.

    Returns:
        The exit code: 0 finished, 143 asked to stop and checkpointed. What fails raises.

    Raises:
        UsageError: before anything is created or changed.
    """
    device = resolve_device(config["device"])
    folder = RunFolder(run_path(config))
    _check_folder(folder, config)
    if not config["fresh"] and _is_finished(folder, config):
        return EXIT_FINISHED
    task = build_task(config)
    probe(task)
    torch.manual_seed(stream(config["seed"], "networks"))
    agent = build_agent(config, task).to(device)
    mirror = build_logger(config)
    if config["eval"]["video"]:
        check_rendering(partial(build_task, config, "rgb_array"))

    with contextlib.ExitStack() as stack:
        if config["fresh"] and folder.path.exists():
            print(f"fresh=true: the folder that was there is now {_move_aside(folder)}", file=sys.stderr)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"runs_dir={config['runs_dir']}: {folder.path} cannot be made "
                             f"({error.strerror})") from error
        stack.callback(Lock(folder.path / "lock").release)
        folder.remove_leftovers()
        before = folder.status()
        folder.write_config(config)
        threads, record_notes = _record_start(folder, config, device)
        torch.set_num_threads(threads)
        console = Console(config["total_steps"], task.budget)
        stack.callback(console.close)
        console.say(f"{folder.path}  on {device}, {threads} thread{'s' * (threads != 1)}")
        for note in record_notes:
            console.warn(note)
        if before.get("state") == "finished":
            console.say(f"this run finished at step {before.get('step')}: extending it to {config['total_steps']}")
        elif before.get("state") == "failed":
            console.say(f"this run failed before ({before.get('reason')}): trying again from its last checkpoint")
        requests = stack.enter_context((requests or Requests()).listening())
        trainer = Trainer(config, folder, agent, task, partial(build_task, config), console, mirror.warnings,
                          requests, before)
        mirror.start(folder.path)
        state = "failed"
        try:
            state = trainer.run()
            if state == "finished" and config["eval"]["video"]:
                console.say(f"video: {record_evaluation(load(folder.path, str(device), 'rgb_array'))}")
        except BaseException as error:
            # Ctrl-C a second time: no checkpoint was waited for, but nothing is wrong with the run.
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with contextlib.suppress(OSError):
                trainer.end(state, f"{type(error).__name__}: {error}")
            raise
        finally:
            mirror.close(state)
            for warning in mirror.warnings():
                console.warn(warning)
        console.close()
        _say_what_next(folder, config, state, requests)
    return EXIT_FINISHED if state == "finished" else EXIT_INTERRUPTED


def _check_folder(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """The folder is this configuration's, if it is there at all."""
    if folder.config_file.exists() and identity(folder.config()) != identity(config):
        raise UsageError(f"{folder.path} was made by a different configuration (see its config.yaml); "
                         "start with fresh=true to move it aside, or choose another runs_dir")


def _is_finished(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether there is nothing to do; says so."""
    status = folder.status()
    if status.get("state") != "finished" or status.get("step", -1) < config["total_steps"]:
        return False
    more = f", more than total_steps={config['total_steps']}" * (status["step"] > config["total_steps"])
    print(f"already finished at step {status['step']}{more}: {folder.path}", file=sys.stderr)
    starts = folder.meta().get("starts") or [{}]
    then, now = starts[-1].get("commit"), code_version()["commit"]
    if then != now:
        print(f"warning: it was trained by commit {then}, the code here is commit {now}; fresh=true trains it anew",
              file=sys.stderr)
    return True


def _move_aside(folder: RunFolder) -> Any:
    lock = Lock(folder.path / "lock")
    try:
        return folder.move_aside()
    finally:
        lock.release()


def _record_start(folder: RunFolder, config: Mapping[str, Any], device: torch.device) -> tuple[int, list[str]]:
    """Add this start to meta.json. Returns the thread count, and what makes a resume inexact."""
    meta = folder.meta()
    starts = meta.get("starts", [])
    first = starts[0] if starts and Checkpoints(folder.checkpoints).numbers() else None
    threads = config["threads"] if config["threads"] != "auto" else (first["threads"] if first else 1)
    record = start_record(threads, str(device))
    notes = []
    if first:
        same = {"threads": "thread count", "device": "device", "host": "host", "processor": "processor",
                "python": "Python"}
        notes = [f"{what} was {first[key]} and is {record[key]} now" for key, what in same.items()
                 if first[key] != record[key] and (key != "host" or first["processor"] != record["processor"])]
        notes += [f"{package} was {version} and is {record['versions'][package]} now"
                  for package, version in first["versions"].items()
                  if package in ("torch", "numpy", "gymnasium", "mujoco", "safety-gymnasium")
                  and version != record["versions"].get(package)]
        notes = [f"{note}: the run goes on, but not bit for bit as it would have" for note in notes]
        if starts[-1].get("commit") != record["commit"]:
            notes.append(f"the code was commit {starts[-1].get('commit')} at the last start and is commit "
                         f"{record['commit']} now")
    record["exact"] = not notes
    if starts and starts[-1].get("diff") == record["diff"] and starts[-1].get("commit") == record["commit"]:
        record["diff"] = "as at the start before" if record["diff"] else None
    folder.write_meta({"identity": identity(config), "starts": [*starts, record]})
    return threads, notes


def _say_what_next(folder: RunFolder, config: Mapping[str, Any], state: str, requests: Requests) -> None:
    if state == "finished":
        print(f"finished: {folder.path}\n"
              f"  in a notebook:   import algd; agent = algd.load('{folder.path}')\n"
              f"  evaluate again:  python run.py mode=eval run={folder.path}", file=sys.stderr)
    else:
        print(f"stopped by {requests.stop} at a checkpoint: {folder.path}\n"
              "  the same command goes on from there", file=sys.stderr)
