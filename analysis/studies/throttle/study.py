"""What runs on throttle did, beside what is predicted: the tables of docs/throttle.md, and its figures."""

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
from analysis.studies.throttle.measured import Examined, examined
from analysis.studies.throttle.theory import minimiser, swing


def run(folder: Path, runs: list[str], steps: PositiveInt | None = None, seed_shown: NonNegativeInt | None = None,
        states: PositiveInt = 1, swing_floor: PositiveFloat = 0.5) -> None:
    """Tables and figures of runs on throttle, as far as they have come.

    Args:
        folder: where to.
        runs: run folders, or folders with runs in them.
        steps: what happened later is left out; None: nothing is.
        seed_shown: seed of the landscape's run; None: the least that there is.
        states: contexts that the trained landscapes are averaged over.
        swing_floor: from which swing of the cost on a run counts as swinging.

    Raises:
        UsageError: there is no run of throttle with λ from an ascent.
    """
    found = [examined(_until(read_run(one), steps)) for one in find_runs(runs).folders]
    kept = [one for one in found if one is not None]
    moving = [one for one in kept if one.rule != "fixed"]
    fixed = [one for one in kept if one.rule == "fixed"]
    if not moving:
        raise UsageError(f"study.runs={','.join(runs)}: there is no run of env=throttle with "
                         "guidance/dual=ascent; python run.py experiment=throttle_guidance makes them")
    rows = [_row(one, swing_floor) for one in moving]
    folder.mkdir(parents=True, exist_ok=True)
    snapshots = [{"agent": one.agent, "rho": one.rho, "signal": one.rule, "seed": one.run.seed} | asdict(each)
                 for one in moving for each in one.snapshots]
    write_tables(folder, {"throttle_runs": rows, "throttle_cells": _cells(rows), "throttle_slopes": slopes(fixed),
                          "throttle_snapshots": snapshots})
    for signal in sorted({one.rule for one in moving}):
        heard = [one for one in moving if one.rule == signal]
        name = "throttle_training" + ("" if signal == "replay" else f"_{signal}")
        write(folder, {name: partial(training_figure, heard)})
    write(folder, {"throttle_law": lambda: law_figure(moving, fixed),
                   "throttle_landscape": lambda: landscape_figure(moving, seed_shown, states)})


def _until(one: Run, steps: int | None) -> Run:
    """The run as if it had ended after so many steps."""
    if steps is None or steps >= int(one.config["total_steps"]):
        return one
    return replace(one, config=one.config | {"total_steps": steps},
                   evaluations=[each for each in one.evaluations if each.step <= steps])


def _row(one: Examined, floor: float) -> Row:
    last, best = one.run.evaluations[-1], optimum(one.run.limit, int(one.run.config["env.horizon"]))
    lags = [] if one.rho else one.lags()
    return {"agent": one.agent, "rho": one.rho, "signal": one.rule,
            "policy_rate": float(one.run.config["agent.policy_learning_rate"]), "seed": one.run.seed, "step": last.step,
            "return": last.mean_return, "share": last.mean_return / best, "cost": last.mean_cost,
            "feasible": last.mean_cost <= one.run.limit, "mean_late_cost": one.settled, "swing": swing(one.run.costs),
            "swings": swing(one.run.costs) >= floor, "noise": one.spread, "lag": float(np.median(lags)) if lags else "",
            "predicted_swing": swing(one.predicted()[0]), "as_measured": swing(one.predicted(as_measured=True)[0]),
            "last_lambda": float(one.lams[-1]), "largest_lambda": float(one.lams.max())}


def _cells(rows: list[Row]) -> list[Row]:
    """A line for each agent, ρ, signal and rate of the policy: means over seeds, and whether its swings differ from
    those of plain guidance with the same signal and rate by more than chance (p, the sign-flip test over seeds)."""
    cells = []
    plain = {(*_cell(row), row["seed"]): row["swing"] for row in rows}
    for agent, rho, signal, rate in sorted({_cell(row) for row in rows}):
        here = sorted((row for row in rows if _cell(row) == (agent, rho, signal, rate)), key=lambda row: row["seed"])
        mean = {key: float(np.mean([row[key] for row in here])) for key in
                ("share", "swing", "noise", "predicted_swing", "as_measured")}
        count = {key: f"{sum(row[key] for row in here)}/{len(here)}" for key in ("feasible", "swings")}
        pairs = [plain[agent, 0, signal, rate, row["seed"]] - row["swing"] for row in here
                 if rho and (agent, 0, signal, rate, row["seed"]) in plain]
        p = sign_flip([np.array(pairs)])
        cells.append({"agent": agent, "rho": f"{rho:g}" if rho else "plain", "signal": signal,
                      "policy rate": f"{rate:g}", "seeds": ", ".join(str(row["seed"]) for row in here),
                      "feasible": count["feasible"], "cost by seed": ", ".join(f"{row['cost']:.3f}" for row in here),
                      "of the best": f"{mean['share']:.0%}", "swing": f"{mean['swing']:.2f}",
                      "predicted": f"{mean['predicted_swing']:.2f}", "with noise and lag": f"{mean['as_measured']:.2f}",
                      "noise": f"{mean['noise']:.2f}", "swinging": count["swings"],
                      "p": "" if p is None else f"{p:.4g}"})
    return cells


def _cell(row: Row) -> tuple[Any, ...]:
    return row["agent"], row["rho"], row["signal"], row["policy_rate"]


def slopes(fixed: Sequence[Examined]) -> list[Row]:
    """For each ρ how the settled cost falls with a fixed λ: a least-squares slope, its standard error over the runs,
    and the greatest distance from v(λ)."""
    rows: list[Row] = []
    for agent, rho in sorted({(one.agent, one.rho) for one in fixed}):
        here = [one for one in fixed if (one.agent, one.rho) == (agent, rho)]
        lams, costs = np.array([one.lams[0] for one in here]), np.array([one.settled for one in here])
        distances = np.abs(costs - [float(minimiser(lam, one.run.limit, rho)) for lam, one in zip(lams, here,
                                                                                            strict=True)])
        found: Row = {"agent": agent, "rho": rho, "runs": len(here), "slope": "", "standard_error": "",
                      "predicted": -1 / rho if rho else "", "greatest_distance": float(distances.max())}
        if rho and len(here) > 2 and len(set(lams)) > 1:
            (slope, _), covariance = np.polyfit(lams, costs, 1, cov=True)
            found |= {"slope": float(slope), "standard_error": float(covariance[0, 0] ** 0.5)}
        rows.append(found)
    return rows
