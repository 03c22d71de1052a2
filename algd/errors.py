"""Errors that are reported in one sentence without a traceback, and exit codes."""

import errno
from enum import IntEnum

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EMFILE, errno.ENFILE,
            errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


class ExitCode(IntEnum):
    """The exit code of every command and process of this project.

    A run that was stopped at a checkpoint returns 143, by whichever signal; other commands that a signal ended return
    128 + its number, as shells do.
    """

    FINISHED = 0
    FAILED = 1
    USAGE = 2           # an error that the user can correct; nothing has been created
    LATE = 3            # a mirroring process that did not send everything in time
    CANNOT_BEGIN = 69   # a SLURM task whose node cannot run anything (EX_UNAVAILABLE)
    BUSY = 75           # another process trains the run (EX_TEMPFAIL of sysexits.h)
    HUNG_UP = 129       # SIGHUP: the terminal was closed
    INTERRUPTED = 130   # SIGINT: Ctrl-C
    BROKEN_PIPE = 141   # SIGPIPE: the reader of the output, such as `| head`, has closed it
    TERMINATED = 143    # SIGTERM; of a run: stopped at a checkpoint by any signal


class UsageError(Exception):
    """A wrong name, value, file or device. The message is one sentence that names the value, the place
    and what is allowed; `run.py` prints it alone and exits with code 2, before anything has been created."""


class RunError(Exception):
    """A run cannot continue. The message is one sentence: what happened, where, and what was kept of it; `run.py`
    prints it alone and exits with code 1."""


class NumericalError(RunError):
    """A value is not finite: of an observation, a reward, a cost, a loss, an action or a network."""


class SimulatorError(RunError):
    """The environment failed within an episode. What it raised, if it did, is the cause."""


def refusal(error: OSError, resumable: bool = False) -> str | None:
    """An error of the file system in one sentence; None for other errors.

    Args:
        resumable: whether it ended a run or a sweep, which the same command then begins or resumes.
    """
    if error.errno not in DISK_FULL + UNUSABLE:
        return None
    what = "could not be written" if error.errno in DISK_FULL else "cannot be used"
    then = "; once that is fixed the same command goes on, from the last checkpoint if there is one" * resumable
    return f"{error.filename or 'a file'} {what}: {error.strerror}{then}"
