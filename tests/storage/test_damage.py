"""Damage is found where the file is used and reported; the newest valid state is used, or the run refused."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from algd.errors import UsageError
from algd.storage.checkpoint import Checkpoints
from algd.storage.run_folder import run_path
from tests.soak import campaigns
from tests.soak.campaigns import FOLDERS, SMALL, Ground, Wreck, ground
from tests.soak.faults import Fault
from tests.soak.lives import KILLED, lived
from tests.support.command import TINY, only_run, train_here

IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture(scope="module")
def small() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield ground(SMALL, Path(folder))


@pytest.fixture(scope="module")
def killed(small: Ground) -> Wreck:
    return campaigns.wreck(small, campaigns.late(small))


@pytest.fixture(scope="module")
def finished(small: Ground) -> Wreck:
    return campaigns.wreck(small, None)


def one_of_each_kind(wreck: Wreck) -> list[str]:
    """Return the newest file of each kind, and the folders."""
    return [*FOLDERS, *{campaigns.kind_of(file): file for file in wreck.files}.values()]


def test_the_wreck_has_everything(killed: Wreck) -> None:
    kinds = {campaigns.kind_of(file) for file in killed.files}
    assert kinds == {"checkpoints/N/manifest.json", "checkpoints/N/state.json", "checkpoints/N/state.safetensors",
                     "replay segment", "config.yaml", "meta.json", "status.json", "episodes.csv", "evals.csv",
                     "metrics.csv", "snapshot"}


@pytest.mark.parametrize("kind", campaigns.DAMAGES)
def test_a_damaged_file_of_a_killed_run(kind: str, killed: Wreck) -> None:
    chance = random.Random(kind)
    trials = [campaigns.damage(killed, file, kind, chance.random()) for file in one_of_each_kind(killed)
              if file not in FOLDERS or kind in ("deleted", "another run's")]
    assert [trial.problem for trial in trials if trial.problem] == []
    # The other damage was unused, or changed nothing that is read.
    assert sum("warning" in trial.outcome or "refused" in trial.outcome for trial in trials) >= 6


@pytest.mark.parametrize("kind", campaigns.DAMAGES)
def test_a_damaged_file_of_a_finished_run(kind: str, finished: Wreck) -> None:
    chance = random.Random(kind)
    trials = [campaigns.damage(finished, file, kind, chance.random()) for file in one_of_each_kind(finished)
              if file not in FOLDERS or kind in ("deleted", "another run's")]
    assert [trial.problem for trial in trials if trial.problem] == []
    assert sum("refused in one sentence" in trial.outcome for trial in trials) >= 6


@pytest.mark.parametrize(("file", "text"), [("evals.csv", b"train"), ("status.json", b"sha256")])
def test_a_flipped_bit_in_a_word_of_ours(file: str, text: bytes, killed: Wreck, finished: Wreck) -> None:
    """In the word that marks a training row newer than the checkpoint, and in the key of a file's checksum."""
    for wreck in (killed, finished):
        content = (wreck.folder / file).read_bytes()
        first = 8 * content.rindex(text)
        for bit in range(0, 8 * len(text), 5):
            trial = campaigns.damage(wreck, file, "flipped", (first + bit + 0.5) / (8 * len(content)))
            assert trial.problem is None


def test_a_run_that_began_again_resumes_with_its_own_replay(small: Ground, killed: Wreck) -> None:
    """Both checkpoints are good but for a table: their replay must not come back with the new attempt's first."""
    config, scratch = small.place()
    folder = run_path(config)
    shutil.copytree(killed.folder, folder)
    campaigns.inflict(folder / "episodes.csv", "flipped", 0.0)
    again = lived(config, scratch / "1", Fault(campaigns.late(small) // 2))
    assert again.code == KILLED and "the run begins again" in again.said
    assert Checkpoints(folder / "checkpoints").numbers() != []
    assert campaigns.finish(small, config, scratch / "2") is None


def test_a_damaged_finished_run_is_not_extended(tmp_path: Path) -> None:
    """It would begin again, in place of its results; it is refused as it is without a larger total_steps."""
    arguments = [*TINY, "env=toy", "initial_steps=20", "total_steps=40", "eval.episodes=1", f"runs_dir={tmp_path}"]
    train_here(*arguments)
    metrics = only_run(tmp_path) / "metrics.csv"
    rows = metrics.read_bytes()
    metrics.write_bytes(rows[:40] + b"X" + rows[41:])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for more in ([], ["total_steps=60"]):
        with pytest.raises(UsageError, match=r"this run is finished, but .*metrics\.csv is damaged"):
            train_here(*arguments, *more)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
