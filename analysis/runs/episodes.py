"""Summaries of evaluations and training from the rows of evals.csv and episodes.csv."""

import csv
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from algd.config.values import shortened
from analysis.runs.model import Evaluation, Training
from analysis.statistics.estimators import cvar

Row = Mapping[str, str]
EPISODE = ("return", "cost", "discounted_cost", "length")


def rows(path: Path) -> list[Row]:
    """Read the complete rows of a CSV file; a last line without a newline is incomplete and is ignored.

    Raises:
        ValueError: a row and the header have different numbers of cells.
    """
    if not path.exists():
        return []
    # Split bytes before decoding: the incomplete line may end within a UTF-8 character.
    whole = path.read_bytes().rpartition(b"\n")[0].decode()
    header, *lines = list(csv.reader(whole.split("\n"), strict=True)) or [[]]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{path.name}, line {number}: {len(line)} cells where the header has {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def evaluations(evals: Iterable[Row], sampler: str) -> dict[int, list[Row]]:
    """Return the rows of each evaluation during training, by step in increasing order.

    Args:
        evals: rows of evals.csv.
        sampler: "deterministic" or "stochastic".

    Raises:
        ValueError: an episode occurs twice, or a step cannot be.
    """
    by_step: dict[int, dict[str, Row]] = {}
    for row in evals:
        if row["source"] == "train" and row["sampler"] == sampler:
            of_step = by_step.setdefault(checked_step(int(row["step"])), {})
            if row["episode"] in of_step:
                raise ValueError(f"evals.csv has episode {row['episode']} of step {row['step']} twice")
            of_step[row["episode"]] = row
    return {step: list(by_step[step].values()) for step in sorted(by_step)}


def checked_step(step: int) -> int:
    """Return the step of an evaluation.

    Raises:
        ValueError: it is not from 0 to 2⁶³ − 1, with which tables and figures compute.
    """
    if not 0 <= step < 2**63:
        raise ValueError(f"an evaluation at step {shortened(step)}: it cannot be")
    return step


def summary(step: int, episodes: Sequence[Row], cost: str, limit: float,
            training: Training | None = None) -> Evaluation:
    """Summarise one evaluation; identical episodes all count.

    Args:
        step: training step of the evaluation.
        episodes: rows of its episodes.
        cost: the column that the limit applies to.
        limit: the task's limit.
        training: cost of training up to this step.
    """
    costs = np.array([float(row[cost]) for row in episodes])
    spent = float(costs.mean())
    return Evaluation(step, float(np.mean([float(row["return"]) for row in episodes])), spent,
                      max(0.0, spent - limit) if np.isfinite(spent) else spent, float((~(costs <= limit)).mean()),
                      cvar(costs), distinct(episodes), len(episodes),
                      sum(row.get("simulator_error") == "1" for row in episodes), training)


def distinct(episodes: Sequence[Row]) -> int:
    """Return the number of episodes that differ in return, costs or length, to the last digit.

    A deterministic policy in a deterministic environment repeats one episode. All repetitions count in a mean, but only
    distinct episodes are independent measurements.
    """
    return len({tuple(row[column] for column in EPISODE) for row in episodes})


class TrainingRecord:
    """Cost of training up to any step, without episodes that ended in the initial steps (step ≤ 0).

    Args:
        episodes: rows of episodes.csv.
        cost: the column that the limit applies to.
        limit: the task's limit.

    Raises:
        ValueError: a complete episode has no steps.
    """

    def __init__(self, episodes: Iterable[Row], cost: str, limit: float):
        counted = sorted(((int(row["step"]), float(row["cost"]), int(float(row["length"])),
                           not float(row[cost]) <= limit, float(row.get("simulator_error") or 0) == 0)
                          for row in episodes if int(row["step"]) > 0),
                         key=lambda pair: pair[0])
        if empty := next((step for step, _, length, _, whole in counted if length < whole), None):
            raise ValueError(f"episodes.csv has an episode without steps, which ended at step {empty}")
        self._steps = [step for step, *_ in counted]
        # Cumulative sums over episodes: cost, steps, complete episodes over the limit, complete episodes. Episodes that
        # the simulator ended are not complete.
        columns = np.array([(spent, length, over and whole, whole) for _, spent, length, over, whole in counted],
                           dtype=float).reshape(-1, 4)
        self._sums = np.concatenate([np.zeros((1, 4)), columns.cumsum(axis=0)])

    def by(self, step: int | None = None) -> Training | None:
        """Return the cost of training up to a step (None: all steps); None before the first complete episode."""
        total, length, over, whole = self._sums[-1 if step is None else bisect_right(self._steps, step)].tolist()
        return Training(int(whole), total, total / length, over / whole) if whole else None
