"""What a search has found, as search.json in its sweep's folder holds it for programs and for the report."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from algd.storage.files import write_atomically

NAME = "search.json"


class TrialRecord(BaseModel):
    """A trial. The last four are of its last result, means over its seeds; None: it has none.

    Attributes:
        number: from 0.
        state: complete, pruned at a rung, failed, or running.
        params: key ↦ value.
        runs: its runs' folders, below runs_dir.
        step: environment steps.
        gain: the return, called "return" in the file.
        cost: in the kind that the limit applies to.
        limit: allowed cost.
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
        """Whether its last result is within the limit."""
        return self.cost is not None and self.limit is not None and self.cost <= self.limit


class SearchRecord(BaseModel):
    """A search.

    Attributes:
        name: of its sweep.
        objectives, judged_by, sampler, n_trials: the search's keys.
        steps: environment steps that its runs have taken.
        best: numbers of the best trials; several where there are two objectives.
        importances: key ↦ share in what makes trials good, most important first; empty where they are not known.
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
        """Write it into its sweep's folder."""
        directory.mkdir(exist_ok=True)
        write_atomically(directory / NAME, (self.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def read_record(directory: Path) -> SearchRecord | None:
    """What a sweep's folder says of a search; None: the sweep is none, or the file is damaged."""
    try:
        return SearchRecord.model_validate_json((directory / NAME).read_bytes())
    except (OSError, ValidationError):
        return None
