"""Functions for notebooks besides loading an agent: evaluate one, and read many runs' tables."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from algd.envs.task import Task
from algd.errors import SimulatorError, UsageError
from algd.run.build import build_task
from algd.run.evaluation import evaluate as episodes_of
from algd.run.loaded_agent import LoadedAgent
from algd.storage.run_folder import RunFolder, runs_below

Rows = list[dict[str, Any]]
SURVIVED = 10  # failures of the simulator that one evaluation tolerates


def evaluate(agent: LoadedAgent, episodes: int = 20, seed: int = 0) -> Rows:
    """Run whole episodes with an agent, in an environment of their own. Nothing is written.

    Args:
        agent: from `algd.load`.
        episodes: how many with each of the two samplers, deterministic and stochastic, on the same episode seeds.
        seed: of all random numbers.

    Returns:
        A dictionary per episode with the columns of evals.csv: pandas.DataFrame accepts them.

    Raises:
        UsageError: `agent` is something else, or `episodes` or `seed` is not a whole number in its range.
        NumericalError: an observation, a reward, a cost or an action is not finite.
        SimulatorError: the simulator failed more often than ten times.
    """
    if not isinstance(agent, LoadedAgent):
        raise UsageError(f"agent={agent!r}: an agent from algd.load is needed, as in algd.evaluate(algd.load(FOLDER))")
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if not isinstance(value, Integral) or not least <= value < 2**63:
            raise UsageError(f"{name}={value!r}: a whole number from {least} to 2^63 − 1 is needed")
    failures = 0

    def renewed(error: SimulatorError) -> Task:
        nonlocal failures
        failures += 1
        if failures > SURVIVED:
            raise error
        return build_task(agent.config)

    return list(episodes_of(agent.agent, build_task(agent.config), seed, agent.step, episodes,
                            "evaluate", failed=renewed))


@dataclass(frozen=True, repr=False)
class Tables:
    """The tables of runs as lists of dictionaries: pandas.DataFrame(tables.evals) is one.

    Every row begins with its run's folder, env, agent, guidance and seed; an episode's own seed is `episode_seed`.
    Numbers are numbers; None is an empty cell.

    Attributes:
        runs: one row per run: the state in its status.json, and every key of its configuration, dotted.
        evals: one row per evaluation episode.
        episodes: one row per training episode.
        metrics: means over updates.
    """

    runs: Rows
    evals: Rows
    episodes: Rows
    metrics: Rows

    def __repr__(self) -> str:
        plural = "s" * (len(self.runs) != 1)
        return (f"Tables({len(self.runs)} run{plural}; rows: {len(self.evals)} evals, {len(self.episodes)} episodes, "
                f"{len(self.metrics)} metrics)")


def read(runs: str | Path | Iterable[str | Path]) -> Tables:
    """The tables of runs.

    Args:
        runs: a run's folder, a folder with runs in it at any depth, or several of those. Runs that were moved aside
            (<name>.old-<n>) do not count. ~ is the home directory.

    Raises:
        UsageError: there is no run, or one of them cannot be read.
    """
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    if not named:
        raise UsageError("runs is empty: name a run's folder, or one with runs in it")
    tables = Tables([], [], [], [])
    for folder in dict.fromkeys(folder for name in named for folder in _folders(Path(os.path.expanduser(name)))):
        run = RunFolder(folder)
        config, status = run.config(), run.status()
        about = {"folder": str(folder), **{group: config[group]["name"] for group in ("env", "agent", "guidance")},
                 "seed": config["seed"]}
        told = {key: status.get(key) for key in ("state", "step", "updates", "seconds", "reason")}
        tables.runs.append(about | told | dict(_dotted(config)))
        for rows, file in ((tables.evals, run.evals), (tables.episodes, run.episodes), (tables.metrics, run.metrics)):
            rows += (about | row for row in _rows(file))
    return tables


def _folders(top: Path) -> list[Path]:
    """The runs' folders at or below a folder, sorted.

    Raises:
        UsageError: there is none.
    """
    found = sorted(runs_below(top, lambda _, files: {"config.yaml", "status.json"} <= set(files)))
    if not found:
        raise UsageError(f"{top}: there is no run (a folder with config.yaml and status.json) here or below")
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table; none if it is not there (yet)."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as table:
        try:
            for row in csv.DictReader(table):
                yield {"episode_seed" if key == "seed" else key: _value(cell) for key, cell in row.items()
                       if key is not None}
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read ({error})") from error


def _value(cell: str | None) -> Any:
    """A cell as a number where it is one; None where it is empty."""
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _dotted(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted keys."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
