"""Finding run folders by path, pattern, or sweep."""

import glob
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algd.errors import UsageError
from algd.storage.run_folder import runs_below
from algd.storage.sweep_file import SWEEPS, read_sweep_file, sweep_members
from algd.storage.yaml import read_yaml
from analysis.runs.model import NEEDED
from analysis.runs.select import flat

RUN_FILES = {"evals.csv", "status.json", "meta.json"}  # a config.yaml beside one of them is a run's


@dataclass(frozen=True)
class Found:
    """Run folders, and the folders of sweep members that have not started."""

    folders: list[Path]
    absent: list[Path]


def find_runs(names: Iterable[str], runs_dir: Path = Path("runs")) -> Found:
    """Find all runs that the names refer to, each once, sorted.

    Args:
        names: run folders, folders that contain runs at any depth, glob patterns, sweep files (runs/sweeps/NAME.json),
            or names of sweeps or of their experiments. Below a folder, links are followed; replaced runs
            (<name>.old-<n>) and sweeps/ are skipped.
        runs_dir: folder in which sweeps are looked up by name.

    Raises:
        UsageError: a name refers to no run, or to several sweeps.
    """
    paths_of = {name: [Path(path) for path in sorted(glob.glob(name)) or [name]] for name in names}
    found: dict[Path, Path] = {}
    absent: dict[Path, Path] = {}
    for name, paths in paths_of.items():
        # runs/* names the sweeps' folder too, whether Python expands it or the shell.
        paths = [path for path in paths if path.name != SWEEPS or len(paths_of) == len(paths) == 1]
        here: list[Path] = []
        for path in paths:
            if not path.exists() and (sweep := _sweep_called(name, runs_dir)):
                path = sweep
            if path.is_file():
                members = sweep_members(path)
                here += members
                absent |= {member.resolve(): member for member in members if not (member / "config.yaml").exists()}
            else:
                here += runs_below(path, _is_run)
        if paths and not here:
            raise UsageError(f"{name}: there is no run (a folder with the config.yaml of one) here or below, and no "
                             f"sweep of that name in {runs_dir / SWEEPS}")
        for member in here:
            if member.resolve() not in absent:
                found.setdefault(member.resolve(), member)
    return Found(sorted(found.values()), sorted(absent.values()))


def sweep_content(names: Sequence[str], runs_dir: Path = Path("runs")) -> dict[str, Any] | None:
    """Return the content of the sweep file, with its path as "file", if the names are one sweep; else None."""
    if len(names) != 1:
        return None
    file = Path(names[0]) if Path(names[0]).is_file() else _sweep_called(names[0], runs_dir)
    return None if file is None or Path(names[0]).is_dir() else read_sweep_file(file) | {"file": file}


def _sweep_called(name: str, runs_dir: Path) -> Path | None:
    """Return the file of the sweep with this name, or of the only sweep of the experiment with this name."""
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


def _is_run(folder: Path, files: Collection[str]) -> bool:
    return ("config.yaml" in files and (not RUN_FILES.isdisjoint(files) or _configures_a_run(folder / "config.yaml"))
            ) or {"progress.csv", "config.json"} <= set(files)


def _configures_a_run(file: Path) -> bool:
    """Return whether a config.yaml without other run files is a run's: they may be lost or not yet written."""
    try:
        config = flat(read_yaml(file))
    except (OSError, ValueError):
        return False
    return all(key in config for key in NEEDED)
