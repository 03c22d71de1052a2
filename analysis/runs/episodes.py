"""From the rows of episodes.csv and evals.csv to what evaluations and training came to."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.runs.model import Evaluation, Training
from analysis.statistics.estimators import cvar

Row = Mapping[str, str]
EPISODE = ("return", "cost", "discounted_cost", "length")


def means(episodes: Sequence[Row], cost: str) -> tuple[float, float]:
    """Mean return and mean cost, the latter of the column that the limit applies to."""
    return (float(np.mean([float(row["return"]) for row in episodes])),
            float(np.mean([float(row[cost]) for row in episodes])))


def summary(step: int, episodes: Sequence[Row], cost: str, limit: float) -> Evaluation:
    """What one evaluation came to."""
    different = distinct(episodes)
    costs = np.array([float(row[cost]) for row in different])
    gain, spent = means(different, cost)
    return Evaluation(step, gain, spent, max(0.0, spent - limit), float((costs > limit).mean()), cvar(costs),
                      len(different), len(episodes), sum(row.get("simulator_error") == "1" for row in episodes))


def training(episodes: Iterable[Row], cost: str, limit: float) -> Training | None:
    """What the training episodes cost; those that ended in the initial steps (step ≤ 0) are the untrained policy's."""
    total, length, over, count = 0.0, 0, 0, 0
    for row in episodes:
        if int(row["step"]) > 0:
            total, length = total + float(row["cost"]), length + int(float(row["length"]))
            if row.get("simulator_error", "0") == "0":  # what the simulator cut short is no whole episode
                count, over = count + 1, over + (float(row[cost]) > limit)
    return Training(count, total, total / length, over / count) if count else None


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


def complete_evaluations(evals: Iterable[Row], sampler: str, episodes: int) -> dict[int, list[Row]]:
    """The rows of every evaluation during training that has all its episodes, by step.

    Args:
        evals: rows of evals.csv.
        sampler: "deterministic" or "stochastic".
        episodes: how many rows an evaluation has for each sampler.

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
    return {step: list(of_step.values()) for step, of_step in by_step.items() if len(of_step) >= episodes}


def distinct(episodes: Sequence[Row]) -> list[Row]:
    """One of each group of identical episodes, in order: same return, costs and length, to the last digit.

    A deterministic policy in an environment without randomness plays one and the same episode again and again; that
    is one measurement, however often it is written down.
    """
    return list({tuple(row[column] for column in EPISODE): row for row in reversed(episodes)}.values())[::-1]
