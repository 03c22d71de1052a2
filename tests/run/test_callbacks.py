"""Callbacks get everything of a run and cannot change anything in it."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algd.config.trust import trust
from algd.errors import RunError, UsageError
from algd.run.callbacks import Callback
from tests.support.command import TINY, compose, only_run, outcome, status, train_here

HERE = "tests.run.test_callbacks"
RUN = [*TINY, "env=toy", "env.horizon=20", "agent=gaussian", "initial_steps=30", "total_steps=90", "eval.every=50",
       "eval.episodes=2", "updates_per_step=3", "log_every=30"]


class Watch(Callback):
    """Records what it gets, then overwrites it and reseeds all generators."""

    told: list[tuple[str, Any]] = []  # noqa: RUF012

    def vandalise(self, what: str, *arguments: Any) -> None:
        Watch.told.append((what, json.loads(json.dumps(arguments, default=lambda array: array.tolist()))))
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        for argument in arguments:
            for value in argument if isinstance(argument, tuple | list) else [argument]:
                if isinstance(value, np.ndarray):
                    value[...] = 99.0
                elif isinstance(value, dict):
                    value.clear()

    def on_start(self, folder: Path, config: Any) -> None:
        self.vandalise("start", str(folder), config)

    def on_step(self, step: int, transition: Any) -> None:
        self.vandalise("step", step, transition)

    def on_update(self, step: int, scalars: Any) -> None:
        self.vandalise("update", step, scalars)

    def on_episode(self, row: Any) -> None:
        self.vandalise("episode", row)

    def on_evaluation(self, rows: Any) -> None:
        self.vandalise("evaluation", rows)

    def on_end(self, state: str) -> None:
        self.vandalise("end", state)


class Fails(Callback):
    """Raises an error at an environment step."""

    def __init__(self, at: int, on_failure: Any = "drop"):
        super().__init__(on_failure)
        self.at, self.calls = at, 0

    def on_step(self, step: int, transition: Any) -> None:
        self.calls += 1
        assert step <= self.at, "called again"
        if step == self.at:
            raise KeyError("no such plot")


@pytest.fixture(autouse=True)
def trusted() -> None:
    trust([HERE])
    Watch.told.clear()


def test_everything_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    generators = random.getstate(), np.random.get_state()[1].tolist()
    train_here(*RUN, f"runs_dir={tmp_path / 'run'}", f"trusted=[{HERE}]",
               f"callbacks=[{{_target_:{HERE}.Watch}},{{_target_:algd.run.callbacks.PrintEpisodes,every:2}}]")
    assert generators == (random.getstate(), np.random.get_state()[1].tolist())
    folder = only_run(tmp_path / "run")
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))
    assert folder.name == only_run(tmp_path / "twin").name  # same identity
    told: dict[str, list[Any]] = {}
    for what, arguments in Watch.told:
        told.setdefault(what, []).append(arguments)
    assert [what for what, _ in Watch.told][::len(Watch.told) - 1] == ["start", "end"] and told["end"] == [["finished"]]
    assert told["start"][0][0] == str(folder) and told["start"][0][1]["total_steps"] == 90
    # 30 initial steps up to step 0, then 1 … 90; three updates at each; evaluations at 0, 50 and 90.
    assert [step for step, _ in told["step"]] == [*range(-29, 1), *range(1, 91)]
    assert [step for step, _ in told["update"]] == [step for step in range(1, 91) for _ in range(3)]
    assert {"critic_loss", "lam"} < told["update"][0][1].keys()
    assert [(len(rows), rows[0]["step"], rows[-1]["sampler"]) for (rows,) in told["evaluation"]] == [
        (4, step, "stochastic") for step in (0, 50, 90)]
    assert [row["episode"] for (row,) in told["episode"]] == list(range(6)) and told["episode"][0][0]["length"] == 20
    # A transition ends where the next begins, unless an episode ends there.
    transitions = [transition for _, transition in told["step"]]
    for before, after in pairwise(transitions):
        assert before[7] or before[4] == after[0]


def test_one_that_fails_is_named_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    train_here(*RUN, f"runs_dir={tmp_path / 'run'}", f"trusted=[{HERE}]",
               f"callbacks=[{{_target_:{HERE}.Fails,at:40}},{{_target_:{HERE}.Watch}}]")
    folder, errors = only_run(tmp_path / "run"), capsys.readouterr().err
    assert errors.count(f"warning: callback {HERE}.Fails failed in on_step: KeyError: 'no such plot'; the run "
                        "continues without it (the trace is in callback-errors.log)") == 1
    assert (folder / "callback-errors.log").read_text().count("Traceback") == 1
    assert sum(what == "step" for what, _ in Watch.told) == 120
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))


class Forgetful(Fails):
    """Does not call the constructor of `Callback`."""

    def __init__(self) -> None:
        self.at, self.calls = 3, 0


def test_one_that_fails_without_its_constructor_is_dropped_too(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, f"runs_dir={tmp_path}", f"trusted=[{HERE}]", f"callbacks=[{{_target_:{HERE}.Forgetful}}]")
    assert "Forgetful failed in on_step: KeyError" in capsys.readouterr().err


def test_one_that_fails_ends_the_run_as_asked_and_the_run_can_go_on(tmp_path: Path) -> None:
    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    runs, end = f"runs_dir={tmp_path / 'run'}", f"callbacks=[{{_target_:{HERE}.Fails,at:40,on_failure:stop}}]"
    with pytest.raises(RunError, match=rf"callback {HERE}.Fails failed in on_step: KeyError: .* the same command re"):
        train_here(*RUN, runs, f"trusted=[{HERE}]", end)
    assert status(only_run(tmp_path / "run"))["state"] == "failed"
    train_here(*RUN, runs)
    assert outcome(only_run(tmp_path / "run")) == outcome(only_run(tmp_path / "twin"))


@pytest.mark.parametrize(("given", "words"), [
    ("callbacks=[{_target_:os.system,command:x}]", "callbacks.0._target_='os.system': only code of this project"),
    ("callbacks=[{_target_:algd.run.callbacks.Callbacks}]", "annotated to return algd.run.callbacks.Callback"),
    ("callbacks=[{_target_:algd.run.callbacks.PrintEpisodes,every:0}]", "callbacks.0.every=0: it should be greater"),
    ("callbacks=[{_target_:algd.run.callbacks.PrintEpisodes,evry:3}]", "callbacks.0.evry is not a key"),
    ("callbacks=[{_target_:algd.run.callbacks.PrintEpisodes,on_failure:ignore}]", "'drop' or 'stop'"),
    ("callbacks=[PrintEpisodes]", "callbacks.0='PrintEpisodes': it should be a group of keys")])
def test_what_is_no_callback_is_refused(given: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose(*RUN, given)
    assert words in str(refused.value)
