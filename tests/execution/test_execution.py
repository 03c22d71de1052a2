"""Ways to execute an update: each has the effect of the eager one."""

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from algd.algorithm.agent import Agent, Batch, Step
from algd.algorithm.rng import RandomGenerator
from algd.errors import RunError, UsageError
from algd.execution import step as execution
from algd.execution.graph import WARM_UP, CapturedStep, CudaGraphs, Run
from algd.execution.step import compiled, is_capturable, products_of, resolve_execution
from algd.run import start as starts
from algd.run.acting import ActingCopy
from algd.run.build import build_agent, build_task, check_memory
from algd.run.start import record_start
from algd.storage.run_folder import RunFolder
from benchmarks.setting import random_replay
from tests.algorithm.test_update import AGENTS, GUIDANCES, Draws64, batch_of, small_agent
from tests.support.command import TINY, compose, only_run, train_here

# For a dozen updates in float64: rounding errors of 1e-16, which Adam and φ/‖φ‖ can amplify.
EXACT = {"rtol": 0, "atol": 1e-10, "equal_nan": True}


def assert_same_updates(step: Step, agent: Agent, twin: Agent, count: int, **tolerances: Any) -> None:
    """Check that `count` updates of agent by this step, and of its twin, give the same scalars and the same state."""
    draws: Any = Draws64(1)
    twins: Any = Draws64(1)
    for number in range(count):
        found = agent.update(batch_of(number), draws, step)
        expected = twin.update(batch_of(number), twins)
        torch.testing.assert_close(dict(found), dict(expected), **tolerances)
    torch.testing.assert_close(agent.state_dict(), twin.state_dict(), **tolerances)


def few_levels(agent: str) -> list[str]:
    """Return overrides for small networks, since compiling time grows with the number of operations."""
    if agent == "gaussian":
        return [f"agent={agent}"]
    return [f"agent={agent}", "agent.policy.process.steps=2", "agent.policy.hidden_sizes=[4]",
            "agent.critic_hidden_sizes=[4]", "agent.cost_hidden_sizes=[4]", "agent.cost_members=2"]


@pytest.mark.parametrize(("name", "guidance", "level"), [
    ("vesde", "augmented", "pointwise"), ("ddpm", "plain", "pointwise"), ("gaussian", "augmented", "batch")])
def test_compiling_loses_nothing(name: str, guidance: str, level: str) -> None:
    """Everything of the compiler except its code generator leaves λ, the batch's risk and all parameters unchanged."""
    overrides = [*few_levels(name), f"guidance={guidance}", f"guidance.level={level}"]
    torch.compiler.reset()
    agent = small_agent(*overrides)
    assert_same_updates(compiled(agent, "aot_eager"), agent, small_agent(*overrides), 12, **EXACT)


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("name", AGENTS)
def test_a_step_reads_no_value_and_touches_one_device(name: str, guidance: str) -> None:
    """On the meta device, which has no values, a branch on a value, a transfer or a draw from elsewhere raises."""
    agent = small_agent(f"agent={name}", f"guidance={guidance}").to("meta")
    batch = Batch(*(part.to("meta") for part in batch_of(0)))
    draws: Any = Draws64(0)
    with agent.capturable():
        for update_targets in (True, False):
            on_cpu = agent.draw(16, draws)
            on_meta = on_cpu._replace(next_action=on_cpu.next_action.to("meta"),
                                      loss=tuple(part.to("meta") for part in on_cpu.loss))
            scalars = agent.step(batch, on_meta, update_targets)
            assert {value.device.type for value in scalars.values()} == {"meta"}
    with pytest.raises((NotImplementedError, RuntimeError)):
        bool(batch.reward[0] > 0)


# --- an update as a graph ---------------------------------------------------------------------------------------------

class Repeater:
    """A recorder that only repeats: a captured step except for CUDA's capture."""

    def __init__(self) -> None:
        self.recorded: list[Run] = []
        self.capturing = False

    def warm_up(self, run: Run) -> Any:
        return run()

    def capture(self, run: Run) -> Run:
        self.recorded.append(run)

        def repeat() -> Any:
            self.capturing = True
            try:
                return run()
            finally:
                self.capturing = False

        return repeat


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_a_captured_step_is_the_step(interval: int) -> None:
    """Both variants, with and without an update of the targets, run on the fixed inputs before they are captured."""
    overrides = ["agent=ddpm", "guidance=augmented", f"agent.target_interval={interval}"]
    agent, recorder = small_agent(*overrides), Repeater()
    ran: dict[bool, list[Any]] = {True: [], False: []}

    def step(batch: Batch, draws: Any, update_targets: bool) -> dict[str, Tensor]:
        places = [(part.data_ptr(), part.stride()) for part in (*batch, draws.next_action, *draws.loss)]
        ran[update_targets].append((recorder.capturing, places))
        return agent.step(batch, draws, update_targets)

    updates = 3 * WARM_UP * interval
    assert_same_updates(CapturedStep(step, recorder), agent, small_agent(*overrides), updates, **EXACT)
    assert len(recorder.recorded) == (2 if interval > 1 else 1)
    for runs_of_variant in ran.values():
        captured = [capturing for capturing, _ in runs_of_variant]
        assert captured == sorted(captured) and captured.count(False) == min(WARM_UP, len(captured))
    assert len({str(places) for runs_of_variant in ran.values() for _, places in runs_of_variant}) == 1


def test_a_compiled_step_is_compiled_before_it_is_captured() -> None:
    """With batches from the replay, which are views of one tensor, nothing is compiled during a capture."""
    recorder = Repeater()
    graphs: list[bool] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(recorder.capturing)
        return module.forward

    torch.compiler.reset()
    config = compose(*TINY, "env=toy", *few_levels("vesde"), "agent.target_interval=2")
    agent = build_agent(config, build_task(config))
    step = CapturedStep(compiled(agent, backend), recorder)
    replay, noise = random_replay(100, 100, 3, 2), RandomGenerator(0)
    for _ in range(4 * WARM_UP):
        agent.update(replay.sample(16, noise), noise, step)
    assert len(recorder.recorded) == 2 and graphs and not any(graphs)


class Kernels(TorchDispatchMode):
    """Counts the operations that are kernels on a GPU: not views, and not those of the captured step."""

    VIEWS = ("view", "split", "squeeze", "unsqueeze", "unbind", "select", "slice", "detach", "expand", "alias",
             "lift_fresh", "t.", "empty", "as_strided")

    def __init__(self, recorder: Repeater):
        super().__init__()
        self.recorder, self.names = recorder, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if not self.recorder.capturing and not name.startswith(self.VIEWS):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_little_is_launched_outside_of_the_graph() -> None:
    recorder = Repeater()
    config = compose(*TINY, "env=toy")
    agent = build_agent(config, build_task(config))
    step = CapturedStep(agent.step, recorder)
    replay, noise = random_replay(100, 100, 3, 2), RandomGenerator(0)
    for _ in range(4 * WARM_UP):
        scalars = agent.update(replay.sample(16, noise), noise, step)
    sums = torch.zeros(len(scalars), dtype=torch.float64)
    with Kernels(recorder) as kernels:
        scalars = agent.update(replay.sample(16, noise), noise, step)
        sums += torch.stack([value.detach().to(torch.float64) for value in scalars.values()])
    assert len(kernels.names) <= 15, kernels.names


def test_graphs_are_warmed_up_and_captured_on_one_stream_of_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes of torch's functions record the order of their calls, and the stream and device of each."""
    calls: list[str] = []
    current = ["cuda:0"]

    class Stream:
        def __init__(self, device: torch.device):
            calls.append(f"stream of {device}, current {current[-1]}")

        def wait_stream(self, other: Any) -> None:
            calls.append(f"{self.name} waits for {other.name}")

        name = "side"

    class Current(Stream):
        name = "main"

        def __init__(self) -> None:
            pass

    class Graph:
        def replay(self) -> None:
            calls.append(f"replay on {current[-1]}")

    @contextlib.contextmanager
    def device(where: torch.device) -> Iterator[None]:
        current.append(str(where))
        yield
        current.pop()

    @contextlib.contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        calls.append(f"on {stream.name}:")
        yield

    @contextlib.contextmanager
    def capture(graph: Graph, stream: Stream) -> Iterator[None]:
        calls.append(f"capture on {stream.name} of {current[-1]}, capturable {allowed[-1]}:")
        yield

    allowed = [False]

    @contextlib.contextmanager
    def capturable() -> Iterator[None]:
        allowed.append(True)
        yield
        allowed.pop()

    for name, fake in {"device": device, "Stream": Stream, "stream": on_stream, "graph": capture, "CUDAGraph": Graph,
                       "current_stream": lambda where: Current()}.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def run() -> dict[str, Tensor]:
        calls.append(f"run on {current[-1]}, capturable {allowed[-1]}")
        return {}

    graphs = CudaGraphs(torch.device("cuda:1"), capturable)
    graphs.warm_up(run)
    replay = graphs.capture(run)
    replay()
    assert calls == ["stream of cuda:1, current cuda:1", "side waits for main", "on side:",
                     "run on cuda:1, capturable False", "main waits for side",
                     "capture on side of cuda:1, capturable True:", "run on cuda:1, capturable True",
                     "replay on cuda:1"]


def test_a_step_that_cannot_be_captured_is_said_in_one_sentence() -> None:
    """The error names the first cause, which torch hides behind an error at the end of the capture."""
    class Refusing(Repeater):
        def capture(self, run: Run) -> Run:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nand pages of advice")
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    agent, draws = small_agent(), Draws64(1)
    step = CapturedStep(agent.step, Refusing())
    for number in range(2 * WARM_UP - 1):
        agent.update(batch_of(number), draws, step)  # type: ignore[arg-type]
    before = copy.deepcopy(agent.checkpoint())
    with pytest.raises(RunError, match="stream is capturing; compile=false continues from the") as caught:
        for number in range(2):
            agent.update(batch_of(number), draws, step)  # type: ignore[arg-type]
            before = copy.deepcopy(agent.checkpoint())
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(agent.checkpoint(), before, rtol=0, atol=0)


def test_what_compile_means(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    monkeypatch.setattr(execution, "worthwhile", lambda: True)
    assert [resolve_execution(how, cpu, 10**8, 10**4) for how in ("auto", False, True)] == ["native", "eager", "native"]
    assert [resolve_execution(how, gpu, 1, 1) for how in ("auto", False, True)] == ["graph", "eager", "compiled graph"]
    # A run too short for compiling to pay off, and networks too small for C.
    assert resolve_execution("auto", cpu, 10**8, 900) == "eager"
    assert resolve_execution("auto", cpu, 10**6, 10**7) == "eager"
    assert resolve_execution(True, cpu, 1, 1) == "native"
    monkeypatch.setattr(execution, "worthwhile", lambda: False)
    assert resolve_execution("auto", cpu, 10**8, 10**8) == "eager"


def test_no_graph_of_an_update_that_needs_the_cpu() -> None:
    """CVPO's E-step reads tensors on the CPU, which a CUDA graph cannot capture."""
    gpu = torch.device("cuda", 1)
    config = compose(*TINY, "agent=cvpo", "guidance=plain", "guidance/dual=estep", "env=toy")
    capturable = is_capturable(build_agent(config, build_task(config)))
    assert [resolve_execution(how, gpu, 1, 1, capturable) for how in ("auto", False)] == ["eager", "eager"]
    with pytest.raises(UsageError, match=r"^compile=true: .* computed on the CPU.*; allowed are auto and false$"):
        resolve_execution(True, gpu, 1, 1, capturable)
    assert is_capturable(small_agent())


def test_the_work_of_an_update_is_rows_times_weights() -> None:
    """7 inputs, two hidden layers of 16, two reward and four cost critics."""
    assert products_of(small_agent(), 16) == 16 * 6 * (7 * 16 + 16 * 16 + 16)


@pytest.mark.needs("compiler")
def test_the_first_starts_choice_is_recorded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*TINY, "env=toy", f"runs_dir={tmp_path}", "initial_steps=16", "total_steps=4", "checkpoint.every=4",
                 "eval.episodes=1"]
    assert train_here(*arguments) == 0
    folder, config, cpu = RunFolder(only_run(tmp_path)), compose(*arguments), torch.device("cpu")
    meta = folder.meta()
    assert meta["starts"][0]["execution"] == "eager"
    start, notes = record_start(folder, config | {"compile": True}, cpu, "native")
    assert start["execution"] == "native" and not start["exact"]
    assert any("execution was eager and is native now" in note for note in notes)
    # auto keeps the first start's choice, even when the run is longer now.
    start, notes = record_start(folder, config, cpu, "native")
    assert start["execution"] == "eager"
    # If that choice is not available, the run continues with a note.
    meta["starts"][0]["execution"] = "native"
    folder.write_meta(meta)
    assert record_start(folder, config, cpu, "eager")[0]["execution"] == "native"
    monkeypatch.setattr(starts, "worthwhile", lambda: False)
    start, notes = record_start(folder, config, cpu, "eager")
    assert start["execution"] == "eager" and any("execution was native and is eager now" in note for note in notes)


@pytest.mark.parametrize("moments", [False, True])
def test_a_copy_acts_as_its_agent_does(moments: bool) -> None:
    """The copy acts equally before and after updates, and while the moments of observations change."""
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
    # While nothing changes, as during an evaluation, nothing is copied.
    acting(observation, None)
    for parameter in acting.policy.parameters():
        parameter.data.fill_(float("nan"))
    assert acting(observation, None).isnan().all()
    agent.update(replay.sample(16, RandomGenerator(9)), RandomGenerator(9))
    assert acting(observation, None).isfinite().all()


def test_a_gpus_memory_is_looked_at_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay is in the GPU's memory, so a replay that fits on the host may not fit there."""
    config = compose(*TINY, "env=toy", "buffer_size=1000")
    empty, asked = torch.empty, []

    def small(*size: int, device: torch.device) -> Tensor:
        asked.append(device.type)
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 48.00 KiB")
        return empty(*size, device=device)

    monkeypatch.setattr(torch, "empty", small)
    check_memory(config, build_task(config), torch.device("cpu"))
    assert set(asked) == {"cpu"}
    with pytest.raises(UsageError, match=r"buffer_size=1000: .* can be allocated on cuda:1; it should be smaller"):
        check_memory(config, build_task(config), torch.device("cuda:1"))


def test_the_largest_layer_of_a_batch_is_that_of_an_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent of the user's may have none of the keys that give its layers' sizes."""
    config = compose(*TINY, "env=toy", "batch_size=8", "agent.cost_members=5", "agent.policy.mc_samples=3")
    task, empty, asked = build_task(config), torch.empty, []
    monkeypatch.setattr(torch, "empty", lambda size, device: asked.append(size) or empty(size, device=device))
    for agent, largest in ((config["agent"], 8 * 5 * 16 * 3), ({}, 8 * (3 + 2))):
        check_memory(config | {"agent": agent}, task, torch.device("cpu"))
        assert max(asked[-2:]) == largest  # of one network, and of all cost critics


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_threads_that_wait_sleep_unless_somebody_wants_them_to_spin() -> None:
    """Every OpenMP runtime of the process, torch's and that of networks in C, reports the setting."""
    code = "import algd, torch; from algd.execution.native.library import worthwhile; worthwhile()"

    def policies(**more: str) -> set[str]:
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              env={k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
                              | {"OMP_DISPLAY_ENV": "true"} | more).stderr
        return {line.split("=")[1].strip(" '") for line in said.splitlines() if "OMP_WAIT_POLICY" in line}

    assert policies() == {"PASSIVE"}
    assert policies(OMP_WAIT_POLICY="active") == {"ACTIVE"}


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
    """Eight layers of a megabyte, freed and allocated again, otherwise cost 2,048 page faults each time."""
    # glibc may raise its thresholds by itself, depending on the heap; a fixed threshold stays.
    small = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True,
                                  env=os.environ | small).stdout)

    assert faults("keep") < 50 * 2048 / 10 < faults("default")
