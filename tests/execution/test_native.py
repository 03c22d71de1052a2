"""Networks in C equal the networks in torch's operations, and torch is used where C is not available."""

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algd.algorithm.mlp import MLP, Activation, Layer
from algd.errors import UsageError
from algd.execution.native import library
from algd.execution.native.mlp import NativeMLP
from tests.support.command import TINY, run, train_here

pytestmark = pytest.mark.needs("compiler")

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def built_for(flags: list[str], folder: Path) -> ctypes.CDLL:
    """Build mlp.c for an instruction set, independently of this processor."""
    return library._build(folder / "other.so", library.FLAGS + flags)


# The instruction sets of this processor, with the best one first.
SETS = {"AVX512": ["AVX512", "AVX2", "none"], "AVX2": ["AVX2", "none"]}.get(
    torch.backends.cpu.get_cpu_capability(), ["none"])


@pytest.fixture(scope="session")
def instruction_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the library for every instruction set of this processor."""
    return {name: built_for(library.INSTRUCTIONS.get(name, []), tmp_path_factory.mktemp(name)) for name in SETS}


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest, instruction_sets: dict[str, Any],
                 monkeypatch: pytest.MonkeyPatch) -> str:
    """Let NativeMLP use this instruction set."""
    name: str = request.param
    monkeypatch.setattr(library, "library", lambda: instruction_sets[name])
    return name


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def layers_of(widths: list[int], members: int | None, first_bias: bool = True) -> list[Layer]:
    """Return layers with random parameters."""
    lead = () if members is None else (members,)
    return [Layer(torch.randn(*lead, n, k) / k**0.5, torch.randn(*lead, n) if i or first_bias else None)
            for i, (k, n) in enumerate(pairwise(widths))]


def doubled(layers: list[Layer]) -> list[Layer]:
    return [Layer(layer.weight.double(), None if layer.bias is None else layer.bias.double()) for layer in layers]


# Widths below, at, between and above those of a panel and a vector; rows likewise for a tile and a block.
WIDTHS = [[3, 1], [5, 33, 1], [78, 32, 64, 1], [2, 100, 7, 31, 9], [40, 16, 8]]
ROWS = [1, 7, 8, 9, 64, 131]


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_values_and_gradients_are_those_of_the_definition(widths: list[int], members: int | None,
                                                          activation: Activation, instructions: str,
                                                          threads: int) -> None:
    torch.manual_seed(len(widths) + (members or 0))
    for rows in ROWS:
        lead = () if members is None else (members,)
        layers = layers_of(widths, members)
        x, gradient = torch.randn(rows, widths[0]), torch.randn(*lead, rows, widths[-1])
        native, definition = NativeMLP(layers, activation), MLP(doubled(layers), activation)
        with torch.no_grad():
            torch.testing.assert_close(native(x), definition(x.double()).float(), **CLOSE)
            values, trace = native.trace(x, inputs=True)
            expected, expected_trace = definition.trace(x.double(), inputs=True)
            torch.testing.assert_close(values, expected.float(), **CLOSE)
            found = [[torch.full_like(p, float("nan")) for p in (layer.weight, layer.bias)] for layer in layers]
            wanted = [[torch.empty_like(p).double() for p in pair] for pair in found]
            native.gradients(trace, gradient, *zip(*found, strict=True))
            definition.gradients(expected_trace, gradient.double(), *zip(*wanted, strict=True))
            for pair, twin in zip(found, wanted, strict=True):
                for gradient_found, exact in zip(pair, twin, strict=True):
                    torch.testing.assert_close(gradient_found, exact.float(), rtol=1e-4, atol=1e-4)
            values, trace = native.trace(x)
            torch.testing.assert_close(values, expected.float(), **CLOSE)
            torch.testing.assert_close(native.pull(trace, gradient),
                                       definition.pull(expected_trace, gradient.double()).float(), **CLOSE)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("repeat", [1, 5])
def test_a_start_stands_for_the_first_bias(repeat: int, members: int | None, activation: Activation,
                                           instructions: str, threads: int) -> None:
    """Also for a start that is a slice of the states, as when an energy is computed in pieces."""
    torch.manual_seed(0)
    lead = () if members is None else (members,)
    layers = layers_of([2, 40, 33, 1], members, first_bias=False)
    whole = torch.randn(*lead, 30, 40)
    for piece in (slice(0, 30), slice(9, 24), slice(28, 30)):
        start = whole[..., piece, :]
        x = torch.randn(start.shape[-2] * repeat, 2)
        native, definition = NativeMLP(layers, activation), MLP(doubled(layers), activation)
        with torch.no_grad():
            values, trace = native.trace(x, start)
            expected, expected_trace = definition.trace(x.double(), start.double())
            torch.testing.assert_close(values, expected.float(), **CLOSE)
            gradient = torch.randn_like(values)
            torch.testing.assert_close(native.pull(trace, gradient),
                                       definition.pull(expected_trace, gradient.double()).float(), **CLOSE)


def test_random_shapes_and_strides(instructions: str) -> None:
    """For any sizes, rows (one, none), members, memory layouts of parameters and numbers of threads."""
    generator, before = random.Random(instructions), torch.get_num_threads()

    def parameter(*shape: int) -> Tensor:
        """Return columns of a wider tensor."""
        left, right = generator.choice([(0, 0), (1, 0), (3, 5)])
        return torch.randn(*shape[:-1], left + shape[-1] + right)[..., left:left + shape[-1]] / shape[-1] ** 0.5

    for number in range(120):
        torch.manual_seed(number)
        torch.set_num_threads(generator.choice([1, 2, 5]))
        members = generator.choice([None, 1, 2, 4])
        lead = () if members is None else (members,)
        widths = [generator.choice([1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 40, 65]) for _ in range(generator.randint(2, 5))]
        count, repeat = generator.choice([0, 1, 2, 3, 5, 8, 13, 49, 65, 130]), generator.choice([1, 1, 2, 7])
        with_start, kind = generator.random() < 0.5, generator.choice(["relu", "silu"])
        layers = [Layer(parameter(*lead, n, k), None if with_start and not i else parameter(*lead, n))
                  for i, (k, n) in enumerate(pairwise(widths))]
        start = parameter(*lead, max(count, 1), widths[1]) if with_start else None
        rows = (max(count, 1) if with_start else count) * repeat
        x = torch.randn(*generator.choice([(), lead]), rows, widths[0])
        gradient = torch.randn(*lead, rows, widths[-1]) * (torch.rand(*lead, rows, 1) < 0.7)
        native, definition = NativeMLP(layers, kind), MLP(doubled(layers), kind)
        wanted = [[torch.empty(parameter.shape) for parameter in (layer.weight, layer.weight[..., 0])]
                  for layer in layers]
        exact = [[tensor.double() for tensor in pair] for pair in wanted]
        with torch.no_grad():
            values, trace = native.trace(x, start, inputs=True)
            expected, expected_trace = definition.trace(x.double(), None if start is None else start.double(), True)
            torch.testing.assert_close(values, expected.float(), **CLOSE)
            native.gradients(trace, gradient, *zip(*wanted, strict=True))
            definition.gradients(expected_trace, gradient.double(), *zip(*exact, strict=True))
            torch.testing.assert_close(wanted, [[t.float() for t in pair] for pair in exact], rtol=1e-4, atol=1e-4)
            if x.dim() == 2:
                torch.testing.assert_close(native.pull(trace, gradient),
                                           definition.pull(expected_trace, gradient.double()).float(), **CLOSE)
    torch.set_num_threads(before)


def test_columns_of_a_wider_weight_need_no_copy(instructions: str) -> None:
    """The parts of a first layer for states and actions are slices of one matrix."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(3, 40, 11), torch.randn(3, 40), torch.randn(20, 11)
    for columns in (slice(0, 9), slice(9, 11)):
        part = weight[:, :, columns]
        with torch.no_grad():
            torch.testing.assert_close(NativeMLP([Layer(part, bias)], "relu")(x[:, columns]),
                                       MLP([Layer(part, bias)], "relu")(x[:, columns]), **CLOSE)
            gradient = torch.randn(3, 20, 40)
            mlp = NativeMLP([Layer(part, bias)], "relu")
            pulled = mlp.pull(mlp.trace(x[:, columns])[1], gradient)
            torch.testing.assert_close(pulled, (gradient @ part).sum(0), **CLOSE)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_rows_without_a_slope_are_not_looked_at(activation: Activation, instructions: str, threads: int) -> None:
    """Rows with zero gradient are skipped, so that NaN there does not spread (0 · NaN is NaN)."""
    torch.manual_seed(0)
    layers = layers_of([3, 40, 33, 1], 2)
    x, slopes = torch.randn(150, 3), torch.randn(2, 150, 1)
    slopes[0, ::3] = 0
    slopes[1, 20:] = 0
    mlp = NativeMLP(layers, activation)
    with torch.no_grad():
        expected = mlp.pull(mlp.trace(x)[1], slopes)
        nowhere = (slopes == 0).all(0).squeeze(1)
        torch.testing.assert_close(expected[nowhere], torch.zeros(int(nowhere.sum()), 3), rtol=0, atol=0)
        _, trace = mlp.trace(x)
        kept = trace.inputs if activation == "relu" else trace.slopes
        assert kept is not None
        first = kept[:2 * 150 * 40].view(2, 150, 40)
        first[slopes.squeeze(-1) == 0] = float("nan")
        torch.testing.assert_close(mlp.pull(trace, slopes), expected, rtol=0, atol=0)
        torch.testing.assert_close(mlp.pull(trace, torch.zeros_like(slopes)), torch.zeros(150, 3), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_graph_through_several_calls(activation: Activation, instructions: str) -> None:
    """Gradients of the input, the start and all parameters are summed over calls that use each other's results."""
    torch.manual_seed(0)
    widths = [3, 40, 33, 3]
    parameters = [p for layer in layers_of(widths, None) for p in (layer.weight, layer.bias)]
    start = torch.randn(20, 40)
    x = torch.randn(20, 3)

    def gradients(kind: type[MLP], dtype: torch.dtype) -> list[Tensor]:
        mine = [p.to(dtype, copy=True).requires_grad_() for p in (x, start, *parameters)]
        layers = [Layer(mine[2]), *(Layer(*mine[i:i + 2]) for i in range(4, len(mine), 2))]
        mlp = kind(layers, activation)
        once = mlp(mine[0], mine[1] * 2)
        twice = mlp(once + mine[0], mine[1])
        (twice.square().sum() + once[::2].sum()).backward()
        return [p.grad.float() for p in mine if p.grad is not None]

    found, expected = gradients(NativeMLP, torch.float32), gradients(MLP, torch.float64)
    assert len(found) == len(expected) == 7  # all except the first layer's bias
    for gradient, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-4)


def test_a_graph_can_be_gone_through_twice_and_no_derivative_is_lost_without_a_word() -> None:
    torch.manual_seed(0)
    layers = layers_of([3, 16, 1], None)
    weight = layers[0].weight.requires_grad_()
    x = torch.randn(10, 3, requires_grad=True)
    value = NativeMLP(layers, "relu")(x).square().sum()
    value.backward(retain_graph=True)
    once = weight.grad.clone()
    value.backward()
    torch.testing.assert_close(weight.grad, 2 * once)
    # A backward pass for the input alone leaves nothing that the next one would add.
    weight.grad = None
    value = NativeMLP(layers, "relu")(x).square().sum()
    torch.autograd.grad(value, x, retain_graph=True)
    value.backward()
    torch.testing.assert_close(weight.grad, once)
    with pytest.raises(RuntimeError, match="differentiable once only"):
        torch.autograd.grad(NativeMLP(layers, "silu")(x).sum(), x, create_graph=True)


def test_silu_to_a_few_units_in_the_last_place(instructions: str) -> None:
    """Value and slope are accurate to a few units in the last place, also where e^−x overflows."""
    x = torch.cat([torch.linspace(-110, 110, 20_001), torch.tensor([0.0, -0.0, 1e-30, -1e-38]),
                   torch.tensor([1e6, -1e6, 2e7, -2e7, 1e38, -1e38])])
    mlp = NativeMLP([Layer(torch.ones(1, 1), torch.zeros(1)), Layer(torch.ones(16, 1), torch.zeros(16))], "silu")
    with torch.no_grad():
        values, trace = mlp.trace(x[:, None], inputs=True)
    exact = x.double()
    sigmoid = torch.sigmoid(exact)
    torch.testing.assert_close(values[:, 0].double(), exact * sigmoid, rtol=6e-7, atol=1e-31)
    assert trace.slopes is not None
    torch.testing.assert_close(trace.slopes.double(), sigmoid * (1 + exact * (1 - sigmoid)), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_is_not_a_number_stays_so(activation: Activation, instructions: str) -> None:
    """NaN and infinity appear in values and gradients, so that a diverging run is noticed."""
    for wrong in (float("nan"), float("inf")):
        layers = layers_of([3, 40, 1], 2)
        x = torch.randn(10, 3)
        x[4, 1] = wrong
        mlp = NativeMLP(layers, activation)
        with torch.no_grad():
            values, trace = mlp.trace(x)
            assert not values[:, 4].isfinite().any()
            assert values[:, [0, 1, 2, 3, 5, 6, 7, 8, 9]].isfinite().all()
            gradient = torch.ones_like(values)
            gradient[:, 2] = float("nan")
            assert mlp.pull(trace, gradient)[2].isnan().all()


def test_any_number_of_threads_finds_the_same_bits() -> None:
    torch.manual_seed(0)
    layers = layers_of([7, 50, 60, 1], 4)
    x, gradient = torch.randn(700, 7), torch.randn(4, 700, 1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        mlp = NativeMLP(layers, "silu")
        with torch.no_grad():
            values, trace = mlp.trace(x, inputs=True)
            parameters = [[torch.empty_like(layer.weight), torch.empty_like(layer.bias)] for layer in layers]
            mlp.gradients(trace, gradient, *zip(*parameters, strict=True))
            found.append([values, mlp.pull(trace, gradient), *chain(*parameters)])
    torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_what_c_cannot_read_is_refused() -> None:
    for weight in (torch.randn(4, 3).double(), torch.randn(3, 4).t(), torch.randn(4, 3, device="meta")):
        with pytest.raises(TypeError, match="rows of float32 on the CPU"):
            NativeMLP([Layer(weight, torch.zeros(4))], "relu")
    with pytest.raises(ValueError, match="3 starts do not divide 20 rows"):
        NativeMLP([Layer(torch.randn(4, 2))], "relu")(torch.randn(20, 2), torch.randn(3, 4))


def test_updates_do_not_pile_up_memory() -> None:
    """A graph that references itself would not be freed; after 300 updates that would show."""
    code = """
import torch
from algd.execution.step import keep_freed_memory, prepare_agent
from algd.algorithm.rng import RandomGenerator
from benchmarks.memory import peak_resident
from benchmarks.setting import default_agent, random_replay
keep_freed_memory()
torch.set_num_threads(1)
agent, _ = default_agent("ddpm", "augmented", 10, 2)
step, replay, noise = prepare_agent(agent, "native"), random_replay(1000, 1000, 10, 2), RandomGenerator(0)
def updates(count):
    for _ in range(count):
        agent.update(replay.sample(32, noise), noise, step)
    return peak_resident()
first = updates(30)
print(updates(300) - first)
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"}).stdout
    assert int(grown) < 3_000_000, f"{grown} bytes"


# --- without a library ------------------------------------------------------------------------------------------------

def fresh(monkeypatch: pytest.MonkeyPatch, cache: Path, **environment: str) -> None:
    """Set the state of a new process with an empty cache."""
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    for name, value in (environment | {"ALGD_CACHE": str(cache)}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.needs()
def test_without_a_compiler_auto_does_without_and_true_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch, tmp_path / "cache", PATH=str(tmp_path), CC="")
    assert not library.worthwhile()
    with pytest.raises(UsageError, match="no cc, gcc or clang is there; install one, or use compile=false"):
        library.library()
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(UsageError, match="CC=no-such-compiler -m64 is not there"):
        library.library()
    monkeypatch.setenv("CC", 'gcc "')
    with pytest.raises(UsageError, match=r'CC=gcc " cannot be read \(No closing quotation'):
        library.library()
    assert not library.worthwhile()


@pytest.mark.needs()
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'mlp.c: some note' >&2\necho 'mlp.c:1: error: no space' >&2\nexit 3\n")
    broken.chmod(0o755)
    fresh(monkeypatch, tmp_path / "cache", CC=str(broken))
    with pytest.raises(UsageError, match=r"cannot build .*mlp.c .*error: no space.*; use compile=false"):
        library.library()
    assert not library.worthwhile()
    broken.write_text("#!/bin/sh\nprintf 'error: n\\351cessaire' >&2\nexit 3\n")  # in Latin-1
    with pytest.raises(UsageError, match="n\ufffdcessaire"):
        library.library()
    broken.write_text("#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\necho garbage > \"$2\"\n")
    with pytest.raises(UsageError, match="cannot be built or loaded"):
        library.library()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    fresh(monkeypatch, tmp_path / "file")
    assert library.library().panel_size(3, 5) > 0


def test_without_a_home_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user id of a container that has no entry in passwd."""
    fresh(monkeypatch, tmp_path)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(library, "cache", no_home)
    assert library.library().panel_size(3, 5) > 0


def test_a_damaged_library_in_the_cache_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were loaded, half a file would kill the process, and a flipped bit could change what it computes."""
    fresh(monkeypatch, tmp_path)
    library.library()
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    for damaged in (b"not a library", b"", whole[:middle], flipped):
        kept.unlink()  # a loaded file is mapped, and would change with it
        kept.write_bytes(damaged)
        assert library.library().panel_size(3, 5) > 0
        assert kept.read_bytes() == whole


def test_many_who_build_at_once_leave_one_whole_library(tmp_path: Path) -> None:
    code = "from algd.execution.native.library import library; print(library().panel_size(3, 5))"
    environment = os.environ | {"ALGD_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def build(_: int) -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              cwd=Path(__file__).parents[2], env=environment).stdout

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(build, range(4)))) == 1
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".so"


@pytest.mark.needs()
def test_a_run_without_a_compiler_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    arguments = [*TINY, "env=toy", f"runs_dir={tmp_path / 'runs'}", "total_steps=4", "initial_steps=16"]
    without = {"ALGD_CACHE": str(tmp_path / "cache"), "CC": "no-such-compiler"}
    errors = run(*arguments, "compile=true", code=2, **without)
    assert "CC=no-such-compiler is not there" in errors and "Traceback" not in errors
    assert not (tmp_path / "runs").exists()
    run(*arguments, "total_steps=1000", "updates_per_step=1", "eval.episodes=1", **without)


def test_a_run_in_c_learns_what_a_run_in_torch_does(tmp_path: Path) -> None:
    """Two whole runs with the same draws log the same first losses."""
    arguments = [*TINY, "env=toy", "initial_steps=60", "total_steps=20", "log_every=10", "eval.episodes=1", "seed=1"]
    rows = {}
    for how in ("true", "false"):
        runs = tmp_path / how
        assert train_here(*arguments, f"compile={how}", f"runs_dir={runs}") == 0
        (metrics,) = runs.rglob("metrics.csv")
        rows[how] = np.genfromtxt(metrics, delimiter=",", names=True)
    for column in ("critic_loss", "cost_critic_loss", "policy_loss"):
        np.testing.assert_allclose(rows["true"][column], rows["false"][column], rtol=1e-3)
