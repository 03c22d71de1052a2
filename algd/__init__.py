"""Safe reinforcement learning with diffusion policies whose guiding energy is the Lagrangian.

    import algd
    agent = algd.load("runs/toy/vesde-augmented/seed=0-1a2b3c4d")
    agent.act(observation)
    algd.evaluate(agent, episodes=5)
    algd.read("runs").evals
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from algd.errors import UsageError
    from algd.run.callbacks import Callback
    from algd.run.library import Tables, evaluate, read
    from algd.run.loaded_agent import LoadedAgent
    from algd.run.loading import load

__version__ = "0.2.0"
__all__ = ["Callback", "LoadedAgent", "Tables", "UsageError", "evaluate", "load", "read"]

_MODULES = {"load": "algd.run.loading", "LoadedAgent": "algd.run.loaded_agent", "evaluate": "algd.run.library",
            "read": "algd.run.library", "Tables": "algd.run.library", "Callback": "algd.run.callbacks",
            "UsageError": "algd.errors"}


def __getattr__(name: str) -> object:
    # Imported on first use: torch and the environments take long.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'algd' has no attribute {name!r}")
