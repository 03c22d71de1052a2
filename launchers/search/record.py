"""The results of a search, as search.json in its sweep's folder stores them."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from algd.storage.files import write_atomically

NAME = "search.json"


class TrialRecord(BaseModel):
    """A trial. The last four fields are of its last result, as means over seeds; None without a result.

    Attributes:
        number: counted from 0.
        state: one of complete, pruned (at a rung), failed, running.
        params: searched key ↦ value.
        runs: its runs' folders, relative to runs_dir.
        step: the environment step.
        gain: the return; named "return" in the file.
        cost: the cost, of the kind that the limit applies to.
        limit: the allowed cost.
    """

    number: int
    state: Literal["complete", "pruned", "failed", "running"]
    params: dict[str, int | float | str]
    runs: list[str]
    step: int | None = None
    gain: float | None = Field(None, alias="return")
    cost: float | None = None
    limit: float | None = None

    @property
    def feasible(self) -> bool:
        """Whether the last result is within the limit."""
        return self.cost is not None and self.limit is not None and self.cost <= self.limit


class SearchRecord(BaseModel):
    """A search and its trials.

    Attributes:
        name: the sweep's name.
        objectives, judged_by, sampler, n_trials: the search's settings.
        steps: environment steps of all runs together.
        best: numbers of the best trials; with two objectives there may be several.
        importances: key ↦ share of importance, most important first; empty if unknown.
        trials: by number.
    """

    name: str
    objectives: Literal["return", "return_and_cost"]
    judged_by: str
    sampler: str
    n_trials: int
    steps: int
    best: list[int]
    importances: dict[str, float]
    trials: list[TrialRecord]

    def write(self, directory: Path) -> None:
        """Write search.json into the sweep's folder."""
        directory.mkdir(exist_ok=True)
        write_atomically(directory / NAME, (self.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def read_record(directory: Path) -> SearchRecord | None:
    """Read search.json of a sweep's folder; None if there is none or it is damaged."""
    try:
        return SearchRecord.model_validate_json((directory / NAME).read_bytes())
    except (OSError, ValidationError):
        return None
