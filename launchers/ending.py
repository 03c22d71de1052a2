"""Run the user's command at the end of a sweep (`hydra.launcher.on_end`)."""

import os
import subprocess
import sys
from pathlib import Path

from launchers.table import say

SECONDS = 300  # time limit of the command


def tell_end(command: str, file: Path, text: str) -> None:
    """Run the command with the summary on its standard input and the sweep in its environment.

    The variables are ALGD_SWEEP, the sweep's name; ALGD_SWEEP_FILE, its file; and ALGD_SWEEP_ENDED, the summary's
    first line. If the command fails, only a warning is printed.

    Args:
        command: one line of bash.
        file: the sweep's file.
        text: the sweep's summary.
    """
    variables = {"ALGD_SWEEP": file.stem, "ALGD_SWEEP_FILE": str(file), "ALGD_SWEEP_ENDED": text.partition("\n")[0]}
    try:
        # Standard output is reserved for the launcher's own result.
        done = subprocess.run(["bash", "-c", command], input=text + "\n", text=True, stdout=sys.stderr,
                              env=os.environ | variables, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"warning: hydra.launcher.on_end={command}: {error}")
        return
    if done.returncode:
        say(f"warning: hydra.launcher.on_end={command}: exit code {done.returncode}")
