"""Everything that a life needs, imported and built once: lives are forked from the process that has done so.

No gradient is computed here: torch's own threads would not survive a fork.
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
