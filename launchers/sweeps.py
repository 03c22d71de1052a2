"""A sweep's file, runs/sweeps/<name>.json: its members, and what was done to run them.

    name, experiment, time, command      how the sweep was started
    runs          the members' folders, relative to the folder that contains sweeps/, in the grid's order
    overrides     each member's overrides as typed, without those that all members share
    code          its newest code snapshot, relative to sweeps/ (`launchers.snapshot`)
    commit        the snapshot's git commit
    launcher      "local" or "slurm", with its settings
    drivers       the processes of local launchers that run it, or did when it was last started (`process_record`)
    submissions   on SLURM: [{"job": id of a job array, "tasks": [[run, ...], ...], "code", "commit", ...}, ...]; the id
                  is null until sbatch has answered (`launchers.slurm.submission`)
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from algd.errors import UsageError
from algd.storage.files import write_atomically
from algd.storage.provenance import safe_command
from algd.storage.run_folder import runs_below
from algd.storage.sweep_file import SWEEPS, read_sweep_file


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        folder: its absolute folder, which need not exist.
        config: its checked configuration.
        overrides: its overrides, without those that all members share.
    """

    folder: Path
    config: Mapping[str, Any]
    overrides: tuple[str, ...] = ()


@dataclass
class Sweep:
    """The content of a sweep's file; the module's docstring describes the fields."""

    file: Path
    runs: list[str]
    overrides: list[list[str]]
    experiment: str | None = None
    code: str | None = None
    commit: str | None = None
    launcher: dict[str, Any] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    time: str = ""
    drivers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def runs_dir(self) -> Path:
        """The folder that the members' paths are relative to."""
        return self.file.parent.parent

    @property
    def folders(self) -> list[Path]:
        """The members' absolute folders."""
        return [self.runs_dir / run for run in self.runs]

    @property
    def directory(self) -> Path:
        """The folder for SLURM's input and output files."""
        return self.file.with_suffix("")

    def save(self) -> None:
        """Write the sweep's file atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name} | {key: value for key, value in vars(self).items() if key != "file"}
        write_atomically(self.file, (json.dumps(content, indent=1) + "\n").encode())


def load_sweep(file: Path) -> Sweep:
    """Read a sweep's file.

    Raises:
        UsageError: it is not a valid sweep file.
    """
    content = read_sweep_file(file.resolve())
    known = {key: value for key, value in content.items() if key in Sweep.__dataclass_fields__ and key != "file"}
    try:
        sweep = Sweep(file.resolve(), **known)
        _check_types(sweep)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{file} is not a sweep's list of members: {error}") from error
    return sweep


def _check_types(sweep: Sweep) -> None:
    """Raise TypeError or ValueError if a sweep's file does not have the types of `Sweep`."""
    for key, kind in (("launcher", dict), ("drivers", list), ("time", str), ("command", str), ("submissions", list),
                      ("experiment", str | None), ("code", str | None)):
        if not isinstance(getattr(sweep, key), kind):
            raise TypeError(f"{key} is not what it should be")
    if sweep.launcher and sweep.launcher.get("kind") not in ("local", "slurm"):
        raise TypeError("its launcher is neither local nor slurm")
    for submission in sweep.submissions:
        job, tasks = submission["job"], submission["tasks"]
        # The id becomes an argument of scancel and squeue.
        known = (job is None and isinstance(submission["token"], str) and isinstance(submission["file"], str)) \
            or re.fullmatch(r"[0-9]+", str(job))
        if not known or not all(isinstance(run, str) for task in tasks for run in task):
            raise TypeError(f"submission {job!r} is not one")
    if not all(isinstance(driver, dict) for driver in sweep.drivers):
        raise TypeError("its drivers are not what they should be")


def begin_sweep(runs_dir: Path, name: str | None, experiment: str | None, members: Sequence[Member],
                launcher: Mapping[str, Any]) -> Sweep:
    """Return a sweep of these members without writing it; submissions of an earlier sweep of this name are kept.

    Args:
        runs_dir: the folder that contains all members.
        name: the sweep's name; None: the experiment's name or "sweep", and a hash of the members.
        experiment: the study that the members belong to, if any.
        members: the runs.
        launcher: the launcher and its settings.
    """
    runs = [str(member.folder.relative_to(runs_dir)) for member in members]
    digest = hashlib.sha256("\n".join(sorted(runs)).encode()).hexdigest()[:8]
    file = runs_dir / SWEEPS / f"{name or f'{experiment or SWEEPS[:-1]}-{digest}'}.json"
    earlier = load_sweep(file).submissions if file.exists() else []
    return Sweep(file, runs, [list(member.overrides) for member in members], experiment, launcher=dict(launcher),
                 submissions=earlier, command=safe_command(sys.argv),
                 time=datetime.now(UTC).isoformat(timespec="seconds"))


def sweeps_of(runs_dir: Path) -> list[Sweep]:
    """Return all sweeps of a runs_dir, oldest first.

    Raises:
        UsageError: the file of one cannot be read.
    """
    sweeps, unreadable = readable_sweeps(runs_dir)
    if unreadable:
        raise UsageError(unreadable[0])
    return sweeps


def readable_sweeps(runs_dir: Path) -> tuple[list[Sweep], list[str]]:
    """Return all sweeps of a runs_dir whose files can be read, oldest first, and why each of the others cannot."""
    found, unreadable = [], []
    for file in sorted((runs_dir / SWEEPS).glob("*.json")):
        try:
            found.append((load_sweep(file), file.stat().st_mtime))
        except (OSError, UsageError) as error:
            unreadable.append(str(error))
    return [sweep for sweep, _ in sorted(found, key=lambda each: each[1])], unreadable


def named_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the runs named by run folders, folders above runs, or sweep files, without duplicates.

    Raises:
        UsageError: one of the paths has no runs.
    """
    found: dict[Path, None] = {}
    for path in paths:
        folders = load_sweep(path).folders if path.suffix == ".json" else sorted(
            run.resolve() for run in runs_below(path, lambda _, files: "config.yaml" in files))
        if not folders:
            raise UsageError(f"{path}: there are no runs; name a run's folder, a folder above runs, "
                             "or a sweep's file such as runs/sweeps/NAME.json")
        found |= dict.fromkeys(folders)
    return list(found)
