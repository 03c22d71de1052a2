"""Reading a run folder into a `Run`.

Only summaries are kept: apart from one per evaluation, the size of a `Run` does not grow with the run's length.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.config.identity import upgraded
from algd.config.values import printable
from algd.errors import UsageError
from algd.storage.run_folder import STATES, UNKNOWN, RunFolder, refuse_links
from algd.storage.yaml import read_yaml
from analysis.runs.episodes import TrainingRecord, evaluations, rows, summary
from analysis.runs.integrity import check_integrity
from analysis.runs.model import NEEDED, Run, terms
from analysis.runs.omnisafe import read_progress
from analysis.runs.select import flat


def read_run(folder: Path, sampler: str = "deterministic") -> Run:
    """Read a run folder of this project or of OmniSafe.

    Args:
        folder: the run's folder.
        sampler: sampler of the evaluations to read, "deterministic" or "stochastic".

    Raises:
        UsageError: a file of the run is missing, damaged or malformed.
    """
    refuse_links(folder)
    try:
        if not (folder / "config.yaml").exists() and (folder / "progress.csv").exists():
            return read_progress(folder)
        return _read(folder, sampler)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise UsageError(printable(f"{folder} cannot be read as a run ({reason})")) from error


def _read(folder: Path, sampler: str) -> Run:
    nested = read_yaml(folder / "config.yaml")
    if isinstance(nested, Mapping):
        nested = upgraded(nested)
    config = flat(nested)
    if lacking := [key for key in NEEDED if key not in config]:
        raise KeyError(lacking[0])
    check_integrity(folder, nested)
    wanted, limit, cost = terms(config)
    int(config["seed"])
    status = read_status(folder)
    training = TrainingRecord(rows(folder / "episodes.csv"), cost, limit)
    by_step = evaluations(rows(folder / "evals.csv"), sampler)
    seconds = status.get("seconds")
    return Run(
        folder, config, status["state"], status.get("reason"), status.get("step"),
        [summary(step, episodes, cost, limit, training.by(step)) for step, episodes in by_step.items()
         if len(episodes) >= wanted],
        {step: len(episodes) for step, episodes in by_step.items() if len(episodes) < wanted},
        training.by(), status.get("updates_per_second"), None if seconds is None else seconds / 3600,
        code=code_of(RunFolder(folder).meta()))


def code_of(meta: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the hashes of each trusted module's code that the starts in meta.json record."""
    found: dict[str, set[str]] = {}
    for start in meta.get("starts", []):
        for module, hashed in start.get("trusted", {}).items():
            found.setdefault(printable(module), set()).add(printable(str(hashed)))
    return {module: sorted(hashes) for module, hashes in found.items()}


def read_status(folder: Path) -> dict[str, Any]:
    """Read status.json; the state is "unknown" if it is missing or, with a reason, if it is damaged."""
    status = RunFolder(folder).status()
    kinds = {"state": str, "reason": str | None, "step": int | None, "updates_per_second": float | int | None,
             "seconds": float | int | None}
    wrong = [key for key, kind in kinds.items() if status and (
        not isinstance(value := status.get(key), kind) or (isinstance(value, int) and abs(value) >= 2**63))]
    if wrong or status.get("state", UNKNOWN) not in (*STATES, UNKNOWN):
        return {"state": UNKNOWN, "reason": f"status.json is damaged: its {(wrong or ['state'])[0]} cannot be"}
    return {"state": UNKNOWN} | status | {"reason": legible(status.get("reason"))}


def legible(reason: Any) -> str | None:
    """Return a reason, which may be anybody's, as lines of printable characters: a terminal obeys others."""
    return None if reason is None else "\n".join(map(printable, str(reason).splitlines()))
