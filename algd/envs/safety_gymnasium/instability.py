"""MuJoCo's own word that a simulation blew up.

When positions, velocities or accelerations stop being finite or become huge, MuJoCo raises nothing: it prints a line,
sets the simulation back to its first state, and goes on. What the environment returns then is finite, and
connects two states that have nothing to do with each other. Only a counter in its data tells.
"""

import sys
from typing import Any

import gymnasium

COUNTERS = {"mjWARN_BADQPOS": "positions", "mjWARN_BADQVEL": "velocities", "mjWARN_BADQACC": "accelerations"}


def instability(env: gymnasium.Env) -> str | None:
    """What blew up since the simulation was last reset, in one word; None: nothing did, or it is not MuJoCo's.

    Args:
        env: the innermost environment, of gymnasium (`env.data`) or Safety-Gymnasium (`env.task.data`).
    """
    data = _data(env)
    if data is None:
        return None
    counts, kinds = data.warning.number, sys.modules["mujoco"].mjtWarning
    return next((word for name, word in COUNTERS.items() if counts[int(getattr(kinds, name))]), None)


def _data(env: gymnasium.Env) -> Any:
    for owner in (env, getattr(env, "task", None)):
        data = getattr(owner, "data", None)
        if type(data).__module__.partition(".")[0] == "mujoco":
            return data
    return None
