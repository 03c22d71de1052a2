"""Import of OmniSafe's runs (arXiv 2305.09304), so that its baselines appear in the same tables, marked as imported.

Such a run has config.json and progress.csv, with one row per epoch of means over episodes. CVaR, the share of episodes
over the limit and training cost are therefore not known. Return and cost are means of the last test episodes if there
are any, else of the last 50 training episodes. Names of columns and keys are those of OmniSafe 0.5.0.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.runs.episodes import checked_step, rows
from analysis.runs.model import Evaluation, Run
from analysis.runs.select import flat

STOCK_LIMIT = 25.0  # cost limit of OmniSafe's benchmark, for algorithms without a limit of their own
# Not copied as settings of the agent: seed and names have keys of their own, the others do not change results.
NO_SETTING = ("seed", "exp_name", "env_id", "algo", "logger_cfgs", "exp_increment_cfgs", "train_cfgs.device",
              "train_cfgs.torch_threads", "train_cfgs.total_steps")


def env_name(env_id: str) -> str:
    """Return this project's name of a Safety-Gymnasium task: SafetyPointGoal1-v0 is safety_point_goal1."""
    bare = re.sub(r"-v\d+$", "", env_id).replace("HalfCheetah", "Halfcheetah")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()


def read_progress(folder: Path) -> Run:
    """Read a run from OmniSafe's folder.

    Raises:
        KeyError, ValueError, OSError: the folder is not a run of OmniSafe.
    """
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = flat(content)
    limit = next((float(settings[key]) for key in ("algo_cfgs.cost_limit", "lagrange_cfgs.cost_limit")
                  if settings.get(key) is not None), None)
    total = settings.get("train_cfgs.total_steps")
    config: dict[str, Any] = {
        "seed": int(settings["seed"]), "total_steps": total, "env.name": env_name(settings["env_id"]),
        "env.family": "stock", "env.limit": STOCK_LIMIT if limit is None else limit, "env.limit_kind": "episode",
        "agent.name": settings["algo"], "guidance.name": "imported"}
    if not math.isfinite(config["env.limit"]):
        raise ValueError(f"cost_limit={limit}: it cannot be")
    config |= {f"agent.{key}": value for key, value in settings.items()
               if not any(key == prefix or key.startswith(f"{prefix}.") for prefix in NO_SETTING)}
    epochs = rows(folder / "progress.csv")
    prefix = "Metrics/TestEp" if any(_filled(row, "Metrics/TestEpRet") for row in epochs) else "Metrics/Ep"
    known = [row for row in epochs if _filled(row, f"{prefix}Ret")]
    steps = [checked_step(int(float(row["TotalEnvSteps"]))) for row in known]
    evaluations = [_evaluation(step, float(row[f"{prefix}Ret"]), float(row[f"{prefix}Cost"]), config["env.limit"])
                   for step, row in zip(steps, known, strict=True)]
    seconds = epochs[-1].get("Time/Total") if epochs else None
    state = "finished" if total is not None and steps and steps[-1] >= float(total) else "unknown"
    what = "the last test episodes" if prefix == "Metrics/TestEp" else "up to 50 recent training episodes"
    lacking = "" if limit is not None else f"; it has no limit, so its benchmark's {STOCK_LIMIT:g} is used"
    source = (f"OmniSafe ({settings['algo']}): means of {what}{lacking}; single episodes, their CVaR and share over "
              "the limit, training cost and updates/s are not known")
    return Run(folder, config, state, None, steps[-1] if steps else None, evaluations, {}, None, None,
               float(seconds) / 3600 if seconds else None, source, foreign=True)


def _evaluation(step: int, gain: float, cost: float, limit: float) -> Evaluation:
    return Evaluation(step, gain, cost, max(0.0, cost - limit), None, None, 1, 1)


def _filled(row: Mapping[str, str], column: str) -> bool:
    return row.get(column) not in (None, "", "nan")
