"""A callback that kills one run of a sweep."""

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.run.callbacks import Callback
from algd.run.collector import Transition


class KillsOne(Callback):
    """Kills the process of the first run that gets to step 160, after which it has a checkpoint and lost steps."""

    def on_start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.mark = folder.parent / "killed"

    def on_step(self, step: int, transition: Transition) -> None:
        if step == 160:
            with contextlib.suppress(FileExistsError):
                self.mark.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
