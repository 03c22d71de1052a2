"""Faults at chosen operations on files, in this process: SIGKILL, or an error of the operating system.

All changes of files go through a few functions of `os` and through files opened for writing. `inject` puts a counter in
front of each: at the n-th operation the process kills itself, before it or within a write, or the operation fails as on
a full disk. All other operations are carried out.
"""

import builtins
import errno
import functools
import io
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# These need room on the disk, or may find at the end that there was none.
NEEDS_ROOM = ("open", "write", "mkdir", "replace", "rename", "fsync")


@dataclass(frozen=True)
class Fault:
    """A fault and its time.

    Attributes:
        at: number of the operation, from 1; 0: no fault.
        share: share of a write's bytes that still reaches the file.
        error: an errno; None: SIGKILL.
        lasting: all later operations that need room fail too.
    """

    at: int = 0
    share: float = 0.0
    error: int | None = None
    lasting: bool = False


@dataclass(frozen=True)
class Operation:
    """An operation on a file: the function, and the place in the run's folder with numbers replaced."""

    function: str
    place: str

    def __str__(self) -> str:
        return f"{self.function} {self.place}"


def place_of(path: str, root: str) -> str:
    """Return a path within the run's folder, without what distinguishes two files of a kind."""
    inside = os.path.relpath(path, root).split("seed=", 1)[-1]
    inside = inside.partition("/")[2] or "(the folder)"
    inside = re.sub(r"\.(old|damaged)-\d+", r".\1", inside)
    return re.sub(r"\d{2,}", "N", re.sub(r"\.\d+\.tmp", ".tmp", inside))


class Injector:
    """Counts the operations below a folder, and makes one of them fail.

    Args:
        root: the folder; operations elsewhere do not count.
        fault: the fault.
        record: called with each operation before it is carried out.
    """

    def __init__(self, root: Path, fault: Fault, record: Callable[[Operation], None]):
        self.root, self.fault, self.record = os.path.abspath(root), fault, record
        self.count = 0

    def concerns(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + os.sep)

    def step(self, function: str, path: str) -> bool:
        """Count an operation before it is carried out. Returns whether it is a write to be cut short.

        Raises:
            OSError: the fault.
        """
        self.count += 1
        operation = Operation(function, place_of(path, self.root))
        self.record(operation)
        fault = self.fault
        if fault.error is not None:
            due = self.count >= fault.at if fault.lasting else self.count == fault.at
            if fault.at and due and function in NEEDS_ROOM:
                if function == "write" and fault.share and self.count == fault.at:
                    return True
                raise OSError(fault.error, os.strerror(fault.error), path)
        elif self.count == fault.at:
            if function == "write" and fault.share:
                return True
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def inject(injector: Injector) -> None:
    """Put the injector in front of the functions that change files, for the rest of this process's life."""
    real_open, real_write = io.open, os.write

    def cut_short(path: str, write: Callable[[bytes], int], content: bytes) -> int:
        """Write part of the content; then the process is killed, or out of room."""
        part = content[:max(1, int(len(content) * injector.fault.share))]
        written = write(part)
        if injector.fault.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    class Watched(io.FileIO):
        def write(self, content: Any) -> int:
            path, content = os.path.abspath(str(self.name)), bytes(content)
            if injector.step("write", path):
                return cut_short(path, super().write, content)
            return super().write(content)

    def watched_open(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
                     errors: str | None = None, newline: str | None = None, *rest: Any, **more: Any) -> Any:
        path = os.path.abspath(os.fspath(file)) if isinstance(file, str | os.PathLike) else ""
        if not set(mode) & set("wax+") or not injector.concerns(path):
            return real_open(file, mode, buffering, encoding, errors, newline, *rest, **more)
        injector.step("open", path)
        raw = Watched(path, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def watched_write(descriptor: int, content: bytes) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not injector.concerns(path):
            return real_write(descriptor, content)
        if injector.step("write", path):
            return cut_short(path, functools.partial(real_write, descriptor), content)
        return real_write(descriptor, content)

    def watch(name: str, argument: int) -> None:
        """Count calls of a function of `os`; its argument of this number is the path or the descriptor."""
        real = getattr(os, name)

        @functools.wraps(real)
        def watched(*arguments: Any, dir_fd: int | None = None, **more: Any) -> Any:
            target = arguments[argument]
            if isinstance(target, int):
                path = os.readlink(f"/proc/self/fd/{target}")
            else:
                base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
                path = os.path.join(base, os.fspath(target))
            if injector.concerns(os.path.abspath(path)):
                injector.step(name, os.path.abspath(path))
            return real(*arguments, **more if dir_fd is None else more | {"dir_fd": dir_fd})

        setattr(os, name, watched)

    io.open = builtins.open = watched_open  # type: ignore[assignment]
    os.write = watched_write  # type: ignore[assignment]
    for name, argument in {"replace": 1, "rename": 1, "mkdir": 0, "unlink": 0, "remove": 0, "rmdir": 0, "truncate": 0,
                           "ftruncate": 0, "fsync": 0}.items():
        watch(name, argument)


NO_ROOM = errno.ENOSPC
