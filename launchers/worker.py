"""The process of one run of a sweep: python -m launchers.worker FOLDER [--bound]

It trains the run whose frozen configuration is in the folder, and makes sure that a failure is written there. A bound
one stops with a checkpoint when the process that started it dies.
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
from algd.run.faults.requests import Requests
from launchers.processes import REQUESTS
from launchers.states import is_held, record_failure

PR_SET_PDEATHSIG = 1


def stop_with_parent() -> None:
    """Get SIGTERM when the parent dies, also if it has died already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, bound: bool) -> int:
    """Train the run of this folder from wherever it stands. Returns the exit code."""
    # The same request may come twice, from SLURM and from the task, or from `cancel` and the launcher: it must not kill
    # what has obeyed already. A handler first, since ignoring would discard what came before anybody could listen;
    # ignored in the end, since Python takes its handlers away before it is gone, and not blocked, since that holds
    # for one thread only.
    for number in REQUESTS:
        signal.signal(number, lambda *_: None)
    try:
        return _train(folder, bound)
    finally:
        for number in REQUESTS:
            signal.signal(number, signal.SIG_IGN)


def _train(folder: Path, bound: bool) -> int:
    requests = Requests()
    with requests.listening():
        if bound:
            stop_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        # When memory runs out, a run is to go before the launcher that looks after all of them.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("300")
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {os.uname().nodename} process {os.getpid()}", flush=True)
        config = None
        try:
            from algd.config.trust import trust
            from algd.run.train import train
            from algd.storage.run_folder import RunFolder, run_path

            config = RunFolder(folder).config()
            if config["trusted"]:
                # Its launcher's user has said so, on the command line or to `retry`.
                trust(config["trusted"])
                config = RunFolder(folder).config()
            if run_path(config).resolve() != folder.resolve():
                config["runs_dir"] = str(folder.resolve().parents[2])
            return train(config, requests)
        except UsageError as error:
            if is_held(folder):
                print(f"another process trains this run: {error}", file=sys.stderr)
                return ExitCode.BUSY
            print(f"error: {error}", file=sys.stderr)
            record_failure(folder, str(error), config)
            return ExitCode.USAGE
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except BaseException as error:
            said = refusal(error) if isinstance(error, OSError) else str(error) if isinstance(error, RunError) else None
            print(f"error: {said}" if said else traceback.format_exc(), file=sys.stderr)
            with contextlib.suppress(OSError):  # its disk may be what it failed for
                record_failure(folder, f"{type(error).__name__}: {error}", config)
            return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--bound" in sys.argv[2:]))
