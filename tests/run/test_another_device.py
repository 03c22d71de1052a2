"""Runs that continue on another kind of device, as far as that can be tested without a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from algd.run import start
from algd.run.start import Earlier, choose, inexactness
from algd.seeding import stream
from algd.storage.checkpoint import Checkpoints
from algd.storage.provenance import gpu_driver
from tests.support.command import TINY, compose, only_run, train_here

RUN = [*TINY, "env=toy", "agent=gaussian", "initial_steps=20", "total_steps=60", "eval.every=1000", "eval.episodes=1",
       "checkpoint.keep_replay=true"]


def test_the_updates_generator_of_a_gpu_is_replaced_by_one_that_follows_from_the_seed(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(*RUN, f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    run = folder.name.rpartition("-")[2]
    checkpoints = Checkpoints(folder / "checkpoints", run)
    number = checkpoints.numbers()[-1]
    state = checkpoints.load(number)
    # The state of a GPU's generator: seed and offset.
    state["update_noise"]["generator"] = torch.arange(16, dtype=torch.uint8)
    del state["replay"]
    checkpoints.save(state, None)
    train_here(*RUN, f"runs_dir={tmp_path}", "total_steps=61")
    told = capsys.readouterr().err
    assert told.count("the updates' random numbers are reseeded from here on") == 1 and "not bit for bit" in told
    final = Checkpoints(folder / "checkpoints", run)
    expected = torch.Generator().manual_seed(stream(0, "updates", state["agent"]["updates"]))
    found = torch.Generator()
    found.set_state(final.load(final.numbers()[-1])["update_noise"]["generator"])
    assert found.initial_seed() == expected.initial_seed() != stream(0, "updates")


def record(**changes: Any) -> dict[str, Any]:
    """Return the record of a start on a GPU."""
    versions = dict.fromkeys(start.EXACT_PACKAGES, "1.0")
    return {"threads": 1, "device": "cuda", "execution": "graph", "processor": "Xeon", "cpu_capability": "AVX512",
            "python": "3.11", "gpu": "H200", "gpu_driver": "550.54.15", "commit": "abc", "versions": versions,
            "goes_on": False, "exact": True} | changes


def test_another_gpu_or_driver_is_not_exact() -> None:
    earlier = Earlier([record()], goes_on=True)
    assert inexactness(record(), earlier) == []
    (card,) = inexactness(record(gpu="A100"), earlier)
    assert card == "GPU was H200 and is A100 now: the run continues, but not bit for bit as it would have"
    (driver,) = inexactness(record(gpu_driver="560.1"), earlier)
    assert driver.startswith("GPU driver was 550.54.15 and is 560.1 now")
    before = record()
    del before["gpu"], before["gpu_driver"]  # as in records of earlier versions
    del before["versions"]["scipy"]
    assert inexactness(record(), Earlier([before], goes_on=True)) == []


def test_other_uncommitted_changes_are_perhaps_not_exact() -> None:
    starts = [record(diff="-lr = 1\n+lr = 2"), record(diff=start.SAME_DIFF, goes_on=True)]
    earlier = Earlier(starts, goes_on=True)
    assert inexactness(record(diff="-lr = 1\n+lr = 2"), earlier) == []
    for changed in (None, "-lr = 1\n+lr = 3"):
        (note,) = inexactness(record(diff=changed), earlier)
        assert note.startswith("the code's uncommitted changes are not those of the last start: the run continues, but")
    clean = Earlier([*starts, record(diff=None)], goes_on=True)
    assert inexactness(record(diff=None), clean) == []
    assert len(inexactness(record(diff="-lr = 1\n+lr = 2"), clean)) == 1
    (commit,) = inexactness(record(diff=None, commit="def"), earlier)
    assert commit.startswith("the code was commit abc at the last start")
    assert inexactness(record(diff=None), Earlier([record()], goes_on=True)) == []  # as in records of earlier versions


def test_auto_stays_what_it_was_on_the_same_device_alone() -> None:
    config = compose(*RUN)
    first = Earlier([record(threads=3)], goes_on=True)
    assert choose(config, "cuda", "eager", first, lambda: True) == (3, "graph")
    assert choose(config, "cpu", "eager", first, lambda: True) == (3, "eager")
    assert choose(config, "cpu", "native", Earlier([record(threads=3)], goes_on=False), lambda: True) == (1, "native")
    assert choose(config | {"compile": False, "threads": 2}, "cuda", "eager", first, lambda: True) == (2, "eager")
    native = Earlier([record(device="cpu", execution="native")], goes_on=True)
    assert choose(config, "cpu", "eager", native, lambda: True)[1] == "native"
    assert choose(config, "cpu", "eager", native, lambda: False)[1] == "eager"


def test_the_drivers_version(tmp_path: Path) -> None:
    about = tmp_path / "version"
    module = "NVRM version: NVIDIA UNIX"
    for line, version in ((f"{module} x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
                          (f"{module} Open Kernel Module for x86_64  570.86.10  Release Build", "570.86.10"),
                          ("something else", None)):
        about.write_text(line + "\nGCC version:  gcc version 12.3.0\n")
        assert gpu_driver(about) == version
    assert gpu_driver(tmp_path / "missing") is None
