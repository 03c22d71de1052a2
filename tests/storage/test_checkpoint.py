"""Checkpoints are complete, verified, stored once, and only data."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from algd.algorithm.replay import Replay
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.checkpoint_state import TABLES
from algd.storage.files import sealed, unsealed
from algd.storage.snapshots import DamagedSnapshot, read_snapshot, snapshot_name, write_snapshot
from algd.storage.table import Table
from tests.support.command import TINY, only_run, outcome, train_here


def filled(replay: Replay, count: int) -> Replay:
    for _ in range(count):
        n = float(replay.added)
        replay.add(np.array([n, n]), np.array([n]), n, n, np.array([n, n]), False, False)
    return replay


STATE = {"step": 7, "nested": {"tensor": torch.arange(3, dtype=torch.float64), "text": "λ", "none": None},
         "array": np.array([[1.5, -2.0]]), "scalar": torch.tensor(3), "list": [1, 2.5, "x"], "flag": True}


def test_state_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(STATE, None)
    state = Checkpoints(tmp_path / "checkpoints").load(1)
    assert state["step"] == 7 and state["list"] == [1, 2.5, "x"] and state["flag"] is True and not state["replay"]
    assert state["nested"]["text"] == "λ" and state["nested"]["none"] is None
    assert torch.equal(state["nested"]["tensor"], STATE["nested"]["tensor"])
    assert state["array"].dtype == torch.float64 and state["array"].tolist() == [[1.5, -2.0]]
    assert state["scalar"].shape == () and state["scalar"].item() == 3


def test_the_replay_is_stored_once_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    checkpoints, replay = Checkpoints(tmp_path), Replay(100, 2, 1)
    for count in (10, 5, 0, 20):
        checkpoints.save({"added": replay.added + count}, filled(replay, count))
    assert checkpoints.numbers() == [3, 4]
    segments = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert segments == ["000000000000-000000000010.rows", "000000000010-000000000015.rows",
                        "000000000015-000000000035.rows"]
    assert sum((tmp_path / "replay" / name).stat().st_size for name in segments) == 35 * 9 * 4
    for number, added in ((3, 15), (4, 35)):
        loaded = Replay(100, 2, 1)
        assert Checkpoints(tmp_path).load(number, loaded)["added"] == added == loaded.added
        np.testing.assert_array_equal(loaded.rows[:added], replay.rows[:added])


@pytest.mark.parametrize("steps", [(7, 30, 2), (30,), (3, 3, 3, 3, 3)])
def test_a_ring_that_wraps(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Only segments with rows of the buffer are kept, and the buffer is restored exactly."""
    checkpoints, replay = Checkpoints(tmp_path), Replay(10, 2, 1)
    for count in steps:
        checkpoints.save({}, filled(replay, count))
    loaded = Replay(10, 2, 1)
    checkpoints.load(checkpoints.numbers()[-1], loaded)
    assert loaded.added == replay.added
    np.testing.assert_array_equal(loaded.rows[:len(loaded)], replay.rows[:len(replay)])
    stored = sum(path.stat().st_size for path in (tmp_path / "replay").iterdir()) / 36
    assert stored <= 10 + max(steps) + sum(steps[-2:])


@pytest.mark.parametrize("file", ["state.json", "state.safetensors", "manifest.json", "rows"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "gone"])
def test_damage_is_found(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(STATE, filled(Replay(10, 2, 1), 5))
    path = next((tmp_path / "replay").iterdir()) if file == "rows" else folder / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(DamagedCheckpoint):
        Checkpoints(tmp_path).load(1, Replay(10, 2, 1))


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    """A tensor file that is a pickle with a command, with correct checksums, is refused."""
    import hashlib
    import pickle

    class Command:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    folder = Checkpoints(tmp_path).save(STATE, None)
    evil = pickle.dumps(Command())
    (folder / "state.safetensors").write_bytes(evil)
    manifest = unsealed((folder / "manifest.json").read_bytes(), strict=True)
    manifest["files"]["state.safetensors"] = hashlib.sha256(evil).hexdigest()
    (folder / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        Checkpoints(tmp_path).load(1)
    assert not (tmp_path / "executed").exists()


RUN = [*TINY, "env=toy", "initial_steps=40", "total_steps=260", "checkpoint.every=50", "eval.every=100", "snapshots=2",
       "eval.episodes=1", "log_every=50", "checkpoint.keep_replay=true"]


@pytest.mark.parametrize("damage", ["newest checkpoint", "both checkpoints", "table", "newest segment"])
def test_a_damaged_run_goes_on_from_what_is_good(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest valid state is used with a warning, and the run ends like an undamaged one."""
    from algd.run.trainer import Trainer

    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    arguments = [*RUN, f"runs_dir={tmp_path / 'run'}"]
    advance = Trainer.advance

    def dies_at_230(self: Trainer) -> None:
        if self.state.step == 230:
            raise RuntimeError("pulled the plug")
        advance(self)

    monkeypatch.setattr(Trainer, "advance", dies_at_230)
    with pytest.raises(RuntimeError, match="plug"):
        train_here(*arguments)
    monkeypatch.undo()
    folder = only_run(tmp_path / "run")
    older, newest = sorted(path for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    if damage == "newest checkpoint":
        os.truncate(newest / "state.safetensors", 1000)
    elif damage == "both checkpoints":
        shutil.rmtree(newest)
        (older / "state.json").write_text("{}")
    elif damage == "table":
        rows = (folder / "episodes.csv").read_bytes()
        (folder / "episodes.csv").write_bytes(rows[:60] + b"0" + rows[61:])
    else:
        segment = sorted((folder / "checkpoints" / "replay").iterdir())[-1]
        segment.write_bytes(segment.read_bytes()[:-4] + b"abcd")
    written = {table: (folder / f"{table}.csv").read_bytes() for table in TABLES}
    train_here(*arguments)
    said = capsys.readouterr().err
    assert "cannot be used" in said
    begun_again = damage in ("both checkpoints", "table")
    assert ("the run begins again; its tables are kept as " in said) == begun_again
    kept = {path.name: path.read_bytes() for path in folder.glob("*.damaged-1")}
    assert kept.keys() == ({f"{table}.csv.damaged-1" for table in TABLES} if begun_again else set())
    assert kept == {f"{table}.csv.damaged-1": written[table] for table in TABLES if begun_again}
    assert outcome(folder) == outcome(only_run(tmp_path / "twin"))


def test_a_table_cut_back(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["step", "value", "source"])
    table.append({"step": 1, "value": 0.1, "source": "train"})
    position = table.position()
    table.append({"step": 2, "value": None, "source": "train"})
    table.append({"step": 1, "source": "eval-1"})
    with (tmp_path / "t.csv").open("a") as file:
        file.write("3,0.")  # cut short by a kill
    again = Table(tmp_path / "t.csv", ["step", "value", "source"])
    assert again.holds(position)
    again.cut(position, lambda row: row["source"] != "train")
    again.append({"step": 2, "value": 1 / 3, "source": "a,b"})
    assert (tmp_path / "t.csv").read_text() == ("step,value,source\n1,0.1,train\n1,,eval-1\n"
                                                "2,0.3333333333333333,\"a,b\"\n")
    with pytest.raises(ValueError, match=r"t\.csv has no column wrong"):
        again.append({"wrong": 1})
    (tmp_path / "t.csv").write_text("step,value,source\n1,0.2,train\n")
    assert not again.holds(position)


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_in_a_sealed_file(bit: int) -> None:
    """Every flipped bit is found, or does not change the content (1e-05 and 1E-05)."""
    content = {"added": 12, "rate": 1e-05, "name": "λ", "list": [1, None, True], "nested": {"x": 0.1}}
    data = sealed(content)
    assert unsealed(data, strict=True) == unsealed(data) == content
    for position, strict in itertools.product(range(len(data)), (True, False)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        try:
            assert unsealed(bytes(flipped), strict) == content
        except ValueError:
            continue


def test_a_file_without_a_seal() -> None:
    assert unsealed(b'{"state": "finished"}') == {"state": "finished"}
    with pytest.raises(ValueError, match="checksum"):
        unsealed(b'{"state": "finished"}', strict=True)
    for data in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(ValueError):
            unsealed(data)


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "aaaaaaaa").save(STATE, None)
    assert Checkpoints(tmp_path, "aaaaaaaa").load(1)["step"] == 7 == Checkpoints(tmp_path).load(1)["step"]
    with pytest.raises(DamagedCheckpoint, match="is of another run"):
        Checkpoints(tmp_path, "bbbbbbbb").load(1)


def test_an_older_checkpoint_without_a_replay_empties_it(tmp_path: Path) -> None:
    """What a damaged newer checkpoint has put into the replay is removed."""
    checkpoints, replay = Checkpoints(tmp_path), filled(Replay(10, 2, 1), 4)
    checkpoints.save(STATE, None)
    checkpoints.save(STATE, replay)
    checkpoints.save(STATE, filled(replay, 4))
    newest = sorted((tmp_path / "replay").iterdir())[-1]
    newest.write_bytes(b"x")
    loaded = Replay(10, 2, 1)
    with pytest.raises(DamagedCheckpoint, match="rows is damaged"):
        checkpoints.load(3, loaded)
    assert checkpoints.load(2, loaded)["replay"] is not None and loaded.added == 4


def test_damaged_checkpoints_are_kept_beside(tmp_path: Path) -> None:
    """Also if the same number is damaged again in a start with the same process id, as in containers."""
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(STATE, None)
        checkpoints.set_aside(1)
    assert sorted(path.name for path in tmp_path.iterdir() if "damaged" in path.name) == [
        "000001.damaged-1", "000001.damaged-2"]
    assert Checkpoints(tmp_path).numbers() == []


def test_a_torn_last_line_is_not_continued(tmp_path: Path) -> None:
    """After an incomplete last row, as on a full disk, the next row begins on a line of its own."""
    path = tmp_path / "t.csv"
    path.write_text("step,value\n1,2\n3,")
    table = Table(path)
    table.append({"step": 5, "value": 6})
    assert path.read_text() == "step,value\n1,2\n5,6\n"
    path.write_text("step,va")
    table = Table(path, ["step", "value"])
    table.append({"step": 1, "value": 2})
    assert path.read_text() == "step,value\n1,2\n"


def test_rows_that_are_kept_survive_a_cut_to_nothing(tmp_path: Path) -> None:
    """Kept rows of a later evaluation stay, below the header, when a table is cut to before its first row."""
    path = tmp_path / "t.csv"
    table = Table(path, ["step", "source"])
    position = table.position()
    table.append({"step": 1, "source": "train"})
    table.append({"step": 1, "source": "eval-1"})
    table.cut(position, lambda row: row["source"] != "train")
    assert path.read_text() == "step,source\n1,eval-1\n"
    table.append({"step": 2, "source": "train"})
    assert path.read_text() == "step,source\n1,eval-1\n2,train\n"


def test_a_header_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"st\xffp,\x00value\n1,2\n")
    table = Table(path, ["step", "value"])
    assert not table.holds({"size": 15, "sha256": "0" * 64})
    table.cut(None)
    table.append({"step": 1, "value": 2})
    assert path.read_text() == "step,value\n1,2\n"


def test_snapshots(tmp_path: Path) -> None:
    """A flipped bit, another run or another step is found."""
    path, tensors = tmp_path / snapshot_name(7), {"b": torch.arange(3.0), "a": torch.tensor(2)}
    write_snapshot(path, tensors, 7, "aaaaaaaa")
    content = path.read_bytes()
    write_snapshot(path, dict(reversed(tensors.items())), 7, "aaaaaaaa")
    assert path.read_bytes() == content
    found, step = read_snapshot(path, "aaaaaaaa", 7)
    assert step == 7 and found["a"] == 2 and found["b"].tolist() == [0, 1, 2]
    for run, step in (("bbbbbbbb", 7), ("aaaaaaaa", 8)):
        with pytest.raises(DamagedSnapshot, match=r"is of another run|is of step 7 instead of 8"):
            read_snapshot(path, run, step)
    for position in range(0, len(content) * 8, 11):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedSnapshot):
            read_snapshot(path)
    path.unlink()
    with pytest.raises(DamagedSnapshot, match="is not a snapshot"):
        read_snapshot(path)
