"""Tables and figures of docs/throttle.md: results of runs on throttle beside their predictions."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from algd.envs.throttle import optimum
from algd.errors import UsageError
from analysis.runs.find import find_runs
from analysis.runs.model import Run
from analysis.runs.read import read_run
from analysis.statistics.comparisons import sign_flip
from analysis.studies.style import write
from analysis.studies.tables import Row, write_tables
from analysis.studies.throttle.figures import landscape_figure, law_figure, training_figure
from analysis.studies.throttle.measured import MeasuredRun, measure
from analysis.studies.throttle.theory import minimiser, swing


def run(folder: Path, runs: list[str], steps: PositiveInt | None = None, seed_shown: NonNegativeInt | None = None,
        states: PositiveInt = 1, swing_floor: PositiveFloat = 0.5) -> None:
    """Write tables and figures of runs on throttle, finished or not.

    Args:
        folder: output folder.
        runs: run folders, or folders that contain runs.
        steps: use only training up to this step; None: all of it.
        seed_shown: seed of the run whose landscape is drawn; None: the smallest.
        states: number of contexts over which landscapes of trained agents are averaged.
        swing_floor: a run is swinging if the swing of its cost is at least this.

    Raises:
        UsageError: there is no run on throttle with λ from dual ascent.
    """
    found = [measure(_until(read_run(path), steps)) for path in find_runs(runs).folders]
    kept = [run for run in found if run is not None]
    moving = [run for run in kept if run.is_predicted]
    fixed = [run for run in kept if run.rule == "fixed"]
    if not moving:
        raise UsageError(f"study.runs={','.join(runs)}: there is no run of env=throttle with "
                         "guidance/dual=ascent; python run.py experiment=throttle_guidance makes them")
    rows = [_row(run, swing_floor) for run in kept]
    folder.mkdir(parents=True, exist_ok=True)
    snapshots = [{"agent": run.agent, "rho": run.rho, "rule": run.rule, "seed": run.record.seed} | asdict(each)
                 for run in moving for each in run.snapshots]
    write_tables(folder, {"throttle_runs": rows, "throttle_cells": cells(rows), "throttle_slopes": slopes(fixed),
                          "throttle_snapshots": snapshots})
    for signal in sorted({run.rule for run in moving}):
        of_signal = [run for run in moving if run.rule == signal]
        name = "throttle_training" + ("" if signal == "replay" else f"_{signal}")
        write(folder, {name: partial(training_figure, of_signal)})
    write(folder, {"throttle_law": lambda: law_figure(moving, fixed),
                   "throttle_landscape": lambda: landscape_figure(moving, seed_shown, states)})


def _until(record: Run, steps: int | None) -> Run:
    """Return the run truncated at a step."""
    if steps is None or steps >= int(record.config["total_steps"]):
        return record
    return replace(record, config=record.config | {"total_steps": steps},
                   evaluations=[each for each in record.evaluations if each.step <= steps])


def _row(run: MeasuredRun, floor: float) -> Row:
    record, config = run.record, run.record.config
    last, best = record.evaluations[-1], optimum(record.limit, int(config["env.horizon"]))
    lags = run.lags() if run.is_predicted and not run.rho else []
    return {"agent": run.agent, "rho": run.rho,
            "rule": f"fixed {run.lams[0]:g}" if run.rule == "fixed" else run.rule,
            "policy_rate": float(config["agent.policy_learning_rate"]),
            "multiplier_rate": config.get("guidance.dual.learning_rate", ""), "batch": int(config["batch_size"]),
            "seed": record.seed, "step": last.step, "return": last.mean_return, "share": last.mean_return / best,
            "cost": last.mean_cost, "feasible": last.mean_cost <= record.limit, "mean_late_cost": run.settled,
            "swing": swing(record.costs), "swings": swing(record.costs) >= floor, "noise": run.spread,
            "lag": float(np.median(lags)) if lags else "",
            "predicted_swing": swing(run.predicted()[0]) if run.is_predicted else "",
            "as_measured": swing(run.predicted(as_measured=True)[0]) if run.is_predicted else "",
            "last_lambda": float(run.lams[-1]), "largest_lambda": float(run.lams.max())}


def cells(rows: list[Row]) -> list[Row]:
    """Return means over seeds for each agent, ρ, rule for λ, learning rates of policy and λ, and batch size.

    p is of the sign-flip test over seeds of the difference in swing to plain guidance with otherwise equal settings.
    """
    found: list[Row] = []
    swings = {(*_cell(row), row["seed"]): row["swing"] for row in rows}
    for cell in sorted({_cell(row) for row in rows}):
        agent, rho, rule, *rates, batch = cell
        here = sorted((row for row in rows if _cell(row) == cell), key=lambda row: row["seed"])
        mean = {key: float(np.mean([row[key] for row in here])) for key in ("share", "swing", "noise")}
        predicted = {key: f"{np.mean([row[key] for row in here]):.2f}" if here[0][key] != "" else ""
                     for key in ("predicted_swing", "as_measured")}
        count = {key: f"{sum(row[key] for row in here)}/{len(here)}" for key in ("feasible", "swings")}
        differences = [swings[agent, 0, *cell[2:], row["seed"]] - row["swing"] for row in here
                       if rho and (agent, 0, *cell[2:], row["seed"]) in swings]
        p = sign_flip([np.array(differences)])
        found.append({"agent": agent, "rho": f"{rho:g}" if rho else "plain", "rule for λ": rule,
                      "rates of policy and λ, batch": f"{', '.join(str(rate or '-') for rate in rates)}, {batch}",
                      "seeds": ", ".join(str(row["seed"]) for row in here),
                      "feasible": count["feasible"], "cost by seed": ", ".join(f"{row['cost']:.3f}" for row in here),
                      "of the best": f"{mean['share']:.0%}", "swing": f"{mean['swing']:.2f}",
                      "predicted": predicted["predicted_swing"], "with noise and lag": predicted["as_measured"],
                      "noise": f"{mean['noise']:.2f}", "swinging": count["swings"],
                      "p": "" if p is None else f"{p:.4g}"})
    return found


def _cell(row: Row) -> tuple[Any, ...]:
    return row["agent"], row["rho"], row["rule"], row["policy_rate"], row["multiplier_rate"], row["batch"]


def slopes(fixed: Sequence[MeasuredRun]) -> list[Row]:
    """Return for each agent and ρ the least-squares slope of settled cost over fixed λ, and its deviation from v(λ)."""
    rows: list[Row] = []
    for agent, rho in sorted({(run.agent, run.rho) for run in fixed}):
        here = [run for run in fixed if (run.agent, run.rho) == (agent, rho)]
        lams, costs = np.array([run.lams[0] for run in here]), np.array([run.settled for run in here])
        distances = np.abs(costs - [float(minimiser(lam, run.record.limit, rho)) for lam, run in zip(lams, here,
                                                                                            strict=True)])
        found: Row = {"agent": agent, "rho": rho, "runs": len(here), "slope": "", "standard_error": "",
                      "predicted": -1 / rho if rho else "", "greatest_distance": float(distances.max())}
        if rho and len(here) > 2 and len(set(lams)) > 1:
            (slope, _), covariance = np.polyfit(lams, costs, 1, cov=True)
            found |= {"slope": float(slope), "standard_error": float(covariance[0, 0] ** 0.5)}
        rows.append(found)
    return rows
