"""Several processes with one run: one trains, the others wait or refuse, and readers disturb nothing."""

import errno
import fcntl
import multiprocessing
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from algd.errors import UsageError
from algd.storage.lock import Lock
from algd.storage.provenance import is_ours, process_record
from algd.storage.run_folder import run_path
from launchers.states import is_held
from tests.soak import campaigns
from tests.soak.campaigns import SMALL, Ground, ground
from tests.soak.lives import begin, lived
from tests.support.command import outcome

IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture(scope="module")
def small() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield ground(SMALL, Path(folder))


def test_the_same_command_at_once(small: Ground) -> None:
    trials = [campaigns.together(small, random.Random(n), 3) for n in range(3)]
    assert [trial.problem for trial in trials if trial.problem] == []


def test_the_holder_is_killed(small: Ground) -> None:
    trials = [campaigns.take_over(small, random.Random(n)) for n in range(2)]
    assert [trial.problem for trial in trials if trial.problem] == []


def test_reading_while_it_is_written(small: Ground) -> None:
    """While a run is killed and resumed, readers of rows, states and `python -m analysis` never fail or read part of a
    row, and never prevent a start."""
    trial = campaigns.watched(small, random.Random(0), 3)
    assert (trial.problem, trial.faults) == (None, 3)


def test_fresh_twice_at_once(small: Ground) -> None:
    """Two processes start a run anew: each finished result is kept, and no run is trained by two."""
    config, scratch = small.place()
    assert lived(config, scratch / "first").code == 0
    anew = config | {"fresh": True}
    lives = [begin(anew, scratch / "second"), begin(anew, scratch / "third")]
    codes = sorted(life.code for life in lives)
    assert codes in ([0, 0], [0, 2]), [life.said for life in lives]
    folder = run_path(config)
    assert outcome(folder) == small.expected
    old = sorted(path for path in folder.parent.iterdir() if path != folder)
    assert len(old) == codes.count(0)
    assert [outcome(path) == small.expected for path in old] == [True] * len(old)


def test_a_lock_outlives_nobody(small: Ground) -> None:
    """What a process on a failed machine left in the lock's file and beside it does not block a run."""
    config, scratch = small.place()
    folder = run_path(config)
    folder.mkdir(parents=True)
    (folder / "lock").write_text("process 4711 on a-node-that-burned-down\n")
    (folder / ".status.json.4711.tmp").write_text("{")
    assert not is_held(folder)
    life = lived(config, scratch)
    assert small.judge(config, life) is None
    assert (folder / "lock").read_text().endswith(f" on {platform.node()}\n")
    assert not list(folder.glob(".*.tmp"))


def held(path: str, seconds: float, ready: str) -> None:
    lock = Lock(Path(path))
    Path(ready).touch()
    time.sleep(seconds)
    lock.release()


def test_the_refusal_names_the_holder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=held, args=(str(tmp_path / "lock"), 600, str(tmp_path / "ready")))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(UsageError, match=rf"\(process {process.pid} on {platform.node()}\); wait for it"):
        Lock(tmp_path / "lock")
    process.kill()
    process.join()
    Lock(tmp_path / "lock").release()


def test_looking_is_not_holding(tmp_path: Path) -> None:
    """`is_held` takes a shared lock for an instant, for which a process that wants to train waits."""
    looking = (tmp_path / "lock").open("a")
    fcntl.flock(looking, fcntl.LOCK_SH)
    waits, tells = os.pipe()
    child = os.fork()
    if child == 0:
        looking.close()  # the file description is shared: it is unlocked below, not here
        sleep = time.sleep

        def told(seconds: float) -> None:
            os.write(tells, b".")
            sleep(seconds)

        time.sleep = told  # type: ignore[assignment]
        try:
            Lock(tmp_path / "lock")
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(tells)
    assert os.read(waits, 1) == b"."  # nothing, if it has ended without waiting
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    fcntl.flock(looking, fcntl.LOCK_UN)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(waits)


def test_a_folder_that_is_moved_aside_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder is moved aside before it is locked, the lock is that of the new folder of this name."""
    (tmp_path / "run").mkdir()
    flock = fcntl.flock
    moves = iter([True])

    def moved_in_between(file: object, operation: int) -> None:
        if next(moves, False):
            (tmp_path / "run").rename(tmp_path / "run.old-1")
            (tmp_path / "run").mkdir()
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", moved_in_between)
    lock = Lock(tmp_path / "run" / "lock")
    assert is_held(tmp_path / "run") and not is_held(tmp_path / "run.old-1")
    lock.release()
    assert not is_held(tmp_path / "run")


def test_a_folder_that_is_moved_aside_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    flock = fcntl.flock

    def moved_in_between(file: object, operation: int) -> None:
        (tmp_path / "run").rename(tmp_path / "run.old-1")
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", moved_in_between)
    with pytest.raises(UsageError, match="run is not there: another process has just moved it aside or removed it;"):
        Lock(tmp_path / "run" / "lock")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(file: object, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(UsageError, match=r"lock cannot be locked .*: runs need a file system with locks"):
        Lock(tmp_path / "lock")


def test_a_process_is_known_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m launchers cancel` recognises the process of a record on this machine, whatever the system's clock."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    record = process_record(process.pid)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert is_ours(record)
    others = {"host": "elsewhere", "boot": "another", "ticks": record["ticks"] - 1, "pid": os.getpid()}
    for key, other in others.items():
        assert not is_ours(record | {key: other})
    process.kill()
    process.join()
    assert not is_ours(record) and not is_ours({"host": platform.node(), "pid": "1"})
