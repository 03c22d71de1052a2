"""Reading runs from a W&B project, as mirrored by `algd.logging.wandb`, without access to their folders.

W&B has the means of each evaluation but not its episodes, so CVaR and the number of distinct episodes are not known,
and plots that need networks cannot be drawn. Everything else is as in the run folders. Rows that a resumed run sent
again are merged by environment step.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from algd.config.identity import upgraded
from algd.config.values import printable
from algd.errors import UsageError
from analysis.runs.episodes import TrainingRecord, checked_step
from analysis.runs.model import NEEDED, Evaluation, Run, Series, Training, terms
from analysis.runs.read import legible
from analysis.runs.select import flat

TIMEOUT_SECONDS = 60
STATUS = ("state", "step", "reason", "updates_per_second", "seconds")
# W&B's state ↦ this project's, for a run without a status of its own or with an older one.
STATES = {"finished": "finished", "failed": "failed", "crashed": "interrupted", "killed": "interrupted",
          "preempted": "interrupted", "preempting": "interrupted", "running": "running", "pending": "starting"}


def read_project(path: str, sampler: str = "deterministic") -> tuple[list[Run], list[str], dict[Path, str]]:
    """Read the runs of a W&B project.

    Args:
        path: "entity/project".
        sampler: sampler of the evaluations, "deterministic" or "stochastic".

    Returns:
        The runs, the names of those that are not this project's or have no configuration, and the reason for each
        that cannot be read.

    Raises:
        UsageError: the path is malformed, W&B cannot be read, or it has no run of this project.
    """
    if path.count("/") != 1 or not all(path.split("/")):
        raise UsageError(f"--wandb {path}: ENTITY/PROJECT is needed, such as my-team/algd")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    found, others, unreadable = [], [], {}
    try:
        for remote in wandb.Api(timeout=TIMEOUT_SECONDS).runs(path, order="+created_at", lazy=False):
            name = f"wandb:{path}/{remote.id}"
            try:
                config = flat(upgraded({key: value for key, value in remote.config.items() if key != "meta"}))
                if all(key in config for key in NEEDED):
                    status = {key: remote.summary.get(f"status/{key}") for key in STATUS}
                    found.append(_run(name, path, config, str(remote.state), status, remote.scan_history(), sampler))
                else:
                    others.append(printable(f"{remote.name} ({remote.id})"))
            except OSError:  # the connection's; some of its errors are a ValueError too
                raise
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                unreadable[Path(name)] = printable(f"{name} cannot be read as a run ({_said(error)})")
    except (wandb.Error, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--wandb {path}: it cannot be read ({_said(error)})") from error
    if not found and not unreadable:
        raise UsageError(f"--wandb {path}: none of its {len(others)} runs is one of this project's")
    return found, others, unreadable


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _run(name: str, path: str, config: dict[str, Any], state: str, status: Mapping[str, Any],
         history: Iterable[Mapping[str, Any]], sampler: str) -> Run:
    wanted, limit, cost = terms(config)
    evaluations: dict[int, dict[str, float]] = {}
    episodes: dict[int, dict[str, str]] = {}
    metrics: dict[str, dict[int, float]] = {}
    for row in history:
        if row.get("env_step") is None:
            continue
        step = int(row["env_step"])
        for key, value in row.items():
            group, _, column = key.partition("/")
            if value is None or not column:
                continue
            if group == "eval" and column.startswith(f"{sampler}/"):
                evaluations.setdefault(step, {})[column.partition("/")[2]] = float(value)
            elif group == "episode":
                episodes.setdefault(step, {"step": str(step)})[column] = str(value)
            elif group == "train":
                metrics.setdefault(column, {})[step] = float(value)
    record = TrainingRecord(episodes.values(), cost, limit)
    counts = {checked_step(step): int(evaluations[step].get("episodes", 0)) for step in sorted(evaluations)}
    complete = [_evaluation(step, evaluations[step], cost, limit, record.by(step))
                for step, count in counts.items() if count >= wanted]
    seconds = status.get("seconds")
    said = STATES.get(state, "unknown")
    return Run(
        Path(name), config, said if said == "running" else str(status.get("state") or said),
        legible(status.get("reason")), status.get("step"), complete,
        {step: count for step, count in counts.items() if count < wanted}, record.by(),
        status.get("updates_per_second"),
        None if seconds is None else seconds / 3600,
        f"W&B ({path}): means of whole evaluations; CVaR and how many episodes were identical are not known",
        metrics={column: _series(values) for column, values in metrics.items()})


def _evaluation(step: int, values: Mapping[str, float], cost: str, limit: float, spent: Training | None) -> Evaluation:
    count = int(values["episodes"])
    return Evaluation(step, values["return"], values[cost], max(0.0, values[cost] - limit),
                      values.get("share_over_limit"), None, count, count, training=spent)


def _series(values: Mapping[int, float]) -> Series:
    steps = sorted(values)
    return Series(np.array(steps, dtype=float), np.array([values[step] for step in steps]))
