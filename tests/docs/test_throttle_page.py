"""docs/throttle.md agrees with the kept data of its runs."""

import csv
from typing import Any

import pytest

from analysis.studies.throttle.study import cells
from tests.support.command import ROOT

TEXT = ("agent", "rule")


def kept_runs(study: str = "throttle") -> list[dict[str, Any]]:
    """Return the rows of a study's table of runs, in the form that `cells` takes."""
    with (ROOT / "docs" / "results" / "throttle" / f"{study}_runs.csv").open(newline="") as file:
        return [{key: value if key in TEXT or not value else value == "True" if value in ("True", "False")
                 else float(value) if "." in value or "e" in value else int(value) for key, value in row.items()}
                for row in csv.DictReader(file)]


@pytest.mark.parametrize("study", ["throttle", "dual_ablation"])
def test_rows_follow_from_the_runs(study: str) -> None:
    page = (ROOT / "docs" / "throttle.md").read_text(encoding="utf-8").replace("−", "-").splitlines()
    for row in cells(kept_runs(study)):
        assert f"| {' | '.join(row.values())} |" in page


def test_the_last_round_passed_on_fresh_seeds() -> None:
    """All five fresh seeds are within the limit, with 80% of the best feasible return on average."""
    runs = [row for row in kept_runs() if (row["agent"], row["rule"], row["rho"]) == ("ddpm", "policy", 20)]
    fresh = [row for row in runs if row["seed"] >= 20]
    assert len(fresh) == 5 and all(row["feasible"] for row in runs)
    assert sum(row["share"] for row in fresh) / 5 >= 0.8
