"""Rules for the multiplier λ of the cost constraint. A guidance owns one of them; `guidance/dual=...` names it.

A rule uses one of three measurements of the policy's cost (`Signals`, `observe_episode`). Each
constructor's arguments are the keys of conf/guidance/dual/; threshold and limit are the task's.
"""

from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm.networks import Perceptron

Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[PositiveFloat, Field(allow_inf_nan=False)]
Signal = Literal["replay", "policy", "episodes"]


class Signals(NamedTuple):
    """An update's estimates of the policy's cost, by the critics after the update.

    Attributes:
        observation: (B, s), the batch's states, normalised.
        replay: (B,), Qc at the replay's actions.
        policy: (B,), Qc at the policy's actions in these states.
    """

    observation: Tensor
    replay: Tensor
    policy: Tensor


class DualRule(Protocol):
    """λ, and its updates. A rule uses one of the signals and ignores the others.

    A rule whose λ depends on the state says so by `statewise = True` in its class.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    """Part of a checkpoint, besides the module's state."""

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        """λ ≥ 0 without gradient: a scalar, or of a rule that depends on the state, (B,) at observations (B, s)."""
        ...

    def observe_batch(self, signals: Signals) -> None:
        """After each gradient update."""
        ...

    def observe_episode(self, spent: float) -> None:
        """After each training episode.

        Args:
            spent: the episode's cost, in the limit's kind.
        """
        ...


class Fixed(nn.Module):
    """A constant multiplier: a weight on the cost, chosen in advance.

    Args:
        multiplier: λ ≥ 0.
    """

    value: Tensor

    def __init__(self, multiplier: NonNegativeFloat, name: Literal["fixed"] = "fixed", *,
                 threshold: FiniteFloat = 0.0, limit: NonNegativeFloat = 0.0, observation_size: PositiveInt = 1):
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.register_buffer("value", torch.tensor(multiplier, dtype=torch.float64))

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        return self.value

    def observe_batch(self, signals: Signals) -> None:
        pass

    def observe_episode(self, spent: float) -> None:
        pass


class LogAscent(nn.Module):
    """Gradient ascent on the dual in log λ with Adam: minimises λ (h − C) (arXiv 2602.02924).

    Because the gradient is taken in log λ and Adam normalises it, λ moves by at most a factor of about
    exp(learning_rate) an update, and never reaches 0. For the same reason only the sign of C − h and its steadiness
    matter, not its unit.

    Args:
        initial_multiplier: λ at the start, > 0.
        learning_rate: Adam's, on log λ.
        signal: what C is. "replay": the batch's mean of Qc at the replay's actions, the authors'; it measures all
            policies whose transitions are in the replay. "policy": the mean of Qc at the policy's own actions in
            the same states. "episodes": the mean cost of the last training episodes, compared with the limit instead
            of h; it needs no critic.
        hold: updates before the first change of λ. Adam's averages follow the gradient from the first update on.
        window: training episodes in the mean of signal=episodes.
        threshold: h, in the cost critic's units.
        limit: the allowed cost of an episode, in its own kind.
    """

    updates: Tensor
    costs: Tensor

    def __init__(self, initial_multiplier: Positive, learning_rate: Rate, signal: Signal = "replay",
                 hold: NonNegativeInt = 0, window: PositiveInt = 10, name: Literal["ascent"] = "ascent", *,
                 threshold: FiniteFloat, limit: NonNegativeFloat = 0.0, observation_size: PositiveInt = 1):
        super().__init__()
        self.log_multiplier = nn.Parameter(torch.tensor(initial_multiplier, dtype=torch.float64).log())
        self.threshold, self.limit, self.signal, self.hold = threshold, limit, signal, hold
        self.learning_rate = learning_rate
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "multiplier": torch.optim.Adam([self.log_multiplier], lr=learning_rate, fused=True)}
        # Only if needed: every buffer is part of the checkpoints' format.
        if hold:
            self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        if signal == "episodes":
            self.register_buffer("costs", torch.full((window,), float("nan"), dtype=torch.float64))

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        return self.log_multiplier.detach().exp()

    def observe_batch(self, signals: Signals) -> None:
        # d/d(log λ) of λ (h − C), written out: autograd for one scalar costs more than the scalar.
        self.log_multiplier.grad = self.multiplier() * self._slack(signals)
        before = self.log_multiplier.detach().clone() if self.hold else None
        self.optimizers["multiplier"].step()
        if before is not None:
            # No branch on a value: this runs in a CUDA graph too.
            self.updates += 1
            with torch.no_grad():
                self.log_multiplier.copy_(torch.where(self.updates > self.hold, self.log_multiplier, before))

    def _slack(self, signals: Signals) -> Tensor:
        """h − C, or limit − C of episodes; 0 before the first episode."""
        if self.signal == "episodes":
            return (self.limit - self.costs.nanmean()).nan_to_num()
        return (self.threshold - (signals.replay if self.signal == "replay" else signals.policy)).mean()

    def observe_episode(self, spent: float) -> None:
        if self.signal == "episodes":
            self.costs.copy_(torch.cat([self.costs[1:], self.costs.new_tensor([spent])]))


class PID(nn.Module):
    """The PID controller of Stooke et al. (arXiv 2007.03964, algorithm 2) on the episodes' measured cost.

        Δ = J_C − d,   I ← [I + Δ]₊,   D = [J̄_C − J̄_C']₊,   λ = [K_P Δ̄ + K_I I + K_D D]₊

    J_C is an episode's cost in the limit's own kind and d the limit; Δ̄ and J̄_C are exponential averages,
    J̄_C' the average `delay` episodes earlier. Costs are divided by max(d, 1), so that the gains carry over between
    tasks.

    Args:
        proportional, integral, derivative: K_P, K_I, K_D, in units of λ per relative violation (and episode).
        smoothing: weight of the old value in the averages, in [0, 1).
        delay: episodes between the two averages of the derivative, ≥ 1.
        initial_multiplier: λ before the first episode, ≥ 0, as the integral's start.
        limit: d, in the cost's units.
    """

    value: Tensor
    accumulated: Tensor
    violation: Tensor
    costs: Tensor

    def __init__(self, proportional: NonNegativeFloat, integral: NonNegativeFloat, derivative: NonNegativeFloat,
                 smoothing: Annotated[float, Field(ge=0, lt=1)], delay: PositiveInt,
                 initial_multiplier: NonNegativeFloat, name: Literal["pid"] = "pid", *,
                 threshold: FiniteFloat = 0.0, limit: NonNegativeFloat, observation_size: PositiveInt = 1):
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.limit, self.scale = limit, max(limit, 1.0)
        self.gains = proportional, integral, derivative
        self.smoothing = smoothing
        double, start = torch.float64, initial_multiplier / integral if integral else 0.0
        self.register_buffer("value", torch.tensor(initial_multiplier, dtype=double))
        self.register_buffer("accumulated", torch.tensor(start, dtype=double))
        self.register_buffer("violation", torch.tensor(float("nan"), dtype=double))
        self.register_buffer("costs", torch.full((delay + 1,), float("nan"), dtype=double))

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        return self.value

    def observe_batch(self, signals: Signals) -> None:
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


class EStep(nn.Module):
    """λ from the E-step of constrained variational policy optimisation, which solves for it at every batch so that the
    mean cost of the reweighted actions is at most h (CVPO; Liu et al., arXiv 2201.11927).

    Only a policy with an E-step (agent=cvpo) can use it.

    Args:
        initial_multiplier: λ before the first update, ≥ 0.
    """

    value: Tensor

    def __init__(self, initial_multiplier: NonNegativeFloat, name: Literal["estep"] = "estep", *,
                 threshold: FiniteFloat, limit: NonNegativeFloat = 0.0, observation_size: PositiveInt = 1):
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.register_buffer("value", torch.tensor(initial_multiplier, dtype=torch.float64))

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        return self.value

    def take(self, multiplier: float) -> None:
        """Set λ to the E-step's solution."""
        self.value.fill_(multiplier)

    def observe_batch(self, signals: Signals) -> None:
        pass

    def observe_episode(self, spent: float) -> None:
        pass


class Statewise(nn.Module):
    """λ(s) ≥ 0, a network of the state, that ascends mean λ(s) (Qc(s, a) − h), so that the constraint applies in
    every state and not on average: the state-wise Lagrangian (FAC; Ma et al., arXiv 2105.10682), and with
    agent.cost_backup=reach the multiplier of reachability-constrained RL (RCRL; Yu et al., arXiv 2205.07536).

    λ(s) = softplus of a multilayer perceptron: ln 2 where its output is 0.

    Args:
        hidden_sizes: widths of the ReLU layers.
        learning_rate: Adam's.
        signal: the actions a. "policy": the policy's own, as in both papers; "replay": the replay's.
        clip: Qc − h is clipped to [−clip, clip].
        max_gradient_norm: gradients are scaled down to this length.
        threshold: h, in the cost critic's units.
        observation_size: s.
    """

    statewise = True
    value: Tensor

    def __init__(self, hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)], learning_rate: Rate,
                 signal: Literal["replay", "policy"], clip: Positive, max_gradient_norm: Positive,
                 name: Literal["statewise"] = "statewise", *, threshold: FiniteFloat, limit: NonNegativeFloat = 0.0,
                 observation_size: PositiveInt):
        super().__init__()
        self.network = Perceptron([observation_size, *hidden_sizes, 1])
        self.threshold, self.signal, self.clip, self.max_gradient_norm = threshold, signal, clip, max_gradient_norm
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "multiplier": torch.optim.Adam(self.network.parameters(), lr=learning_rate, fused=True)}
        self.register_buffer("value", torch.tensor(0.0, dtype=torch.float64))

    def _of(self, observation: Tensor) -> Tensor:
        return nn.functional.softplus(self.network(observation).squeeze(-1))

    def multiplier(self, observation: Tensor | None = None) -> Tensor:
        """λ(s), (B,), at observations (B, s), without gradient; without observations its mean over the last batch."""
        if observation is None:
            return self.value
        with torch.no_grad():
            return self._of(observation)

    def observe_batch(self, signals: Signals) -> None:
        risk = signals.policy if self.signal == "policy" else signals.replay
        multipliers = self._of(signals.observation)
        loss = -(multipliers * (risk - self.threshold).clamp(-self.clip, self.clip)).mean()
        parameters = list(self.network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)
        self.optimizers["multiplier"].step()
        self.value.copy_(multipliers.detach().mean())

    def observe_episode(self, spent: float) -> None:
        pass
