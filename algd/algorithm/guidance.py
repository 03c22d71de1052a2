"""Guidances: which Lagrangian is the energy, and how its multiplier moves.

A guidance is a Lagrangian and a dual rule. Each function at the end builds one from plain arguments; it is what
`guidance=...` on the command line names.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm import lagrangian
from algd.algorithm.dual import PID, DualRule, Fixed, LogAscent

Level = Literal["pointwise", "batch"]


class Guidance(nn.Module):
    """A Lagrangian with its multiplier.

    Args:
        formula: (Q, Qc, λ) ↦ energy, elementwise: −Q and a function of Qc.
        weight: (Qc, λ) ↦ that function's slope, ∂energy/∂Qc; None: there is no such function, the energy is −Q.
        dual: the rule that owns and moves λ.
        rho: ρ of a batch-level augmentation, which replaces the formula by −Q + w (Qc − h) with one weight
            w = [λ + ρ (mean over the batch of Qc(s, a_data) − h)]₊; None: the formula, pointwise.
        threshold: h, in the cost critic's units.
        penalty: ρ of the guidance, pointwise or batch, for whoever compares L with L_A; None: it has none.
    """

    batch_risk: Tensor

    def __init__(self, formula: Callable[[Tensor, Tensor, Tensor], Tensor],
                 weight: Callable[[Tensor, Tensor], Tensor] | None, dual: DualRule, threshold: float,
                 rho: float | None = None, penalty: float | None = None):
        super().__init__()
        self.formula, self.weight, self.dual, self.threshold = formula, weight, dual, threshold
        self.rho, self.penalty = rho, penalty
        self.register_buffer("batch_risk", torch.tensor(threshold, dtype=torch.float32))

    @property
    def multiplier(self) -> Tensor:
        """λ, a scalar without gradient."""
        return self.dual.multiplier()

    def lagrangian(self, q: Tensor, qc: Tensor) -> Tensor:
        """The energy at reward values q and cost values qc, of the same shape."""
        if self.rho is None:
            return self.formula(q, qc, self.multiplier)
        return lagrangian.plain(q, qc, self.constraint_weight(qc), self.threshold)

    def constraint_weight(self, qc: Tensor) -> Tensor:
        """∂E/∂Qc at cost values qc: of their shape, or one for all, ()."""
        assert self.weight is not None
        if self.rho is None:
            return self.weight(qc, self.multiplier)
        return lagrangian.constraint_weight(self.batch_risk, self.multiplier, self.threshold, self.rho)

    def observe_batch(self, risk: Tensor) -> None:
        """Before the policy's update: Qc at the batch's (s, a), shape (B,), sets the weight of a batch level."""
        self.batch_risk.copy_(risk.mean())

    def update(self, risk: Tensor) -> dict[str, Tensor]:
        """After the policy's update: move λ by the same Qc, shape (B,). Returns scalars for the log."""
        self.dual.observe_batch(risk)
        return {"lam": self.multiplier, "constraint": risk.mean() - self.threshold}

    def observe_episode(self, spent: float) -> None:
        """After a training episode: its cost, in the kind that the limit applies to."""
        self.dual.observe_episode(spent)


Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[PositiveFloat, Field(allow_inf_nan=False)]


def none(name: str, *, threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """No constraint: E = −Q. The cost critics are still trained and logged."""
    return Guidance(lambda q, qc, lam: -q, None, Fixed(0.0), threshold)


def plain(name: str, initial_multiplier: Positive, learning_rate: Rate, level: Level = "pointwise", *,
          threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L. Both levels are the same here, since λ is one scalar already; `level` is there for sweeps."""
    return Guidance(partial(lagrangian.plain, threshold=threshold), lambda qc, lam: lam,
                    LogAscent(initial_multiplier, learning_rate, threshold), threshold)


def augmented(name: str, rho: Positive, level: Level, initial_multiplier: Positive, learning_rate: Rate, *,
              threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L_A pointwise; with `level=batch` the policy-level augmentation (CAL, arXiv 2401.14758)."""
    return Guidance(partial(lagrangian.augmented, threshold=threshold, rho=rho),
                    partial(lagrangian.constraint_weight, threshold=threshold, rho=rho),
                    LogAscent(initial_multiplier, learning_rate, threshold), threshold,
                    rho=rho if level == "batch" else None, penalty=rho)


def pid(name: str, proportional: NonNegativeFloat, integral: NonNegativeFloat, derivative: NonNegativeFloat,
        smoothing: Annotated[float, Field(ge=0, lt=1)], delay: PositiveInt, initial_multiplier: NonNegativeFloat, *,
        threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L with λ from a PID controller on the training episodes' cost."""
    return Guidance(partial(lagrangian.plain, threshold=threshold), lambda qc, lam: lam,
                    PID(limit, proportional, integral, derivative, smoothing, delay, initial_multiplier), threshold)
