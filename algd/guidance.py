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

from algd import lagrangian
from algd.dual import PID, DualRule, Fixed, LogAscent

Level = Literal["pointwise", "batch"]


class Guidance(nn.Module):
    """A Lagrangian with its multiplier.

    Args:
        formula: (Q, Qc, λ) ↦ energy, elementwise.
        dual: the rule that owns and moves λ.
        rho: ρ of a batch-level augmentation, which replaces the formula by −Q + w (Qc − h) with one weight
            w = [λ + ρ (mean over the batch of Qc(s, a_data) − h)]₊; None: the formula, pointwise.
        threshold: h, in the cost critic's units.
        penalty: ρ of the guidance, pointwise or batch, for whoever compares L with L_A; None: it has none.
        constrained: whether the energy depends on Qc at all.
    """

    batch_risk: Tensor

    def __init__(self, formula: Callable[[Tensor, Tensor, Tensor], Tensor], dual: DualRule, threshold: float,
                 rho: float | None = None, penalty: float | None = None, constrained: bool = True):
        super().__init__()
        self.constrained = constrained
        self.formula, self.dual, self.threshold, self.rho, self.penalty = formula, dual, threshold, rho, penalty
        self.register_buffer("batch_risk", torch.tensor(threshold, dtype=torch.float32))

    @property
    def multiplier(self) -> Tensor:
        """λ, a scalar without gradient."""
        return self.dual.multiplier()

    def lagrangian(self, q: Tensor, qc: Tensor) -> Tensor:
        """The energy at reward values q and cost values qc, of the same shape."""
        if self.rho is None:
            return self.formula(q, qc, self.multiplier)
        weight = lagrangian.constraint_weight(self.batch_risk, self.multiplier, self.threshold, self.rho)
        return lagrangian.plain(q, qc, weight, self.threshold)

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
    return Guidance(lambda q, qc, lam: -q, Fixed(0.0), threshold, constrained=False)


def plain(name: str, initial_multiplier: Positive, learning_rate: Rate, level: Level = "pointwise", *,
          threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L. Both levels are the same here, since λ is one scalar already; `level` is there for sweeps."""
    return Guidance(partial(lagrangian.plain, threshold=threshold),
                    LogAscent(initial_multiplier, learning_rate, threshold), threshold)


def augmented(name: str, rho: Positive, level: Level, initial_multiplier: Positive, learning_rate: Rate, *,
              threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L_A pointwise; with `level=batch` the policy-level augmentation (CAL, arXiv 2401.14758)."""
    return Guidance(partial(lagrangian.augmented, threshold=threshold, rho=rho),
                    LogAscent(initial_multiplier, learning_rate, threshold), threshold,
                    rho=rho if level == "batch" else None, penalty=rho)


def pid(name: str, proportional: NonNegativeFloat, integral: NonNegativeFloat, derivative: NonNegativeFloat,
        smoothing: Annotated[float, Field(ge=0, lt=1)], delay: PositiveInt, initial_multiplier: NonNegativeFloat, *,
        threshold: FiniteFloat, limit: NonNegativeFloat) -> Guidance:
    """E = L with λ from a PID controller on the training episodes' cost."""
    return Guidance(partial(lagrangian.plain, threshold=threshold),
                    PID(limit, proportional, integral, derivative, smoothing, delay, initial_multiplier), threshold)
