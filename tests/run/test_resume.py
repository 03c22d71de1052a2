"""A run that is killed or stopped, and started again, ends with the same bytes as an uninterrupted one."""

import contextlib
import csv
import json
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

import gymnasium
import pytest

from algd.errors import RunError, UsageError
from algd.run.start import SAME_DIFF
from algd.run.trainer import Trainer
from algd.storage.provenance import processor
from algd.storage.run_folder import RunFolder
from tests.support.command import TINY, only_run, outcome, run, start, status, train_here

# What is killed or stopped has no end that it could reach before. Only the last start has one, which is later than
# all that was reached: neither total_steps nor the snapshots' steps are part of a run's identity.
ENDLESS, SNAPSHOTS = "total_steps=1000000", "snapshots=[100]"
TASKS = {
    # A few seconds long, with so few checkpoints that every kill loses steps, and evaluations between them.
    "toy": ["env=toy", "initial_steps=60", "total_steps=600", "checkpoint.every=150", "eval.every=130",
            "eval.episodes=2", "log_every=50"],
    "point_button1": ["env=point_button1", "initial_steps=60", "total_steps=500", "checkpoint.every=130",
                      "eval.every=250", "eval.episodes=1", "log_every=50"],
    "hopper_velocity": ["env=hopper_velocity", "initial_steps=60", "total_steps=500", "checkpoint.every=120",
                        "eval.every=250", "eval.episodes=1", "log_every=50"],
}


def rows(folder: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        return (folder / name).read_bytes().count(b"\n")
    return 0


def wait_until(condition, process) -> None:
    """Wait until the condition holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.005)


def last_step(folder: Path) -> int:
    """Return the step of the last row of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return int([*csv.DictReader(file)][-1]["step"])


def folder_of(runs: Path) -> Path:
    # Not deeper than run folders, since files below them come and go.
    found = [path.parent for path in runs.glob("*/*/*/status.json")]
    return found[0] if found else runs


@pytest.mark.parametrize(("task", "compile"), [(task, "false") for task in TASKS] + [("toy", "true")])
def test_sigkill_changes_nothing(task: str, compile: str, tmp_path: Path) -> None:
    arguments = [*TINY, *TASKS[task], f"compile={compile}", "seed=3", SNAPSHOTS]
    runs = tmp_path / "killed"
    # Killed after these numbers of metrics' rows: before the first checkpoint, and between later ones.
    for rows_before_kill in (3, 8):
        process = start(*arguments, ENDLESS, f"runs_dir={runs}")
        wait_until(lambda n=rows_before_kill: rows(folder_of(runs), "metrics.csv") >= n, process)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
    end = f"total_steps={last_step(only_run(runs)) + 100}"
    twin = start(*arguments, end, f"runs_dir={tmp_path / 'twin'}")
    errors = run(*arguments, end, f"runs_dir={runs}")
    assert "going on from step" in errors
    assert twin.wait() == 0, twin.communicate()
    twin.communicate()
    expected, found = outcome(only_run(tmp_path / "twin")), outcome(only_run(runs))
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


@pytest.mark.parametrize("agent", ["ddpm", "gaussian"])
def test_stop_and_go_on(agent: str, tmp_path: Path) -> None:
    """SIGTERM writes a checkpoint at once, also during an evaluation, with exit code 143; the end is the same."""
    arguments = [*TINY, *TASKS["toy"], f"agent={agent}", "guidance=pid", "normalise.observation=true",
                 "normalise.reward=true", "eval.episodes=10", "compile=true", SNAPSHOTS]
    runs = tmp_path / "stopped"
    for evaluations in (5, 30):  # during the first evaluation, and the second
        process = start(*arguments, ENDLESS, f"runs_dir={runs}")
        wait_until(lambda n=evaluations: rows(folder_of(runs), "evals.csv") >= n, process)
        process.terminate()
        _, errors = process.communicate()
        assert process.returncode == 143, errors
        assert "the same command resumes from there" in errors
        assert status(only_run(runs))["state"] == "interrupted"
    end = f"total_steps={status(only_run(runs))['step'] + 100}"
    twin = start(*arguments, end, f"runs_dir={tmp_path / 'twin'}")
    run(*arguments, end, f"runs_dir={runs}")
    assert twin.wait() == 0, twin.communicate()
    twin.communicate()
    assert outcome(only_run(tmp_path / "twin")) == outcome(only_run(runs))


def test_checkpoint_on_request(tmp_path: Path) -> None:
    """SIGUSR1 writes a checkpoint between two steps, the only one after the first, and the same process goes on."""
    arguments = [*TINY, *TASKS["toy"], "checkpoint.every=100000", SNAPSHOTS]
    runs = tmp_path / "asked"
    process = start(*arguments, ENDLESS, f"runs_dir={runs}")
    wait_until(lambda: rows(folder_of(runs), "metrics.csv") >= 4, process)
    folder, before = only_run(runs), rows(folder_of(runs), "metrics.csv")
    asked = folder / "checkpoints" / "000002"
    assert (folder / "checkpoints" / "000001").is_dir() and not asked.exists()
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: asked.exists() or rows(folder, "metrics.csv") > before + 20, process)
    assert (asked / "manifest.json").exists()
    step = json.loads((asked / "state.json").read_text())["step"]
    wait_until(lambda: last_step(folder) > step, process)
    assert process.poll() is None and status(folder)["state"] == "running"
    process.kill()
    process.communicate()
    end = f"total_steps={step + 100}"
    twin = start(*arguments, end, f"runs_dir={tmp_path / 'twin'}")
    assert f"going on from step {step}\n" in run(*arguments, end, f"runs_dir={runs}")
    assert twin.wait() == 0, twin.communicate()
    twin.communicate()
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))


def test_finished_skipped_and_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path / 'runs'}", "checkpoint.keep_replay=true", "total_steps=260"]
    train_here(*short)
    folder = only_run(tmp_path / "runs")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    train_here(*short)
    assert "already finished at step 260" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    train_here(*short, "total_steps=400")
    assert "extending it to 400" in capsys.readouterr().err
    train_here(*short, f"runs_dir={tmp_path / 'twin'}", "total_steps=400")
    found, expected = outcome(folder), outcome(only_run(tmp_path / "twin"))
    for name in ("episodes.csv", "state.safetensors", "metrics.csv", "evals.csv"):
        assert found[name] == expected[name], name
    train_here(*short, "fresh=true", "total_steps=100")
    assert status(folder.with_name(folder.name + ".old-1"))["step"] == 400
    assert status(folder)["step"] == 100


def test_an_unfinished_run_cannot_end_before_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result would be an earlier evaluation's, and its replay would be dropped: nothing is changed."""
    advance = Trainer.advance

    def stops(self: Trainer) -> None:
        advance(self)
        if self.state.step == 200:
            self.requests.stop = "SIGTERM"

    arguments = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stops)
        assert train_here(*arguments) == 143
    folder = only_run(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="total_steps=199: this unfinished run is at step 200 already"):
        train_here(*arguments, "total_steps=199")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    train_here(*arguments, "total_steps=200")
    assert (status(folder)["state"], status(folder)["step"]) == ("finished", 200)


def test_extended_without_its_replay_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path}"]
    train_here(*arguments, "total_steps=100")
    assert not list((only_run(tmp_path) / "checkpoints" / "replay").iterdir())
    train_here(*arguments, "total_steps=200")
    assert "its replay dropped" in capsys.readouterr().err
    assert status(only_run(tmp_path))["step"] == 200
    assert [start_["exact"] for start_ in RunFolder(only_run(tmp_path)).meta()["starts"]] == [True, False]


def test_a_folder_removed_while_its_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Trainer.advance

    def removes(self: Trainer) -> None:
        advance(self)
        if self.state.step == 100:
            shutil.rmtree(self.folder.path)

    monkeypatch.setattr(Trainer, "advance", removes)
    with pytest.raises(RunError, match=r"seed=0-\w+ was removed while the run trained: nothing is left to resume"):
        train_here(*TINY, *TASKS["toy"], f"runs_dir={tmp_path}", "total_steps=400")


def test_seeds(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        train_here(*TINY, *TASKS["toy"], "total_steps=150", f"seed={seed}", f"runs_dir={tmp_path / name}")
    first, again, other = (outcome(only_run(tmp_path / name)) for name in ("first", "again", "other"))
    assert first == again
    assert all(first[name] != other[name] for name in ("episodes.csv", "evals.csv", "state.safetensors"))


def test_one_run_is_trained_once_at_a_time(tmp_path: Path) -> None:
    arguments = [*TINY, *TASKS["toy"], f"runs_dir={tmp_path}", "total_steps=100000"]
    process = start(*arguments)
    wait_until(lambda: rows(folder_of(tmp_path), "metrics.csv") >= 1, process)
    assert "is being trained by another process" in run(*arguments, code=2)
    process.kill()
    process.communicate()


def test_stopped_after_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process takes one step and stops at its checkpoint: in the initial steps, within and at the end of an
    episode, before and after evaluations, with a replay that has wrapped, and at the end."""
    arguments = [*TINY, "env=toy", "env.horizon=7", "agent=gaussian", "initial_steps=11", "total_steps=30",
                 "buffer_size=25", "eval.every=12", "eval.episodes=1", "log_every=5", "snapshots=3",
                 "normalise.observation=true", "normalise.reward=true", "guidance=pid"]
    train_here(*arguments, f"runs_dir={tmp_path / 'twin'}")
    advance = Trainer.advance

    def one_step(self: Trainer) -> None:
        advance(self)
        self.requests.stop = "SIGTERM"

    monkeypatch.setattr(Trainer, "advance", one_step)
    codes = [train_here(*arguments, f"runs_dir={tmp_path / 'steps'}")]
    while codes[-1]:
        codes.append(train_here(*arguments, f"runs_dir={tmp_path / 'steps'}"))
    assert codes == [143] * 41 + [0]
    assert outcome(only_run(tmp_path / "twin")) == outcome(only_run(tmp_path / "steps"))


SHORT = [*TINY, *TASKS["toy"], "agent=gaussian", "eval.every=1000", "total_steps=80", "checkpoint.every=50"]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was stopped at a checkpoint at step 60."""
    advance = Trainer.advance

    def stops(self: Trainer) -> None:
        advance(self)
        if self.state.step == 60:
            self.requests.stop = "SIGTERM"

    monkeypatch.setattr(Trainer, "advance", stops)
    assert train_here(*SHORT, f"runs_dir={tmp_path}") == 143
    monkeypatch.undo()
    return only_run(tmp_path)


def pretend(folder: Path, **facts: object) -> None:
    """Change what meta.json says about all starts so far."""
    run = RunFolder(folder)
    meta = run.meta()
    for start_ in meta["starts"]:
        versions = start_["versions"] | facts.get("versions", {})
        start_ |= facts | {"versions": versions}
    run.write_meta(meta)


def test_processors_of_one_name_and_two_generations_are_two(tmp_path: Path) -> None:
    """Virtual machines give both one name, but libraries choose kernels, and so the last bits, by generation."""
    about = tmp_path / "cpuinfo"
    names = []
    for family in (25, 26):
        about.write_text(f"processor\t: 0\ncpu family\t: {family}\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
                         "\nprocessor\t: 1\ncpu family\t: 6\n")
        names.append(processor(about))
    assert names == ["AMD EPYC (family 25, model 2)", "AMD EPYC (family 26, model 2)"]
    about.write_text("processor\t: 0\nCPU part\t: 0xd0c\n")
    assert processor(about) and processor(tmp_path / "missing") == platform.processor()


@pytest.mark.parametrize(("facts", "sentence"), [
    ({"host": "elsewhere"}, None),
    ({"processor": "Zilog Z80"}, "processor was Zilog Z80 and is"),
    ({"cpu_capability": "ALTIVEC"}, "instruction set was ALTIVEC and is"),
    ({"device": "cuda"}, "device was cuda and is cpu now"),
    ({"versions": {"torch": "0.4.1"}}, "torch was 0.4.1 and is"),
    ({"versions": {"wandb": "0.0.1"}}, None),
    ({"python": "2.7"}, "Python was 2.7 and is"),
    ({"threads": 3}, None),
    ({"commit": "0" * 40}, "the code was commit " + "0" * 40),
    ({"diff": "-lr = 1\n+lr = 2"}, "the code's uncommitted changes are not those of the last start"),
])
def test_resumed_elsewhere(facts: dict, sentence: str | None, stopped: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    """The run continues, and what makes it inexact is reported once; another host alone does not. The thread count is
    that of the first start."""
    pretend(stopped, **facts)
    capsys.readouterr()
    train_here(*SHORT, f"runs_dir={stopped.parents[2]}")
    said = capsys.readouterr().err
    first, last = RunFolder(stopped).meta()["starts"]
    assert last["exact"] == (sentence is None) and last["goes_on"] and not first["goes_on"]
    assert said.count("bit for bit as it would have") == (sentence is not None)
    assert sentence is None or sentence in said
    assert last["threads"] == facts.get("threads", 1) and last["host"] == platform.node() != facts.get("host")
    assert set(last) >= {"time", "host", "processor", "versions", "threads", "device", "command", "commit"}
    assert status(stopped)["state"] == "finished"


def test_another_thread_count(stopped: Path, capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread count is used if given, and reported; later starts are inexact too, even with the first count."""
    advance = Trainer.advance

    def stops(self: Trainer) -> None:
        advance(self)
        self.requests.stop = "SIGTERM"

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stops)
        assert train_here(*SHORT, f"runs_dir={stopped.parents[2]}", "threads=2") == 143
    assert "thread count was 1 and is 2 now: the run continues, but not bit for bit" in capsys.readouterr().err
    train_here(*SHORT, f"runs_dir={stopped.parents[2]}")
    assert "as it was begun, but an earlier start did not" in capsys.readouterr().err
    starts = RunFolder(stopped).meta()["starts"]
    assert [start_["threads"] for start_ in starts] == [1, 2, 1]
    assert [start_["exact"] for start_ in starts] == [True, False, False]


def test_another_code_of_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that env.id names is code of the run like a trusted one."""
    module = tmp_path / "slopes_for_a_test.py"
    module.write_text("import gymnasium\n\n\nclass Slope(gymnasium.Wrapper):\n    def step(self, action):\n"
                      "        *rest, info = self.env.step(action)\n        return *rest, info | {'cost': 0.0}\n\n\n"
                      "gymnasium.register('Slope-v0', lambda **keys: Slope(gymnasium.make('Pendulum-v1', **keys)),\n"
                      "                   max_episode_steps=20)\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [*TINY, "env=gymnasium", "env.id=slopes_for_a_test:Slope-v0", "initial_steps=20", "eval.episodes=1",
                 f"runs_dir={tmp_path / 'runs'}", "checkpoint.keep_replay=true"]
    try:
        train_here(*arguments, "total_steps=40")
        capsys.readouterr()
        module.write_text(module.read_text().replace("0.0", "1.0"))
        train_here(*arguments, "total_steps=40")
        assert "trained with other code of slopes_for_a_test than there is now" in capsys.readouterr().err
        train_here(*arguments, "total_steps=60")
    finally:
        gymnasium.registry.pop("Slope-v0", None)
        sys.modules.pop("slopes_for_a_test", None)
    assert "the code of slopes_for_a_test was " in capsys.readouterr().err
    starts = RunFolder(only_run(tmp_path / "runs")).meta()["starts"]
    assert [start_["exact"] for start_ in starts] == [True, False]


def test_a_start_that_came_to_no_checkpoint_settles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with two threads that is killed before its first checkpoint does not fix the thread count."""
    def dies(self: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "begin_or_resume", dies)
        train_here(*SHORT, f"runs_dir={tmp_path}", "threads=2")
    train_here(*SHORT, f"runs_dir={tmp_path}", "total_steps=70", "checkpoint.keep_replay=true")
    train_here(*SHORT, f"runs_dir={tmp_path}")
    starts = RunFolder(only_run(tmp_path)).meta()["starts"]
    assert [start_["threads"] for start_ in starts] == [2, 1, 1] and all(start_["exact"] for start_ in starts)
    assert "bit for bit" not in capsys.readouterr().err


def test_without_meta_nothing_is_known(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "meta.json").write_text('{"starts": [')
    train_here(*SHORT, f"runs_dir={stopped.parents[2]}")
    said = capsys.readouterr().err
    assert "meta.json is damaged" in said and "is not known without meta.json" in said
    assert (stopped / "meta.json.damaged-1").read_text() == '{"starts": ['
    assert [start_["exact"] for start_ in RunFolder(stopped).meta()["starts"]] == [False]


def test_meta_does_not_grow_with_every_start(tmp_path: Path) -> None:
    """The code's uncommitted changes are stored once, not at every start."""
    for steps in (61, 62, 63, 64):
        train_here(*SHORT, f"runs_dir={tmp_path}", f"total_steps={steps}", "checkpoint.keep_replay=true")
    diffs = [start_["diff"] for start_ in RunFolder(only_run(tmp_path)).meta()["starts"]]
    assert len(diffs) == 4 and all(diff in (None, SAME_DIFF) for diff in diffs[1:])


def test_a_video_that_a_kill_prevented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run whose video is missing gets it, and is otherwise unchanged."""
    arguments = [*SHORT, f"runs_dir={tmp_path}"]
    train_here(*arguments)
    before = outcome(only_run(tmp_path))
    train_here(*arguments, "eval.video=true")
    assert (only_run(tmp_path) / "videos" / "step80.mp4").exists() and "video: " in capsys.readouterr().err
    assert outcome(only_run(tmp_path)) == before
    train_here(*arguments, "eval.video=true")
    assert "already finished at step 80" in capsys.readouterr().err
