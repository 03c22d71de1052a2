"""Searches under a constraint: spaces, halving, and a journal in which no kill loses or duplicates a trial."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from algd.errors import UsageError
from algd.storage.run_folder import RunFolder
from launchers.search import study as study_module
from launchers.search.driver import Runs, result_of
from launchers.search.halving import Result, going_on
from launchers.search.loop import run
from launchers.search.settings import SearchSettings
from launchers.search.space import Space, parse
from launchers.search.study import Study, locked
from launchers.search.summary import importances
from launchers.sweeps import Member
from tests.launchers.test_slurm import runs_in
from tests.soak.campaigns import SMALL
from tests.soak.search import campaign
from tests.support.command import only_run, outcome, status, train_here
from tests.support.command import run as command

RHO, RATE = "guidance.rho", "guidance.dual.learning_rate"
TYPED = [f"{RHO}=tag(log, interval(0.01, 100))", f"{RATE}=tag(log, interval(1e-5, 1e-1))", "env=toy", "seed=3,4"]
LIMIT, TOTAL = 4.0, 900


def space_of(*typed: str) -> Space:
    return parse(OverridesParser.create().parse_overrides(list(typed)))


class Kill(BaseException):
    """Stands for a kill of the process."""


class Formula:
    """Trials whose result is a formula, within the limit only for small rho; training takes `TOTAL` steps.

    The best trial is rho = 2, rate = 1e-3, at the limit, with return 10.
    """

    total_steps = TOTAL

    def __init__(self) -> None:
        self.trained: list[tuple[int, int]] = []
        self.steps = 0

    def prepare(self, trials: Sequence[FrozenTrial]) -> dict[int, str]:
        return {}

    def train(self, trials: Sequence[FrozenTrial], step: int) -> int:
        for trial in trials:
            before = max((done for number, done in self.trained if number == trial.number), default=0)
            self.steps += step - before
            self.trained.append((trial.number, step))
        return 0

    def result(self, trial: FrozenTrial, step: int) -> Result | None:
        rho, rate = math.log10(trial.params[RHO]), math.log10(trial.params[RATE])
        gain = 10 + 5 * (rho - math.log10(2)) - 3 * (rate + 3) ** 2 - 2 * (1 - step / TOTAL)
        return Result(gain, LIMIT * 10 ** (rho - math.log10(2)), LIMIT)

    def prune(self, trial: FrozenTrial, step: int) -> None:
        pass

    def note(self) -> None:
        pass


def searched(journal: Path, trainer: Formula | None = None, **keys: object) -> Study:
    trainer = trainer or Formula()
    with locked(journal):
        study = Study(journal, space_of(*TYPED), SearchSettings.model_validate(keys))
        assert run(study, trainer) == 0
        return study


def told(study: Study) -> list[object]:
    return [(trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, trial.user_attrs,
             trial.constraints) for trial in study.trials]


# --- spaces --------------------------------------------------------------------------------------------------------


def test_spaces_in_hydras_words() -> None:
    space = space_of("a=interval(1.5,3)", "b=tag(log, interval(1, 8))", "c=range(0, 10, 3)", "d=x,y",
                     "e=choice([16,16],[64,64])", "f=int(interval(2, 5))", "g=range(0.5, 2, 0.5)", "h=3", "seed=5,6")
    assert space.distributions == {
        "a": FloatDistribution(1.5, 3), "b": FloatDistribution(1, 8, log=True), "c": IntDistribution(0, 9, step=3),
        "d": CategoricalDistribution(["x", "y"]), "e": CategoricalDistribution(["[16,16]", "[64,64]"]),
        "f": IntDistribution(2, 5), "g": FloatDistribution(0.5, 1.5, step=0.5)}
    assert (space.seeds, space.fixed) == ((5, 6), ("h=3",))
    assert space.members({"a": 2.5, "e": "[16,16]"}) == [["h=3", "a=2.5", "e=[16,16]", "seed=5"],
                                                         ["h=3", "a=2.5", "e=[16,16]", "seed=6"]]


@pytest.mark.parametrize(("typed", "says"), [
    (["seed=1,2", "env=toy"], "nothing is searched"), (["seed=interval(0,3)"], "a list, as in seed=0,1,2"),
    (["seed=x,y", "a=1,2"], "whole number"), (["a=interval(3,1)"], "a=interval(3,1): interval(a, b) needs a < b"),
    (["a=tag(log, interval(0, 1.0))"], "tag(log, interval(a, b)) needs a > 0"),
    (["a=tag(log, interval(0, 8))"], "tag(log, interval(a, b)) needs a > 0"), (["a=range(3,1)"], "positive step")])
def test_spaces_that_are_none(typed: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        space_of(*typed)


# --- halving -------------------------------------------------------------------------------------------------------


def test_feasible_comes_before_better() -> None:
    results = {0: Result(50, 9, 4), 1: Result(3, 4, 4), 2: Result(2, 0, 4), 3: Result(60, 5, 4)}
    assert sorted(results, key=lambda number: results[number].rank) == [1, 2, 3, 0]
    assert going_on(results, results, 2) == {1, 2} and going_on(results, results, 3) == {1, 2}
    assert going_on(results, results, 5) == {1}
    assert going_on({0: results[0], 3: results[3]}, results, 2) == set()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 0, 1), (1, 0, 2, 3)])
def test_what_is_not_a_number_comes_last(order: tuple[int, ...]) -> None:
    results = {0: Result(9, math.nan, 4), 1: Result(1, 3, 4), 2: Result(5, 900, 4), 3: Result(math.nan, 3, 4)}
    reached = {number: results[number] for number in order}
    assert going_on(reached, reached, 4) == {1} and going_on(reached, reached, 2) == {1, 2}


def test_a_limit_of_zero_is_not_divided_by() -> None:
    assert Result(0, 0.5, 0).violation == 0.5


# --- the journal ---------------------------------------------------------------------------------------------------

HALVING: dict[str, object] = {"n_trials": 7, "batch": 3, "rungs": [100, 300], "n_startup_trials": 3}


@pytest.mark.parametrize("when", ["before", "torn", "after"])
def test_a_kill_at_any_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The result is that of an undisturbed search if every fifth write to the journal kills it and it is repeated."""
    whole = told(searched(tmp_path / "whole.journal", **HALVING))
    append = study_module.JournalFileBackend.append_logs
    writes = itertools.count(1)
    journal = tmp_path / "killed.journal"

    def killed(backend: object, logs: list[dict[str, object]]) -> None:
        if next(writes) % 5:
            append(backend, logs)  # type: ignore[arg-type]
            return
        if when == "after":
            append(backend, logs)  # type: ignore[arg-type]
        elif when == "torn":
            before = journal.read_bytes()
            append(backend, logs)  # type: ignore[arg-type]
            journal.write_bytes(journal.read_bytes()[:len(before) + 10])
        raise Kill

    monkeypatch.setattr(study_module.JournalFileBackend, "append_logs", killed)
    trainer, kills = Formula(), 0
    while True:
        try:
            study = searched(journal, trainer, **HALVING)
            break
        except Kill:
            kills += 1
            assert kills < 100
    assert kills > 10
    assert told(study) == whole
    assert {state for _, state, *_ in whole} == {TrialState.COMPLETE, TrialState.PRUNED}  # type: ignore[misc]


def test_more_trials_continue_a_search(tmp_path: Path) -> None:
    few = told(searched(tmp_path / "x.journal", n_trials=4, batch=2))
    more = told(searched(tmp_path / "x.journal", n_trials=6, batch=2))
    assert more[:4] == few and len(more) == 6
    assert more == told(searched(tmp_path / "y.journal", n_trials=6, batch=2))


def test_a_journal_is_of_one_search_and_one_process(tmp_path: Path) -> None:
    searched(tmp_path / "x.journal", n_trials=1)
    with locked(tmp_path / "x.journal"):
        with pytest.raises(UsageError, match="another process"), locked(tmp_path / "x.journal"):
            pass
        with pytest.raises(UsageError, match="another space"):
            Study(tmp_path / "x.journal", space_of("a=1,2"), SearchSettings())
        with pytest.raises(UsageError, match="another judged_by"):
            Study(tmp_path / "x.journal", space_of(*TYPED), SearchSettings(judged_by="stochastic"))


def test_a_failed_trial_is_one_and_the_search_goes_on(tmp_path: Path) -> None:
    class Failing(Formula):
        def result(self, trial: FrozenTrial, step: int) -> Result | None:
            return None if trial.number == 1 else super().result(trial, step)

    journal = tmp_path / "x.journal"
    with locked(journal):
        study = Study(journal, space_of(*TYPED), SearchSettings(n_trials=3, batch=2))
        assert run(study, Failing()) == 1
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_cannot_be_trained_ends_and_the_search_goes_on(tmp_path: Path) -> None:
    """Also in a search that was resumed with it open: otherwise the same command would fail again, forever."""
    class Refusing(Formula):
        def prepare(self, trials: Sequence[FrozenTrial]) -> dict[int, str]:
            return {0: "batch_size=64: too large"}

    for batch in (1, 2):
        with locked(journal := tmp_path / f"{batch}.journal"):
            study = Study(journal, space_of(*TYPED), SearchSettings(n_trials=3, batch=batch))
            study.propose()
            trainer = Refusing()
            assert run(study, trainer) == 1
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
        assert {number for number, _ in trainer.trained} == {1, 2}


def test_both_ends_of_a_space_are_checked_before_it_begins(tmp_path: Path) -> None:
    for wrong in ("agent.discount=interval(0.9,1.2)", "batch_size=choice(16,100000)"):
        command("-m", *SMALL, "hydra/sweeper=optuna", f"runs_dir={tmp_path}", wrong, code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_full_length_is_not_marked_as_pruned(tmp_path: Path) -> None:
    """Two trials, or a trial and an earlier sweep, may have the same runs."""
    config = {"total_steps": 100, "fresh": False, "eval": {"video": False}}
    whole, part = (Member(tmp_path / "toy" / "a-b" / f"seed={seed}", config) for seed in (0, 1))
    for member, step in ((whole, 100), (part, 50)):
        member.folder.mkdir(parents=True)
        RunFolder(member.folder).write_status({"state": "finished", "step": step, "total_steps": step})
    space = space_of(*TYPED)
    with locked(tmp_path / "x.journal"):
        study = Study(tmp_path / "x.journal", space, SearchSettings())
        trial = study.propose() or study.trials[0]
        runs = Runs(study, None, None, {}, Member(tmp_path, {  # type: ignore[arg-type]
            "total_steps": 100, "runs_dir": str(tmp_path), "experiment": None}), "x")
        runs.members[trial.number] = [whole, part]
        runs.prune(trial, 50)
    assert [(status(member.folder)["state"], status(member.folder)["total_steps"]) for member in (whole, part)] == [
        ("finished", 100), ("pruned", 100)]


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    study = searched(tmp_path / "x.journal", n_trials=12, objectives="return_and_cost")
    front = study.best()
    assert 1 < len(front) <= 12
    for a, b in itertools.combinations(front, 2):
        assert (a.values[0] > b.values[0]) == (a.values[1] > b.values[1])


def test_the_key_that_makes_trials_good_is_important(tmp_path: Path) -> None:
    """Of a grid of two keys: a=1 makes the best trials, b=1 the worst, which are over the limit."""
    space = space_of("a=1,2,3,4", "b=1,2,3,4")
    with locked(tmp_path / "x.journal"):
        study = Study(tmp_path / "x.journal", space, SearchSettings())
        for a, b in itertools.product("1234", repeat=2):
            result = [10.0, 0.0, LIMIT] if a == "1" else [20.0, 9.0, LIMIT] if b == "1" else [5.0, 0.0, LIMIT]
            study.study.add_trial(create_trial(params={"a": a, "b": b}, distributions=dict(space.distributions),
                                               value=result[0], user_attrs={"at 900": result}))
        found = importances(study)
    assert list(found) == ["a", "b"] and found["a"] > 0.9


def test_without_importance_there_are_no_shares(tmp_path: Path) -> None:
    """Trials with equal results say nothing of the keys, least of all that they matter equally."""
    space = space_of("a=1,2,3,4", "b=1,2,3,4")
    with locked(tmp_path / "x.journal"):
        study = Study(tmp_path / "x.journal", space, SearchSettings())
        for a, b in itertools.product("1234", repeat=2):
            study.study.add_trial(create_trial(params={"a": a, "b": b}, distributions=dict(space.distributions),
                                               value=5.0, user_attrs={"at 900": [5.0, 0.0, LIMIT]}))
        assert importances(study) == {}


def best_gain(study: Study) -> float:
    return max((trial.values[0] for trial in study.trials if trial.state == TrialState.COMPLETE
                and trial.constraints["cost"] <= 0), default=-math.inf)


def test_it_finds_more_than_random_search_with_fewer_updates(tmp_path: Path) -> None:
    """With 8 seeds of the sampler, on a formula whose best point is at the limit."""
    gains: dict[str, list[float]] = {"tpe": [], "random": []}
    steps: dict[str, int] = {"tpe": 0, "random": 0}
    for seed, (kind, rungs) in itertools.product(range(8), [("tpe", [100, 300]), ("random", [])]):
        trainer = Formula()
        found = searched(tmp_path / f"{kind}{seed}.journal", trainer, n_trials=30, batch=5, sampler=kind, rungs=rungs,
                         n_startup_trials=8, seed=seed)
        gains[kind].append(best_gain(found))
        steps[kind] += trainer.steps
    assert steps["tpe"] < 0.6 * steps["random"]
    assert sorted(gains["tpe"])[4] > sorted(gains["random"])[4]


def test_a_result_needs_no_more_of_the_environment_than_its_limit(tmp_path: Path) -> None:
    """An environment of one's own may have no horizon."""
    (tmp_path / "evals.csv").write_text("step,sampler,source,return,cost,discounted_cost\n"
                                        "40,deterministic,train,3,2,1\n40,stochastic,train,9,9,9\n")
    RunFolder(tmp_path).write_status({"state": "finished", "step": 40})
    member = Member(tmp_path, {"env": {"name": "own", "limit": 4.0, "limit_kind": "discounted"}})
    assert result_of(member, 40, "deterministic") == Result(3, 1, 4)


def test_a_result_is_the_mean_over_episodes_and_seeds(tmp_path: Path) -> None:
    """Of two seeds with two episodes each: returns 1, 3 and 4, 8, costs 1, 2 and 3, 6; another step, sampler or source
    counts nothing. A seed without a result leaves the trial without one."""
    members = [Member(tmp_path / f"seed={seed}", {"env": {"name": "own", "limit": 4.0, "limit_kind": "episode"}})
               for seed in (0, 1)]
    for member, rows in zip(members, ([(1, 1), (3, 2)], [(4, 3), (8, 6)]), strict=True):
        member.folder.mkdir()
        lines = [f"40,deterministic,train,{gain},{cost},99" for gain, cost in rows]
        others = [f"{key},700,700,99" for key in ("20,deterministic,train", "40,stochastic,train",
                                                  "40,deterministic,later")]
        header = "step,sampler,source,return,cost,discounted_cost"
        (member.folder / "evals.csv").write_text("\n".join([header, *others, *lines, *others, ""]))
        RunFolder(member.folder).write_status({"state": "finished", "step": 40})
    assert [result_of(member, 40, "deterministic") for member in members] == [Result(2, 1.5, 4), Result(6, 4.5, 4)]
    with locked(tmp_path / "x.journal"):
        study = Study(tmp_path / "x.journal", space_of(*TYPED), SearchSettings())
        study.propose()
        (trial,) = study.trials
        runs = Runs(study, None, None, {}, Member(tmp_path, {  # type: ignore[arg-type]
            "total_steps": 40, "runs_dir": str(tmp_path), "experiment": None}), "x")
        runs.members[trial.number] = members
        assert runs.result(trial, 40) == Result(4, 3, 4)
        RunFolder(members[1].folder).write_status({"state": "failed", "step": 40})
        assert runs.result(trial, 40) is None


# --- real processes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """Return a folder with an undisturbed search and killed ones, what was reported, and the problems found."""
    folder, told = tmp_path_factory.mktemp("kills"), []
    places, problems = campaign(3, 2, folder, told.append, trials=4)
    assert places.total() == 3, told
    return folder, told, problems


def test_kills_of_a_real_search_change_nothing(kills: tuple[Path, list[str], list[str]]) -> None:
    """Kills of the search's process, alone or with its runs; `python -m tests.soak.search` makes 50 of them."""
    _, told, problems = kills
    assert problems == [], told


def test_a_pruned_run_is_finished_later_as_if_it_never_was(kills: tuple[Path, list[str], list[str]],
                                                           tmp_path: Path) -> None:
    """A plain run with its settings finishes it; tables, snapshots and networks are those of an uninterrupted run."""
    runs = kills[0] / "twin"
    pruned = [folder for folder in runs_in(runs) if status(folder)["state"] == "pruned"]
    assert 0 < len(pruned) < 4
    folder = pruned[0]
    assert status(folder)["step"] == 12 and status(folder)["total_steps"] == 24
    config = RunFolder(folder).config()
    arguments = [*SMALL, f"{RHO}={config['guidance']['rho']!r}",
                 f"{RATE}={config['guidance']['dual']['learning_rate']!r}"]
    train_here(*arguments, f"runs_dir={runs}")
    assert status(folder)["state"] == "finished" and status(folder)["step"] == 24
    train_here(*arguments, f"runs_dir={tmp_path}")
    assert outcome(folder) == outcome(only_run(tmp_path))


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "s.journal"
    journal.write_text("garbage\n")
    with pytest.raises(UsageError, match=r"s\.journal is damaged .*hydra\.launcher\.name=\.\.\. begins another search"):
        Study(journal, space_of("guidance.rho=interval(1, 2)"), SearchSettings())
