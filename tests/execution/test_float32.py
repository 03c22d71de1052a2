"""Updates with networks in C equal exact ones to rounding, measured by the spread of torch's float32.

Over a long run two orders of summation diverge without limit (DDPM's φ/‖φ‖ divides by a small number), so whole runs
cannot be compared. Here every update starts from the state of an exact run and is compared with the exact update from
it: once in C, and in torch with the sums of matrix products in several random orders.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from algd.algorithm.agent import Agent, Batch, Step
from algd.execution.native import library
from algd.execution.step import prepare_agent
from tests.algorithm.test_update import AGENTS, GUIDANCES, Draws64, batch_of, small_agent
from tests.support.rounding import ShuffledSums

pytestmark = pytest.mark.needs("compiler")

ORDERS = 3  # random orders of torch's sums
MARGIN = 10.0  # allowed ratio of the error in C to the largest in those orders; was at most 3 on an Intel Xeon
ULPS = 4 * torch.finfo(torch.float32).eps  # allowed in addition, relative to a tensor's largest number


class Draws32(Draws64):
    """The random numbers of Draws64, in float32."""

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).float()


def in_float32(agent: Agent) -> Agent:
    """Convert an agent to float32 except for the multiplier, as in training."""
    agent.float()
    agent.guidance.dual.double()  # type: ignore[attr-defined]
    process = getattr(agent.policy, "process", None)
    if process is not None:
        process.spreads, process.scales = process.spreads.float(), process.scales.float()
    return agent


def rounded(state: Any) -> Any:
    """Return a checkpoint with vectors and matrices rounded to float32."""
    if isinstance(state, dict):
        return {key: rounded(value) for key, value in state.items()}
    if isinstance(state, Tensor) and state.is_floating_point() and state.dim():
        return state.float()
    return copy.deepcopy(state)


def after_an_update(agent: Agent, state: Any, batch: Batch, draws: Any, step: Step) -> dict[str, Tensor]:
    """Return all that an update from this state changes: logged scalars, gradients, parameters, buffers."""
    agent.restore(copy.deepcopy(state))
    found = {f"{name} (logged)": value for name, value in agent.update(batch, draws, step).items()}
    found |= {f"∂/∂ {name}": p.grad for name, p in agent.named_parameters() if p.grad is not None}
    found |= {name: value for name, value in agent.state_dict().items() if value.is_floating_point()}
    return {name: value.detach().double().clone() for name, value in found.items()}


def excesses(overrides: list[str], updates: int, every: int) -> Iterator[tuple[float, str]]:
    """Yield the error of networks in C in units of what rounding allows, for every tensor of every compared update."""
    exact, torchs, native = small_agent(*overrides), *(in_float32(small_agent(*overrides)) for _ in range(2))
    in_c = prepare_agent(native, "native")
    for number in range(updates):
        state = rounded(exact.checkpoint())
        single = Batch(*(part.float() for part in batch_of(number)))
        double = Batch(*(part.double() for part in single))
        reference = after_an_update(exact, state, double, Draws64(number), exact.step)
        if number % every:
            continue

        def errors(agent: Agent, step: Step, reference: dict[str, Tensor] = reference, state: Any = state,
                   batch: Batch = single, number: int = number) -> dict[str, float]:
            found = after_an_update(agent, state, batch, Draws32(number), step)
            return {name: float((found[name] - value).abs().max()) for name, value in reference.items()}

        spread: dict[str, float] = {}
        for order in range(ORDERS):
            with ShuffledSums(order):
                for name, error in errors(torchs, torchs.step).items():
                    spread[name] = max(error, spread.get(name, 0.0))
        for name, error in errors(native, in_c).items():
            if not reference[name].isnan().any():  # PID's averages before the first episode
                allowed = MARGIN * spread[name] + ULPS * float(reference[name].abs().max())
                yield (error / allowed if allowed else float(error > 0)), f"{name} in update {number}"


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_in_c_is_the_exact_one_to_rounding(agent: str, guidance: str) -> None:
    """From states along 40 updates, with one agent in C whose parameters change in place."""
    worst, where = max(excesses([f"agent={agent}", f"guidance={guidance}"], 40, 8))
    assert worst <= 1, f"{where}: {worst:.1f} times what rounding allows"


FAULTS = {
    "the slope of SiLU without its curved part": ("sigmoid * (1.0f + (x - y))", "sigmoid"),
    "a bias's gradient with a row twice": ("sums[j] += g[((long)m * rows + i) * n + j]",
                                           "sums[j] += g[((long)m * rows + (i ? i : 1)) * n + j]"),
    "a product that rounds its terms to twelve bits": ("vec left = *(const vec *)panel,",
                                                       "vec left = (vec)(*(const mask *)panel & ~0xfff),"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_c_is_no_rounding(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = FAULTS[fault]
    source = library.SOURCE.read_text()
    assert source.count(right) == 1
    (tmp_path / "mlp.c").write_text(source.replace(right, wrong))
    monkeypatch.setattr(library, "SOURCE", tmp_path / "mlp.c")
    monkeypatch.setenv("ALGD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    worst, _ = max(excesses(["agent=vesde", "guidance=augmented"], 1, 1))
    assert worst > 10
