"""Imports and builds everything that a life needs: lives are forked from a process that has imported this module.

No gradient is computed here, since torch's threads would not survive a fork.
"""

import torch

from algd.run import train as runs  # noqa: F401
from algd.run.build import build_agent, build_task
from launchers.search import driver  # noqa: F401
from tests.support.command import TINY, compose

torch.set_num_threads(1)
for _agent in ("vesde", "gaussian"):
    _config = compose(*TINY, "env=toy", f"agent={_agent}")
    build_agent(_config, build_task(_config))
