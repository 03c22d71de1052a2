"""Compare the search with random search on throttle: python -m benchmarks.search [--seeds 8] [--trials 24]

Both search for ρ and λ's learning rate. A trial is throttle's loop (docs/throttle.md): the project's rule for λ, with a
policy that is always at the Lagrangian's minimiser, which takes a tenth of a second where networks take minutes. So
only the search is compared: the updates it spends, and how near it comes to the best return within the limit. The seeds
are those of the proposals.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState

from algd.envs.throttle import GAIN, optimum
from analysis.studies.throttle.theory import closed_loop
from launchers.search.halving import Result
from launchers.search.loop import run
from launchers.search.settings import SearchSettings
from launchers.search.space import parse
from launchers.search.study import Study, locked

RHO, RATE = "guidance.rho", "guidance.dual.learning_rate"
SPACE = [f"{RHO}=tag(log, interval(0.01, 10))", f"{RATE}=tag(log, interval(1e-4, 1e-1))"]
LIMIT, INITIAL_STEPS = 0.4, 300
NEAR = 0.95  # share of the greatest return within the limit
KINDS: dict[str, dict[str, object]] = {"tpe with halving": {"sampler": "tpe", "rungs": True},
                                       "tpe": {"sampler": "tpe"}, "random": {"sampler": "random"}}


class Loops:
    """A `Trainer` whose trials are throttle's loop.

    Args:
        updates: updates of a whole trial.
        multiplier: the initial λ.

    Attributes:
        spent: updates so far.
        near_after: updates spent when a whole trial first was within the limit and near the optimum; None: not yet.
    """

    def __init__(self, updates: int, multiplier: float):
        self.total_steps, self.multiplier = updates, multiplier
        self.spent = 0
        self.near_after: int | None = None
        self._done: dict[int, int] = {}

    def prepare(self, trials: Sequence[FrozenTrial]) -> None:
        """Do nothing: trials need no preparation."""

    def train(self, trials: Sequence[FrozenTrial], step: int) -> int:
        """Count the updates of training to this step."""
        for trial in trials:
            self.spent += step - self._done.get(trial.number, 0)
            self._done[trial.number] = step
        return 0

    def result(self, trial: FrozenTrial, step: int) -> Result | None:
        """Return the policy's return and cost at this update."""
        speeds, _ = closed_loop(LIMIT, trial.params[RHO], self.total_steps, INITIAL_STEPS, self.multiplier,
                                trial.params[RATE])
        result = Result(GAIN * float(speeds[step - 1]), float(speeds[step - 1]), LIMIT)
        near = result.violation <= 0 and result.gain >= NEAR * optimum(LIMIT, 1)
        if step == self.total_steps and near and self.near_after is None:
            self.near_after = self.spent
        return result

    def prune(self, trial: FrozenTrial, step: int) -> None:
        """Do nothing: there are no runs to mark."""

    def note(self) -> None:
        """Do nothing: there are no results to save."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one search.

    Attributes:
        spent: total updates.
        near_after: updates after which a trial was near the optimum; None: none was.
        share: best return within the limit, relative to the optimum; 0: none was within it.
    """

    spent: int
    near_after: int | None
    share: float


def search(kind: str, seed: int, given: argparse.Namespace, folder: Path) -> Outcome:
    """Run one search with the command's arguments."""
    keys = dict(KINDS[kind])
    rungs = [round(share * given.updates) for share in given.rungs] if keys.pop("rungs", False) else []
    settings = SearchSettings.model_validate({"n_trials": given.trials, "batch": 5, "n_startup_trials": 8, "seed": seed,
                                              "rungs": rungs, **keys})
    journal, loops = folder / f"{kind.replace(' ', '-')}-{seed}.journal", Loops(given.updates, given.multiplier)
    with locked(journal):
        study = Study(journal, parse(OverridesParser.create().parse_overrides(SPACE)), settings)
        run(study, loops)
    best = max((trial.values[0] for trial in study.trials
                if trial.state == TrialState.COMPLETE and trial.constraints["cost"] <= 0), default=0.0)
    return Outcome(loops.spent, loops.near_after, best / optimum(LIMIT, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--multiplier", type=float, default=0.6931, help="λ at the start; λ* is 0.6 (default 0.6931)")
    parser.add_argument("--rungs", type=float, nargs="+", default=[0.5], help="as shares of the updates (default 0.5)")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind of search; can be repeated")
    given = parser.parse_args(arguments)
    print(f"| {given.trials} trials, {given.seeds} seeds | updates (median) | until near the optimum (median) | "
          "found it | share of the optimum (median, least) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.only or KINDS:
            found = [search(kind, seed, given, Path(folder)) for seed in range(given.seeds)]
            near = sorted(outcome.near_after if outcome.near_after is not None else sys.maxsize
                          for outcome in found)
            middle = near[len(near) // 2]
            print(f"| {kind} | {median(outcome.spent for outcome in found):,.0f} | "
                  f"{f'{middle:,}' if middle < sys.maxsize else 'not reached'} | "
                  f"{sum(outcome.near_after is not None for outcome in found)} of {len(found)} | "
                  f"{median(outcome.share for outcome in found):.3f}, {min(outcome.share for outcome in found):.3f} |",
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
