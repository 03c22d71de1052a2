"""The campaigns: each injects one kind of fault many times, and compares the results with those of an undisturbed twin.

A campaign generates trials, so that a test can run a few and `python -m tests.soak` as many as there is time for. A
trial returns what it injected, where, and one sentence on what broke the promise, if anything did.
"""

import errno
import functools
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from algd.algorithm.replay import Replay
from algd.config.identity import identity
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.files import unsealed
from algd.storage.run_folder import RunFolder, run_path
from tests.soak.faults import NEEDS_ROOM, Fault
from tests.soak.lives import KILLED, Life, begin, differences, lived, server, start
from tests.support.command import TINY, compose, outcome

# Half a second long, with everything that a run does: initial steps, updates, evaluations, snapshots, checkpoints
# within episodes and at evaluations, a replay that wraps, and ends of episodes.
SMALL = [*TINY, "agent=gaussian", "batch_size=8", "buffer_size=20", "env=toy", "env.horizon=7", "initial_steps=12",
         "total_steps=24", "checkpoint.every=9", "eval.every=12", "eval.episodes=1", "log_every=8", "snapshots=2"]
# A diffusion policy, and enough steps for several kills between two checkpoints.
TOY = [*TINY, "agent=vesde", "env=toy", "initial_steps=40", "total_steps=160", "checkpoint.every=45", "eval.every=60",
       "eval.episodes=2", "log_every=25", "snapshots=3", "buffer_size=120"]
POINT = [*TINY, "agent=vesde", "env=point_button1", "initial_steps=60", "total_steps=260", "checkpoint.every=70",
         "eval.every=130", "eval.episodes=1", "log_every=50", "snapshots=2"]
CLOCK_JUMP = 86400.0


@dataclass(frozen=True)
class Trial:
    """What a trial injected and found.

    Attributes:
        place: what was hit, as counted in tables.
        faults: number of faults.
        problem: what went wrong, with what is needed to repeat it; None: the promise was kept.
        outcome: result, as counted in tables.
    """

    place: str
    faults: int
    problem: str | None
    outcome: str = "the twin's bytes"


@dataclass
class Ground:
    """A command with its twin, which is an undisturbed run of it.

    Attributes:
        config: composed configuration; each trial has its own `runs_dir`.
        folder: folder of the trials and the twin.
        start: run folder that every trial starts from, for instance to extend it; None: none.
        twin: the twin's process.
        expected: contents of the twin's files at the end.
        seconds: duration of the twin.
    """

    config: dict[str, Any]
    folder: Path
    start: Path | None = None
    twin: Life = field(init=False)
    expected: dict[str, bytes] = field(init=False)
    seconds: float = field(init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        config, scratch = self.place()
        warm = server().Process()
        warm.start()
        warm.join()
        begun = time.monotonic()
        self.twin = lived(config, scratch)
        self.seconds = time.monotonic() - begun
        assert self.twin.code == 0, self.twin.said
        self.expected = outcome(run_path(config))

    @property
    def twin_folder(self) -> Path:
        """The twin's run folder."""
        return run_path(self.config | {"runs_dir": str(self.folder / "1" / "runs")})

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder)

    def place(self) -> tuple[dict[str, Any], Path]:
        """Return the configuration with a new runs_dir, and a folder for the processes' output."""
        trial = self.folder / str(next(self._numbers))
        config = self.config | {"runs_dir": str(trial / "runs")}
        if self.start is not None:
            shutil.copytree(self.start, run_path(config))
        return config, trial / "lives"

    def judge(self, config: Mapping[str, Any], life: Life) -> str | None:
        """Return what is wrong with a process that should have ended as the twin did."""
        if life.code != 0:
            return f"exit code {life.code}: {life.said[-500:]}"
        different = differences(self.expected, outcome(run_path(config)))
        return f"different: {', '.join(different)}" if different else None


def ground(arguments: Sequence[str], folder: Path) -> Ground:
    """Train the twin of a command."""
    return Ground(compose(*arguments), folder)


def extended(ground: Ground, folder: Path, steps: int) -> Ground:
    """Return the same command with more steps, whose trials all extend the first twin's run."""
    return Ground(ground.config | {"total_steps": steps}, folder, ground.twin_folder)


def finish(ground: Ground, config: Mapping[str, Any], scratch: Path) -> str | None:
    """Run to the end without faults. Returns what is wrong; removes the trial's folder if nothing is."""
    life = lived(config, scratch)
    problem = ground.judge(config, life)
    if problem is None:
        shutil.rmtree(Path(config["runs_dir"]).parent)
    return problem


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


def kills_at_operations(ground: Ground) -> list[Fault]:
    """Return a kill before every operation on a file, and two within every write."""
    points = []
    for number, operation in enumerate(ground.twin.operations, 1):
        points.append(Fault(number))
        if operation.function == "write":
            points += [Fault(number, share) for share in (0.01, 0.9)]
    return points


def kill_at(ground: Ground, fault: Fault, again: int | None = None) -> Trial:
    """Kill one process at an operation, perhaps a second one, and let another finish the run.

    Args:
        again: operation at which the second process is killed, if it gets that far.
    """
    config, scratch = ground.place()
    first = lived(config, scratch / "1", fault)
    place = f"{first.operations[-1]}{' (in the middle)' * bool(fault.share)}"
    if first.code != KILLED:
        return Trial(place, 0, f"{fault} did not kill: exit code {first.code}: {first.said[-500:]}")
    kills = 1
    if again is not None:
        kills += lived(config, scratch / "2", Fault(again)).code == KILLED
    problem = finish(ground, config, scratch / "3")
    return Trial(place, kills, problem and f"{fault}, then {again}: {problem}")


def kill_at_times(ground: Ground, chance: random.Random, kills: int) -> Trial:
    """Kill processes at random times, until there are enough kills or one ends before."""
    config, scratch = ground.place()
    done = 0
    for number in range(kills):
        life = begin(config, scratch / str(number))
        life.wait(chance.uniform(0.1, 0.6) * ground.seconds)
        life.kill()
        if life.code == 0:
            break
        if life.code != KILLED:
            return Trial("at a random time", done, f"exit code {life.code}: {life.said[-500:]}")
        done += 1
    return Trial("at a random time", done, finish(ground, config, scratch / "last"))


def kill_at_signs(ground: Ground, chance: random.Random) -> Trial:
    """Kill a process when its work is seen from outside, as an unfinished file or a growing table."""
    config, scratch = ground.place()
    folder = run_path(config)
    signs: dict[str, Callable[[], bool]] = {
        "an unfinished checkpoint is there": functools.partial(_is_unfinished, folder / "checkpoints", ".tmp"),
        "an unfinished file is there": functools.partial(_is_unfinished, folder, "json.tmp"),
        "a table grows": functools.partial(_has_grown, folder / "episodes.csv", {}),
    }
    name = chance.choice(list(signs))
    life = begin(config, scratch / "1")
    times = chance.randint(1, 4)
    while times and not life.wait(0):
        times -= signs[name]()
        time.sleep(0.0002)
    life.kill()
    if life.code not in (0, KILLED):
        return Trial(f"when {name}", 0, f"exit code {life.code}: {life.said[-500:]}")
    return Trial(f"when {name}", int(life.code == KILLED), finish(ground, config, scratch / "2"))


def _is_unfinished(folder: Path, ending: str) -> bool:
    return any(name.endswith(ending) for _, folders, files in os.walk(folder) for name in (*folders, *files))


def _has_grown(file: Path, seen: dict[str, int]) -> bool:
    try:
        size = file.stat().st_size
    except OSError:
        return False
    grown, seen["size"] = size > seen.get("size", 0), size
    return grown


# --- full disks -------------------------------------------------------------------------------------------------------


def failures(ground: Ground) -> list[Fault]:
    """Return errors at every operation that needs room: once, permanently, and within every write; also for quotas,
    input/output errors and file systems that become read-only."""
    points = []
    for number, operation in enumerate(ground.twin.operations, 1):
        if operation.function in NEEDS_ROOM:
            points += [Fault(number, error=errno.ENOSPC, lasting=True), Fault(number, error=errno.ENOSPC),
                       Fault(number, error=errno.EDQUOT), Fault(number, error=errno.EIO),
                       Fault(number, error=errno.EROFS, lasting=True)]
            if operation.function == "write":
                points.append(Fault(number, share=0.5, error=errno.ENOSPC, lasting=True))
    return points


def fail_at(ground: Ground, fault: Fault) -> Trial:
    """Let an operation fail, then finish with room: one-sentence error, valid checkpoint, the twin's end."""
    config, scratch = ground.place()
    life = lived(config, scratch / "1", fault)
    assert fault.error is not None
    place = f"{errno.errorcode[fault.error]} at {ground.twin.operations[fault.at - 1].function}"
    problem = _told_once(life) if life.code else None
    if problem is None and life.code not in (0, 1, 2):
        problem = f"exit code {life.code}: {life.said[-500:]}"
    if problem is None:
        problem = _good_checkpoint(config)
    told = "carried on" if life.code == 0 else "one sentence"
    problem = problem or finish(ground, config, scratch / "2")
    return Trial(place, 1, problem and f"{fault}: {problem}", told + ", then the twin's bytes")


def _told_once(life: Life) -> str | None:
    """Return what is wrong with the error that a process reported."""
    if "Traceback" in life.said:
        return f"a traceback: {life.said[-800:]}"
    if (count := sum(line.startswith("error: ") for line in life.said.splitlines())) != 1:
        return f"{count} sentences of error: {life.said[-500:]}"
    return None


def _good_checkpoint(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the newest checkpoint of a run that ended early; None: nothing, or there is none."""
    checkpoints = Checkpoints(run_path(config) / "checkpoints", identity(config))
    if not checkpoints.numbers():
        return None
    try:
        checkpoints.load(checkpoints.numbers()[-1], Replay(config["buffer_size"], 3, 2))
    except DamagedCheckpoint as error:
        return f"the newest checkpoint is not good: {error}"
    return None


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGES = ("truncated", "emptied", "flipped", "deleted", "another run's")


@dataclass
class Wreck:
    """A run's folder to be damaged, and the same files of another run.

    Attributes:
        ground: the command.
        folder: the run's folder after some process.
        other: the same after a process of the same command with another seed.
    """

    ground: Ground
    folder: Path
    other: Path

    @property
    def files(self) -> list[str]:
        """The files that can be damaged."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                      if path.is_file() and path.name != "lock" and ".tmp" not in str(path))


def late(ground: Ground) -> int:
    """Return the operation before which a run has two valid checkpoints, and rows newer than both."""
    return max(number for number, operation in enumerate(ground.twin.operations, 1) if operation.function == "rename")


def wreck(ground: Ground, number: int | None) -> Wreck:
    """Run two seeds, killed at an operation or (None) to the end, and return their folders."""
    folders = []
    for seed in (ground.config["seed"], ground.config["seed"] + 1):
        config, scratch = ground.place()
        config |= {"seed": seed}
        life = lived(config, scratch / "1", Fault(number) if number else None)
        assert life.code == (KILLED if number else 0), life.said
        folders.append(run_path(config))
    return Wreck(ground, *folders)


FOLDERS = ("checkpoints", "checkpoints/replay", "snapshots")


def damages(wreck: Wreck, chance: random.Random, flips: int) -> Iterator[tuple[str, str, float]]:
    """Yield every file and folder of the run with every kind of damage: (name, damage, place in the file)."""
    for name in FOLDERS:
        yield name, "deleted", 0.0
        yield name, "another run's", 0.0
    for file in wreck.files:
        for damage in DAMAGES:
            for _ in range(flips if damage == "flipped" else 1):
                yield file, damage, chance.random()


def damage(wreck: Wreck, file: str, kind: str, where: float) -> Trial:
    """Damage one file and run the command: the twin's bytes and a warning, or a refusal in one sentence.

    No warning is needed for damage in what is not used: rows newer than the checkpoint, an older checkpoint, and what
    the command writes anew.
    """
    ground = wreck.ground
    config, scratch = ground.place()
    folder = run_path(config)
    shutil.copytree(wreck.folder, folder)
    path = folder / file
    place = f"{kind_of(file)} {kind}"
    if file in FOLDERS:
        shutil.rmtree(path)
        if kind == "another run's":
            shutil.copytree(wreck.other / file, path)
        matters = any((wreck.folder / file).iterdir())
    else:
        before = path.read_bytes()
        if kind == "another run's":
            path.write_bytes((wreck.other / file).read_bytes())
        else:
            inflict(path, kind, where)
        after = path.read_bytes() if path.exists() else None
        matters = before != after and is_used(wreck.folder, file, before, after)
    life = lived(config, scratch / "1")
    problem, how = None, "the twin's bytes"
    told = [line for line in life.said.splitlines() if "warning: " in line and "perhaps not bit for bit" not in line]
    if life.code:
        problem, how = _told_once(life), "refused in one sentence"
    elif different := differences(ground.expected, outcome(folder)):
        snapshots = [path.name for path in (wreck.folder / "snapshots").iterdir() if file.startswith("snapshots")]
        unsaid = [name for name in different if name not in snapshots or not any(name in line for line in told)]
        problem = f"silently different: {', '.join(unsaid)}" if unsaid else None
        how = "told, and the rest is the twin's"
    if problem is None and matters and not life.code:
        if not any(Path(file).name in line or file.split("/")[0] in line for line in told):
            problem = "nothing was said"
        how += ", with a warning"
    if problem is None:
        shutil.rmtree(folder.parents[3])
    return Trial(place, 1, problem and f"{file} {kind} at {where:.4f}: {problem}: {life.said[-600:]}", how)


def kind_of(file: str) -> str:
    """Return a file's name without what distinguishes it from others of its kind."""
    if file.endswith(".rows"):
        return "replay segment"
    return "snapshot" if file.startswith("snapshots/") else re.sub(r"\d{6}", "N", file)


def inflict(path: Path, kind: str, where: float) -> None:
    """Damage a file; `where` in [0, 1) is the place in it, for kinds of damage that have one."""
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[:int(len(content) * where)])
    elif content:
        bit = int(len(content) * 8 * where)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)


def is_used(folder: Path, file: str, before: bytes, after: bytes | None) -> bool:
    """Return whether continuing depends on the part of a file that has changed."""
    checkpoints = Checkpoints(folder / "checkpoints")
    newest = folder / "checkpoints" / f"{checkpoints.numbers()[-1]:06d}"
    if file.endswith(".csv"):
        position = json.loads((newest / "state.json").read_bytes())["tables"][Path(file).stem]
        return after is None or hashlib.sha256(after[:position["size"]]).hexdigest() != position["sha256"]
    if file.startswith("checkpoints/0"):
        return Path(file).parts[1] == newest.name and not _same_json(before, after)
    if file.startswith("checkpoints/replay/"):
        manifest = json.loads((newest / "manifest.json").read_bytes())
        return Path(file).name in {s["file"] for s in (manifest["replay"] or {"segments": []})["segments"]}
    if file.startswith("snapshots/"):
        taken = json.loads((newest / "state.json").read_bytes())["snapshots"]
        return int(Path(file).stem.removeprefix("step=")) in taken
    # The configuration comes from the command, and its identity is in the folder's name.
    return file in ("meta.json", "status.json") and not _same_json(before, after)


def _same_json(before: bytes, after: bytes | None) -> bool:
    """Return whether a flipped bit left the content unchanged, as from 1e-05 to 1E-05."""
    try:
        return after is not None and unsealed(before) == unsealed(after)
    except ValueError:
        return False


# --- several processes ------------------------------------------------------------------------------------------------


def together(ground: Ground, chance: random.Random, count: int) -> Trial:
    """Run the same command several times at once: one trains, the others refuse or find it finished."""
    config, scratch = ground.place()
    lives = []
    for number in range(count):
        lives.append(begin(config, scratch / str(number)))
        time.sleep(chance.choice((0, 0, 0.02, 0.2)))
    codes = [life.code for life in lives]
    said = [life.said for life in lives]
    trained = sum("  on cpu, " in one for one in said)
    refused = sum("is being trained by another process" in one and "Traceback" not in one for one in said)
    found = sum("already finished at step" in one for one in said)
    problem = None
    if trained != 1 or trained + refused + found != count or sorted(set(codes)) not in ([0], [0, 2]):
        problem = f"exit codes {codes}, {trained} trained: {said}"
    elif different := differences(ground.expected, outcome(run_path(config))):
        problem = f"different: {', '.join(different)}"
    elif len(RunFolder(run_path(config)).meta()["starts"]) != 1:
        problem = "meta.json has several starts"
    if problem is None:
        shutil.rmtree(Path(config["runs_dir"]).parent)
    return Trial(f"{count} at once", count - 1, problem, f"{refused} refused, {found} found it finished")


def take_over(ground: Ground, chance: random.Random) -> Trial:
    """Kill a process while others of the same command start and end: the next one continues."""
    config, scratch = ground.place()
    first = begin(config, scratch / "first")
    time.sleep(chance.uniform(0.1, 0.8) * ground.seconds)
    refused = begin(config, scratch / "second")
    first.kill()
    if refused.code not in (0, 2) or "Traceback" in refused.said:
        return Trial("the holder is killed", 1, f"exit code {refused.code}: {refused.said[-500:]}")
    return Trial("the holder is killed", 1, finish(ground, config, scratch / "third"))


def watched(ground: Ground, chance: random.Random, lives: int) -> Trial:
    """Kill one process after another while three others read the folder: `launchers status`, the rows of files, and
    `analysis` with tables, curves and reports."""
    config, scratch = ground.place()
    scratch.mkdir(parents=True)
    enough = scratch / "enough"
    readers = [server().Process(target=_read_on, args=(what, config, str(scratch), str(enough)), daemon=True)
               for what in ("state", "tables", "analysis")]
    for reader in readers:
        start(reader)
    # Before these operations on files: the first life has two thirds of the twin's, each later one has fewer left.
    late = len(ground.twin.operations)
    problem, kills = None, 0
    for number in range(lives):
        early, most = (late // 3, 2 * late // 3) if number == 0 else (1, late // 8)
        life = lived(config, scratch / str(number), Fault(chance.randint(early, most)))
        kills += life.code == KILLED
        if life.code not in (0, KILLED):
            problem = f"exit code {life.code}: {life.said[-500:]}"
    problem = problem or ground.judge(config, lived(config, scratch / "last"))
    enough.touch()
    for reader in readers:
        reader.join()
    looks = 0
    for file in scratch.glob("*.looks"):
        *counts, said = file.read_text().split("\n", 1)
        looks += int(counts[0])
        problem = problem or (f"{file.stem}: {said}" if said else None)
    return Trial("read while it is written", kills, problem, "the twin's bytes, and no reader failed")


def _read_on(what: str, config: dict[str, Any], scratch: str, enough: str) -> None:
    """Read a run's folder repeatedly, in a process of its own; write down how often, and what went wrong."""
    import contextlib
    import io
    import traceback

    from algd.errors import UsageError
    from analysis.__main__ import main as analyse
    from launchers.__main__ import main as launch
    from launchers.states import is_held, read_state

    folder, looks, problem = run_path(config), 0, ""
    while not problem and not os.path.exists(enough):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(UsageError):
                if what == "state":
                    is_held(folder)
                    if (state := read_state(folder).state) == "unknown":
                        problem = "status.json could not be read"
                    launch(["status", config["runs_dir"], "--json"])
                    assert state in ("new", "running", "lost", "finished"), state
                elif what == "tables":
                    problem = "; ".join(filter(None, map(torn, folder.glob("*.csv"))))
                else:
                    command = ("table", "table", "curves", "report")[looks % 4]
                    where = {"curves": ["--out", scratch], "report": ["--out", f"{scratch}/report.html"]}
                    code = analyse([command, config["runs_dir"], *where.get(command, [])])
                    problem = "" if code in (0, 2) and "Traceback" not in said.getvalue() else said.getvalue()
        except BaseException:
            problem = traceback.format_exc() + said.getvalue()
        looks += 1
    Path(scratch, f"{what}.looks").write_text(f"{looks}\n{problem}")


def torn(file: Path) -> str | None:
    """Return what is wrong with the complete lines of a table."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    widths = {line.count(b",") for line in lines}
    return f"{file.name}: rows of {sorted(widths)} commas" if len(widths) > 1 else None


# --- clocks -----------------------------------------------------------------------------------------------------------


def clock_jumps(ground: Ground, fault: Fault) -> Trial:
    """Run two processes with a system clock that jumps by a day back and forth, and kill the first."""
    config, scratch = ground.place()
    first = lived(config, scratch / "1", fault, clock=CLOCK_JUMP)
    if first.code != KILLED:
        return Trial("the clock jumps", 0, f"exit code {first.code}: {first.said[-500:]}")
    second = lived(config, scratch / "2", clock=CLOCK_JUMP)
    return Trial("the clock jumps", 1, ground.judge(config, second))
