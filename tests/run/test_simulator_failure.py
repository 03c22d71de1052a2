"""A simulator's error ends an episode, not the run: it is reported and counted, and nothing is learned from it."""

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest

from algd.algorithm.replay import Replay
from algd.budget import Budget
from algd.cli.modes import run_mode
from algd.envs.task import Task, probe
from algd.errors import SimulatorError, UsageError
from algd.logging.console import Console
from algd.run.faults.requests import Requests
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.run.train import train
from algd.seeding import episode_seed
from algd.storage.checkpoint import Checkpoints
from analysis.__main__ import main as table_of
from analysis.runs.read import read_run
from tests.support.command import TINY, compose, only_run, outcome, run, status, train_here
from tests.support.faulty_env import LENGTH, Faulty

RUN = [*TINY, "agent=gaussian", "env=gymnasium", "env.id=tests.support.faulty_env:Faulty-v0", "env.horizon=20",
       "env.limit=1",
       "initial_steps=40", "total_steps=160", "checkpoint.every=30", "eval.every=100", "eval.episodes=2",
       "log_every=40", "checkpoint.keep_replay=true", "simulator_errors=100"]


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def failed(folder: Path, name: str) -> list[dict[str, str]]:
    return [row for row in rows(folder, name) if row["simulator_error"] == "1"]


def kept_replay(folder: Path, observations: int, actions: int) -> Replay:
    replay, checkpoints = Replay(1000, observations, actions), Checkpoints(folder / "checkpoints")
    checkpoints.load(checkpoints.numbers()[-1], replay)
    return replay


class StopsAfter(Requests):
    """Requests a stop after this many looks, of which the trainer takes one between two steps."""

    def __init__(self, looks: int):
        self.looks = looks
        super().__init__()

    @property
    def stop(self) -> str | None:
        self.looks -= 1
        return "SIGTERM" if self.looks < 0 else None

    @stop.setter
    def stop(self, value: str | None) -> None:
        assert value is None


def test_it_ends_the_episode_as_a_time_limit_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, "+env.kwargs.fault=step", f"runs_dir={tmp_path}")
    folder, told = only_run(tmp_path), capsys.readouterr().err
    cut = failed(folder, "episodes")
    assert cut and {row["length"] for row in cut} == {"4"}  # The fifth step failed.
    assert {row["length"] for row in rows(folder, "episodes")} == {"4", str(LENGTH)}
    replay = kept_replay(folder, 2, 1)
    assert replay.added == len(replay) == 200
    batch = replay.split(replay.rows[:200])
    assert not batch.reward_done.any() and not batch.cost_done.any()
    ends = np.cumsum([int(row["length"]) for row in rows(folder, "episodes")])
    for row, end in zip(rows(folder, "episodes"), ends[ends < 200], strict=False):
        assert int(row["step"]) == end - 40
        # The last transition before the error leads to where it began; the next one starts an episode.
        assert batch.next_observation[end - 1].any() and not batch.observation[end].any()
    everything = len(cut) + len(failed(folder, "evals"))
    assert status(folder)["state"] == "finished" and status(folder)["simulator_errors"] == everything
    sentence = "raised RuntimeError: the solver did not converge in step 5 of the episode with seed"
    assert told.count(sentence) == everything
    assert f"({everything} of at most 100, traces in simulator-errors.log)" in told
    assert (folder / "simulator-errors.log").read_text().count("Traceback") >= everything
    assert int(rows(folder, "metrics")[-1]["simulator_errors"]) == everything


@pytest.mark.parametrize(("fault", "words", "length"), [
    ("reset", "raised RuntimeError: the world cannot be built in the reset of the episode", "0"),
    ("exception", "reported an exception of its simulator in step 5", "4")])
def test_wherever_it_fails(fault: str, words: str, length: str, tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, f"+env.kwargs.fault={fault}", f"runs_dir={tmp_path}")
    cut = failed(only_run(tmp_path), "episodes") + failed(only_run(tmp_path), "evals")
    assert cut and {row["length"] for row in cut} == {length}
    assert capsys.readouterr().err.count(words) == len(cut) == status(only_run(tmp_path))["simulator_errors"]


def test_a_video_ends_where_the_simulator_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was filmed is written, and the run is finished all the same."""
    arguments = [*RUN, "+env.kwargs.fault=step", "+env.kwargs.share=1", "+env.kwargs.filmed=true"]
    assert train_here(*arguments, "eval.video=true", f"runs_dir={tmp_path}") == 0
    folder, told = only_run(tmp_path), capsys.readouterr().err
    (film,) = (folder / "videos").iterdir()
    assert imageio_ffmpeg.count_frames_and_secs(film)[0] == 5
    assert f"video: {film}, until the simulator failed: env=tests.support.faulty_env-Faulty-v0 raised" in told
    assert status(folder)["state"] == "finished"


def test_a_run_without_a_video_of_its_end_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a reset that fails there is nothing to show."""
    arguments = [*RUN, "+env.kwargs.fault=reset", "+env.kwargs.share=1", "+env.kwargs.filmed=true"]
    assert train_here(*arguments, "eval.video=true", f"runs_dir={tmp_path}") == 0
    folder, told = only_run(tmp_path), capsys.readouterr().err
    assert "warning: the run is finished, but there is no video of it: env=" in told
    assert status(folder)["state"] == "finished" and not (folder / "videos").exists()


def test_mujoco_becomes_unstable(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo resets the state without telling the environment; such a transition is not stored."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT to the working directory.
    train_here(*RUN, "env.id=tests.support.faulty_env:Unstable-v0", f"runs_dir={tmp_path / 'runs'}")
    folder = only_run(tmp_path / "runs")
    cut = failed(folder, "episodes")
    assert cut and {row["length"] for row in cut} == {"4"}
    assert "the simulation became unstable (nan, infinite or huge velocities) in step 5" in capsys.readouterr().err
    replay = kept_replay(folder, 4, 1)
    batch = replay.split(replay.rows[:len(replay)])
    # One step cannot move the cart so far, but MuJoCo's reset would.
    assert (batch.next_observation - batch.observation).abs().max() < 10


def test_beyond_the_limit_the_run_fails_and_with_a_larger_one_it_goes_on(tmp_path: Path) -> None:
    """A run fails above the limit, resumes with a larger one, several times, and ends like an uninterrupted one."""
    arguments = [*RUN, "+env.kwargs.fault=step"]
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    total = status(only_run(tmp_path / "twin"))["simulator_errors"]
    assert total > 4
    errors = run(*arguments, "simulator_errors=2", f"runs_dir={tmp_path / 'runs'}", code=1)
    folder = only_run(tmp_path / "runs")
    sentence = "that makes 3, and simulator_errors=2 are survived"
    assert f"error: {status(folder)['reason'].removeprefix('SimulatorError: ')}" in errors
    assert sentence in errors and "Traceback" not in errors and status(folder)["state"] == "failed"
    for limit in range(3, total, 3):
        with pytest.raises(SimulatorError, match=f"that makes {limit + 1}, and"):
            train_here(*arguments, f"simulator_errors={limit}", f"runs_dir={tmp_path / 'runs'}")
    train_here(*arguments, f"runs_dir={tmp_path / 'runs'}")
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))
    assert status(folder)["simulator_errors"] == total


def test_none_is_survived_where_none_may_be(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="that makes 1, and simulator_errors=0 are survived"):
        train_here(*RUN, "simulator_errors=0", "+env.kwargs.fault=step", f"runs_dir={tmp_path}")


def test_an_environment_that_cannot_be_reset_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="that makes 101"):
        train_here(*RUN, "+env.kwargs.fault=reset", "+env.kwargs.share=1", f"runs_dir={tmp_path}")


def stopped_in_a_bad_episode(tmp_path: Path, arguments: list[str]) -> tuple[Path, dict[str, Any]]:
    """Return folder and checkpoint of a run that was stopped in an episode after the step that can fail."""
    for looks in range(6, 40, 4):
        assert train(compose(*arguments, f"runs_dir={tmp_path / str(looks)}"), StopsAfter(looks)) == 143
        folder = only_run(tmp_path / str(looks))
        state = Checkpoints(folder / "checkpoints").load(Checkpoints(folder / "checkpoints").numbers()[-1])
        env = Faulty("step", share=0.8)
        env.reset(seed=episode_seed(0, "training episode", state["episodes_begun"] - 1))
        if env.bad and len(state["actions"]) >= 5:
            return folder, state
    raise AssertionError("no such episode")


@pytest.mark.parametrize("faults", [1, 2])
def test_it_fails_while_the_open_episode_is_repeated(faults: int, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """One error while the episode is repeated is retried, exactly. After two the episode ends where it was stopped."""
    left = tmp_path / "left"
    left.write_text("0")
    arguments = [*RUN, "+env.kwargs.fault=step", "+env.kwargs.share=0.8", f"+env.kwargs.left={left}"]
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    folder, state = stopped_in_a_bad_episode(tmp_path, arguments)
    capsys.readouterr()
    left.write_text(str(faults))
    train_here(*arguments, f"runs_dir={folder.parents[2]}")
    told = capsys.readouterr().err
    assert "while the open episode was repeated: trying once more" in told and left.read_text() == "0"
    assert status(folder)["state"] == "finished"
    if faults == 1:
        assert outcome(folder) == outcome(only_run(tmp_path / "twin")) and failed(folder, "episodes") == []
        return
    assert "the open episode cannot be repeated: the run continues, but not exactly" in told
    (cut,) = failed(folder, "episodes")
    assert int(cut["episode"]) == state["episodes_begun"] - 1 and int(cut["length"]) == len(state["actions"])
    assert float(cut["return"]) == state["episode"]["reward"] and status(folder)["simulator_errors"] == 1


def test_a_fault_that_comes_once_leaves_no_trace_in_a_resumed_run(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("0")
    arguments = [*RUN, "+env.kwargs.fault=step", f"+env.kwargs.left={left}", "simulator_errors=0"]
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    left.write_text("1")
    with pytest.raises(SimulatorError):
        train_here(*arguments, f"runs_dir={tmp_path / 'runs'}")
    train_here(*arguments, f"runs_dir={tmp_path / 'runs'}")
    assert outcome(only_run(tmp_path / "runs")) == outcome(only_run(tmp_path / "twin"))


def test_evaluation_episodes_that_fail_are_marked_and_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, "+env.kwargs.fault=step", "+env.kwargs.costs=1", "+env.kwargs.share=0.5",
               "eval.episodes=8", f"runs_dir={tmp_path}")
    folder, told = only_run(tmp_path), capsys.readouterr().err
    evals = [row for row in rows(folder, "evals") if row["step"] == "100" and row["sampler"] == "deterministic"]
    cut = [row for row in evals if row["simulator_error"] == "1"]
    assert len(evals) == 8 and 0 < len(cut) < 8
    assert {row["cost"] for row in cut} == {"4.0"} and {row["cost"] for row in evals} == {"4.0", "20.0"}
    mean = (4 * len(cut) + 20 * (8 - len(cut))) / 8
    assert "step 100: evaluation, deterministic: return" in told and f"cost {mean:.4g} > 1 per episode" in told
    assert f"step 100: {len(cut)} of these 8 episodes were ended by the simulator" in told
    # Tables report it, and do not count the incomplete episode as a training episode.
    analysed, training = read_run(folder), [row for row in rows(folder, "episodes") if int(row["step"]) > 0]
    last = [row for row in rows(folder, "evals") if row["step"] == "160" and row["sampler"] == "deterministic"]
    assert analysed.last is not None and analysed.last.cut == sum(row["simulator_error"] == "1" for row in last) > 0
    assert analysed.training is not None
    assert analysed.training.episodes == sum(row["simulator_error"] == "0" for row in training) < len(training)
    assert analysed.training.total_cost == sum(float(row["cost"]) for row in training)
    assert table_of(["table", str(folder)]) == 0
    assert f"The simulator ended evaluation episodes early in 1 of 1 runs ({analysed.last.cut} in all)" in (
        capsys.readouterr().out)
    before = len(rows(folder, "evals"))
    again = ["mode=eval", f"run={folder}", "eval.episodes=8", "logger=none"]
    run_mode(compose(*again, "simulator_errors=100"))
    later = rows(folder, "evals")[before:]
    assert len(later) == 16 and 0 < sum(row["simulator_error"] == "1" for row in later) < 16
    with pytest.raises(SimulatorError, match="simulator_errors=0 are survived"):
        run_mode(compose(*again, "simulator_errors=0"))


def test_its_message_may_hold_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the traces nor the console, which a sweep keeps in the run's folder, have it."""
    monkeypatch.setenv("SIMULATOR_TOKEN", "t0ken-of-a-licence")
    console = Console(100, Budget(1.0, "episode", 20))
    SimulatorErrors(10, tmp_path / "log", console.warn).take(SimulatorError("401 for t0ken-of-a-licence"))
    assert "401 for ***" in (tmp_path / "log").read_text() and "401 for ***" in capsys.readouterr().err


def test_an_evaluation_that_is_begun_again_counts_its_failures_once(tmp_path: Path) -> None:
    arguments = [*RUN, "+env.kwargs.fault=step", "eval.episodes=8"]
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    # The first evaluation takes a look at every step.
    assert train(compose(*arguments, f"runs_dir={tmp_path / 'runs'}"), StopsAfter(150)) == 143
    assert status(only_run(tmp_path / "runs"))["simulator_errors"] < 16
    train_here(*arguments, f"runs_dir={tmp_path / 'runs'}")
    assert outcome(only_run(tmp_path / "runs")) == outcome(only_run(tmp_path / "twin"))


def test_half_an_episode_says_nothing_about_the_constraint(tmp_path: Path) -> None:
    """The PID rule ignores the cost of an incomplete episode, which is too low."""
    train_here(*RUN, "+env.kwargs.fault=step", "+env.kwargs.share=1", "+env.kwargs.costs=1", "guidance=pid",
               "guidance.dual.initial_multiplier=0.5", f"runs_dir={tmp_path}")
    assert {row["lam"] for row in rows(only_run(tmp_path), "metrics")} == {"0.5"}


class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        return json.loads("no world")


def test_an_environment_that_never_works_is_refused_before_the_run() -> None:
    task = Task(Broken(), "broken", "other", Budget(1.0, "episode", 10))
    with pytest.raises(UsageError, match=r"env=broken raised JSONDecodeError: .* before the run") as caught:
        probe(task)
    assert "\n" not in str(caught.value)
