"""A value that is not finite ends the run at once, with its name and place, and the last checkpoint stays valid."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algd.algorithm.agent import Agent
from algd.errors import NumericalError
from algd.storage.checkpoint import Checkpoints
from tests.logging.test_mirror import tensorboard_scalars
from tests.support.command import TINY, only_run, run, status, train_here

RUN = [*TINY, "initial_steps=20", "total_steps=200", "checkpoint.every=10", "eval.every=1000", "eval.episodes=1"]
FAULTY = ["env=gymnasium", "env.id=tests.support.faulty_env:Faulty-v0", "env.horizon=20", "env.limit=1",
          "+env.kwargs.share=1"]
SHOWN = {"reward": "returned reward nan, cost 0.0 and observation", "cost": "cost -inf and observation",
         "observation": ", inf] in step 5", "first observation": "returned observation [nan, 0.0] in the reset"}


def newest(folder: Path) -> dict[str, Any]:
    """Return the newest checkpoint's state, after checking that its networks are finite."""
    checkpoints = Checkpoints(folder / "checkpoints")
    state = checkpoints.load(checkpoints.numbers()[-1])
    assert all(value.isfinite().all() for value in state["agent"]["model"].values())
    return state


def check_failed(folder: Path, caught: pytest.ExceptionInfo[NumericalError], words: str) -> None:
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert status(folder)["state"] == "failed"
    assert status(folder)["reason"] == f"NumericalError: {caught.value}"


@pytest.mark.parametrize("fault", SHOWN)
@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_an_environment_that_is_not_finite(fault: str, where: str, tmp_path: Path) -> None:
    # In training the first episode has the fault; without initial steps the first evaluation has it.
    given = ["initial_steps=0", "eval.episodes=2"] if where == "evaluation" else []
    if fault == "first observation" and where == "training":
        given = ["++env.kwargs.share=0.3"]  # otherwise there would be no step
    with pytest.raises(NumericalError) as caught:
        train_here(*RUN, *FAULTY, f"+env.kwargs.fault='{fault}'", *given, f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    check_failed(folder, caught, SHOWN[fault])
    assert "of the episode with seed" in str(caught.value)
    assert (folder / "evals.csv").read_text() == "" or where == "training"
    if where == "training":
        newest(folder)


def test_the_command_says_it_in_one_sentence(tmp_path: Path) -> None:
    errors = run(*RUN, *FAULTY, "+env.kwargs.fault=reward", f"runs_dir={tmp_path}", code=1)
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "error: " + status(only_run(tmp_path))["reason"].removeprefix("NumericalError: ")


def test_an_update_that_is_not_finite(tmp_path: Path) -> None:
    """With a very low temperature the score target overflows."""
    with pytest.raises(NumericalError, match=r"score_loss is inf.* in update 1 at step 1; its batch is") as caught:
        train_here(*RUN, "env=toy", "agent.policy.beta=1e-38", f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    check_failed(folder, caught, "in update 1 at step 1")
    batch = load_file(Path(str(caught.value).rpartition("its batch is ")[2]))
    assert batch["observation"].shape == (16, 3) and batch["cost_done"].shape == (16,)
    newest(folder)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_reward_that_overflows_in_the_replay(tmp_path: Path) -> None:
    """A reward that is finite in float64 but not in the replay's float32 is in the batch that is kept."""
    with pytest.raises(NumericalError, match=r"critic_loss is (inf|nan).*its batch is") as caught:
        train_here(*RUN, *FAULTY, "+env.kwargs.fault='huge reward'", f"runs_dir={tmp_path}")
    check_failed(only_run(tmp_path), caught, "critic_loss is")
    assert load_file(Path(str(caught.value).rpartition("its batch is ")[2]))["reward"].isinf().any()
    newest(only_run(tmp_path))


@pytest.mark.parametrize(("network", "words"), [
    ("policy", "the policy's action is [nan, nan] at observation ["),
    ("critics", "critic_loss is nan"), ("cost_critics", "cost_critic_loss is nan")])
def test_a_network_that_breaks_between_two_losses(network: str, words: str, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """If an update leaves NaN weights although its losses were finite, the next step finds them."""
    break_after(5, network, monkeypatch)
    with pytest.raises(NumericalError) as caught:
        train_here(*RUN, "env=toy", "eval.every=1000", f"runs_dir={tmp_path}")
    check_failed(only_run(tmp_path), caught, words)
    assert status(only_run(tmp_path))["step"] in (5, 6)
    newest(only_run(tmp_path))


@pytest.mark.parametrize("network", ["policy", "critics", "cost_critics", "target_critics", "target_cost_critics"])
def test_a_checkpoint_is_never_made_of_a_broken_network(network: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    break_after(10, network, monkeypatch)
    with pytest.raises(NumericalError, match=rf"the network's {network}\..* is not finite at step 10") as caught:
        train_here(*RUN, "env=toy", f"runs_dir={tmp_path}")
    check_failed(only_run(tmp_path), caught, "no checkpoint is made of it")
    assert newest(only_run(tmp_path))["step"] == 0


def test_a_policy_that_breaks_is_found_in_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_after(7, "policy", monkeypatch)
    with pytest.raises(NumericalError) as caught:
        train_here(*RUN, "env=toy", "eval.every=7", f"runs_dir={tmp_path}")
    check_failed(only_run(tmp_path), caught, "the policy's action is [nan, nan]")
    rows = (only_run(tmp_path) / "evals.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"0"}


def break_after(updates: int, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network's weights NaN from this update on."""
    update = Agent.update

    def broken(agent: Agent, *arguments: Any) -> Any:
        scalars = update(agent, *arguments)
        if agent.updates == updates:
            with torch.no_grad():
                for parameter in getattr(agent, network).parameters():
                    parameter.fill_(torch.nan)
        return scalars

    monkeypatch.setattr(Agent, "update", broken)


def test_the_mirror_gets_what_came_before_and_the_reason(tmp_path: Path) -> None:
    """TensorBoard's files of a failed run have every episode before the failure, none after, and no NaN."""
    arguments = [argument for argument in RUN if argument != "logger=none"]
    with pytest.raises(NumericalError):
        train_here(*arguments, *FAULTY, "logger=tensorboard", "+env.kwargs.fault=reward", "++env.kwargs.share=0.1",
                   f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    episodes = (folder / "episodes.csv").read_text().splitlines()[1:]
    events = tensorboard_scalars(folder / "tensorboard")
    assert [step for step, _ in events["episode/return"]] == [int(row.split(",")[0]) for row in episodes] != []
    assert all(value == value for values in events.values() for _, value in values)
