"""A cache of runs as they were last read, so that thousands of unchanged runs are read in seconds.

A cached run is valid while the set of its files is unchanged and each has the same device, inode, size, mtime and
ctime (which, unlike mtime, cannot be set back), while the code that reads runs is unchanged, and if its checksum is
right. A run with a file that changed within two seconds before it was read is not cached, since the file could change
again without a change of its times. Nothing is written to run folders.
"""

import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import algd.config.identity
import algd.config.values
import algd.storage.checkpoint_state
import algd.storage.files
import algd.storage.run_folder
import algd.storage.yaml
import analysis.statistics.estimators
from algd.storage.run_folder import refuse_links
from analysis.runs.model import Evaluation, Run, Training
from analysis.runs.read import read_run

FILES = ("config.yaml", "meta.json", "status.json", "evals.csv", "episodes.csv", "metrics.csv", "progress.csv",
         "config.json")
CHECKPOINT_FILES = ("state.json", "manifest.json")
SETTLED = 2_000_000_000  # nanoseconds; file times are coarser than a nanosecond, and clocks of file servers differ
BYTES = 500_000_000  # a larger cache file is deleted and started again
# Modules that take part in reading runs, besides those of this folder.
ELSEWHERE = (algd.config.identity, algd.config.values, algd.storage.checkpoint_state, algd.storage.files,
             algd.storage.run_folder, algd.storage.yaml, analysis.statistics.estimators)
KEPT = ("config", "state", "reason", "step", "incomplete", "updates_per_second", "hours", "source", "foreign",
        "code")


def cache_file() -> Path:
    """Return the path of this user's cache, below $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "algd" / "runs.sqlite"


class RunCache:
    """Reads runs as `read_run` does and caches them; a context manager.

    Args:
        file: the cache's SQLite file; None, or a file that cannot be written: cache nothing.
    """

    def __init__(self, file: Path | None):
        self._file = file
        self._connection: sqlite3.Connection | None = None
        if file is not None:
            with self._unless_it_fails():
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if file.exists() and file.stat().st_size > BYTES:
                    file.unlink()
                self._connect(file)

    def __enter__(self) -> "RunCache":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._connection is not None:
            with self._unless_it_fails():
                self._connection.commit()
        if self._connection is not None:
            self._connection.close()

    def read(self, folder: Path, sampler: str = "deterministic") -> Run:
        """Return a run from the cache or its folder; see `read_run`."""
        if self._connection is None:
            return read_run(folder, sampler)
        refuse_links(folder)
        # A name that is not UTF-8 has lone surrogates, which the database does not take.
        key = f"{sampler} {os.path.abspath(folder)}".encode(errors="backslashreplace").decode()
        begun = time.time_ns()
        stamp = stamp_of(folder)
        if (run := self._kept(key, stamp, folder)) is not None:
            return run
        run = read_run(folder, sampler)
        if _settled(stamp, begun) and stamp == stamp_of(folder):
            self._keep(key, stamp, run)
        return run

    def _kept(self, key: str, stamp: str, folder: Path) -> Run | None:
        found = None
        with self._unless_it_fails():
            assert self._connection is not None
            found = self._connection.execute("SELECT content, checksum FROM runs WHERE key = ? AND stamp = ?",
                                             (key, stamp)).fetchone()
        if found is None or _checksum(key, stamp, found[0]) != found[1]:
            return None
        return _unpacked(json.loads(zlib.decompress(found[0])), folder)

    def _keep(self, key: str, stamp: str, run: Run) -> None:
        content = zlib.compress(json.dumps(_packed(run)).encode(), 1)
        with self._unless_it_fails():
            if self._connection is not None:
                self._connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                                         (key, stamp, content, _checksum(key, stamp, content)))

    def _connect(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, timeout=1)
        self._connection.execute("CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, stamp TEXT, content BLOB, "
                                 "checksum TEXT)")

    @contextmanager
    def _unless_it_fails(self) -> Iterator[None]:
        """Continue without the cache if it cannot be used: locked, or on a full disk. Begin a damaged one anew."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            connection, self._connection = self._connection, None
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details of an extended code
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and connection and self._file:
                with suppress(sqlite3.Error, OSError):
                    connection.close()
                    # A journal of the damaged file would be played back into the new one.
                    self._file.with_name(f"{self._file.name}-journal").unlink(missing_ok=True)
                    self._file.unlink()
                    self._connect(self._file)


def stamp_of(folder: Path) -> str:
    """Return an identity of the files that a run is read from and of the code that reads them, as JSON."""
    paths = [folder / name for name in FILES]
    try:
        numbers = sorted(entry.name for entry in os.scandir(folder / "checkpoints"))
    except OSError:
        numbers = []
    paths += [folder / "checkpoints" / number / name for number in numbers for name in CHECKPOINT_FILES]
    return json.dumps([_code(), *(identity for path in paths if (identity := _identity(path)) is not None)])


def _identity(path: Path) -> list[Any] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return [os.path.join(*path.parts[-2:]), found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns,
            found.st_ctime_ns]


def _settled(stamp: str, now: int) -> bool:
    return all(max(mtime, ctime) < now - SETTLED for *_, mtime, ctime in json.loads(stamp)[1:])


@cache
def _code() -> str:
    """Return a checksum of the modules that read runs."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(module.__file__ or "") for module in ELSEWHERE)]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _checksum(key: str, stamp: str, content: bytes) -> str:
    return hashlib.sha256(json.dumps([key, stamp]).encode() + content).hexdigest()


def _packed(run: Run) -> dict[str, Any]:
    training = None if run.training is None else list(asdict(run.training).values())
    evaluations = [[*(value for name, value in vars(point).items() if name != "training"),
                    None if point.training is None else list(vars(point.training).values())]
                   for point in run.evaluations]
    return {name: getattr(run, name) for name in KEPT} | {"training": training, "evaluations": evaluations}


def _unpacked(content: dict[str, Any], folder: Path) -> Run:
    def training(values: list[Any] | None) -> Training | None:
        return None if values is None else Training(*values)

    return Run(
        folder, {sys.intern(key): value for key, value in content["config"].items()}, content["state"],
        content["reason"], content["step"],
        [Evaluation(*[*values[:-1], training(values[-1])]) for values in content["evaluations"]],
        {int(step): count for step, count in content["incomplete"].items()}, training(content["training"]),
        content["updates_per_second"], content["hours"], content["source"], content["foreign"])
