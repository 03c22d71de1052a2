"""Train one run of a sweep in this process: python -m launchers.worker FOLDER [--bound] [--code=SNAPSHOT]

It reads the frozen configuration in the folder, and records a failure there. With --bound it stops at a checkpoint
when its parent process dies. With --code it refuses to train with any code but that of the snapshot, which an
installation would take the place of if the snapshot were gone.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from algd.errors import ExitCode, RunError, UsageError, refusal
from algd.run.faults.requests import REQUESTS, Requests
from algd.secrets import redacted
from launchers.states import is_held, record_failure

PR_SET_PDEATHSIG = 1


def stop_with_parent() -> None:
    """Receive SIGTERM when the parent process dies, even if it is already dead."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, bound: bool, code: Path | None = None) -> int:
    """Start or resume the run in this folder, with the code of this snapshot. Returns the exit code."""
    # The same request may come twice, from SLURM and from the task, or from `cancel` and the launcher, and the second
    # must not kill a run that has already stopped. Handlers are installed first, because SIG_IGN would discard signals
    # that arrive before the run listens. At the end signals are ignored, because Python removes its handlers before
    # the process exits; blocking would hold for one thread only.
    for number in REQUESTS:
        signal.signal(number, lambda *_: None)
    try:
        return _train(folder, bound, code)
    finally:
        for number in REQUESTS:
            signal.signal(number, signal.SIG_IGN)


def _train(folder: Path, bound: bool, code: Path | None) -> int:
    requests = Requests()
    with requests.listening():
        if bound:
            stop_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        # If memory runs out, the kernel should kill this run and not the launcher of all runs.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("300")
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {os.uname().nodename} process {os.getpid()}", flush=True)
        config = None
        try:
            from algd.config.trust import trust
            from algd.run.train import train
            from algd.storage.run_folder import RunFolder, run_path

            found = Path(__file__).resolve().parents[1]
            if code is not None and found != code.resolve():
                raise RunError(f"the sweep's copy of the code, {code}, is gone or incomplete, and {found} would be "
                               "used instead; the same command makes a new copy")
            config = RunFolder(folder).config()
            if config["trusted"]:
                # The user trusted these modules, on the command line or with `retry`.
                trust(config["trusted"])
                config = RunFolder(folder).config()
            if run_path(config).resolve() != folder.resolve():
                config["runs_dir"] = str(folder.resolve().parents[2])
            return train(config, requests)
        except UsageError as error:
            if is_held(folder):
                print(f"another process trains this run: {error}", file=sys.stderr)
                return ExitCode.BUSY
            print(f"error: {redacted(str(error))}", file=sys.stderr)
            record_failure(folder, str(error), config)
            return ExitCode.USAGE
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except BaseException as error:
            said = (refusal(error, resumable=True) if isinstance(error, OSError) else
                    str(error) if isinstance(error, RunError) else None)
            print(redacted(f"error: {said}" if said else traceback.format_exc()), file=sys.stderr)
            with contextlib.suppress(OSError):  # a full disk may be the cause of the failure
                record_failure(folder, f"{type(error).__name__}: {error}", config)
            return ExitCode.FAILED


if __name__ == "__main__":
    given = [argument.partition("=")[2] for argument in sys.argv[2:] if argument.startswith("--code=")]
    sys.exit(main(Path(sys.argv[1]), "--bound" in sys.argv[2:], Path(given[0]) if given else None))
