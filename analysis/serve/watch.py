"""Keep a live report up to date, reading again only runs whose files have changed.

A run is cached in this process's memory while the sizes, times and inodes of its files stay the same. Nothing is
written to disk.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from algd.errors import UsageError
from algd.storage.sweep_file import SWEEPS, sweep_members
from analysis.report.content import Content, Options, assemble
from analysis.report.grids import stalled
from analysis.report.page import as_json, figures_data, parts, render, versions
from analysis.report.tasks import TaskEnds
from analysis.runs.cache import stamp_of
from analysis.runs.find import sweep_content
from analysis.runs.gather import Gathered, gather
from analysis.runs.model import Run
from analysis.runs.read import read_run
from launchers.search.record import NAME
from launchers.states import is_held

SHARE_OF_TIME = 0.2  # largest share of one core for refreshing the report

Signature = tuple[Any, ...]


class Watch:
    """A report that is made again when its runs have changed.

    Args:
        names, runs_dir, conditions, finished: see `analysis.runs.gather.gather`.
        options: options of tables and figures.
        title: the page's title.
        seconds: minimum time between two reads of the folders.

    Raises:
        UsageError: a name matches nothing. A folder is watched even if it has no runs yet.
    """

    def __init__(self, names: Sequence[str], runs_dir: Path, conditions: Sequence[str], finished: bool,
                 options: Options, title: str, seconds: float):
        self._names, self._runs_dir, self._conditions, self._finished = list(names), runs_dir, conditions, finished
        self._options, self._title, self.seconds = options, title, seconds
        self._read: dict[Path, tuple[str, Run | UsageError]] = {}
        self._folders: dict[str, Path] = {}
        self._task_ends = TaskEnds()
        self._lock = threading.Lock()
        self._due = 0.0
        self._seen: Signature | None = None
        self._content: Content | None = None
        self._data, self._tag = b"", ""
        if not any(Path(name).is_dir() for name in names):
            self._gather()

    def page(self) -> bytes:
        """Return the current page."""
        with self._lock:
            content = self._refreshed()
        return render(content, self.seconds).encode()

    def data(self) -> tuple[bytes, str]:
        """Return the page's sections and figures as JSON, and a tag that changes with them."""
        with self._lock:
            self._refreshed()
            return self._data, self._tag

    def folder(self, identifier: str) -> Path | None:
        """Return the folder of a run that the page links to; None for an unknown identifier."""
        with self._lock:
            return self._folders.get(identifier)

    def _refreshed(self) -> Content:
        begin = time.monotonic()
        if self._content is not None and begin < self._due:
            return self._content
        refusal, gathered = "", Gathered([], [], {}, [])
        try:
            gathered = self._gather()
        except UsageError as error:
            refusal = str(error)
        gathered = replace(gathered, absent=self._waiting(gathered))
        ends = self._task_ends.of(run.folder for run in gathered.runs if stalled(run))
        stamps = ((folder, stamp) for folder, (stamp, _) in self._read.items())
        sweep = sweep_content(self._names, self._runs_dir)
        seen = (refusal, _results_of_search(sweep), *gathered.absent, *ends.items(), *stamps,
                *(_is_active(run) for run in gathered.runs))
        if self._content is None or seen != self._seen:
            self._content = assemble(self._title, gathered, self._options, self._link, sweep, refusal, live=True,
                                     ends=ends)
            self._seen, sections = seen, parts(self._content)
            data = {"parts": sections, "versions": versions(sections)} | figures_data(self._content)
            self._data = as_json(data).encode()
            self._tag = f'"{hashlib.sha256(self._data).hexdigest()[:32]}"'
        end = time.monotonic()
        self._due = end + max(self.seconds, (end - begin) / SHARE_OF_TIME - (end - begin))
        return self._content

    def _gather(self) -> Gathered:
        read: dict[Path, tuple[str, Run | UsageError]] = {}

        def once(folder: Path, sampler: str) -> Run:
            stamp = stamp_of(folder)
            known = self._read.get(folder)
            if known is None or known[0] != stamp:
                try:
                    known = stamp, read_run(folder, sampler)
                except UsageError as error:
                    known = stamp, error
            read[folder] = known
            if isinstance(known[1], UsageError):
                raise known[1]
            return known[1]

        try:
            return gather(self._names, self._runs_dir, self._options.sampler, self._conditions, self._finished,
                          read=once, last=self._options.last)
        finally:
            self._read = read

    def _waiting(self, gathered: Gathered) -> list[Path]:
        """Return members without a folder, of the sweeps that are named or lie in the folders named."""
        found = {folder.resolve(): folder for folder in gathered.absent}
        for name in self._names:
            for file in sorted((Path(name) / SWEEPS).glob("*.json")):
                with contextlib.suppress(UsageError):  # unreadable, or not a sweep's file
                    found |= {folder.resolve(): folder for folder in sweep_members(file)
                              if not (folder / "config.yaml").exists()}
        return sorted(found.values())

    def _link(self, folder: Path) -> str:
        identifier = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self._folders[identifier] = folder
        return f"runs/{identifier}/"


def _results_of_search(sweep: Mapping[str, Any] | None) -> Signature:
    """Return a value that changes with the search.json of a search's sweep, which is written when its runs have ended.
    """
    with contextlib.suppress(OSError):
        if sweep:
            found = (sweep["file"].with_suffix("") / NAME).stat()
            return found.st_ino, found.st_size, found.st_mtime_ns
    return ()


def _is_active(run: Run) -> bool:
    """Return whether a process trains the run; a killed run writes nothing, and only its lock tells."""
    return run.state in ("running", "starting") and is_held(run.folder)
