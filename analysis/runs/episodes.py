"""From the rows of episodes.csv and evals.csv to what evaluations and training came to."""

import csv
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.runs.model import Evaluation, Training
from analysis.statistics.estimators import cvar

Row = Mapping[str, str]
EPISODE = ("return", "cost", "discounted_cost", "length")


def rows(path: Path) -> list[Row]:
    """The whole rows of a CSV file; a last line without its end was torn, and does not count.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    if not path.exists():
        return []
    # In bytes: a row may be torn within a letter.
    whole = path.read_bytes().rpartition(b"\n")[0].decode()
    header, *lines = list(csv.reader(whole.split("\n"), strict=True)) or [[]]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{path.name}, line {number}: {len(line)} cells where the header has {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def evaluations(evals: Iterable[Row], sampler: str) -> dict[int, list[Row]]:
    """The rows of every evaluation during training, by step, in order.

    Args:
        evals: rows of evals.csv.
        sampler: "deterministic" or "stochastic".

    Raises:
        ValueError: an episode is there twice.
    """
    by_step: dict[int, dict[str, Row]] = {}
    for row in evals:
        if row["source"] == "train" and row["sampler"] == sampler:
            of_step = by_step.setdefault(int(row["step"]), {})
            if row["episode"] in of_step:
                raise ValueError(f"evals.csv has episode {row['episode']} of step {row['step']} twice")
            of_step[row["episode"]] = row
    return {step: list(by_step[step].values()) for step in sorted(by_step)}


def summary(step: int, episodes: Sequence[Row], cost: str, limit: float,
            training: Training | None = None) -> Evaluation:
    """What one evaluation came to; each episode counts, whether another is identical to it or not.

    Args:
        step: of training.
        episodes: its rows.
        cost: the column that the limit applies to.
        limit: the task's.
        training: what training had cost by then.
    """
    costs = np.array([float(row[cost]) for row in episodes])
    spent = float(costs.mean())
    return Evaluation(step, float(np.mean([float(row["return"]) for row in episodes])), spent,
                      max(0.0, spent - limit) if np.isfinite(spent) else spent, float((costs > limit).mean()),
                      cvar(costs), distinct(episodes), len(episodes),
                      sum(row.get("simulator_error") == "1" for row in episodes), training)


def distinct(episodes: Sequence[Row]) -> int:
    """How many episodes differ in return, costs or length, to the last digit.

    A deterministic policy in an environment without randomness plays one and the same episode again and again. Each
    counts in a mean, but how many there were of them says how much was measured.
    """
    return len({tuple(row[column] for column in EPISODE) for row in episodes})


class TrainingRecord:
    """What training had cost by any step; episodes that ended in the initial steps (step ≤ 0) do not count.

    Args:
        episodes: rows of episodes.csv.
        cost: the column that the limit applies to.
        limit: the task's.
    """

    def __init__(self, episodes: Iterable[Row], cost: str, limit: float):
        counted = sorted(((int(row["step"]), float(row["cost"]), int(float(row["length"])), float(row[cost]) > limit,
                           row.get("simulator_error", "0") == "0") for row in episodes if int(row["step"]) > 0),
                         key=lambda pair: pair[0])
        self._steps = [step for step, *_ in counted]
        # Sums over the first n episodes: cost, steps, whole ones over the limit, whole ones. What the simulator cut
        # short is no whole episode.
        columns = np.array([(spent, length, over and whole, whole) for _, spent, length, over, whole in counted],
                           dtype=float).reshape(-1, 4)
        self._sums = np.concatenate([np.zeros((1, 4)), columns.cumsum(axis=0)])

    def by(self, step: int | None = None) -> Training | None:
        """What training had cost by a step, or by the end; None where no whole episode had ended."""
        total, length, over, whole = self._sums[-1 if step is None else bisect_right(self._steps, step)].tolist()
        return Training(int(whole), total, total / length, over / whole) if whole else None
