"""Runs of OmniSafe (arXiv 2305.09304), so that its baselines stand in the same table, marked as imported.

What a run of it leaves is a folder with config.json and progress.csv: one row an epoch, with means over episodes where
this project keeps the episodes. So there is no CVaR, no share of episodes over the limit, no training cost, and return
and cost are means of the last test episodes, if the run had any, or else of the last 50 training episodes.
Column and key names were read from OmniSafe 0.5.0.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.runs.episodes import rows
from analysis.runs.model import Evaluation, Run
from analysis.runs.select import flat

STOCK_LIMIT = 25.0  # of its benchmark, for algorithms that know no limit
# What does not make two runs different: seed and names stand elsewhere, the others say where and how to write.
NO_SETTING = ("seed", "exp_name", "env_id", "algo", "logger_cfgs", "exp_increment_cfgs", "train_cfgs.device",
              "train_cfgs.torch_threads", "train_cfgs.total_steps")


def env_name(env_id: str) -> str:
    """This project's name of a Safety-Gymnasium task: SafetyPointGoal1-v0 is safety_point_goal1."""
    bare = re.sub(r"-v\d+$", "", env_id).replace("HalfCheetah", "Halfcheetah")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()


def read_progress(folder: Path) -> Run:
    """A run from OmniSafe's folder. Raises KeyError, ValueError or OSError where it is not one."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = flat(content)
    limit = next((float(settings[key]) for key in ("algo_cfgs.cost_limit", "lagrange_cfgs.cost_limit")
                  if settings.get(key) is not None), None)
    total = settings.get("train_cfgs.total_steps")
    config: dict[str, Any] = {
        "seed": int(settings["seed"]), "total_steps": total, "env.name": env_name(settings["env_id"]),
        "env.family": "stock", "env.limit": STOCK_LIMIT if limit is None else limit, "env.limit_kind": "episode",
        "agent.name": settings["algo"], "guidance.name": "imported"}
    config |= {f"agent.{key}": value for key, value in settings.items()
               if not any(key == prefix or key.startswith(f"{prefix}.") for prefix in NO_SETTING)}
    epochs = rows(folder / "progress.csv")
    prefix = "Metrics/TestEp" if any(_filled(row, "Metrics/TestEpRet") for row in epochs) else "Metrics/Ep"
    known = [row for row in epochs if _filled(row, f"{prefix}Ret")]
    steps = [int(float(row["TotalEnvSteps"])) for row in known]
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
