"""A run's folder: its name and its files."""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from algd.config.identity import identity, upgraded
from algd.config.schema import check
from algd.errors import UsageError
from algd.secrets import redacted
from algd.storage.files import free_name, sealed, unsealed, write_atomically
from algd.storage.sweep_file import SWEEPS
from algd.storage.yaml import read_yaml

SUMS = ["return", "cost", "discounted_cost", "length", "simulator_error"]
EPISODE_COLUMNS = ["step", "episode", "seed", *SUMS]
EVALUATION_COLUMNS = ["step", "sampler", "source", "episode", "seed", *SUMS, "predicted_cost"]
REEVALUATION = re.compile(r"eval-[1-9][0-9]*")  # the source of rows that mode=eval adds; training's is "train"
STATES = ("starting", "running", "interrupted", "finished", "failed", "pruned")  # the first only in older folders
ASIDE = re.compile(r"\.old-\d+$")  # the end of a folder's name that `RunFolder.move_aside` gave it
UNKNOWN = "unknown"  # the state of a run whose status.json is damaged


def run_path(config: Mapping[str, Any]) -> Path:
    """The folder of the run of this configuration: <runs_dir>/<env>/<agent>-<guidance>/seed=<seed>-<identity>."""
    return (Path(config["runs_dir"]) / config["env"]["name"] / f"{config['agent']['name']}-{config['guidance']['name']}"
            / f"seed={config['seed']}-{identity(config)}")


class RunFolder:
    """The files of one run, which sweeps and analysis use too.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_file, self.meta_file, self.status_file, self.result = (
            path / name for name in ("config.yaml", "meta.json", "status.json", "result.json"))
        self.episodes, self.evals, self.metrics = (
            path / name for name in ("episodes.csv", "evals.csv", "metrics.csv"))
        self.checkpoints, self.snapshots, self.videos = (
            path / name for name in ("checkpoints", "snapshots", "videos"))

    def video(self, step: int) -> Path:
        """The video of an evaluation episode at an environment step."""
        return self.videos / f"step{step}.mp4"

    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with, checked.

        Raises:
            UsageError: there is none, or it is not valid for this version of the code.
        """
        if not os.path.lexists(self.config_file):  # first, since the search for links may take long in other folders
            raise UsageError(f"{self.path} is not a run's folder: it has no config.yaml")
        refuse_links(self.path)
        try:
            content = read_yaml(self.config_file)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.config_file} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise UsageError(f"{self.config_file} is not a configuration")
        try:
            return check(upgraded(content))
        except UsageError as error:
            raise UsageError(f"{self.config_file}: {error}") from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomically(self.config_file, text.encode())

    def status(self) -> dict[str, Any]:
        """The content of status.json; empty if there is none. If damaged, the state is "unknown", with the reason."""
        try:
            return _read_json(self.status_file)
        except ValueError as error:
            return {"state": UNKNOWN, "reason": f"{self.status_file.name} is damaged: {error}"}

    def is_own(self, status: Mapping[str, Any]) -> bool:
        """Whether a status is of the run with this folder name."""
        return status.get("run", self.path.resolve().name) == self.path.resolve().name

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Write status.json."""
        content = {"run": self.path.resolve().name} | dict(status)
        if isinstance(content.get("reason"), str):
            content["reason"] = redacted(content["reason"])
        write_atomically(self.status_file, sealed(content))

    def meta(self) -> dict[str, Any]:
        """The content of meta.json; empty if there is none or it is damaged."""
        try:
            return _read_json(self.meta_file)
        except ValueError:
            return {}

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Write meta.json."""
        write_atomically(self.meta_file, sealed(meta))

    def damage(self, run: str) -> list[str]:
        """What is wrong with config.yaml, meta.json and status.json, a sentence each.

        Args:
            run: the run's identity (`algd.config.identity`).
        """
        found = []
        if any(file.exists() for file in (self.meta_file, self.status_file)) and not self.config_file.exists():
            found.append(f"{self.config_file} is missing")
        elif self.config_file.exists():
            try:
                self.config()
            except UsageError as error:
                found.append(str(error))
        for file, key, mine in ((self.meta_file, "identity", run), (self.status_file, "run", self.path.resolve().name)):
            try:
                content = _read_json(file)
            except ValueError as error:
                found.append(f"{file} is damaged: {error}")
                continue
            if not content and self.checkpoints.exists():
                found.append(f"{file} is missing")
            elif content.get(key, mine) != mine:
                found.append(f"{file} is of another run, {content[key]} instead of {mine}")
        return found

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of a killed process; no other process may be writing."""
        for path in self.path.rglob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def move_aside(self) -> Path:
        """Rename the folder to the first free `<name>.old-<n>`; returns the new path."""
        aside = free_name(self.path, "old")
        os.rename(self.path, aside)
        return aside


def runs_below(top: Path, is_run: Callable[[Path, Collection[str]], bool]) -> Iterator[Path]:
    """The runs' folders at or below a folder, at any depth and behind links, without those that were moved aside.

    Args:
        is_run: whether a folder with these files is a run's; nothing inside one is searched.
    """
    seen = set()
    for name, folders, files in os.walk(top, followlinks=True):
        if (place := os.path.realpath(name)) in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(place)
        if is_run(Path(name), files):
            folders.clear()
            yield Path(name)
        # A sweep's folder has a copy of the code, which may contain runs of tests.
        folders[:] = [folder for folder in folders if folder != SWEEPS and not ASIDE.search(folder)]


def refuse_links(folder: Path) -> None:
    """Refuse a run's folder with a link out of it: files outside would be written or shown.

    Raises:
        UsageError: there is such a link.
    """
    top = folder.resolve()
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at) / name
            # W&B's client has links to its logs in wandb/, beside this project's journals, log and lock.
            is_clients = Path(at) == folder / "wandb" and not name.startswith(("journal", "mirror"))
            if path.is_symlink() and not is_clients and top not in path.resolve().parents:
                raise UsageError(f"{path} is a link out of the run's folder, to {os.readlink(path)}: what a run "
                                 "consists of must lie in its folder")
        if Path(at) == folder / "wandb":
            folders.clear()


def _read_json(path: Path) -> dict[str, Any]:
    """A sealed file's content; empty if there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(error.strerror) from error
