"""A run from its configuration: found, skipped, started, resumed, extended, or refused."""

import contextlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from algd.config.identity import identity
from algd.envs.task import probe
from algd.errors import UsageError
from algd.execution.native.library import worthwhile
from algd.execution.step import Execution, keep_freed_memory, products_of, resolve_execution
from algd.logging.console import Console
from algd.run.build import build_agent, build_logger, build_task, check_room, resolve_device
from algd.run.faults.requests import Requests
from algd.run.loading import load
from algd.run.trainer import Trainer
from algd.run.video import check_rendering, record_evaluation, video_path
from algd.seeding import stream
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.files import free_name
from algd.storage.lock import Lock
from algd.storage.provenance import code_version, start_record
from algd.storage.run_folder import RunFolder, refuse_links, run_path
from algd.storage.snapshots import DamagedSnapshot, read_snapshot, snapshot_name
from algd.storage.table import begins_with

EXIT_FINISHED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 143
SAME_DIFF = "as at the start before"  # in meta.json, which would grow with every start otherwise


def train(config: Mapping[str, Any], requests: Requests | None = None) -> int:
    """Train the run of this configuration from wherever its folder stands.

    A finished run is left alone, an unfinished or failed one goes on from its last checkpoint, a finished one with
    a larger total_steps goes on from its end.

    Args:
        config: checked (`algd.config.schema.resolve`).
        requests: what somebody may have asked for since the process started; None: nothing yet.

    Returns:
        The exit code: 0 finished, 143 asked to stop and checkpointed. What fails raises.

    Raises:
        UsageError: before anything is created or changed.
    """
    device = resolve_device(config["device"])
    folder = RunFolder(run_path(config))
    refuse_links(folder.path)
    _check_folder(folder, config)
    if _is_finished(folder, config):
        return EXIT_FINISHED
    task = build_task(config)
    probe(task)
    check_room(config, task)
    torch.manual_seed(stream(config["seed"], "networks"))
    agent = build_agent(config, task).to(device)
    mirror = build_logger(config)
    execution = resolve_execution(config["compile"], device, products_of(agent, config["batch_size"]),
                                  config["total_steps"] * config["updates_per_step"])
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
        if _is_finished(folder, {**config, "fresh": False}):
            # Another process has trained it since this one looked.
            return EXIT_FINISHED
        folder.remove_leftovers()
        damage = folder.damage(identity(config))
        before = folder.status()
        if not folder.is_own(before):
            before = {}
        folder.write_config(config)
        start, record_notes = _record_start(folder, config, device, execution)
        threads = start["threads"]
        torch.set_num_threads(threads)
        keep_freed_memory()
        console = Console(config["total_steps"], task.budget)
        stack.callback(console.close)
        how = "" if start["execution"] == "eager" else f", {start['execution']}"
        console.say(f"{folder.path}  on {device}, {threads} thread{'s' * (threads != 1)}{how}")
        for problem in damage:
            console.warn(f"{problem}: it is written anew")
        for note in record_notes:
            console.warn(note)
        if before.get("state") == "finished" and before.get("step", 0) < config["total_steps"]:
            console.say(f"this run finished at step {before.get('step')}: extending it to {config['total_steps']}")
        elif before.get("state") == "failed":
            console.say(f"this run failed before ({before.get('reason')}): trying again from its last checkpoint")
        requests = stack.enter_context((requests or Requests()).listening())
        trainer = Trainer(config, folder, agent, task, partial(build_task, config), console, mirror.warnings,
                          requests, before, start["execution"])
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
    """The folder is this configuration's, if it is there at all and can tell."""
    try:
        found = identity(folder.config())
    except UsageError:
        # The folder's name says what is in it: a configuration that cannot be read is written anew.
        return
    if found != identity(config):
        raise UsageError(f"{folder.path} was made by a different configuration (see its config.yaml); "
                         "start with fresh=true to move it aside, or choose another runs_dir")


def _is_finished(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether there is nothing to do; says so.

    Raises:
        UsageError: it is finished, but its last checkpoint, its tables or its snapshots are damaged.
    """
    status = folder.status()
    if config["fresh"] or status.get("state") != "finished" or status.get("step", -1) < config["total_steps"]:
        return False
    if not folder.is_own(status) or (config["eval"]["video"] and not video_path(folder, status["step"]).exists()):
        return False
    if problem := _damaged_end(folder, config, status["step"]):
        raise UsageError(f"this run is finished, but {problem}; fresh=true moves its folder aside and trains it anew")
    if folder.damage(identity(config)):
        return False  # going on from its end writes anew what only describes it
    more = f", more than total_steps={config['total_steps']}" * (status["step"] > config["total_steps"])
    print(f"already finished at step {status['step']}{more}: {folder.path}", file=sys.stderr)
    starts = folder.meta().get("starts") or [{}]
    then, now = starts[-1].get("commit"), code_version()["commit"]
    if then != now:
        print(f"warning: it was trained by commit {then}, the code here is commit {now}; fresh=true trains it anew",
              file=sys.stderr)
    return True


def _damaged_end(folder: RunFolder, config: Mapping[str, Any], step: int) -> str | None:
    """What of a finished run's results is not what was written; None if all is well."""
    run = identity(config)
    checkpoints = Checkpoints(folder.checkpoints, run)
    try:
        if not checkpoints.numbers():
            return f"{folder.checkpoints} has no checkpoint"
        state = checkpoints.load(checkpoints.numbers()[-1])
        if state["step"] != step:
            return f"its last checkpoint is of step {state['step']} instead of {step}"
        for name, file in (("episodes", folder.episodes), ("evals", folder.evals), ("metrics", folder.metrics)):
            if not begins_with(file, state["tables"][name]):
                return f"{file} is damaged: it no longer begins with the rows that training wrote"
        for taken in state["snapshots"]:
            read_snapshot(folder.snapshots / snapshot_name(taken), run, taken)
    except (DamagedCheckpoint, DamagedSnapshot) as error:
        return str(error)
    return None


def _move_aside(folder: RunFolder) -> Any:
    lock = Lock(folder.path / "lock")
    try:
        return folder.move_aside()
    finally:
        lock.release()


# What decides whether floating-point results are the same bit for bit, beside the versions of these packages.
EXACTNESS = {"threads": "thread count", "device": "device", "execution": "execution", "processor": "processor",
             "cpu_capability": "instruction set", "python": "Python"}
EXACT_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "safety-gymnasium")


def _record_start(folder: RunFolder, config: Mapping[str, Any], device: torch.device,
                  execution: Execution) -> tuple[dict[str, Any], list[str]]:
    """Add this start to meta.json. Returns its record, and what makes going on inexact, a sentence each.

    What `auto` came to at a run's first start it stays, on the same kind of device and where it can be had.

    A start goes on from the one before it if there is a checkpoint. `exact` says that the run up to here and from
    here on is bit for bit one that was never interrupted, as far as can be known.
    """
    meta = folder.meta()
    if folder.meta_file.exists() and meta.get("identity", identity(config)) != identity(config):
        meta = {}
    if folder.meta_file.exists() and not meta:
        os.rename(folder.meta_file, free_name(folder.meta_file, "damaged"))
    starts = meta.get("starts", [])
    goes_on = bool(Checkpoints(folder.checkpoints).numbers())
    begun = max((i for i, start in enumerate(starts) if not start.get("goes_on", i > 0)), default=0)
    first = starts[begun] if goes_on and starts else None
    threads = config["threads"] if config["threads"] != "auto" else (first["threads"] if first else 1)
    if config["compile"] == "auto" and first and first.get("device") == str(device):
        execution = first.get("execution", execution)
        if execution == "native" and not worthwhile():
            execution = "eager"
    record = start_record(threads, str(device)) | {"execution": execution}
    record |= {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "goes_on": goes_on}
    notes = []
    if first:
        then_and_now = [(what, first.get(key), record[key]) for key, what in EXACTNESS.items()]
        then_and_now += [(package, first["versions"].get(package), record["versions"].get(package))
                         for package in EXACT_PACKAGES]
        notes = [f"{what} was {then} and is {now} now: the run goes on, but not bit for bit as it would have"
                 for what, then, now in then_and_now if then != now]
        if starts[-1].get("commit") != record["commit"]:
            notes.append(f"the code was commit {starts[-1].get('commit')} at the last start and is commit "
                         f"{record['commit']} now: the run goes on, but perhaps not bit for bit as it would have")
        if not notes and not all(start.get("exact", True) for start in starts[begun:]):
            notes.append("the run goes on as it was begun, but an earlier start did not (meta.json): as a whole it is "
                         "not bit for bit what it would have been")
    elif goes_on:
        notes.append("what the run was trained with so far is not known without meta.json: it goes on, but perhaps not "
                     "bit for bit as it would have")
    record["exact"] = not notes
    diffs = [start["diff"] for start in starts if start.get("diff") not in (None, SAME_DIFF)]
    if record["diff"] and diffs and diffs[-1] == record["diff"] and starts[-1].get("diff"):
        record["diff"] = SAME_DIFF
    folder.write_meta({"identity": identity(config), "starts": [*starts, record]})
    return record, notes


def _say_what_next(folder: RunFolder, config: Mapping[str, Any], state: str, requests: Requests) -> None:
    if state == "finished":
        print(f"finished: {folder.path}\n"
              f"  in a notebook:   import algd; agent = algd.load('{folder.path}')\n"
              f"  evaluate again:  python run.py mode=eval run={folder.path}", file=sys.stderr)
    else:
        print(f"stopped by {requests.stop} at a checkpoint: {folder.path}\n"
              "  the same command goes on from there", file=sys.stderr)
