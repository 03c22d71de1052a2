"""The Lagrangians and their gradients, against numbers computed by hand and automatic differentiation."""

import pytest
import torch
from torch import Tensor

from algd.algorithm.dual import Signals
from algd.algorithm.energy import Energy
from algd.algorithm.lagrangian import augmented, constraint_weight, plain
from algd.algorithm.networks import CriticEnsemble
from algd.cli.compose import CONF
from algd.run.build import build
from tests.support.command import TINY, compose

# q, qc, λ, h, ρ, then computed by hand: L, weight, L_A.
CASES = [
    (1.0, 3.0, 0.5, 2.0, 2.0, -0.5, 2.5, 0.5),    # −1 + .5·1;   .5 + 2·1 = 2.5;    (6.25 − .25)/4 − 1
    (1.0, 1.0, 0.5, 2.0, 2.0, -1.5, 0.0, -1.0625),  # −1 − .5;   .5 − 2 < 0;        −.25/4 − 1
    (-2.0, 2.0, 0.5, 2.0, 0.1, 2.0, 0.5, 2.0),    # at the threshold both are −q
    (0.0, 2.5, 0.0, 2.0, 4.0, 0.0, 2.0, 0.5),     # λ = 0: 4 · 0.5 = 2;           2²/8
]


@pytest.mark.parametrize(("q", "qc", "lam", "threshold", "rho", "l", "weight", "l_a"), CASES)
def test_by_hand(q: float, qc: float, lam: float, threshold: float, rho: float, l: float, weight: float,  # noqa: E741
                 l_a: float) -> None:
    q, qc, lam = (torch.tensor(v, dtype=torch.float64) for v in (q, qc, lam))
    assert plain(q, qc, lam, threshold).item() == pytest.approx(l, abs=1e-12)
    assert constraint_weight(qc, lam, threshold, rho).item() == pytest.approx(weight, abs=1e-12)
    assert augmented(q, qc, lam, threshold, rho).item() == pytest.approx(l_a, abs=1e-12)


def test_gradient_and_convexification() -> None:
    """∇L_A = −∇Q + [λ + ρ(Qc − h)]₊ ∇Qc, and ∇²L_A has the additional term ρ ∇Qc ∇Qcᵀ where active (Qc linear)."""
    slope, curvature = torch.tensor([0.6, -0.8]).double(), torch.tensor([[1.0, 0.2], [0.2, -2.0]]).double()

    def energy(a: Tensor) -> Tensor:
        return augmented(-0.5 * a @ curvature @ a, slope @ a, torch.tensor(0.3).double(), 0.1, 5.0)

    for point, active in ((torch.tensor([1.0, -0.5]).double(), True), (torch.tensor([-1.0, 0.5]).double(), False)):
        weight = constraint_weight(slope @ point, 0.3, 0.1, 5.0)
        assert (weight > 0) == active
        gradient = torch.autograd.functional.jacobian(energy, point)
        torch.testing.assert_close(gradient, curvature @ point + weight * slope)
        hessian = torch.autograd.functional.hessian(energy, point)
        torch.testing.assert_close(hessian, curvature + (5.0 * torch.outer(slope, slope) if active else 0))


def test_kkt_pairs_have_equal_value_and_stationarity() -> None:
    """At Qc = h with λ > 0, and at Qc < h with λ = 0, L and L_A have equal values and gradients."""
    for qc_value, lam in ((2.0, 0.7), (1.0, 0.0)):
        gradients = []
        for formula in (lambda q, qc, m: plain(q, qc, m, 2.0), lambda q, qc, m: augmented(q, qc, m, 2.0, 3.0)):
            qc = torch.tensor(qc_value, dtype=torch.float64, requires_grad=True)
            value = formula(torch.tensor(1.5).double(), qc, lam)
            gradients.append((value.item(), torch.autograd.grad(value, qc)[0].item()))
        assert gradients[0] == pytest.approx(gradients[1], abs=1e-12)


GUIDANCES = [[f"guidance={path.stem}"] for path in sorted((CONF / "guidance").glob("*.yaml"))]


@pytest.mark.parametrize("arguments", [*GUIDANCES, ["guidance=augmented", "guidance.level=batch"]], ids=" ".join)
def test_a_guidances_weight_is_the_slope_of_its_lagrangian(arguments: list[str]) -> None:
    """In every guidance the constraint's weight, which gradients use, equals the energy's derivative in Qc."""
    torch.manual_seed(0)
    guidance = build(compose(*TINY, "env=toy", *arguments)["guidance"], threshold=0.3, limit=1.0)
    guidance.observe_batch(torch.tensor([0.1, 0.7]))
    guidance.update(Signals(torch.zeros(2, 1), torch.tensor([0.1, 0.7]), torch.tensor([0.1, 0.7])))
    guidance.observe_episode(3.0)
    q, qc = torch.randn(50).double().requires_grad_(), (3 * torch.randn(50)).double().requires_grad_()
    by_q, by_qc = torch.autograd.grad(guidance.lagrangian(q, qc).sum(), (q, qc), materialize_grads=True)
    torch.testing.assert_close(by_q, -torch.ones(50).double())
    weight = 0.0 if guidance.kind == "none" else guidance.constraint_weight(qc).detach()
    torch.testing.assert_close(by_qc, by_qc * 0 + weight)
    assert bool(by_qc.any()) == (guidance.kind != "none")


@pytest.mark.parametrize("members", [1, 3])
def test_energy_against_a_second_implementation(members: int) -> None:
    """Stacked critics, shared first layer and risk equal a plain loop over separate networks in float64."""
    torch.manual_seed(0)
    q = CriticEnsemble(2, 4, 3, [8, 6], "relu", "xavier").double()
    qc = CriticEnsemble(members, 4, 3, [8, 6], "silu", "normal").double()
    for ensemble in (q, qc):
        for bias in ensemble.biases:
            torch.nn.init.normal_(bias)
    energy = Energy(q, qc, 1.5, lambda a, b: augmented(a, b, 0.4, 0.2, 1.7),
                    lambda b: constraint_weight(b, 0.4, 0.2, 1.7))
    state, actions = torch.randn(5, 4).double(), torch.randn(5, 7, 3).double()

    def separate(ensemble: CriticEnsemble, activation, x: Tensor) -> Tensor:
        outputs = []
        for i in range(ensemble.members):
            h = x
            for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
                h = h @ weight[i].T + bias[i]
                h = activation(h) if layer < 2 else h
            outputs.append(h.squeeze(-1))
        return torch.stack(outputs)

    actions.requires_grad_()
    x = torch.cat([state.unsqueeze(1).expand(5, 7, 4), actions], dim=-1)
    reward = separate(q, torch.relu, x).min(0).values
    costs = separate(qc, torch.nn.functional.silu, x)
    risk = costs.mean(0) + (1.5 * costs.std(0, unbiased=True) if members > 1 else 0)
    expected = -reward + ((0.4 + 1.7 * (risk - 0.2)).clamp(min=0) ** 2 - 0.16) / 3.4
    (gradient,) = torch.autograd.grad(expected.sum(), actions)
    found, found_gradient = energy.value_and_gradient(state, actions)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient, gradient)
    torch.testing.assert_close(energy(state, actions[:, 2]), expected[:, 2])
    assert not any(p.grad is not None for p in [*q.parameters(), *qc.parameters()])


def test_members_that_agree_have_no_infinite_slope() -> None:
    ensemble = CriticEnsemble(2, 1, 1, [4], "silu", "normal")
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter[1] = parameter[0]
    energy = Energy(CriticEnsemble(2, 1, 1, [4], "relu", "xavier"), ensemble, 1.0,
                    lambda q, qc: qc - q, lambda qc: 1.0)
    assert energy.value_and_gradient(torch.zeros(1, 1), torch.ones(1, 1))[1].isfinite().all()
