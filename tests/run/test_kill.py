"""Real SIGKILLs at chosen file operations: whatever the moment, the run ends as if it had not been killed.

`python -m tests.soak` does this at every operation; here it is a fixed random sample.
"""

import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.soak import campaigns
from tests.soak.campaigns import SMALL, TOY, Ground, Trial, ground
from tests.soak.faults import Fault
from tests.soak.lives import KILLED, Life, lived, server, start

IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture(scope="module")
def arena() -> Iterator[Path]:
    """Return a folder in memory: a killed process leaves the same there as on a disk, and many fsyncs are fast."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def small(arena: Path) -> Ground:
    return ground(SMALL, arena / "small")


def hold(trials: list[Trial]) -> None:
    assert [trial.problem for trial in trials if trial.problem] == []


def audited(scratch: str, root: str) -> None:
    """Train a run, and write down the changes to files below a folder that the interpreter's audit events report."""
    seen: Counter[str] = Counter()

    def look(event: str, arguments: tuple) -> None:
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writing or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            path = arguments[1] if event == "os.rename" else arguments[0]
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")
            elif isinstance(arguments[-1], int) and arguments[-1] >= 0 and event in ("os.remove", "os.rmdir"):
                path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[-1]}"), os.fspath(path))
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(root):
                seen[event] += 1
                Path(scratch, "audit.txt").write_text(repr(dict(seen)))

    from tests.soak.lives import _live
    from tests.support.command import compose

    sys.addaudithook(look)
    os.makedirs(scratch)
    _live(compose(*SMALL, f"runs_dir={root}"), scratch, Fault(), 0.0)


def test_nothing_changes_a_file_without_being_counted(arena: Path) -> None:
    """The counter of `inject` sees every change of a file that the interpreter reports."""
    process = server().Process(target=audited, args=(str(arena / "audit"), str(arena / "audited")), daemon=True)
    process.start(), process.join()
    assert process.exitcode == 0
    reported = eval((arena / "audit" / "audit.txt").read_text())
    lines = (arena / "audit" / "operations.txt").read_text().splitlines()
    counted = Counter(line.split("\t")[0] for line in lines)
    assert reported == {"open": counted["open"], "os.rename": counted["rename"] + counted["replace"],
                        "os.remove": counted["unlink"] + counted["remove"], "os.mkdir": counted["mkdir"],
                        "os.rmdir": counted["rmdir"], "os.truncate": counted["truncate"] + counted["ftruncate"]}
    assert counted["write"] > 40 and counted["fsync"] > 40


def test_a_life_repeats_itself(small: Ground) -> None:
    """A second process makes the same operations in the same order, so the n-th is always the same."""
    config, scratch = small.place()
    again = lived(config, scratch)
    assert small.judge(config, again) is None
    assert again.operations == small.twin.operations


def test_exit_codes_are_told_to_whoever_asks(tmp_path: Path) -> None:
    """When trials run in parallel, as in full campaigns, starting a process does not lose another's exit code."""
    def code(number: int) -> int:
        process = server().Process(target=os._exit, args=(number,), daemon=True)
        start(process)
        return Life(process, tmp_path).code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(code, range(200))) == list(range(200))


def test_sigkill_at_every_kind_of_operation(small: Ground) -> None:
    """One kill for each function at each place, and one within a write there."""
    chance = random.Random(1)
    points = campaigns.kills_at_operations(small)
    chance.shuffle(points)
    kinds = {(small.twin.operations[fault.at - 1], bool(fault.share)): fault for fault in points}
    assert len(kinds) > 60
    trials = [campaigns.kill_at(small, fault) for fault in chance.sample(list(kinds.values()), 30)]
    hold(trials)
    assert sum(trial.faults for trial in trials) == 30


def test_sigkill_and_sigkill_again(small: Ground) -> None:
    """The second process is killed too, while it cuts tables and reads checkpoints, or later."""
    chance = random.Random(2)
    late = campaigns.late(small)
    hold([campaigns.kill_at(small, Fault(chance.randint(60, late)), again) for again in (3, 12, 16, 20, 24, 50)])


@pytest.mark.parametrize("keep_replay", [False, True])
def test_sigkill_while_a_finished_run_is_extended(keep_replay: bool, small: Ground, arena: Path) -> None:
    """With its replay kept, the extended run ends like one that was longer from the start."""
    first = ground([*SMALL, f"checkpoint.keep_replay={str(keep_replay).lower()}"], arena / f"first-{keep_replay}")
    longer = campaigns.extended(first, arena / f"extended-{keep_replay}", 40)
    assert "extending it to 40" in longer.twin.said
    assert ("its replay dropped" in longer.twin.said) != keep_replay
    hold([campaigns.kill_at(longer, fault) for fault in random.Random(3).sample(
        campaigns.kills_at_operations(longer), 5)])
    if keep_replay:
        whole = ground([*SMALL, "checkpoint.keep_replay=true", "total_steps=40"], arena / "whole")
        same = [name for name in whole.expected if name.endswith((".csv", "state.safetensors"))]
        # The first end has an evaluation that the longer run does not make there.
        assert [name for name in same if whole.expected[name] != longer.expected[name]] in ([], ["evals.csv"])


def test_sigkill_at_random_times(arena: Path) -> None:
    """ALGD on the toy task, killed from outside at random times, and when an unfinished file is seen in its folder."""
    toy = ground(TOY, arena / "toy")
    trials = [campaigns.kill_at_times(toy, random.Random(n), 3) for n in range(2)]
    trials += [campaigns.kill_at_signs(toy, random.Random(n)) for n in range(3)]
    hold(trials)
    assert sum(trial.faults for trial in trials) >= 4


def test_a_clock_that_jumps(small: Ground) -> None:
    """The system's clock is a day off at every second call, before and after a kill, without effect."""
    hold([campaigns.clock_jumps(small, Fault(at)) for at in (60, 130)])


def test_a_kill_is_a_kill(small: Ground) -> None:
    """The harness kills the process by SIGKILL in the middle of the requested write."""
    config, scratch = small.place()
    writes = [n for n, operation in enumerate(small.twin.operations, 1)
              if operation.function == "write" and operation.place == "episodes.csv"]
    life = lived(config, scratch, Fault(writes[-1], share=0.5))
    assert life.code == KILLED
    (table,) = Path(config["runs_dir"]).rglob("episodes.csv")
    assert not table.read_bytes().endswith(b"\n") and table.read_bytes().count(b"\n") == len(writes) - 1
