"""Evaluating a run again: new episodes for its last checkpoint or one of its snapshots."""

import csv
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algd.envs.registered import module_of
from algd.envs.task import Task
from algd.errors import SimulatorError, UsageError
from algd.run.build import build_task
from algd.run.checks import damage_of_tables
from algd.run.evaluation import SAMPLERS, evaluate
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.run.loading import load
from algd.run.video import check_rendering, record_evaluation
from algd.storage.lock import Lock
from algd.storage.run_folder import EVALUATION_COLUMNS
from algd.storage.table import Table

KEYS = ("mode", "run", "eval.episodes", "eval.video", "device", "threads", "simulator_errors", "trusted", "env",
        "env.id")
"""What counts of a configuration; `env` and `env.id` as trust in its module."""


def reevaluate(config: Mapping[str, Any]) -> int:
    """mode=eval: append `eval.episodes` rows for each sampler to the run's evals.csv, under a source of their own.

    Of the configuration only `KEYS` count; all else is the run's own. Every call has new episode seeds: its source,
    eval-1, eval-2, …, is part of them.

    Returns:
        The exit code.

    Raises:
        UsageError: `run` names no run, one that is being trained, or one whose evals.csv is damaged.
    """
    if config["run"] is None:
        raise UsageError("mode=eval: name the run's folder, or one of its snapshots, with run=...")
    torch.set_num_threads(1 if config["threads"] == "auto" else config["threads"])
    try:
        # Naming the environment's module on the command line is consent to import it.
        module = module_of(config["env"])
        loaded = load(Path(config["run"]), config["device"], "rgb_array" if config["eval"]["video"] else None,
                      trusted=[module] if module else [])
    except UsageError as error:
        raise UsageError(f"run={config['run']}: {error}") from error
    if config["eval"]["video"]:
        check_rendering(partial(build_task, loaded.config, "rgb_array"))
    lock = Lock(loaded.folder.path / "lock")
    try:
        if problem := damage_of_tables(loaded.folder, loaded.config, ["evals"]):
            raise UsageError(f"run={config['run']}: {problem}")
        source = _free_source(loaded.folder.evals)
        table = Table(loaded.folder.evals, EVALUATION_COLUMNS)
        spent: dict[str, list[tuple[float, float]]] = {sampler: [] for sampler in SAMPLERS}
        errors = SimulatorErrors(config["simulator_errors"], loaded.folder.path / "simulator-errors.log",
                                 lambda sentence: print(f"warning: {sentence}", file=sys.stderr))

        def renewed(error: SimulatorError) -> Task:
            errors.take(error)
            return build_task(loaded.config)

        for row in evaluate(loaded.agent, loaded.task, loaded.config["seed"], loaded.step,
                            config["eval"]["episodes"], source, failed=renewed):
            table.append(row)
            spent[row["sampler"]].append((row["return"],
                                          loaded.task.budget.spent(row["cost"], row["discounted_cost"])))
        table.close()
    finally:
        lock.release()
    budget = loaded.task.budget
    for sampler, episodes in spent.items():
        mean_return, mean_cost = np.mean(episodes, axis=0)
        relation = "≤" if mean_cost <= budget.limit else ">"
        count = f"{len(episodes)} episode{'s' * (len(episodes) != 1)}"
        print(f"step {loaded.step}, {sampler}, {count}: return {mean_return:.4g}, "
              f"cost {mean_cost:.4g} {relation} {budget.limit:g} ({budget.kind})")
    print(f"rows with source={source} are in {loaded.folder.evals}", file=sys.stderr)
    if config["eval"]["video"]:
        print(f"video: {record_evaluation(loaded)}", file=sys.stderr)
    return 0


def _free_source(evals: Path) -> str:
    """eval-<n> (`algd.storage.run_folder.REEVALUATION`) with the first number that the table has not."""
    taken: set[str] = set()
    if evals.exists():
        with evals.open(newline="", encoding="utf-8") as file:
            taken = {row.get("source") or "" for row in csv.DictReader(file)}
    number = 1
    while f"eval-{number}" in taken:
        number += 1
    return f"eval-{number}"
