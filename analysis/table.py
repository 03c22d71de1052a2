"""Return, cost and feasibility of runs, from their folders alone.

A run is judged by the episodes of its last complete evaluation during training. Its cost is of the kind that the
task's limit applies to, and it is feasible (safe) when its mean cost is at most the limit. Across seeds stands the
interquartile mean (Agarwal et al., arXiv 2108.13264), without an interval.
"""

import csv
import glob
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from algd.config import NOT_IDENTITY
from algd.errors import UsageError

Floats = NDArray[np.float64]
SEEDS_FOR_IQM = 3
EPISODE = ("return", "cost", "discounted_cost", "length")
# Keys in which the runs of one cell may differ. How long a run trained is no part of its identity, but matters here.
MAY_DIFFER = (NOT_IDENTITY - {"total_steps"}) | {"seed"}


@dataclass(frozen=True)
class Run:
    """A run and its last complete evaluation.

    Attributes:
        folder: the run's.
        config: the resolved configuration.
        state: what status.json says; "unknown" without one.
        step: the evaluation's environment step; None: there is no complete evaluation yet.
        returns, costs: of its different episodes; costs in the limit's own kind.
        episodes: how many episodes were run, identical ones included.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    step: int | None
    returns: Floats
    costs: Floats
    episodes: int

    @property
    def limit(self) -> float:
        return self.config["env"]["limit"]

    @property
    def cell(self) -> tuple[str, str]:
        """Environment and algorithm, as the run's folder names them."""
        return self.config["env"]["name"], f"{self.config['agent']['name']}-{self.config['guidance']['name']}"

    @property
    def feasible(self) -> bool:
        """Whether the mean cost is at most the limit; only for runs with an evaluation."""
        return bool(self.costs.mean() <= self.limit)


# --- reading -------------------------------------------------------------------------------------------------------


def find_runs(names: Iterable[str]) -> list[Path]:
    """The folders of all runs that the names stand for, each once, sorted.

    Args:
        names: runs, folders with runs in them at any depth, or patterns. Below a folder, runs that were moved aside
            (<name>.old-<n>) do not count.

    Raises:
        UsageError: a name stands for no run.
    """
    found: set[Path] = set()
    for name in names:
        here = {run for path in glob.glob(name) or [name] for run in _runs_below(Path(path))}
        if not here:
            raise UsageError(f"{name}: there is no run (a folder with config.yaml and evals.csv) here or below")
        found |= here
    return sorted(found)


def _runs_below(top: Path) -> Iterable[Path]:
    for name, folders, files in os.walk(top):
        if "config.yaml" in files and ("evals.csv" in files or "status.json" in files):
            folders.clear()  # what else is in a run's folder is its own
            yield Path(name)
        folders[:] = [folder for folder in folders if not re.search(r"\.old-\d+$", folder)]


def read_run(folder: Path, sampler: str = "deterministic") -> Run:
    """A run with its last complete evaluation by one sampler.

    Raises:
        UsageError: a file of the run cannot be understood.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        status = folder / "status.json"
        state = json.loads(status.read_text(encoding="utf-8"))["state"] if status.exists() else "unknown"
        step, rows = last_evaluation(_rows(folder / "evals.csv"), sampler, config["eval"]["episodes"])
        kind = config["env"]["limit_kind"]
        different = distinct(rows)
        cost = "discounted_cost" if kind == "discounted" else "cost"
        returns, costs = (np.array([float(row[column]) for row in different]) for column in ("return", cost))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise UsageError(f"{folder} cannot be read as a run ({reason})") from error
    return Run(folder, config, state, step, returns, costs, len(rows))


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file; a last line without its end was torn, and does not count."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return list(csv.DictReader(whole.splitlines()))


def last_evaluation(rows: Sequence[Mapping[str, str]], sampler: str,
                    episodes: int) -> tuple[int | None, list[Mapping[str, str]]]:
    """The step and rows of the last evaluation during training that has all its episodes; (None, []) without one.

    Args:
        rows: of evals.csv.
        sampler: "deterministic" or "stochastic".
        episodes: how many rows an evaluation has for each sampler.
    """
    by_step: dict[int, list[Mapping[str, str]]] = {}
    for row in rows:
        if row["source"] == "train" and row["sampler"] == sampler:
            by_step.setdefault(int(row["step"]), []).append(row)
    complete = [step for step, of_step in by_step.items() if len(of_step) >= episodes]
    return (max(complete), by_step[max(complete)]) if complete else (None, [])


def distinct(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """One of each group of identical episodes, in order: same return, costs and length, to the last digit.

    A deterministic policy in an environment without randomness plays one and the same episode again and again; that
    is one measurement, however often it is written down.
    """
    return list({tuple(row[column] for column in EPISODE): row for row in reversed(rows)}.values())[::-1]


# --- statistics ----------------------------------------------------------------------------------------------------


def interquartile_mean(values: Floats) -> float:
    """The mean of what is left of n values without the ⌊n/4⌋ lowest and as many highest (arXiv 2108.13264)."""
    cut = len(values) // 4
    return float(np.sort(values)[cut:len(values) - cut].mean())


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys, but those in MAY_DIFFER, that do not have the same value in all configurations."""
    flat = [{key: value for key, value in _flat(config) if key.split(".")[0] not in MAY_DIFFER} for config in configs]
    return sorted(key for key in set().union(*flat) if len({repr(one.get(key)) for one in flat}) > 1)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """A configuration's value at a dotted key; None without one."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


@dataclass(frozen=True)
class Cell:
    """The runs of one environment and algorithm that differ in nothing but the seed.

    Attributes:
        env, algorithm: what the runs' folders say.
        variant: "key=value" of the keys in which this cell differs from others of that environment and algorithm.
        runs: all of them.
    """

    env: str
    algorithm: str
    variant: tuple[str, ...]
    runs: list[Run]

    @property
    def evaluated(self) -> list[Run]:
        return [run for run in self.runs if run.step is not None]


def cells(runs: Iterable[Run]) -> list[Cell]:
    """Runs by environment, algorithm, and whatever else is different between them.

    Raises:
        UsageError: two runs are the same seed of the same configuration.
    """
    by_name: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.cell, []).append(run)
    found = []
    for (env, algorithm), members in sorted(by_name.items(), key=lambda item: item[0]):
        keys = differing_keys([run.config for run in members])
        by_variant: dict[tuple[str, ...], list[Run]] = {}
        for run in members:
            variant = tuple(f"{key}={value_at(run.config, key)}" for key in keys)
            by_variant.setdefault(variant, []).append(run)
        for variant, same in sorted(by_variant.items()):
            seeds: dict[int, Run] = {}
            for run in same:
                if (twin := seeds.setdefault(run.config["seed"], run)) is not run:
                    raise UsageError(f"{twin.folder} and {run.folder} are the same run: name only one of them")
            found.append(Cell(env, algorithm, variant, [seeds[seed] for seed in sorted(seeds)]))
    return found


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(runs: Sequence[Run], sampler: str) -> str:
    """One table across seeds for each family of tasks, a table of the runs, and what the numbers are."""
    parts = []
    for family in sorted({run.config["env"]["family"] for run in runs}):
        members = cells(run for run in runs if run.config["env"]["family"] == family)
        parts += [f"## Family: {family}", _rows_to_markdown(
            ["env", "algorithm", "seeds", "return", "cost", "limit", "episodes over", "safe"],
            [_cell_row(cell) for cell in members], left=2)]
        parts += [_rows_to_markdown(
            ["env", "algorithm", "seed", "state", "step", "return", "cost", "limit", "episodes over", "feasible"],
            [_run_row(cell, run) for cell in members for run in cell.runs], left=2)]
    return "\n\n".join([*parts, _notes(runs, sampler)])


def _cell_row(cell: Cell) -> list[str]:
    runs = cell.evaluated
    count = f"{len(runs)}" if len(runs) == len(cell.runs) else f"{len(runs)} of {len(cell.runs)}"
    row = [cell.env, " ".join([cell.algorithm, *cell.variant]), count]
    if not runs:
        return [*row, "–", "–", _number(cell.runs[0].limit), "–", "–"]
    returns, costs, over = (np.array(column) for column in zip(*(
        (run.returns.mean(), run.costs.mean(), (run.costs > run.limit).mean()) for run in runs), strict=True))
    centre = interquartile_mean if len(runs) >= SEEDS_FOR_IQM else np.mean
    safe = sum(run.feasible for run in runs)
    return [*row, _number(centre(returns)), _number(centre(costs)), _number(runs[0].limit), f"{over.mean():.0%}",
            f"safe {safe}/{len(runs)}"]


def _run_row(cell: Cell, run: Run) -> list[str]:
    row = [cell.env, " ".join([cell.algorithm, *cell.variant]), str(run.config["seed"]), run.state]
    if run.step is None:
        return [*row, "–", "–", "–", _number(run.limit), "–", "no evaluation"]
    return [*row, str(run.step), _number(run.returns.mean()), _number(run.costs.mean()), _number(run.limit),
            f"{(run.costs > run.limit).mean():.0%} of {len(run.costs)}", "yes" if run.feasible else "no"]


def _notes(runs: Sequence[Run], sampler: str) -> str:
    """How the numbers came about."""
    notes = [f"Return and cost: means over the {sampler} episodes of each run's last complete evaluation in training.",
             f"Across seeds: interquartile mean from {SEEDS_FOR_IQM} seeds on, plain mean below; no interval.",
             "Safe: mean cost of the seed at most the limit. Episodes over: their share, averaged over seeds."]
    if any(run.config["env"]["limit_kind"] == "discounted" for run in runs):
        tasks = sorted({run.cell[0] for run in runs if run.config["env"]["limit_kind"] == "discounted"})
        notes.append(f"Cost and limit are discounted sums in {', '.join(tasks)}.")
    if repeated := [run for run in runs if len(run.costs) < run.episodes]:
        worst = min(repeated, key=lambda run: len(run.costs))
        notes.append(f"Identical evaluation episodes count once: in {len(repeated)} of {len(runs)} runs there were "
                     f"some (at worst {len(worst.costs)} different of {worst.episodes}).")
    if unfinished := [run for run in runs if run.state != "finished"]:
        notes.append(f"Not finished: {len(unfinished)} of {len(runs)} runs; they stand with what they have.")
    return "\n".join(f"- {note}" for note in notes)


def _rows_to_markdown(header: list[str], rows: list[list[str]], left: int) -> str:
    """A table whose first `left` columns are flush left and the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cell.ljust(w) if i < left else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(row) for row in [header, rule, *rows])


def _number(value: float) -> str:
    """Two decimals below 100, one below 1000."""
    decimals = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text
