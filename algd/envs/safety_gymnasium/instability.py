"""Detecting that MuJoCo found a simulation unstable.

When positions, velocities or accelerations stop being finite or become huge, MuJoCo raises nothing: it prints a line,
resets the simulation to its initial state, and continues. The environment's values are then finite, but of a
transition between two unrelated states. Only a counter in its data shows it.
"""

import sys
from typing import Any

import gymnasium

COUNTERS = {"mjWARN_BADQPOS": "positions", "mjWARN_BADQVEL": "velocities", "mjWARN_BADQACC": "accelerations"}


def instability(env: gymnasium.Env) -> str | None:
    """Which quantity became unstable since the last reset, in one word; None: none, or it is not a MuJoCo environment.

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
