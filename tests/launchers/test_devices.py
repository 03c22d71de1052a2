"""GPUs and threads of runs, on machines without GPUs and with simulated ones."""

from typing import Any

import pytest
import torch

from launchers.devices import Gpus, assigned_gpus, cores, default_jobs, environment, visible_gpus

AUTO: dict[str, Any] = {"device": "auto", "threads": "auto"}


def test_each_run_gets_the_gpu_that_the_fewest_have() -> None:
    gpus = Gpus(["0", "1", "2"])
    assert [gpus.take(AUTO) for _ in range(5)] == ["0", "1", "2", "0", "1"]
    gpus.give_back("1")
    gpus.give_back("1")
    assert [gpus.take(AUTO) for _ in range(2)] == ["1", "1"]
    gpus.give_back(None)
    # Now 0 has two runs, 1 two and 2 one.
    assert gpus.take({"device": "cuda", "threads": 1}) == "2"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_run_that_says_where_it_runs_is_left_alone(device: str) -> None:
    gpus = Gpus(["0", "1"])
    assert gpus.take({"device": device, "threads": 1}) is None and gpus.take(AUTO) == "0"
    assert Gpus([]).take(AUTO) is None


def test_what_a_run_is_given() -> None:
    assert environment(AUTO, "GPU-5ef") == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                                            "CUDA_VISIBLE_DEVICES": "GPU-5ef"}
    assert environment({"device": "cpu", "threads": 3}, None) == {
        "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}


@pytest.mark.parametrize(("count", "listed", "expected"), [
    (4, None, ["0", "1", "2", "3"]), (4, "2, 3", ["2", "3"]), (1, "GPU-a", ["GPU-a"]), (0, "0,1", [])])
def test_the_gpus_of_a_machine(count: int, listed: str | None, expected: list[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the driver's, unless CUDA_VISIBLE_DEVICES selects some."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert assigned_gpus() is None
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == expected
    on_gpus = len(expected) if expected else cores()
    assert default_jobs([AUTO], expected) == on_gpus
    assert default_jobs([AUTO | {"device": "cpu"}], expected) == cores()
