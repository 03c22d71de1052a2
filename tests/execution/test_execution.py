"""Ways to execute an update: each has the effect of the eager one."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from algd.algorithm.agent import Agent, Batch, Step
from algd.algorithm.rng import RandomGenerator
from algd.errors import RunError
from algd.execution import step as execution
from algd.execution.step import WARM_UP, CapturedStep, compiled, products_of, resolve_execution
from algd.run import train as runs
from algd.run.acting import ActingCopy
from algd.run.build import build_agent, build_task
from algd.run.train import _record_start
from algd.storage.run_folder import RunFolder
from benchmarks.setting import random_replay
from tests.algorithm.test_update import AGENTS, GUIDANCES, Draws64, batch_of, small_agent
from tests.support.command import TINY, compose, only_run, train_here

EXACT = {"rtol": 0, "atol": 1e-12, "equal_nan": True}


def assert_same_updates(step: Step, agent: Agent, twin: Agent, count: int, **tolerances: Any) -> None:
    """So many updates by this step of `agent`, and the twin's own, end in the same state and say the same."""
    draws: Any = Draws64(1)
    twins: Any = Draws64(1)
    for number in range(count):
        found = agent.update(batch_of(number), draws, step)
        expected = twin.update(batch_of(number), twins)
        torch.testing.assert_close(dict(found), dict(expected), **tolerances)
    torch.testing.assert_close(agent.state_dict(), twin.state_dict(), **tolerances)


def few_levels(agent: str) -> list[str]:
    """The compiler's time goes with the number of operations."""
    if agent == "gaussian":
        return [f"agent={agent}"]
    return [f"agent={agent}", "agent.policy.process.steps=2", "agent.policy.hidden_sizes=[4]",
            "agent.critic_hidden_sizes=[4]", "agent.cost_hidden_sizes=[4]", "agent.cost_members=2"]


@pytest.mark.parametrize(("agent", "guidance", "level"), [
    ("vesde", "augmented", "pointwise"), ("ddpm", "plain", "pointwise"), ("gaussian", "augmented", "batch")])
def test_compiling_loses_nothing(agent: str, guidance: str, level: str) -> None:
    """λ, the batch's risk and all parameters, through everything of the compiler but its code generator."""
    overrides = [*few_levels(agent), f"guidance={guidance}", f"guidance.level={level}"]
    torch.compiler.reset()
    one = small_agent(*overrides)
    assert_same_updates(compiled(one, "aot_eager"), one, small_agent(*overrides), 12, **EXACT)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_step_reads_no_value_and_touches_one_device(agent: str, guidance: str) -> None:
    """On the meta device there are no values: a branch on one, a transfer or a draw from elsewhere raises."""
    one = small_agent(f"agent={agent}", f"guidance={guidance}").to("meta")
    for optimizer in one.optimizers.values():
        for group in optimizer.param_groups:
            group["capturable"] = True
    batch = Batch(*(part.to("meta") for part in batch_of(0)))
    draws: Any = Draws64(0)
    for update_targets in (True, False):
        on_cpu = one.draw(16, draws)
        on_meta = on_cpu._replace(next_action=on_cpu.next_action.to("meta"),
                                  loss=tuple(part.to("meta") for part in on_cpu.loss))
        assert {value.device.type for value in one.step(batch, on_meta, update_targets).values()} == {"meta"}
    with pytest.raises((NotImplementedError, RuntimeError)):
        bool(batch.reward[0] > 0)


def test_a_captured_step_is_the_step() -> None:
    """Everything of it but CUDA's own capture: the fixed inputs, and one recording with targets and one without."""
    overrides = ["agent=ddpm", "guidance=augmented", "agent.target_interval=3"]
    one = small_agent(*overrides)
    recorded, addresses = [], set()

    def capture(repeat: Any) -> Any:
        recorded.append(repeat)
        return repeat

    def step(batch: Batch, draws: Any, update_targets: bool) -> dict[str, Tensor]:
        addresses.add((batch.reward.data_ptr(), draws.next_action.data_ptr()))
        return one.step(batch, draws, update_targets)

    captured = CapturedStep(step, capture)
    assert_same_updates(captured, one, small_agent(*overrides), WARM_UP, **EXACT)
    assert not recorded
    addresses.clear()
    twin = small_agent(*overrides)
    twin.restore(copy.deepcopy(one.checkpoint()))
    assert_same_updates(captured, one, twin, 20, **EXACT)
    assert len(recorded) == 2 and len(addresses) == 1


def test_a_step_that_cannot_be_captured_is_said_in_one_sentence() -> None:
    def capture(repeat: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand pages of advice")

    one, draws = small_agent(), Draws64(1)
    step = CapturedStep(one.step, capture)
    for number in range(WARM_UP):
        one.update(batch_of(number), draws, step)  # type: ignore[arg-type]
    before = copy.deepcopy(one.checkpoint())
    with pytest.raises(RunError, match="stream is capturing; compile=false goes on from the") as caught:
        one.update(batch_of(9), draws, step)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(one.checkpoint(), before, rtol=0, atol=0)


@pytest.mark.needs("compiler")
def test_what_compile_means(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    monkeypatch.setattr(execution, "worthwhile", lambda: True)
    assert [resolve_execution(how, cpu, 10**8, 10**4) for how in ("auto", False, True)] == ["native", "eager", "native"]
    assert [resolve_execution(how, gpu, 1, 1) for how in ("auto", False, True)] == ["graph", "eager", "compiled graph"]
    # A run that is too short for a compiler to pay, and networks that are too small for C to pay.
    assert resolve_execution("auto", cpu, 10**8, 900) == "eager"
    assert resolve_execution("auto", cpu, 10**6, 10**7) == "eager"
    assert resolve_execution(True, cpu, 1, 1) == "native"
    monkeypatch.setattr(execution, "worthwhile", lambda: False)
    assert resolve_execution("auto", cpu, 10**8, 10**8) == "eager"


def test_the_work_of_an_update_is_rows_times_weights() -> None:
    """Of small_agent: 7 inputs, two hidden layers of 16, two reward and four cost critics."""
    assert products_of(small_agent(), 16) == 16 * 6 * (7 * 16 + 16 * 16 + 16)


@pytest.mark.needs("compiler")
def test_the_first_starts_choice_is_recorded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*TINY, "env=toy", f"runs_dir={tmp_path}", "initial_steps=16", "total_steps=4", "checkpoint.every=4",
                 "eval.episodes=1"]
    assert train_here(*arguments) == 0
    folder, config, cpu = RunFolder(only_run(tmp_path)), compose(*arguments), torch.device("cpu")
    meta = folder.meta()
    assert meta["starts"][0]["execution"] == "eager"
    start, notes = _record_start(folder, config | {"compile": True}, cpu, "native")
    assert start["execution"] == "native" and not start["exact"]
    assert any("execution was eager and is native now" in note for note in notes)
    # auto is what it was at the first start, however long the run has become.
    start, notes = _record_start(folder, config, cpu, "native")
    assert start["execution"] == "eager"
    # Where what it was cannot be had, the run goes on and says so.
    meta["starts"][0]["execution"] = "native"
    folder.write_meta(meta)
    assert _record_start(folder, config, cpu, "eager")[0]["execution"] == "native"
    monkeypatch.setattr(runs, "worthwhile", lambda: False)
    start, notes = _record_start(folder, config, cpu, "eager")
    assert start["execution"] == "eager" and any("execution was native and is eager now" in note for note in notes)


@pytest.mark.parametrize("moments", [False, True])
def test_a_copy_acts_as_its_agent_does(moments: bool) -> None:
    """Before and after updates, and while the observations' moments move, whatever device the agent is on."""
    normalise = f"normalise.observation={str(moments).lower()}"
    agent = build_agent(compose(*TINY, "env=toy", normalise), build_task(compose(*TINY, "env=toy")))
    acting, observation = ActingCopy(agent, apart=True), torch.tensor([[0.3, -1.0, 0.5]])
    assert acting.policy is not agent.policy
    replay = random_replay(100, 100, 3, 2)
    actions = []
    for number in range(3):
        for noise in (RandomGenerator(number), None):
            twin = None if noise is None else RandomGenerator(number)
            actions.append(acting(observation, noise))
            torch.testing.assert_close(actions[-1], agent.act(observation, twin), rtol=0, atol=0)
        if moments:
            agent.normaliser.observe(torch.tensor([1.0 * number, 2.0, -3.0]), 0.0, False)
            torch.testing.assert_close(acting(observation, None), agent.act(observation, None), rtol=0, atol=0)
        agent.update(replay.sample(16, RandomGenerator(number)), RandomGenerator(number))
    assert not torch.equal(actions[1], actions[-1])


FAULTS = """
import resource, sys, torch
from algd.execution.step import keep_freed_memory
if sys.argv[1] == "keep": keep_freed_memory()
torch.set_num_threads(1)
def pass_over() -> None:
    for _ in range(50):
        layers = [torch.empty(1 << 18).fill_(1.0) for _ in range(8)]
        del layers
pass_over()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pass_over()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    """Eight layers of a megabyte, freed and asked for again, cost 2,048 page faults otherwise."""
    # glibc raises its thresholds as it goes, or not, as the heap happens to lie; a set one stays.
    small = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True,
                                  env=os.environ | small).stdout)

    assert faults("keep") < 50 * 2048 / 10 < faults("default")
