"""What docs/results.md shows is what the runs' tables beside it hold."""

import csv
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from tests.support.command import ROOT

DATA = ROOT / "docs" / "results"


def test_every_run_that_is_there_is_on_the_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (folder,) = [path.parent for path in DATA.rglob("config.yaml")]
    episodes = defaultdict(list)
    with (folder / "evals.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["sampler"] == "deterministic":
                episodes[int(row["step"])].append((float(row["return"]), float(row["cost"])))
    assert all(len(rows) == 10 for rows in episodes.values())
    shown = re.findall(r"^\| (\d+) \| (-?[\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert shown == [(str(step), *(f"{fmean(column):.2f}" for column in zip(*rows, strict=True)))
                     for step, rows in episodes.items()]
    assert "Qc predicts a discounted cost of 1.03 where the episodes had 12.57" in re.sub(r"\s+", " ", page)
    assert [f"{column:.2f}" for column in predicted_and_measured(folder, 14000)] == ["1.03", "12.57"]


def predicted_and_measured(folder: Path, step: int) -> tuple[float, float]:
    """Means over an evaluation's deterministic episodes: Qc at their start, and their discounted cost."""
    with (folder / "evals.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["step"], row["sampler"]) == (str(step), "deterministic")]
    return fmean(float(row["predicted_cost"]) for row in rows), fmean(float(row["discounted_cost"]) for row in rows)


def test_nothing_tells_of_the_machine() -> None:
    """Small files alone, without hosts and places."""
    for path in DATA.rglob("*"):
        if path.is_file():
            assert path.stat().st_size < 1_000_000 and path.suffix in (".csv", ".json", ".yaml")
            assert not re.search(r"/root|/home|/tmp|\"host\"", path.read_text(encoding="utf-8")), path
