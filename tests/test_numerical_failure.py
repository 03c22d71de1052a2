"""What is not finite ends the run where it happens, says what and where, and leaves the last checkpoint good."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from algd.checkpoint import Checkpoints
from algd.trainer import NumericalError
from tests.command import TINY, only_run, status, train_here

RUN = [*TINY, "initial_steps=20", "total_steps=200", "checkpoint.every=10", "eval.every=1000", "eval.episodes=1"]


@pytest.mark.parametrize("fault", ["reward", "cost", "observation"])
def test_an_environment_that_is_not_finite(fault: str, tmp_path: Path) -> None:
    with pytest.raises(NumericalError) as caught:
        train_here(*RUN, "env=gymnasium", "env.id=tests.faulty_env:Faulty-v0", f"+env.kwargs.fault={fault}",
                   "+env.kwargs.at=5", "env.horizon=20", "env.limit=1", f"runs_dir={tmp_path}")
    shown = {"reward": "reward nan", "cost": "cost -inf", "observation": "inf]"}[fault]
    assert shown in str(caught.value) and "in step 4 of the episode with seed" in str(caught.value)
    folder = only_run(tmp_path)
    assert status(folder)["state"] == "failed" and shown in status(folder)["reason"]
    assert Checkpoints(folder / "checkpoints").load(Checkpoints(folder / "checkpoints").numbers()[-1])["step"] == 0


def test_an_update_that_is_not_finite(tmp_path: Path) -> None:
    """A temperature so low that the score target overflows."""
    with pytest.raises(NumericalError, match=r"score_loss is inf.* in update 1 at step 1; its batch is") as caught:
        train_here(*RUN, "env=toy", "agent.policy.beta=1e-38", f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    batch = load_file(Path(str(caught.value).rpartition("its batch is ")[2]))
    assert batch["observation"].shape == (16, 3) and batch["cost_done"].shape == (16,)
    state = Checkpoints(folder / "checkpoints").load(Checkpoints(folder / "checkpoints").numbers()[-1])
    assert all(value.isfinite().all() for value in state["agent"]["model"].values())
