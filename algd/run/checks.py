"""Checks of a run's folder before anything in it is changed."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from algd.config.identity import identity
from algd.errors import UsageError
from algd.run.start import own_code
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.checkpoint_state import TABLES, CheckpointState, checked
from algd.storage.provenance import code_version
from algd.storage.run_folder import RunFolder
from algd.storage.snapshots import DamagedSnapshot, read_snapshot, snapshot_name
from algd.storage.table import begins_with


def check_identity(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Refuse a folder that was made by a different configuration.

    Raises:
        UsageError: it was.
    """
    try:
        found = identity(folder.config())
    except UsageError:
        # The folder's name has the identity: a configuration that cannot be read is rewritten.
        return
    if found != identity(config):
        raise UsageError(f"{folder.path} was made by a different configuration (see its config.yaml); "
                         "start with fresh=true to move it aside, or choose another runs_dir")


def is_finished(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Return whether the run is finished at this total_steps or more, so that there is nothing to do.

    Raises:
        UsageError: the run is finished, but its last checkpoint, its tables or its snapshots are damaged.
    """
    status = folder.status()
    if config["fresh"] or status.get("state") != "finished" or not folder.is_own(status):
        return False
    if problem := _damage_at_end(folder, config, status["step"]):
        raise UsageError(f"this run is finished, but {problem}; fresh=true moves its folder aside and trains from "
                         "scratch")
    if status["step"] < config["total_steps"] or (
            config["eval"]["video"] and not folder.video(status["step"]).exists()):
        return False
    # Extending the run rewrites the files that only describe it.
    return not folder.damage(identity(config))


def check_total_steps(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Refuse to end an unfinished run at fewer steps than it has taken: there is no evaluation of it at its end.

    Raises:
        UsageError: it has taken more.
    """
    status, total = folder.status(), config["total_steps"]
    step = status.get("step", 0)
    if not config["fresh"] and status.get("state") != "finished" and folder.is_own(status) and step > total:
        raise UsageError(f"total_steps={total}: this unfinished run is at step {step} already; a total_steps of at "
                         f"least {step} finishes it, and fresh=true moves its folder aside and trains from scratch")


def say_finished(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Report that there is nothing to do, and warn if other code trained the run."""
    step = folder.status()["step"]
    more = f", more than total_steps={config['total_steps']}" * (step > config["total_steps"])
    print(f"already finished at step {step}{more}: {folder.path}", file=sys.stderr)
    starts = folder.meta().get("starts") or [{}]
    then, now = starts[-1].get("commit"), code_version()["commit"]
    if then != now:
        print(f"warning: it was trained by commit {then}, the code here is commit {now}; fresh=true trains it from "
              "scratch", file=sys.stderr)
    recorded = starts[-1].get("trusted", {})
    if changed := [module for module, code in own_code(config).items() if recorded.get(module, code) != code]:
        print(f"warning: it was trained with other code of {', '.join(changed)} than there is now; fresh=true trains "
              "it from scratch", file=sys.stderr)


def _damage_at_end(folder: RunFolder, config: Mapping[str, Any], step: int) -> str | None:
    """Which of a finished run's results are damaged; None if none is."""
    run = identity(config)
    checkpoints = Checkpoints(folder.checkpoints, run)
    try:
        if not checkpoints.numbers():
            return f"{folder.checkpoints} has no checkpoint"
        state = checked(checkpoints.load(checkpoints.numbers()[-1]))
        if state["step"] != step:
            return f"its last checkpoint is of step {state['step']} instead of {step}"
        if problem := _damage_of_tables(folder, state, TABLES):
            return problem
        for taken in state["snapshots"]:
            read_snapshot(folder.snapshots / snapshot_name(taken), run, taken)
    except (DamagedCheckpoint, DamagedSnapshot, ValueError) as error:
        return str(error)
    return None


def damage_of_tables(folder: RunFolder, config: Mapping[str, Any], tables: Iterable[str]) -> str | None:
    """Which of a run's tables is damaged, by its newest checkpoint; None if none is, or there is no checkpoint."""
    checkpoints = Checkpoints(folder.checkpoints, identity(config))
    if not checkpoints.numbers():
        return None
    try:
        return _damage_of_tables(folder, checked(checkpoints.load(checkpoints.numbers()[-1])), tables)
    except (DamagedCheckpoint, ValueError) as error:
        return str(error)


def _damage_of_tables(folder: RunFolder, state: CheckpointState, tables: Iterable[str]) -> str | None:
    for table in tables:
        file = folder.path / f"{table}.csv"
        if not begins_with(file, state["tables"][table]):
            return f"{file} is damaged: it no longer begins with the rows that training wrote"
    return None
