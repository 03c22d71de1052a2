"""Mirrors with the real clients: wandb with a loopback server, and TensorBoard's own reader."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from algd.logging.sent import Sent
from algd.logging.tensorboard import TensorBoard
from algd.logging.wandb import Wandb, run_id
from tests.support.command import TINY, run
from tests.support.wandb_server import StoredRun, WandbServer

KEY = "0123456789abcdef" * 2 + "01234567"
ROOT = Path(__file__).resolve().parents[2]
EVALS = "step,sampler,source,episode,seed,return,cost,discounted_cost,length"
CONFIG = """
env: {name: toy, limit: 2.0, limit_kind: episode, horizon: 50}
agent: {name: vesde, learning_rate: 1.0e-05}
guidance: {name: augmented}
eval: {every: 100, episodes: 2}
experiment: rho
seed: 0
"""


class Training:
    """Writes a run's folder as the trainer does, with rows every 10 steps and an evaluation every 100."""

    def __init__(self, runs: Path):
        self.folder = runs / "toy" / "vesde-augmented" / "seed=0-1a2b3c4d"
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            (self.folder / "videos").mkdir()
            (self.folder / "config.yaml").write_text(CONFIG)
            (self.folder / "meta.json").write_text('{"starts": [{"commit": "abc", "diff": "' + "x" * 2000 + '"}]}')
            (self.folder / "metrics.csv").write_text("step,critic_loss,lam\n")
            (self.folder / "episodes.csv").write_text("step,episode,seed,return,cost,discounted_cost,length\n")
            (self.folder / "evals.csv").write_text(EVALS + "\n")

    def run(self, first: int, last: int) -> None:
        """Write the rows of steps in [first, last]."""
        for step in range(first, last + 1, 10):
            self.append("metrics.csv", f"{step},{step / 4},0.7")
            if step % 50 == 0:
                self.append("episodes.csv", f"{step},{step // 50},{step},{step / 2},3,2.5,50")
            if step % 100 == 0:
                for episode, cost in enumerate((1, 2)):
                    self.append("evals.csv", f"{step},deterministic,train,{episode},{episode},{step},{cost},0.5,50")
                for episode, cost in enumerate((2, 5)):
                    self.append("evals.csv", f"{step},stochastic,train,{episode},{episode},{step},{cost},0.5,50")

    def append(self, name: str, line: str) -> None:
        with (self.folder / name).open("a") as handle:
            handle.write(line + "\n")

    def cut(self, step: int) -> None:
        """Drop the rows newer than a checkpoint's step."""
        for name in ("metrics.csv", "episodes.csv", "evals.csv"):
            header, *rows = (self.folder / name).read_text().splitlines()
            kept = [row for row in rows if int(row.split(",")[0]) <= step]
            (self.folder / name).write_text("\n".join([header, *kept]) + "\n")


class BlackHole:
    """A server that accepts connections and never answers."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "this never came to hold"
        time.sleep(0.05)


def mirrors(folder: Path) -> list[int]:
    """Return the process ids of the folder's mirrors and of their clients' services."""
    commands = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
    found = [pid for pid, words in commands.items() if "--beside" in words and str(folder) in words]
    parents = {str(pid) for pid in found}
    return found + [pid for pid, words in commands.items() if "--pid" in words and parents & set(words)]


def files_with(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def synchronise(*directories: Path) -> None:
    """Upload with the command that users type."""
    command = [Path(sys.executable).with_name("wandb"), "sync", *directories]
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=directories[0].parent)


def send_later(warning: str, *options: str) -> None:
    """Run the command that a warning suggests."""
    command = shlex.split(warning.split("later with: ")[1])
    subprocess.run([sys.executable, *command[1:], *options], cwd=ROOT, check=True, timeout=120)


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def wandb_logger(mode: str, **options: object) -> Wandb:
    return Wandb(mode=mode, seconds_between_reads=0.1, **options)


def loss_rows(last: int) -> list[tuple[int, float]]:
    return [(step, step / 4) for step in range(10, last + 1, 10)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set a key that must stay secret, remove the user's settings, and allow no server except the tests' own."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", unused_address())


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "runs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def only_run(server: WandbServer) -> StoredRun:
    (run,) = server.runs.values()
    return run


def test_online_mirrors_everything_once(training: Training, server: WandbServer) -> None:
    logger = wandb_logger("online", tags=["mine"])
    logger.start(training.folder)
    training.run(10, 100)
    (training.folder / "videos" / "step=100.mp4").write_bytes(b"not a real film")
    eventually(lambda: server.runs)
    training.run(110, 200)
    (training.folder / "status.json").write_text('{"state": "finished", "step": 200, "simulator_errors": 3, '
                                                 '"warnings": ["λ rises", "Q grows"], "sha256": "ab"}')
    logger.close("finished")

    assert logger.warnings() == []
    assert list(server.runs) == ["toy-vesde-augmented-seed-0-1a2b3c4d"]
    run = only_run(server)
    assert run.exit_code == 0
    assert run.attributes["project"] == "algd"
    assert run.attributes["displayName"] == "toy/vesde-augmented/seed=0-1a2b3c4d"
    assert run.attributes["groupName"] == "rho"
    assert run.attributes["tags"] == ["mine", "toy", "vesde", "augmented"]
    assert run.config()["agent"] == {"name": "vesde", "learning_rate": 1e-05}
    assert run.config()["meta"] == {"starts": [{"commit": "abc"}]}
    assert '"1":"env_step"' in run.attributes["config"]  # the metric on the x-axis of the others

    assert run.rows("train/critic_loss") == loss_rows(200)
    assert run.rows("episode/return") == [(50, 25), (100, 50), (150, 75), (200, 100)]
    assert run.rows("eval/deterministic/return") == [(100, 100), (200, 200)]
    assert run.rows("eval/deterministic/cost") == [(100, 1.5), (200, 1.5)]
    assert run.rows("eval/deterministic/feasible") == [(100, 1), (200, 1)]
    assert run.rows("eval/stochastic/cost") == [(100, 3.5), (200, 3.5)]
    assert run.rows("eval/stochastic/feasible") == [(100, 0), (200, 0)]
    assert [step for step, _ in run.rows("eval/video")] == [100]
    assert 15 in run.files.values()  # the video's bytes
    assert run.summary["status/step"] == 200 and run.summary["status/simulator_errors"] == 3
    assert run.summary["warnings"] == "λ rises\nQ grows" and "status/sha256" not in run.summary
    assert mirrors(training.folder) == []
    assert files_with(training.folder, KEY) == []


def test_resumed_run_continues_its_wandb_run_and_repeats_no_step(training: Training, server: WandbServer) -> None:
    first = wandb_logger("online")
    first.start(training.folder)
    training.run(10, 180)
    first.close("interrupted")
    assert only_run(server).exit_code == 1
    training.cut(70)

    second = wandb_logger("online")
    second.start(training.folder)
    training.run(80, 300)
    second.close("finished")

    assert first.warnings() + second.warnings() == []
    run = only_run(server)
    assert run.exit_code == 0
    assert run.rows("train/critic_loss") == loss_rows(300)
    assert run.rows("eval/stochastic/return") == [(100, 100), (200, 200), (300, 300)]
    assert [line["_step"] for _, line in sorted(run.history.items())] == list(range(len(run.history)))


def test_offline_parts_of_a_resumed_run_sync_to_one_run(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, last, cut in ((10, 180, 70), (80, 300, None)):
        logger = wandb_logger("offline")
        logger.start(training.folder)
        training.run(first, last)
        logger.close("finished" if cut is None else "interrupted")
        assert logger.warnings() == []
        if cut is not None:
            training.cut(cut)
            time.sleep(1.1)  # The client names directories by the second.
    parts = sorted((training.folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert files_with(training.folder, KEY) == []

    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        synchronise(*parts)
        run = only_run(server)
        for _ in range(2):
            assert run.rows("train/critic_loss") == loss_rows(300)
            assert run.rows("eval/deterministic/return") == [(100, 100), (200, 200), (300, 300)]
            send_later(f"later with: python -m algd.logging.wandb {training.folder}")  # finds nothing missing


def test_refusing_server_costs_a_warning_and_no_row(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = wandb_logger("online", start_seconds=2)
    logger.start(training.folder)
    training.run(10, 200)
    said: list[str] = []
    eventually(lambda: said.extend(logger.warnings()) or said)
    logger.close("finished")
    assert logger.warnings() == []
    (warning,) = said
    assert os.environ["WANDB_BASE_URL"] in warning and "logged offline" in warning
    assert files_with(training.folder, KEY) == []

    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        send_later(warning)
        assert only_run(server).rows("train/critic_loss") == loss_rows(200)


def test_silent_server_is_left_and_the_rows_can_be_sent_later(training: Training,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with BlackHole() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        logger = wandb_logger("online", start_seconds=60, finish_seconds=2)
        logger.start(training.folder)
        training.run(10, 200)
        eventually(lambda: len(mirrors(training.folder)) == 2)
        logger.close("finished")
    (warning,) = logger.warnings()
    assert "did not take everything within 2 s" in warning
    eventually(lambda: not mirrors(training.folder))

    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        (training.folder / "status.json").write_text('{"state": "finished"}')
        for _ in range(2):  # The second time there is nothing to send.
            send_later(warning, "--project", "later")
        run = only_run(server)
        assert run.attributes["project"] == "later"
        assert run.rows("train/critic_loss") == loss_rows(200)
        assert run.rows("eval/deterministic/return") == [(100, 100), (200, 200)]


def test_dying_server_costs_a_warning_and_no_row(training: Training, server: WandbServer,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    logger = wandb_logger("online", finish_seconds=4)
    logger.start(training.folder)
    training.run(10, 100)
    eventually(lambda: server.runs)
    server.die()
    training.run(110, 200)
    logger.close("finished")
    (warning,) = logger.warnings()
    assert "did not take everything within 4 s" in warning
    eventually(lambda: not mirrors(training.folder))

    with WandbServer() as other:
        monkeypatch.setenv("WANDB_BASE_URL", other.url)
        send_later(warning)
        assert only_run(other).rows("train/critic_loss") == loss_rows(200)


def test_killed_mirror_is_one_warning_and_the_next_one_sends_what_was_lost(training: Training,
                                                                           server: WandbServer) -> None:
    logger = wandb_logger("online")
    logger.start(training.folder)
    assert logger.warnings() == []
    eventually(lambda: server.runs)
    training.run(10, 100)
    journal = training.folder / "wandb" / "journal.jsonl"
    eventually(lambda: journal.exists() and '"stochastic"' in journal.read_text())
    for pid in mirrors(training.folder):
        with contextlib.suppress(ProcessLookupError):  # without the mirror the client's service ends by itself
            os.kill(pid, signal.SIGKILL)
    said: list[str] = []
    eventually(lambda: said.extend(logger.warnings()) or said)
    logger.close("interrupted")
    (warning,) = said + logger.warnings()
    assert "the mirror to W&B ended" in warning and "CSV files are complete" in warning
    eventually(lambda: not mirrors(training.folder))
    run = only_run(server)
    run.history = {place: line for place, line in run.history.items() if place < 5}  # the others never arrived

    again = wandb_logger("online")
    again.start(training.folder)
    training.run(110, 200)
    again.close("finished")
    assert again.warnings() == []
    assert run.rows("train/critic_loss") == loss_rows(200)
    assert run.rows("episode/return") == [(50, 25), (100, 50), (150, 75), (200, 100)]
    assert run.rows("eval/stochastic/return") == [(100, 100), (200, 200)]


def test_signals_that_stop_a_training_do_not_stop_its_mirror(training: Training, server: WandbServer) -> None:
    logger = wandb_logger("online")
    logger.start(training.folder)
    eventually(lambda: mirrors(training.folder))
    for stopping in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(mirrors(training.folder)[0], stopping)
    eventually(lambda: server.runs)
    training.run(10, 200)
    logger.close("interrupted")
    assert logger.warnings() == []
    assert only_run(server).rows("train/critic_loss") == loss_rows(200)


@pytest.mark.parametrize("stopping", [signal.SIGKILL, signal.SIGINT])
def test_mirror_of_a_dead_training_sends_the_rest_and_ends(training: Training, server: WandbServer,
                                                           stopping: signal.Signals) -> None:
    script = ("import pathlib, sys, time; from algd.logging.wandb import Wandb; "
              "Wandb(mode='online').start(pathlib.Path(sys.argv[1])); time.sleep(600)")
    trainer = subprocess.Popen([sys.executable, "-c", script, training.folder], cwd=ROOT, start_new_session=True,
                               stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: server.runs)
        training.run(10, 200)
    finally:
        os.killpg(trainer.pid, stopping)  # as a terminal's Ctrl-C does, to the whole group
        trainer.wait()
    eventually(lambda: not mirrors(training.folder))
    run = only_run(server)
    assert run.exit_code == 1
    assert run.rows("train/critic_loss") == loss_rows(200)


def test_start_and_close_never_raise(training: Training) -> None:
    (training.folder / "wandb").write_text("a file where the directory should be")
    logger = wandb_logger("offline")
    logger.start(training.folder)
    (warning,) = logger.warnings()
    assert "did not start" in warning
    logger.close("finished")
    logger.close("finished")
    assert logger.warnings() == []


def test_run_id_is_safe_stable_and_new_after_a_fresh_start(training: Training) -> None:
    first = run_id(training.folder)
    assert first == run_id(training.folder) == "toy-vesde-augmented-seed-0-1a2b3c4d"
    training.folder.rename(training.folder.with_name(training.folder.name + ".old-1"))
    assert run_id(Training(training.folder.parents[2]).folder) == first + "-fresh1"
    long = training.folder.parent / ("x" * 200 + "=1a2b3c4d")
    assert len(run_id(long)) <= 128 and run_id(long).endswith("-1a2b3c4d")


def test_the_same_command_under_another_id_hands_the_rows_over(tmp_path: Path, server: WandbServer) -> None:
    """An agent of a W&B sweep that repeats a point of its grid must not get an empty trial."""
    trained = [*TINY, "env=toy", "agent=gaussian", "initial_steps=20", "total_steps=60", "log_every=20",
               "eval.every=60", "eval.episodes=1", "logger=wandb", "logger.mode=online", "logger.start_seconds=120",
               "logger.finish_seconds=60", f"runs_dir={tmp_path / 'runs'}"]
    said = {name: run(*trained, WANDB_RUN_ID=name) for name in ("first", "second")}
    assert "already finished" not in said["first"] and "already finished" in said["second"]
    assert "warning: W&B" not in said["first"] + said["second"]
    first, second = server.runs["first"], server.runs["second"]
    assert list(server.runs) == ["first", "second"] and (first.exit_code, second.exit_code) == (0, 0)
    assert [step for step, _ in first.rows("train/lam")] == [20, 40, 60]
    assert {name: first.rows(name) for name in ("train/lam", "episode/return", "eval/deterministic/return")} == {
        name: second.rows(name) for name in ("train/lam", "episode/return", "eval/deterministic/return")}
    # Each has all rows: neither id is sent anything again, and without an id the newest continues.
    for name in ("first", "second", ""):
        run(*trained, WANDB_RUN_ID=name)
    assert [len(server.runs[name].rows("train/lam")) for name in ("first", "second")] == [3, 3]
    assert list(server.runs) == ["first", "second"]


def test_journals_of_several_destinations_are_kept_apart(tmp_path: Path) -> None:
    """Also after a kill between the two renames, which leaves no journal.jsonl."""
    file = tmp_path / "journal.jsonl"
    for name, steps in (("a/b", (10, 20)), ("second", (10,))):
        sent = Sent(file)
        sent.turn_to(name)
        assert sent.records == []
        for step in steps:
            sent.add("metrics.csv", step)
        sent.save()
    sent.turn_to("a/b")
    assert sent.last_step("metrics.csv") == 20
    sent.save()
    file.rename(sent.journal_of("a/b"))
    for name, last in (("second", 10), ("a/b", 20)):
        (sent := Sent(file)).turn_to(name)
        assert (sent.last_step("metrics.csv"), Sent(file).identity) == (last, name)


def tensorboard_scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_each_step_once_over_a_resume(training: Training) -> None:
    first = TensorBoard(seconds_between_reads=0.1)
    first.start(training.folder)
    training.append("episodes.csv", "-20,-1,0,1.5,0,0,30")  # an episode of the initial steps
    training.run(10, 180)
    first.close("interrupted")
    training.cut(70)
    second = TensorBoard(seconds_between_reads=0.1)
    second.start(training.folder)
    training.run(80, 300)
    second.close("finished")

    assert first.warnings() + second.warnings() == []
    scalars = tensorboard_scalars(training.folder / "tensorboard")
    assert scalars["train/critic_loss"] == loss_rows(300)
    assert scalars["episode/return"] == [(-20, 1.5), *((step, step / 2) for step in range(50, 301, 50))]
    assert scalars["eval/stochastic/feasible"] == [(100, 0), (200, 0), (300, 0)]
