"""The cache of runs: a run is taken from it only if none of the files that it was read from has changed."""

import ast
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.runs import cache
from analysis.runs.cache import RunCache, cache_file
from analysis.runs.model import Run
from analysis.runs.read import read_run
from tests.analysis.run_folders import FIXTURE, as_json, config, evaluation, fixture_runs, make_run
from tests.support.page import Page


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust files at once, instead of two seconds after their last change."""
    monkeypatch.setattr(cache, "SETTLED", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that collects the folders that are read, not taken from the cache."""
    read: list[Path] = []

    def counted(folder: Path, sampler: str = "deterministic") -> Run:
        read.append(folder)
        return read_run(folder, sampler)

    monkeypatch.setattr(cache, "read_run", counted)
    return read


def some_run(folder: Path) -> Path:
    return make_run(folder, config(), evaluation(100, [(1, 2, 3), (4, float("nan"), 6)]), evaluation(200, [(1, 2, 3)]),
                    updates_per_second=3.0, seconds=60)


def read(folder: Path) -> Run:
    with RunCache(cache_file()) as kept:
        return kept.read(folder)


@pytest.mark.usefixtures("settled")
def test_what_comes_out_is_what_went_in(tmp_path: Path, reads: list[Path]) -> None:
    """Every field comes back exactly, for runs in all states and for a result that is NaN."""
    runs = [*fixture_runs(), read_run(some_run(tmp_path / "nan"))]
    for run in runs:
        read(run.folder)
    assert len(reads) == len(runs)
    for run in runs:
        assert repr(read(run.folder)) == repr(run)
    assert len(reads) == len(runs)
    with RunCache(cache_file()) as kept:
        assert repr(kept.read(runs[0].folder, "stochastic")) == repr(read_run(runs[0].folder, "stochastic"))


def same_size_and_times(folder: Path) -> None:
    """Change content but not length and modification time, so that only the inode's change time differs."""
    file = folder / "evals.csv"
    before = file.stat()
    file.write_text(file.read_text().replace("1,2,3,16", "9,2,3,16"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced(folder: Path) -> None:
    """Replace a file by another one of the same size and modification time."""
    file = folder / "config.yaml"
    before, content = file.stat(), file.read_bytes()
    (folder / "new").write_bytes(content.replace(b"rho: 1.0", b"rho: 2.0"))
    (folder / "new").replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def damaged_table(folder: Path) -> None:
    with (folder / "evals.csv").open("a") as file:
        file.write("200,deterministic,train,1,8,5,5,5,16\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "same size and times": same_size_and_times, "another file": replaced, "a row more": damaged_table,
    "state": lambda folder: (folder / "status.json").write_text('{"state": "failed"}'),
    "no state": lambda folder: (folder / "status.json").unlink(),
    "episodes": lambda folder: (folder / "episodes.csv").write_text(
        "step,episode,seed,return,cost,discounted_cost,length\n10,0,0,1,2,3,10\n"),
    "metrics": lambda folder: (folder / "metrics.csv").write_text("step,lam\n100,0.5\n"),
    "a checkpoint": lambda folder: (folder / "checkpoints" / "1").mkdir(parents=True) or (
        folder / "checkpoints" / "1" / "state.json").write_text("{}"),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(tmp_path: Path, reads: list[Path], change: str) -> None:
    folder = some_run(tmp_path / "a")
    read(folder)
    read(folder)
    assert len(reads) == 1
    CHANGES[change](folder)
    assert repr(read(folder)) == repr(read_run(folder))
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_a_changed_table_of_metrics_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is checked against what it recorded of metrics.csv, also if the run has been read before."""
    folder = some_run(tmp_path / "a")
    content = b"step,lam\n100,0.5\n200,0.7\n"
    (folder / "metrics.csv").write_bytes(content)
    (folder / "meta.json").write_text(json.dumps(
        {"tables": {"metrics": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}}))
    command = ["curves", str(folder), "--quantities", "lam", "--out", str(tmp_path / "figures")]
    assert main(command) == 0
    (folder / "metrics.csv").write_bytes(content.replace(b"0.7", b"900"))
    assert main(command) == 2
    assert "metrics.csv is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("settled")
def test_links_are_refused_whatever_is_kept(tmp_path: Path) -> None:
    folder = some_run(tmp_path / "a")
    read(folder)
    (folder / "elsewhere").symlink_to("/etc")
    with pytest.raises(UsageError, match="link out of the run"):
        read(folder)


def test_what_has_just_changed_is_not_kept(tmp_path: Path, reads: list[Path]) -> None:
    """A file that changed a moment ago is not cached, since file times are too coarse to show a second change."""
    folder = some_run(tmp_path / "a")
    read(folder)
    read(folder)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_other_code_reads_anew(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = some_run(tmp_path / "a")
    read(folder)
    monkeypatch.setattr(cache, "_code", lambda: "another version")
    read(folder)
    assert len(reads) == 2


def test_it_knows_the_code_that_reads_runs() -> None:
    """A run of the cache is not believed once a module has changed that a module of `analysis.runs` reads it with."""
    readers = [Path(cache.__file__).with_name(f"{name}.py")
               for name in ("episodes", "integrity", "model", "omnisafe", "read", "select")]
    used = {node.module for file in readers for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("algd.", "analysis.statistics."))}
    assert used - {"algd.errors"} <= {module.__name__ for module in cache.ELSEWHERE}


@pytest.mark.usefixtures("settled")
def test_a_forged_or_damaged_cache_is_not_believed(tmp_path: Path, reads: list[Path]) -> None:
    """With changed content, a file that is no database, or a folder in its place, runs are read instead."""
    folder = some_run(tmp_path / "a")
    expected = repr(read(folder))
    with sqlite3.connect(cache_file()) as connection:
        (content,) = connection.execute("SELECT content FROM runs").fetchone()
        connection.execute("UPDATE runs SET content = ?", (content[:-1] + b"x",))
    connection.close()
    assert repr(read(folder)) == expected and len(reads) == 2
    cache_file().write_bytes(b"not a database" * 100)
    assert repr(read(folder)) == expected and len(reads) == 3
    assert repr(read(folder)) == expected and len(reads) == 3  # it was begun anew
    cache_file().unlink()
    cache_file().mkdir()
    assert repr(read(folder)) == expected and len(reads) == 4


@pytest.mark.usefixtures("settled")
def test_names_that_are_not_utf_8(tmp_path: Path, reads: list[Path], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A run is kept whatever its folder is called, and its results are shown."""
    folder = some_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")))
    make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")), config(1), evaluation(200, [(1, 2, 3)]))
    expected = repr(read(folder))
    assert repr(read(folder)) == expected and len(reads) == 1
    for _ in range(2):
        assert main(["table", str(folder), "--format", "json"]) == 0
        assert json.loads(capfdbinary.readouterr().out)[0]["cells"][0]["each_run"][0]["folder"] == str(folder)
    for name in (tmp_path, folder):  # the second is in the page's title too
        assert main(["table", str(name)]) == 0
        assert main(["report", str(name), "--out", str(tmp_path / "page.html")]) == 0
        assert b"a\xff" in [unquote_to_bytes(link) for link in Page((tmp_path / "page.html").read_text()).links]


@pytest.mark.usefixtures("settled")
def test_a_cache_with_damage_inside_is_begun_anew(tmp_path: Path, reads: list[Path]) -> None:
    """Its header is whole, so that the damage is found only when a run is looked up."""
    folders = [some_run(tmp_path / str(number)) for number in range(5)]
    expected = [repr(read(folder)) for folder in folders]
    content = bytearray(cache_file().read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    cache_file().write_bytes(content)
    assert [repr(read(folder)) for folder in folders] == expected and len(reads) == 10
    assert [repr(read(folder)) for folder in folders] == expected and len(reads) == 10


@pytest.mark.usefixtures("settled")
def test_the_command_uses_it_unless_told(capsys: pytest.CaptureFixture[str], reads: list[Path]) -> None:
    first = as_json(capsys, FIXTURE)
    count = len(reads)
    assert json.dumps(as_json(capsys, FIXTURE)) == json.dumps(first) and len(reads) == count > 0
    assert json.dumps(as_json(capsys, FIXTURE, "--no-cache")) == json.dumps(first) and len(reads) == 2 * count
