"""Summarise a search's results as text and for the report: best trials, counts, importances."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from launchers.search.halving import Result
from launchers.search.record import SearchRecord, TrialRecord
from launchers.search.study import Study
from launchers.states import read_state
from launchers.sweeps import Member

STATES: dict[TrialState, Literal["complete", "pruned", "failed", "running"]] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running"}
FEWEST = 8  # least number of finished trials for importances


def importances(study: Study) -> dict[str, float]:
    """Return each key's share of importance, most important first; empty with too few trials, or if no key has any.

    Computed by PED-ANOVA (arXiv 2304.10255), which compares a key's values in the better trials with those in all. The
    objective is the return for feasible trials; infeasible ones rank below all of them, by their violation.
    """
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len(finished) < FEWEST or len(study.space.distributions) < 2:
        return {}
    results = {trial.number: last[1] for trial in finished if (last := study.last_result(trial))}
    worst = min(result.gain for result in results.values())

    def loss(trial: FrozenTrial) -> float:
        result = results[trial.number]
        return -result.gain if result.cost <= result.limit else result.cost - result.limit - worst

    with warnings.catch_warnings():
        # Optuna warns that the trials with the lowest values count as the better ones, as they are here, and that
        # `normalize` is experimental.
        warnings.simplefilter("ignore")
        try:
            # Normalised here, since Optuna gives equal shares to keys of which none has any importance.
            found = get_param_importances(study.study, evaluator=PedAnovaImportanceEvaluator(), target=loss,
                                          normalize=False)
        except (ValueError, RuntimeError):  # all values of a key are equal
            return {}
    total = sum(found.values())
    return {key: value / total for key, value in found.items()} if total > 0 else {}


def record(study: Study, members: Mapping[int, Sequence[Member]]) -> SearchRecord:
    """Return the search's current results for search.json.

    Args:
        study: the search.
        members: the runs of each trial, by trial number.
    """
    trials = []
    for trial in study.trials:
        step, result = study.last_result(trial) or (None, None)
        values = {} if result is None else {"return": result.gain, "cost": result.cost, "limit": result.limit}
        trials.append(TrialRecord.model_validate({
            "number": trial.number, "state": STATES[trial.state], "params": trial.params, "step": step, **values,
            "runs": ["/".join(member.folder.parts[-3:]) for member in members.get(trial.number, ())]}))
    steps = sum(max(read_state(folder).step, 0) for folder in {m.folder for runs in members.values() for m in runs})
    settings = study.settings
    return SearchRecord(name=study.study.study_name, objectives=settings.objectives, judged_by=settings.judged_by,
                        sampler=settings.sampler, n_trials=settings.n_trials, steps=steps,
                        best=[trial.number for trial in study.best()], importances=importances(study), trials=trials)


def describe(study: Study) -> str:
    """Describe the search in a few lines."""
    states = [trial.state for trial in study.trials]
    counts = ", ".join(f"{states.count(state)} {name}" for state, name in STATES.items() if state in states)
    lines = [f"{study.study.study_name}: {len(states)} of {study.settings.n_trials} trials: {counts or 'none'}"]
    for trial in study.best():
        _, result = study.last_result(trial) or (0, Result(math.nan, math.nan, math.nan))
        params = " ".join(f"{key}={value}" for key, value in trial.params.items())
        lines.append(f"  best: trial {trial.number}, return {result.gain:.4g}, cost {result.cost:.4g} of "
                     f"{result.limit:g}: {params}")
    if any(state == TrialState.COMPLETE for state in states) and not study.best():
        lines.append("  no trial is within the limit")
    if found := importances(study):
        lines.append("  importance: " + ", ".join(f"{key} {share:.0%}" for key, share in found.items()))
    return "\n".join(lines)
