"""Runs as they lie in their folders: which there are, and what each came to.

A run is read once and boiled down to a few numbers: what is kept of it does not grow with its length, except for the
means of its evaluations. A run is judged by the episodes of its last complete evaluation during training. Its cost is
of the kind that the task's limit applies to, and it is feasible (safe) when its mean cost is at most the limit.
"""

import csv
import glob
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from algd.config.identity import NOT_IDENTITY, identity
from algd.config.values import UNPRINTABLE
from algd.errors import UsageError
from algd.storage.files import unsealed
from algd.storage.run_folder import STATES, UNKNOWN, RunFolder, refuse_links
from algd.storage.yaml import read_yaml
from analysis.statistics.estimators import StayTime, cvar, time_to_stay_feasible

Floats = NDArray[np.float64]
Row = Mapping[str, str]
EPISODE = ("return", "cost", "discounted_cost", "length")
COST = {"episode": "cost", "discounted": "discounted_cost"}
SWEEPS = "sweeps"
# What a configuration must say for a run to be tabled.
NEEDED = ("seed", "eval.episodes", "env.name", "env.family", "env.limit", "env.limit_kind", "agent.name",
          "guidance.name")
# Keys in which the runs of one cell may differ. How long a run trained is no part of its identity, but matters here.
MAY_DIFFER = (NOT_IDENTITY - {"total_steps"}) | {"seed"}


@dataclass(frozen=True)
class Evaluation:
    """A run's last complete evaluation; costs in the limit's own kind.

    Attributes:
        mean_return, mean_cost: over its different episodes.
        violation: max(0, mean_cost − limit).
        over: the share of its different episodes over the limit; None where single episodes are not known.
        cvar: mean of the worst tenth of the costs; None likewise.
        different, episodes: how many different ones there were, of how many.
        cut: how many the simulator ended; they count with what they had until then.
    """

    step: int
    mean_return: float
    mean_cost: float
    violation: float
    over: float | None
    cvar: float | None
    different: int
    episodes: int
    cut: int = 0


@dataclass(frozen=True)
class Training:
    """What training itself cost, in episodes that ended after the initial steps.

    Attributes:
        total_cost: undiscounted, of all episodes.
        cost_rate: per environment step.
        over: the share of episodes over the limit, in the limit's own kind.
    """

    episodes: int
    total_cost: float
    cost_rate: float
    over: float | None


@dataclass(frozen=True)
class Series:
    """Values of a quantity of one run: steps (n,), increasing, and values (n,)."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class Run:
    """A run, boiled down.

    Attributes:
        folder: where it is, for messages.
        config: the resolved configuration by dotted keys.
        state: what status.json says; "unknown" without one.
        reason: of a failure, if there was one.
        step: that training had reached, as status.json says.
        last: its last complete evaluation; None: there is none yet.
        steps, returns, costs: of all complete evaluations, (n,) each.
        stay: when it became feasible for good; None without evaluations.
        training: None without training episodes.
        updates_per_second, hours: over all its starts; None where not recorded.
        source: "" for a folder of this project; else where it was imported from, and what it lacks.
        foreign: whether another framework trained it, so that its configuration cannot be compared with this one's.
        metrics: training scalars of runs without a folder.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    reason: str | None
    step: int | None
    last: Evaluation | None
    steps: NDArray[np.int64]
    returns: Floats
    costs: Floats
    stay: StayTime | None
    training: Training | None
    updates_per_second: float | None
    hours: float | None
    source: str = ""
    foreign: bool = False
    metrics: Mapping[str, Series] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        return float(self.config["env.limit"])

    @property
    def env(self) -> str:
        return str(self.config["env.name"])

    @property
    def family(self) -> str:
        return str(self.config["env.family"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def feasible(self) -> bool | None:
        """Whether the mean cost is at most the limit; None without an evaluation."""
        return None if self.last is None else self.last.mean_cost <= self.limit


# --- which runs there are ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Run folders, and the members of sweeps that have none yet."""

    folders: list[Path]
    absent: list[Path]


def find_runs(names: Iterable[str], runs_dir: Path = Path("runs")) -> Found:
    """All runs that the names stand for, each once, sorted.

    Args:
        names: runs, folders with runs in them at any depth, patterns, sweeps' files (runs/sweeps/NAME.json), or the
            names of sweeps or of their experiments. Below a folder, runs that were moved aside (<name>.old-<n>) do not
            count, nor what lies in sweeps/.
        runs_dir: where sweeps are looked up by name.

    Raises:
        UsageError: a name stands for no run, or for several sweeps.
    """
    found: dict[Path, Path] = {}
    absent: dict[Path, Path] = {}
    for name in names:
        paths = [Path(path) for path in sorted(glob.glob(name)) or [name]]
        here: list[Path] = []
        for path in paths:
            if not path.exists() and (sweep := _sweep_called(name, runs_dir)):
                path = sweep
            if path.is_file():
                members = sweep_members(path)
                here += members
                absent |= {one.resolve(): one for one in members if not (one / "config.yaml").exists()}
            else:
                here += _runs_below(path)
        if not here:
            raise UsageError(f"{name}: there is no run (a folder with config.yaml and evals.csv) here or below, and no "
                             f"sweep of that name in {runs_dir / SWEEPS}")
        for one in here:
            if one.resolve() not in absent:
                found.setdefault(one.resolve(), one)
    return Found(sorted(found.values()), sorted(absent.values()))


def sweep_members(file: Path) -> list[Path]:
    """The folders of a sweep's members, whether they exist or not, in the sweep's order.

    Raises:
        UsageError: the file is not a sweep's, or lists folders outside its own runs_dir.
    """
    top = file.parent.parent
    try:
        listed = json.loads(file.read_bytes())["runs"]
        if not isinstance(listed, list):
            raise TypeError("runs is not a list of folders")
        members = [top / run for run in listed]
        if unreadable := next((one for one in members if UNPRINTABLE.search(str(one))), None):
            raise ValueError(f"control characters in {str(unreadable)!a}")
        # The file may come from somebody else: its members are below the folder that it is for.
        inside = all(top.resolve() in one.resolve().parents for one in members)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} is not a sweep's list of members ({type(error).__name__}: {error})") from error
    if not inside:
        raise UsageError(f"{file} lists runs outside {top}")
    return members


def sweep_content(names: Sequence[str], runs_dir: Path = Path("runs")) -> dict[str, Any] | None:
    """What the sweep's file says, if a sweep is all that the names stand for."""
    if len(names) != 1:
        return None
    file = Path(names[0]) if Path(names[0]).is_file() else _sweep_called(names[0], runs_dir)
    return None if file is None or Path(names[0]).is_dir() else json.loads(file.read_bytes())


def _sweep_called(name: str, runs_dir: Path) -> Path | None:
    """The file of the sweep with this name, or of the only sweep of the experiment with this name."""
    if Path(name).name != name:
        return None
    if (exact := runs_dir / SWEEPS / f"{name}.json").is_file():
        return exact
    of_experiment = []
    for file in sorted((runs_dir / SWEEPS).glob("*.json")):
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and content.get("experiment") == name:
            of_experiment.append(file)
    if len(of_experiment) > 1:
        raise UsageError(f"{name}: there are several sweeps of this experiment; name one of "
                         + ", ".join(file.stem for file in of_experiment))
    return of_experiment[0] if of_experiment else None


def _runs_below(top: Path) -> Iterable[Path]:
    for name, folders, files in os.walk(top):
        if ("config.yaml" in files and ("evals.csv" in files or "status.json" in files)) or (
                "progress.csv" in files and "config.json" in files):
            folders.clear()  # what else is in a run's folder is its own
            yield Path(name)
        # A sweep keeps a copy of the code, whose tests may have runs of their own.
        folders[:] = [folder for folder in folders if folder != SWEEPS and not re.search(r"\.old-\d+$", folder)]


# --- one run -------------------------------------------------------------------------------------------------------


def read_run(folder: Path, sampler: str = "deterministic") -> Run:
    """A run with its evaluations by one sampler.

    Raises:
        UsageError: a file of the run cannot be understood.
    """
    refuse_links(folder)
    try:
        if not (folder / "config.yaml").exists() and (folder / "progress.csv").exists():
            from analysis.runs.omnisafe import read_progress

            return read_progress(folder)
        return _read(folder, sampler)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise UsageError(f"{folder} cannot be read as a run ({reason})") from error


def _read(folder: Path, sampler: str) -> Run:
    nested = read_yaml(folder / "config.yaml")
    config = flat(nested)
    if lacking := [key for key in NEEDED if key not in config]:
        raise KeyError(lacking[0])
    check_integrity(folder, nested)
    wanted, limit, cost = int(config["eval.episodes"]), float(config["env.limit"]), COST[config["env.limit_kind"]]
    if not math.isfinite(limit) or wanted < 1:
        raise ValueError(f"env.limit={limit}, eval.episodes={wanted}: they cannot be")
    status = read_status(folder)
    by_step = complete_evaluations(rows(folder / "evals.csv"), sampler, wanted)
    steps = sorted(by_step)
    means = np.array([_means(distinct(by_step[step]), cost) for step in steps]).reshape(-1, 2)
    seconds = status.get("seconds")
    return Run(
        folder, config, status["state"], status.get("reason"), status.get("step"),
        _last(steps[-1], by_step[steps[-1]], cost, limit) if steps else None, np.array(steps, dtype=np.int64),
        means[:, 0], means[:, 1], time_to_stay_feasible(steps, [bool(one <= limit) for one in means[:, 1]]),
        training(rows(folder / "episodes.csv"), cost, limit), status.get("updates_per_second"),
        None if seconds is None else seconds / 3600)


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says; its state is "unknown", with the reason, where there is none or it is damaged."""
    status = RunFolder(folder).status()
    kinds = {"state": str, "reason": str | None, "step": int | None, "updates_per_second": float | int | None,
             "seconds": float | int | None}
    wrong = [key for key, kind in kinds.items() if not isinstance(status.get(key), kind) and status]
    if wrong or status.get("state", UNKNOWN) not in (*STATES, UNKNOWN):
        return {"state": UNKNOWN, "reason": f"status.json is damaged: its {(wrong or ['state'])[0]} cannot be"}
    return {"state": UNKNOWN} | status


def check_integrity(folder: Path, config: Mapping[str, Any]) -> None:
    """Whether configuration and tables are still what the run itself recorded of them, as far as it did.

    Raises:
        ValueError: one is not.
    """
    recorded = RunFolder(folder).meta().get("identity")
    if recorded is not None and recorded != identity(config):
        raise ValueError(f"config.yaml is damaged or changed: its identity is {identity(config)}, and meta.json has "
                         f"{recorded}")
    finished = RunFolder(folder).status().get("state") == "finished"
    for name, position in _recorded_tables(folder).items():
        content = (folder / f"{name}.csv").read_bytes()
        known, newer = content[:position["size"]], content[position["size"]:]
        if len(known) < position["size"] or hashlib.sha256(known).hexdigest() != position["sha256"]:
            raise ValueError(f"{name}.csv is damaged: it does not begin with what the newest checkpoint recorded of it")
        if finished and newer and (name != "evals" or b",train," in newer):
            raise ValueError(f"{name}.csv is damaged: there is more in it than the finished run wrote")


def _recorded_tables(folder: Path) -> dict[str, Any]:
    """Size and checksum of each table in the newest checkpoint; empty where there is none to read."""
    newest = max((path for path in (folder / "checkpoints").glob("*/state.json") if path.parent.name.isdigit()),
                 default=None)
    if newest is None:
        return {}
    try:
        manifest = unsealed((newest.parent / "manifest.json").read_bytes())
        content = newest.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["files"]["state.json"]:
            return {}
        tables = json.loads(content)["tables"]
        return {name: tables[name] for name in ("episodes", "evals", "metrics")
                if isinstance(tables[name]["size"], int) and isinstance(tables[name]["sha256"], str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # damaged or just removed: it is the run's own business, which says so when it goes on


def _means(episodes: Sequence[Row], cost: str) -> tuple[float, float]:
    return (float(np.mean([float(row["return"]) for row in episodes])),
            float(np.mean([float(row[cost]) for row in episodes])))


def _last(step: int, episodes: Sequence[Row], cost: str, limit: float) -> Evaluation:
    different = distinct(episodes)
    costs = np.array([float(row[cost]) for row in different])
    gain, spent = _means(different, cost)
    return Evaluation(step, gain, spent, max(0.0, spent - limit), float((costs > limit).mean()), cvar(costs),
                      len(different), len(episodes), sum(row.get("simulator_error") == "1" for row in episodes))


def training(episodes: Iterable[Row], cost: str, limit: float) -> Training | None:
    """What the training episodes cost; those that ended in the initial steps (step ≤ 0) are the untrained policy's."""
    total, length, over, count = 0.0, 0, 0, 0
    for row in episodes:
        if int(row["step"]) > 0:
            total, length = total + float(row["cost"]), length + int(float(row["length"]))
            if row.get("simulator_error", "0") == "0":  # what the simulator cut short is no whole episode
                count, over = count + 1, over + (float(row[cost]) > limit)
    return Training(count, total, total / length, over / count) if count else None


def rows(path: Path) -> list[Row]:
    """The whole rows of a CSV file; a last line without its end was torn, and does not count.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    if not path.exists():
        return []
    # In bytes: a row may be torn within a letter.
    whole = path.read_bytes().rpartition(b"\n")[0].decode()
    header, *lines = list(csv.reader(whole.split("\n"), strict=True)) or [[]]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{path.name}, line {number}: {len(line)} cells where the header has {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def complete_evaluations(evals: Iterable[Row], sampler: str, episodes: int) -> dict[int, list[Row]]:
    """The rows of every evaluation during training that has all its episodes, by step.

    Args:
        evals: rows of evals.csv.
        sampler: "deterministic" or "stochastic".
        episodes: how many rows an evaluation has for each sampler.

    Raises:
        ValueError: an episode is there twice.
    """
    by_step: dict[int, dict[str, Row]] = {}
    for row in evals:
        if row["source"] == "train" and row["sampler"] == sampler:
            of_step = by_step.setdefault(int(row["step"]), {})
            if row["episode"] in of_step:
                raise ValueError(f"evals.csv has episode {row['episode']} of step {row['step']} twice")
            of_step[row["episode"]] = row
    return {step: list(of_step.values()) for step, of_step in by_step.items() if len(of_step) >= episodes}


def distinct(episodes: Sequence[Row]) -> list[Row]:
    """One of each group of identical episodes, in order: same return, costs and length, to the last digit.

    A deterministic policy in an environment without randomness plays one and the same episode again and again; that
    is one measurement, however often it is written down.
    """
    return list({tuple(row[column] for column in EPISODE): row for row in reversed(episodes)}.values())[::-1]


# --- configurations ------------------------------------------------------------------------------------------------


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration by dotted keys; lists are values.

    Raises:
        ValueError: it is none, or holds what would break a line of a table.
    """
    if not isinstance(config, Mapping):
        raise ValueError("its configuration is not a group of keys")
    return {sys.intern(key): value for key, value in _flat(config, "")}


def _flat(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif UNPRINTABLE.search(str(key)) or UNPRINTABLE.search(str(value)):
            raise ValueError(f"control characters in {prefix + str(key)!a}")
        else:
            yield f"{prefix}{key}", value


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; a group (env, agent, guidance) stands for its name. None without one."""
    return config[key] if key in config else config.get(f"{key}.name")


def differing_keys(configs: Sequence[Mapping[str, Any]], covered: Sequence[str] = ()) -> list[str]:
    """The dotted keys that do not have the same value in all configurations, sorted.

    Args:
        configs: by dotted keys.
        covered: keys, or groups of them, that may differ beside MAY_DIFFER.
    """
    keys = {key for config in configs for key in config if not may_differ(key, covered)}
    return sorted(key for key in keys if len({canonical(config.get(key)) for config in configs}) > 1)


def canonical(value: Any) -> str:
    """A value as text that is the same for 4 and 4.0, which are one setting written by two programs."""
    return repr(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def may_differ(key: str, covered: Sequence[str] = ()) -> bool:
    """Whether a dotted key is among MAY_DIFFER or the covered keys and groups."""
    return any(key == one or key.startswith(f"{one}.") for one in (*MAY_DIFFER, *covered))


def check_key(runs: Sequence[Run], key: str) -> None:
    """Raises UsageError where no run has a key, with the keys that look alike."""
    if any(key in run.config or f"{key}.name" in run.config for run in runs):
        return
    known = {one for run in runs for one in run.config}
    last = key.rsplit(".", 1)[-1]
    close = sorted(one for one in known if one.rsplit(".", 1)[-1] == last or key in one)[:5]
    raise UsageError(f"{key}: no run has this key" + (f"; did you mean {' or '.join(close)}?" if close else
                                                      "; keys are those of a run's config.yaml, such as guidance.rho"))


def where(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """The runs that fit all conditions, "KEY=VALUE" or "KEY=VALUE,VALUE".

    Raises:
        UsageError: a condition is not of that form, no run has its key, or none is left.
    """
    left = list(runs)
    for condition in conditions:
        key, equals, wanted = condition.partition("=")
        if not equals or not key:
            raise UsageError(f"--where {condition}: KEY=VALUE is needed, such as env=point_button1")
        check_key(runs, key)
        # As YAML reads them, so that 1 and 1.0 are one number, and true is no text.
        values = [_typed(one) for one in wanted.split(",")]
        left = [run for run in left if any(_same(value_at(run.config, key), value) for value in values)]
        if not left:
            there = sorted({str(value_at(run.config, key)) for run in runs})
            raise UsageError(f"--where {condition}: no run is left; {key} is {', '.join(there)}")
    return left


def _typed(text: str) -> Any:
    """A value as YAML reads it; what YAML cannot read is a text."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _same(value: Any, wanted: Any) -> bool:
    if not isinstance(value, bool) and not isinstance(wanted, bool):
        try:
            return float(value) == float(wanted)  # 1e-05 is a text to YAML 1.1, and a number to whoever wrote it
        except (TypeError, ValueError):
            pass
    return str(value) == str(wanted)
