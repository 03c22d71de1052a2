"""The end of a sweep, told by a command of the user's choice (`hydra.launcher.on_end`)."""

import os
import subprocess
import sys
from pathlib import Path

from launchers.table import say

SECONDS = 300  # that the command may take


def tell_end(command: str, file: Path, text: str) -> None:
    """Run the command, with the summary as its input and the sweep in its environment.

    It gets ALGD_SWEEP, the sweep's name; ALGD_SWEEP_FILE, its list of members; and ALGD_SWEEP_ENDED, the summary's
    first line. Whatever becomes of it changes nothing of the sweep.

    Args:
        command: a line for the shell.
        file: the sweep's.
        text: the summary.
    """
    variables = {"ALGD_SWEEP": file.stem, "ALGD_SWEEP_FILE": str(file), "ALGD_SWEEP_ENDED": text.partition("\n")[0]}
    try:
        # Standard output is for the launcher's own answer.
        done = subprocess.run(["bash", "-c", command], input=text + "\n", text=True, stdout=sys.stderr,
                              env=os.environ | variables, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"warning: hydra.launcher.on_end={command}: {error}")
        return
    if done.returncode:
        say(f"warning: hydra.launcher.on_end={command}: exit code {done.returncode}")
