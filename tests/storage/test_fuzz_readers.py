"""Run folders with mutated bytes: every reader reports them in one sentence, or shows the same as before.

The mutations come from a seeded generator. Files with a checksum, their own or another file's, must not show a changed
number; for files without one, readers must not fail with a traceback.
"""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import algd
from algd.errors import UsageError
from analysis.__main__ import main as analysis_main
from analysis.results.formats import render
from analysis.results.table import tables
from analysis.runs.model import Run
from analysis.runs.read import read_run
from launchers.__main__ import main as launchers_main
from launchers.states import read_state
from launchers.sweeps import load_sweep
from tests.support.command import TINY, only_run, train_here

ROUNDS = 60  # mutations of each file


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run's folder below its runs_dir, with a sweep's file."""
    runs = tmp_path_factory.mktemp("fuzz") / "runs"
    train_here(*TINY, "env=toy", "initial_steps=20", "total_steps=60", "checkpoint.every=20", "eval.every=30",
               "eval.episodes=2", "snapshots=2", "log_every=20", f"runs_dir={runs}")
    folder = only_run(runs)
    (runs / "sweeps").mkdir()
    (runs / "sweeps" / "s.json").write_text(json.dumps({
        "name": "s", "runs": [str(folder.relative_to(runs))], "overrides": [["seed=0"]], "experiment": None,
        "launcher": {"kind": "local"}, "submissions": [{"job": "17", "tasks": [[str(folder.relative_to(runs))]]}],
        "driver": {"host": "h", "pid": 1}, "time": "2026-01-01T00:00:00+00:00", "command": "run.py"}, indent=1))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original.parents[2], tmp_path / "runs")
    return tmp_path / "runs" / original.relative_to(original.parents[2])


def mutated(content: bytes, source: random.Random) -> bytes:
    """Flip, remove, insert, double or cut off bytes, or replace numbers and names."""
    data = bytearray(content)
    for _ in range(source.choice([1, 1, 1, 2, 5])):
        place, length = source.randrange(len(data) + 1), source.choice([1, 2, 8, 64])
        match source.randrange(8):
            case 0 if place < len(data):
                data[place] ^= 1 << source.randrange(8)
            case 1:
                del data[place:place + length]
            case 2:
                data[place:place] = source.randbytes(length)
            case 3:
                data[place:place] = data[place:place + length]
            case 4:
                del data[place:]
            case 5:
                digits = [index for index, byte in enumerate(data) if chr(byte).isdigit()]
                if digits:
                    data[source.choice(digits)] = source.choice(b"0123456789-.eE")
            case 6:
                data[place:place + length] = source.choice(
                    [b"null", b"nan", b"1e999", b"-1", b"true", b"[]", b"{}", b'"x"', b",", b"\n", b"\0", b"\xff", b""])
            case 7:
                first, second = sorted(source.randrange(len(data) + 1) for _ in range(2))
                data[first:second] = source.sample(bytes(data[first:second]), second - first)
    return bytes(data)


def mutations(path: Path) -> Iterator[bytes]:
    """Yield typical damage to a file, then `ROUNDS` random mutations."""
    content, source = path.read_bytes(), random.Random(path.name)
    yield from (b"", b"\0" * len(content), content[:len(content) // 2], content * 2, b"{}", b"[]", b"null", b"3",
                b"\xff\xfe", b"[" * 100_000, b'{"state": 3, "step": "x", "seconds": [], "total_steps": {}}',
                b'{"state": "finished", "step": 1e400, "updates_per_second": "fast"}', b"a: [\n", b"a,b\n1\n")
    for _ in range(ROUNDS):
        yield mutated(content, source)


def quietly(command: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return what a command returns, and its standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        return command(*arguments), errors.getvalue()


def shown(run: Run) -> str:
    """Return all that a table says of a run, except state and speed, which come from status.json."""
    same = replace(run, state="finished", reason=None, step=None, updates_per_second=None, hours=None)
    return render(tables([same]), "json", True)


def read_everything(folder: Path) -> None:
    """Every reader of a run's folder works or raises UsageError; commands return 0, or 2 with one sentence."""
    for reader in (read_state, lambda path: load_sweep(path.parents[2] / "sweeps" / "s.json")):
        with contextlib.suppress(UsageError):
            reader(folder)
    for command, arguments in ((analysis_main, ["table", str(folder), "--each-run"]),
                               (launchers_main, ["status", str(folder), "--json"]),
                               (launchers_main, ["status", str(folder.parents[2])])):
        code, errors = quietly(command, arguments)
        assert code in (0, 2) and "Traceback" not in errors
        if code == 2:
            assert errors.startswith("error: ") and errors.count("\n") == 1, errors


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "status.json", "episodes.csv", "evals.csv",
                                  "metrics.csv"])
def test_files_of_a_run(folder: Path, name: str) -> None:
    """An error or the same numbers, since identity, seals and the checkpoint's checksums cover all of these files."""
    path, expected = folder / name, shown(read_run(folder))
    state = read_state(folder)
    outcomes = {"told": 0, "same": 0}
    for content in mutations(path):
        path.write_bytes(content)
        read_everything(folder)
        try:
            run = read_run(folder)
        except UsageError as error:
            assert "\n" not in str(error)
            outcomes["told"] += 1
            continue
        outcomes["same"] += 1
        if name in ("config.yaml", "evals.csv", "episodes.csv", "metrics.csv"):
            assert shown(run) == expected, content
        if name == "status.json":
            found = read_state(folder)
            assert found == state or found.state in ("unknown", "new") or b"sha256" not in content, content
            assert shown(run) == expected
    assert outcomes["told"] > 10 or name in ("status.json", "meta.json"), outcomes


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "manifest.json", "snapshot", "config.yaml"])
def test_what_agents_are_loaded_from(folder: Path, original: Path, name: str) -> None:
    """Loading fails, or gives an agent with the original's actions."""
    place = next(path for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    snapshot = sorted((folder / "snapshots").iterdir())[-1]
    path = {"snapshot": snapshot, "config.yaml": folder / name}.get(name, place / name)
    loaded = snapshot if name == "snapshot" else folder
    agent = algd.load(loaded)
    observation = agent.task.reset(seed=3)[0]
    expected, refused = agent.act(observation).tolist(), 0
    for number, content in enumerate(mutations(path)):
        if number % 2:
            continue
        path.write_bytes(content)
        try:
            found = algd.load(loaded)
        except UsageError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert found.act(observation).tolist() == expected, content
    assert refused > 15


def test_files_of_a_sweep(folder: Path) -> None:
    path = folder.parents[2] / "sweeps" / "s.json"
    for content in mutations(path):
        path.write_bytes(content)
        read_everything(folder)
        for command, arguments in ((analysis_main, ["table", str(path)]), (launchers_main, ["status", str(path)]),
                                   (analysis_main, ["table", "s", "--runs-dir", str(folder.parents[2])])):
            code, errors = quietly(command, arguments)
            assert code in (0, 2) and "Traceback" not in errors


def test_files_of_omnisafe(tmp_path: Path) -> None:
    """They have no checksums: an error or a table, but no traceback."""
    content = {"seed": 0, "algo": "SACLag", "env_id": "SafetyPointGoal1-v0", "train_cfgs": {"total_steps": 2000},
               "algo_cfgs": {"gamma": 0.99}, "lagrange_cfgs": {"cost_limit": 25.0}}
    files = {"config.json": json.dumps(content).encode(), "progress.csv":
             b"Metrics/EpRet,Metrics/EpCost,Metrics/EpLen,TotalEnvSteps,Time/Total\n1.5,20,1000,1000,3\n"
             b"2.5,24,1000,2000,6\n"}
    for name in files:
        for other, whole in files.items():
            (tmp_path / other).write_bytes(whole)
        for changed in mutations(tmp_path / name):
            (tmp_path / name).write_bytes(changed)
            code, errors = quietly(analysis_main, ["table", str(tmp_path), "--format", "json"])
            assert code in (0, 2) and "Traceback" not in errors and (code == 0 or errors.count("\n") == 1), changed


@pytest.mark.parametrize("number", range(3))
def test_a_folder_with_several_damaged_files(folder: Path, number: int) -> None:
    """Several files are damaged at once, missing, or replaced by folders."""
    source = random.Random(number)
    expected = shown(read_run(folder))
    for _ in range(15):
        contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        chosen = source.sample(sorted(contents), 4)
        for path in chosen:
            path.unlink()
            if (kind := source.randrange(4)) == 1:
                path.mkdir()
            elif kind > 1:
                path.write_bytes(mutated(contents[path], source))
        read_everything(folder)
        with contextlib.suppress(UsageError):
            run = read_run(folder)
            if {"config.yaml", "meta.json", "evals.csv", "episodes.csv", "state.json", "manifest.json"}.isdisjoint(
                    path.name for path in chosen):
                assert shown(run) == expected
        with contextlib.suppress(UsageError):
            algd.load(folder)
        for path in chosen:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(contents[path])
