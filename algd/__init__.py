"""Safe reinforcement learning with diffusion policies whose guiding energy is the Lagrangian.

    import algd
    agent = algd.load("runs/toy/vesde-augmented/seed=0-1a2b3c4d")
    agent.act(observation)
"""

import os
from typing import TYPE_CHECKING

# Threads that wait for each other sleep. By default OpenMP has them spin, which on cores with other work takes four
# times the CPU time (docs/benchmarks.md). Torch's OpenMP reads this when torch is loaded, which comes later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from algd.run.loading import LoadedAgent, load

__all__ = ["LoadedAgent", "load"]


def __getattr__(name: str) -> object:
    # Only who loads an agent pays for importing torch and the environments.
    if name in __all__:
        from algd.run import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'algd' has no attribute {name!r}")
