"""Guidances: which Lagrangian is the energy, and which rule updates its multiplier.

`guidance=...` on the command line names one of the functions at the end, which builds one from plain arguments;
`guidance/dual=...` names its `dual`.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import FiniteFloat, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm import lagrangian
from algd.algorithm.dual import DualRule, Fixed, Positive, Signals

Kind = Literal["none", "plain", "augmented"]
Level = Literal["pointwise", "batch"]


class Guidance(nn.Module):
    """A Lagrangian with its multiplier.

    Args:
        kind: the energy. "none": −Q; "plain": L; "augmented": L_A.
        dual: the rule that owns and updates λ.
        threshold: h, in the cost critic's units.
        rho: ρ of L_A; None for the other kinds.
        level: of the augmentation. "pointwise": L_A at every (s, a); "batch": −Q + w (Qc − h) with one weight
            w = [λ + ρ (mean over the batch of Qc(s, a_data) − h)]₊ (CAL, arXiv 2401.14758).

    In the methods lam is λ, broadcast against q and qc; None: the rule's own, if that is a scalar.
    """

    batch_risk: Tensor

    def __init__(self, kind: Kind, dual: DualRule, threshold: float, rho: float | None = None,
                 level: Level = "pointwise"):
        super().__init__()
        assert (kind == "augmented") == (rho is not None), f"{kind} with rho={rho}"
        self.kind, self.dual, self.threshold, self.rho, self.level = kind, dual, threshold, rho, level
        self.register_buffer("batch_risk", torch.tensor(threshold, dtype=torch.float32))

    @property
    def multiplier(self) -> Tensor:
        """λ, a scalar without gradient; of a rule that depends on the state, the last batch's mean."""
        return self.dual.multiplier()

    @property
    def is_statewise(self) -> bool:
        """Whether λ is a function of the state."""
        return bool(getattr(self.dual, "statewise", False))

    def lagrangian(self, q: Tensor, qc: Tensor, lam: Tensor | None = None) -> Tensor:
        """The energy at reward values q and cost values qc, of the same shape."""
        if self.kind == "none":
            return -q
        lam = self.multiplier if lam is None else lam
        if self.rho is not None and self.level == "pointwise":
            return lagrangian.augmented(q, qc, lam, self.threshold, self.rho)
        return lagrangian.plain(q, qc, self.constraint_weight(qc, lam), self.threshold)

    def constraint_weight(self, qc: Tensor, lam: Tensor | None = None) -> Tensor:
        """∂E/∂Qc at cost values qc: of their shape, or a scalar for all; not defined for kind none."""
        assert self.kind != "none"
        lam = self.multiplier if lam is None else lam
        if self.rho is None:
            return lam
        risk = qc if self.level == "pointwise" else self.batch_risk
        return lagrangian.constraint_weight(risk, lam, self.threshold, self.rho)

    def observe_batch(self, risk: Tensor) -> None:
        """Before the policy's update: Qc at the batch's (s, a), shape (B,), sets the weight of a batch level."""
        self.batch_risk.copy_(risk.mean())

    def update(self, signals: Signals) -> dict[str, Tensor]:
        """After the policy's update: the rule's update of λ. Returns scalars for the log."""
        self.dual.observe_batch(signals)
        return {"lam": self.multiplier, "constraint": signals.replay.mean() - self.threshold}

    def observe_episode(self, spent: float) -> None:
        """After a training episode: its cost, in the kind that the limit applies to."""
        self.dual.observe_episode(spent)


Dual = Callable[..., DualRule]


def accepted(function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """The arguments that a function accepts; a user's need not take all."""
    parameters = inspect.signature(function).parameters
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in offered.items() if everything or name in parameters}


def _rule(dual: Dual, threshold: float, limit: float, observation_size: int) -> DualRule:
    return dual(**accepted(dual, threshold=threshold, limit=limit, observation_size=observation_size))


def none(name: str, *, threshold: FiniteFloat, limit: NonNegativeFloat, observation_size: PositiveInt = 1) -> Guidance:
    """No constraint: E = −Q. The cost critics are still trained and logged."""
    return Guidance("none", Fixed(0.0), threshold)


def plain(name: str, dual: Dual, level: Level = "pointwise", *, threshold: FiniteFloat, limit: NonNegativeFloat,
          observation_size: PositiveInt = 1) -> Guidance:
    """E = L. Both levels are the same for L; `level` exists so that sweeps can set it."""
    return Guidance("plain", _rule(dual, threshold, limit, observation_size), threshold, level=level)


def augmented(name: str, rho: Positive, level: Level, dual: Dual, *, threshold: FiniteFloat, limit: NonNegativeFloat,
              observation_size: PositiveInt = 1) -> Guidance:
    """E = L_A, pointwise or of the batch."""
    return Guidance("augmented", _rule(dual, threshold, limit, observation_size), threshold, rho, level)


def reachability(name: str, cost_backup: Literal["reach"], dual: Dual, *, threshold: FiniteFloat,
                 limit: NonNegativeFloat, observation_size: PositiveInt = 1) -> Guidance:
    """E = −Q + λ(s) Q_h, where Q_h is the worst future violation (RCRL; Yu et al., arXiv 2205.07536).

    Args:
        cost_backup: what the agent's cost critics must learn; it sets agent.cost_backup.
    """
    return Guidance("plain", _rule(dual, threshold, limit, observation_size), threshold)
