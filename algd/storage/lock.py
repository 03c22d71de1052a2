"""The lock of a run's folder: one process trains a run at a time."""

import contextlib
import fcntl
import os
import platform
import time
from pathlib import Path

from algd.errors import UsageError


class Lock:
    """An exclusive lock on a folder, released when the process that holds it ends in any way.

    The lock is the kernel's (flock), not the file: the file stays, and names the last holder. Between machines it works
    if their shared file system supports locks (docs/sweeps.md).

    Args:
        path: the lock's file; made if needed.

    Raises:
        UsageError: another process holds it or has moved the folder aside, or the file system has no locks.
    """

    def __init__(self, path: Path):
        while True:
            try:
                self._file = path.open("a+")
            except FileNotFoundError as error:
                raise UsageError(f"{path.parent} is not there: another process has just moved it aside or removed it; "
                                 "the same command starts from what is there now") from error
            try:
                self._acquire(path)
            except BaseException:
                self._file.close()
                raise
            # The folder may have been moved aside between opening the file and holding it.
            if path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                break
            self._file.close()
        with contextlib.suppress(OSError):  # a full disk: the name is only information
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())

    def _acquire(self, path: Path) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise UsageError(f"{path} cannot be locked ({error.strerror}): runs need a file system with locks "
                                 "(flock), or two processes could train one run") from error
            try:
                # A process that only checks whether a run is trained holds the lock shared, for an instant.
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(self._file, fcntl.LOCK_UN)
            except BlockingIOError as error:
                self._file.seek(0)
                holder = self._file.read(200).strip()
                raise UsageError(f"{path.parent} is being trained by another process right now"
                                 f"{f' ({holder})' * bool(holder)}; wait for it, or stop it first") from error
            time.sleep(0.01)

    def release(self) -> None:
        self._file.close()


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock at this path."""
    try:
        with path.open() as file:
            # Shared, so that several can check at the same time; closing the file releases it.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
