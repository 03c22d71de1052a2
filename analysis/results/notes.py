"""What stands below a table: how its numbers came about, and what is not as it should be."""

from collections.abc import Sequence
from pathlib import Path

from analysis.results.cells import Cell
from analysis.runs.model import Run
from analysis.statistics.estimators import SEEDS_FOR_INTERVAL, Method

FEW_EPISODES = 20


def notes(runs: Sequence[Run], of_family: Sequence[Cell], sampler: str, method: Method,
          absent: Sequence[Path]) -> list[str]:
    """How the numbers came about, and what is not as it should be."""
    interval = ("95% interval of a stratified bootstrap's standard error and Student's t" if method == "t"
                else "95% percentile interval of a stratified bootstrap")
    found = [f"Return and cost: means over the {sampler} episodes of each run's last complete evaluation in training; "
             f"across seeds the interquartile mean, with the {interval}.",
             "†: cost above the limit. Bold: the highest return of the row among cells within the limit, a rank and "
             "not a test (`python -m analysis compare`); returns that print alike share it.",
             "Safe: seeds whose mean cost is at most the limit. Violation, CVaR 0.1 (mean of the worst tenth of "
             "episode costs), episodes over, training and compute: means over seeds.",
             "Stays feasible from: median over seeds of the first step from which on every evaluation was feasible; "
             "'>': half of them or more were not yet. Training counts episodes after the initial steps."]
    if few := [cell for cell in of_family if 0 < len(cell.evaluated) < SEEDS_FOR_INTERVAL]:
        found.append(f"Fewer than {SEEDS_FOR_INTERVAL} seeds, hence values and no interval: {_names(few)}.")
    if tasks := sorted({run.env for run in runs if run.config["env.limit_kind"] == "discounted"}):
        found.append(f"Cost and limit are discounted sums in {', '.join(tasks)}; training cost is not.")
    if repeated := [run.last for run in runs if run.last and run.last.different < run.last.episodes]:
        worst = min(repeated, key=lambda one: one.different)
        found.append(f"Identical evaluation episodes count once: in {len(repeated)} of {len(runs)} runs there were "
                     f"some (at worst {worst.different} different of {worst.episodes}).")
    if cut := [run for run in runs if run.last is not None and run.last.cut]:
        found.append(f"The simulator ended evaluation episodes early in {len(cut)} of {len(runs)} runs ("
                     f"{sum(run.last.cut for run in cut if run.last)} in all); they count with what they had until "
                     "then.")
    if short := [run for run in runs if run.last and run.last.over is not None and run.last.episodes < FEW_EPISODES]:
        found.append(f"Fewer than {FEW_EPISODES} evaluation episodes in {len(short)} of {len(runs)} runs.")
    if unfinished := [run for run in runs if run.state != "finished"]:
        states = sorted({run.state for run in unfinished})
        found.append(f"Not finished: {len(unfinished)} of {len(runs)} runs ("
                     + ", ".join(f"{sum(run.state == state for run in unfinished)} {state}" for state in states)
                     + "); they stand with what they have.")
    if lacking := [cell for cell in of_family if len(cell.evaluated) < len(cell.runs)]:
        found.append(f"Runs without an evaluation are counted but have no numbers: {_names(lacking)}.")
    if uneven := [cell for cell in of_family if len({run.last.step for run in cell.evaluated if run.last}) > 1]:
        found.append(f"Seeds evaluated at different steps stand together in {_names(uneven)}.")
    found += _missing_seeds(of_family)
    if absent:
        found.append(f"The sweep has {len(absent)} more runs that have not started.")
    for keys in sorted({cell.pooled for cell in of_family if cell.pooled}):
        found.append(f"Pooled although different in {', '.join(keys)}: "
                     f"{_names([cell for cell in of_family if cell.pooled == keys])}.")
    if sources := sorted({run.source for run in runs if run.source}):
        found += [f"Imported from {source}." for source in sources]
    return found


def _names(some: Sequence[Cell]) -> str:
    names = [" ".join((*cell.row, *cell.column)) for cell in some]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _missing_seeds(of_family: Sequence[Cell]) -> list[str]:
    """Seeds that other cells of the row have, and a cell has not."""
    missing = []
    for cell in of_family:
        others = {seed for other in of_family if other.row == cell.row for seed in other.seeds}
        if lacking := sorted(others - set(cell.seeds)):
            missing.append(f"{_names([cell])} lacks {', '.join(map(str, lacking))}")
    return [f"Missing seeds: {'; '.join(missing)}."] if missing else []
