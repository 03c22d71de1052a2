"""The result of a finished run, for programs: result.json in its folder.

    {"run": "seed=0-1a2b3c4d", "steps": 50000, "sampler": "deterministic",
     "return": 21.3, "cost": 3.1, "feasible": true, "spread": {"return": 0.4, "cost": 1.2}, "episodes": 20,
     "limit": 4.0, "limit_kind": "episode",
     "final": {"deterministic": {"step": 50000, "return": ..., ...}, "stochastic": {...}},
     "best_feasible": {"deterministic": {...} or null, "stochastic": {...} or null}}

The numbers at the top are those of the final evaluation by the deterministic sampler. `cost` is the mean over episodes
of what the limit applies to, `spread` the standard deviation over episodes (n - 1; null of a single one). The best
feasible evaluation is the one with the highest return among those whose cost is at most the limit. Everything follows
from evals.csv.
"""

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from algd.budget import Budget
from algd.run.evaluation import SAMPLERS
from algd.storage.files import write_atomically
from algd.storage.run_folder import RunFolder

Row = Mapping[str, str]


def write_result(folder: RunFolder, budget: Budget, episodes: int) -> bool:
    """Write result.json of a finished run, unless it is there already.

    Args:
        folder: the run's folder.
        budget: the allowed cost.
        episodes: number of episodes in a sampler's evaluation.

    Returns:
        Whether it had to be written.
    """
    with folder.evals.open(newline="", encoding="utf-8") as file:
        result = {"run": folder.path.resolve().name} | result_of(csv.DictReader(file), budget, episodes)
    content = (json.dumps(result, indent=1) + "\n").encode()
    if folder.result.exists() and folder.result.read_bytes() == content:
        return False
    write_atomically(folder.result, content)
    return True


def result_of(rows: Iterable[Row], budget: Budget, episodes: int) -> dict[str, Any]:
    """The result of a run from the rows of evals.csv, without those that mode=eval added.

    Args:
        rows: rows of a run with at least one complete evaluation.
        budget: the allowed cost.
        episodes: number of episodes in a sampler's evaluation; one with fewer is not complete.
    """
    by_evaluation: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["source"] == "train":
            by_evaluation.setdefault((row["sampler"], int(row["step"])), []).append(row)
    evaluations = {sampler: [_summary(step, found, budget) for (name, step), found in sorted(by_evaluation.items())
                             if name == sampler and len(found) == episodes] for sampler in SAMPLERS}
    final = {sampler: evaluations[sampler][-1] for sampler in SAMPLERS}
    feasible = {sampler: [found for found in evaluations[sampler] if found["feasible"]] for sampler in SAMPLERS}
    best = {sampler: max(feasible[sampler], key=lambda found: found["return"], default=None) for sampler in SAMPLERS}
    top = dict(final[SAMPLERS[0]])
    return {"steps": top.pop("step"), "sampler": SAMPLERS[0], **top, "limit": budget.limit, "limit_kind": budget.kind,
            "final": final, "best_feasible": best}


def _summary(step: int, rows: Sequence[Row], budget: Budget) -> dict[str, Any]:
    """Summarise one sampler's episodes of an evaluation."""
    returns = [float(row["return"]) for row in rows]
    costs = [budget.spent(float(row["cost"]), float(row["discounted_cost"])) for row in rows]
    cost = statistics.fmean(costs)
    spread = {name: statistics.stdev(values) if len(values) > 1 else None
              for name, values in (("return", returns), ("cost", costs))}
    return {"step": step, "return": statistics.fmean(returns), "cost": cost, "feasible": cost <= budget.limit,
            "spread": spread, "episodes": len(rows)}
