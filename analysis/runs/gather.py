"""Finding, reading and filtering the runs of a command."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from algd.config.values import printable
from algd.errors import UsageError
from analysis.runs.find import find_runs
from analysis.runs.model import Run
from analysis.runs.read import read_run
from analysis.runs.select import STATE, where

SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class Gathered:
    """The runs of a command.

    Attributes:
        runs: runs that were read and fit all conditions.
        absent: folders of sweep members that have not started.
        unreadable: reason for each folder, or run of W&B, that could not be read as a run.
        left_out: sentences on runs that are not this project's, or not in the states chosen.
    """

    runs: list[Run]
    absent: list[Path]
    unreadable: dict[Path, str]
    left_out: list[str]

    @property
    def remarks(self) -> list[str]:
        """Sentences on runs that are missing from the results."""
        said = list(self.left_out)
        if self.absent:
            said.append(f"The sweep has {len(self.absent)} more runs that have not started.")
        said += [f"Left out, since it cannot be read: {reason}." for reason in self.unreadable.values()]
        return said


def gather(names: Sequence[str], runs_dir: Path = Path("runs"), sampler: str = "deterministic",
           conditions: Sequence[str] = (), finished: bool = False, strict: bool = False, wandb: str | None = None,
           read: Callable[[Path, str], Run] = read_run, last: int = 1) -> Gathered:
    """Read the runs of the names and of a W&B project, and filter them.

    Args:
        names, runs_dir: see `find_runs`.
        sampler: sampler of the evaluations, "deterministic" or "stochastic".
        conditions: see `where`; runs that a condition on their state leaves out are named in `left_out`.
        finished: keep only finished runs; the others, also failed ones, are named in `left_out`.
        strict: whether to raise for a run that cannot be read.
        wandb: "entity/project", instead of names or in addition.
        read: function that reads a folder.
        last: number of evaluations over which the result of a run is the mean.

    Raises:
        UsageError: no names are given, no runs are found or left, or, with `strict`, a run cannot be read.
    """
    if not names and not wandb:
        raise UsageError("name runs, folders or sweeps to read, or --wandb ENTITY/PROJECT")
    found = find_runs(names, runs_dir)
    if names and not found.folders:
        raise UsageError(f"{' '.join(names)}: none of the {len(found.absent)} runs has started")
    runs, unreadable = [], {}
    for folder in found.folders:
        try:
            runs.append(read(folder, sampler))
        except UsageError as error:
            if strict:
                raise
            unreadable[folder] = str(error)
    left_out = []
    if wandb:
        from analysis.runs.wandb import read_project  # slow to import, and seldom needed

        mirrored, others, damaged = read_project(wandb, sampler)
        if strict and damaged:
            raise UsageError(next(iter(damaged.values())))
        runs += mirrored
        unreadable |= damaged
        if others:
            left_out.append(f"Not this project's, and left out: {listed(others)}.")
    if not runs:
        first = next(iter(unreadable.values()))
        raise UsageError(first if len(unreadable) == 1 else f"none of {len(unreadable)} runs can be read; {first}")
    of_state = [condition for condition in conditions if condition.partition("=")[0] == STATE]
    runs = where(runs, [condition for condition in conditions if condition not in of_state])
    chosen = where(runs, of_state)
    if finished:
        chosen = [run for run in chosen if run.state == "finished"]
        if not chosen:
            raise UsageError(f"--finished: none of the {len(runs)} runs is finished ({states(runs)})")
    kept = set(map(id, chosen))
    if dropped := [run for run in runs if id(run) not in kept]:
        said = " and ".join([*(f"--where {condition}" for condition in of_state), *["--finished"] * finished])
        left_out.append(f"Left out by {said}: {len(dropped)} of {len(runs)} runs ({states(dropped)}), so that safety "
                        f"is that of the runs that were chosen: {listed([short(run) for run in dropped])}.")
    runs = chosen
    return Gathered([replace(run, averaged=last) for run in runs], found.absent, unreadable, left_out)


def states(runs: Sequence[Run]) -> str:
    """Return the number of runs in each state, such as "1 failed, 2 running"."""
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(run.state for run in runs).items()))


def short(run: Run) -> str:
    """Return a short name of a run: <agent>-<guidance>/seed=<seed>-<identity>, the end of its path."""
    return printable("/".join(run.folder.parts[-2:]))


def listed(names: Sequence[str]) -> str:
    """Return the first names in a sentence, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
