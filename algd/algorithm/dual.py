"""Rules for the multiplier λ of the cost constraint. A guidance owns one of them."""

from typing import Protocol

import torch
from torch import Tensor, nn


class DualRule(Protocol):
    """λ, and how it moves. Each rule listens to one of the two signals and ignores the other."""

    optimizers: dict[str, torch.optim.Optimizer]
    """What else is part of a checkpoint, beside the module's state."""

    def multiplier(self) -> Tensor:
        """λ ≥ 0, a scalar without gradient."""
        ...

    def observe_batch(self, risk: Tensor) -> None:
        """After each gradient update: Qc at a batch of (s, a) from the replay, shape (B,)."""
        ...

    def observe_episode(self, spent: float) -> None:
        """After each training episode: its cost, in the kind that the limit applies to."""
        ...


class Fixed(nn.Module):
    """A constant multiplier."""

    value: Tensor

    def __init__(self, value: float):
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.register_buffer("value", torch.tensor(value, dtype=torch.float64))

    def multiplier(self) -> Tensor:
        return self.value

    def observe_batch(self, risk: Tensor) -> None:
        pass

    def observe_episode(self, spent: float) -> None:
        pass


class LogAscent(nn.Module):
    """Gradient ascent on the dual in log λ with Adam: minimises λ (h − mean Qc) (arXiv 2602.02924).

    Because the gradient is taken in log λ and Adam normalises it, λ moves by at most a factor of about
    exp(learning_rate) an update, and never reaches 0.

    Args:
        initial: λ at the start, > 0.
        learning_rate: Adam's, on log λ.
        threshold: h, in the cost critic's units.
    """

    def __init__(self, initial: float, learning_rate: float, threshold: float):
        super().__init__()
        self.log_multiplier = nn.Parameter(torch.tensor(initial, dtype=torch.float64).log())
        self.threshold = threshold
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "multiplier": torch.optim.Adam([self.log_multiplier], lr=learning_rate, fused=True)}

    def multiplier(self) -> Tensor:
        return self.log_multiplier.detach().exp()

    def observe_batch(self, risk: Tensor) -> None:
        # d/d(log λ) of λ (h − Qc), written out: a graph for one scalar costs more than the scalar.
        self.log_multiplier.grad = self.multiplier() * (self.threshold - risk).mean()
        self.optimizers["multiplier"].step()

    def observe_episode(self, spent: float) -> None:
        pass


class PID(nn.Module):
    """The PID controller of Stooke et al. (arXiv 2007.03964, algorithm 2) on the episodes' measured cost.

        Δ = J_C − d,   I ← [I + Δ]₊,   D = [J̄_C − J̄_C']₊,   λ = [K_P Δ̄ + K_I I + K_D D]₊

    J_C is an episode's cost in the limit's own kind and d the limit; Δ̄ and J̄_C are exponential averages,
    J̄_C' the average `delay` episodes earlier. Costs are divided by max(d, 1), so that the gains carry over between
    tasks.

    Args:
        limit: d, in the cost's units.
        proportional, integral, derivative: K_P, K_I, K_D, in units of λ per relative violation (and episode).
        smoothing: weight of the old value in the averages, in [0, 1).
        delay: episodes between the two averages of the derivative, ≥ 1.
        initial: λ before the first episode, ≥ 0, as the integral's start.
    """

    value: Tensor
    accumulated: Tensor
    violation: Tensor
    costs: Tensor

    def __init__(self, limit: float, proportional: float, integral: float, derivative: float, smoothing: float,
                 delay: int, initial: float):
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.limit, self.scale = limit, max(limit, 1.0)
        self.gains = proportional, integral, derivative
        self.smoothing = smoothing
        double = torch.float64
        self.register_buffer("value", torch.tensor(initial, dtype=double))
        self.register_buffer("accumulated", torch.tensor(initial / integral if integral else 0.0, dtype=double))
        self.register_buffer("violation", torch.tensor(float("nan"), dtype=double))
        self.register_buffer("costs", torch.full((delay + 1,), float("nan"), dtype=double))

    def multiplier(self) -> Tensor:
        return self.value

    def observe_batch(self, risk: Tensor) -> None:
        pass

    def observe_episode(self, spent: float) -> None:
        violation = torch.tensor((spent - self.limit) / self.scale, dtype=torch.float64, device=self.value.device)
        cost = torch.full_like(violation, spent / self.scale)
        first = bool(self.violation.isnan())
        smooth = 0.0 if first else self.smoothing
        self.violation.copy_(violation if first else smooth * self.violation + (1 - smooth) * violation)
        average = cost if first else smooth * self.costs[-1] + (1 - smooth) * cost
        self.costs.copy_(average.expand_as(self.costs) if first else torch.cat([self.costs[1:], average[None]]))
        self.accumulated.add_(violation).clamp_(min=0)
        p, i, d = self.gains
        change = (self.costs[-1] - self.costs[0]).clamp(min=0)
        self.value.copy_((p * self.violation + i * self.accumulated + d * change).clamp(min=0))
