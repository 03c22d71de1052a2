"""The keys of a checkpoint, and the error if one is missing."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from algd.storage.checkpoint import Checkpoints
from algd.storage.checkpoint_state import checked, newest_state

FIRST_VERSION = Path(__file__).parents[1] / "fixtures" / "first_version"
FOLDERS = sorted(path.parent for path in FIRST_VERSION.glob("*/*/*/checkpoints"))


def state_of(folder: Path) -> dict[str, Any]:
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.load(checkpoints.numbers()[-1])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_the_first_versions_checkpoints_have_every_key(folder: Path) -> None:
    state = state_of(folder)
    assert checked(state) is state
    plain = newest_state(folder / "checkpoints")
    assert plain is not None and plain["step"] == state["step"] and plain["tables"] == state["tables"]


@pytest.mark.parametrize(("path", "value", "sentence"), [
    ("step", None, "has no step"),
    ("step", "7", "its step is str"),
    ("episode.factor", None, "has no episode.factor"),
    ("episode", [], "its episode is not a group of keys"),
    ("agent.optimizers", 3, "its agent.optimizers is int"),
    ("tables.evals", None, "its tables.evals is not a group of keys"),
    ("tables.evals.sha256", 1.5, "its tables.evals.sha256 is float"),
    ("acting_noise.generator", None, "has no acting_noise.generator")])
def test_the_first_wrong_key_is_named(path: str, value: Any, sentence: str) -> None:
    state = node = state_of(FOLDERS[0])
    *groups, last = path.split(".")
    for group in groups:
        node = node[group]
    if value is None:
        del node[last]
    else:
        node[last] = value
    with pytest.raises(ValueError, match=sentence):
        checked(state)


def test_a_checkpoint_is_read_without_torch_and_only_if_it_is_whole(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from algd.storage.checkpoint_state import newest_state\n"
            "print(newest_state(Path(sys.argv[1]))['step'], 'torch' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", code, str(FOLDERS[0] / "checkpoints")], capture_output=True, text=True,
                          check=True)
    assert said.stdout.split() == [str(state_of(FOLDERS[0])["step"]), "False"]
    shutil.copytree(FOLDERS[0] / "checkpoints", tmp_path / "checkpoints")
    newest = max((tmp_path / "checkpoints").glob("*/state.json"))
    newest.write_bytes(newest.read_bytes().replace(b'"step": ', b'"step": 1', 1))
    assert newest_state(tmp_path / "checkpoints") is None and newest_state(tmp_path) is None
