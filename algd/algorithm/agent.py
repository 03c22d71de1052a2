"""The agent: reward and cost critics, a policy, a guidance, and one update of all of them.

Read `benchmarks/plain_update.py` first: the same update with plain networks and automatic differentiation, in one file.
This module has it for every policy and guidance, with gradients written by hand.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from algd.algorithm.dual import Signals
from algd.algorithm.energy import Energy, EnergyAtStates, unbiased_std
from algd.algorithm.guidance import Guidance
from algd.algorithm.mlp import MLP
from algd.algorithm.networks import CriticEnsemble, Initialisation, Perceptron, ScoreNetwork
from algd.algorithm.normalisation import Normaliser
from algd.algorithm.policies import ActingPolicy, ImprovingPolicy, Policy
from algd.algorithm.rng import RandomGenerator

Discount = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
CostBackup = Literal["sum", "reach"]
Widths = Annotated[list[PositiveInt], Field(min_length=1)]


class Batch(NamedTuple):
    """B transitions. `reward_done` and `cost_done` are 1 where the return ends, 0 where the target bootstraps."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    cost: Tensor
    next_observation: Tensor
    reward_done: Tensor
    cost_done: Tensor


class Draws(NamedTuple):
    """The random numbers of one update: for the next states' actions, and for the policy's loss."""

    next_action: Tensor
    loss: tuple[Tensor, ...]


Step = Callable[[Batch, Draws, bool], Mapping[str, Tensor]]
"""One update: the batch, the draws, whether the target networks are updated too ↦ scalars for the log."""


@torch.no_grad()
def act(policy: ActingPolicy, normaliser: Normaliser, observation: Tensor, noise: RandomGenerator | None) -> Tensor:
    """Actions (B, d) at raw observations (B, s): stochastic with a source of noise, deterministic with None."""
    observation = normaliser.observations(observation)
    if noise is None:
        return policy.deterministic(observation)
    return policy.sample(observation, policy.draw(len(observation), noise)).action


class Agent(nn.Module):
    """A constrained off-policy actor-critic; the energy that its policy descends is the guidance's Lagrangian.

    One update is: reward critics, cost critics, policy, λ, and every `target_interval` updates the targets.

    Args:
        name: names the agent in folders and tables.
        observation_size: s.
        action_low, action_high: (d,), the box of actions.
        policy: builds the policy from (observation_size, action_low, action_high).
        guidance: the Lagrangian and its multiplier.
        discount, cost_discount: γ and γ_c.
        critic_hidden_sizes, cost_hidden_sizes: widths of the reward critics' ReLU and the cost critics' SiLU layers.
        cost_members: size of the cost critics' ensemble.
        cost_initialisation: of the cost critics (see CriticEnsemble).
        risk_factor: k in Qc = mean + k·std over the ensemble.
        policy_learning_rate, critic_learning_rate, cost_learning_rate: Adam's.
        normaliser: applied to observations and rewards before the networks; None: no normalisation.
        cost_backup: what the cost critics predict. "sum": the discounted sum of costs; "reach": the worst future
            violation, in [−1, 1], above 0 where an unsafe step cannot be avoided (arXiv 2205.07536, eq. 12).
        unsafe_above: cost_backup=reach: a step with a larger cost is unsafe.
        polyak: weight of the online parameters in a target update.
        target_interval: updates between two target updates; the first update makes one.
    """

    def __init__(self, name: str, observation_size: PositiveInt, action_low: Sequence[float],
                 action_high: Sequence[float], policy: Callable[..., Policy | ImprovingPolicy], guidance: Guidance,
                 discount: Discount, cost_discount: Discount, critic_hidden_sizes: Widths, cost_hidden_sizes: Widths,
                 cost_members: PositiveInt, cost_initialisation: Initialisation, risk_factor: NonNegativeFloat,
                 policy_learning_rate: Rate, critic_learning_rate: Rate, cost_learning_rate: Rate,
                 polyak: Rate, target_interval: PositiveInt, normaliser: Normaliser | None = None,
                 cost_backup: CostBackup = "sum", unsafe_above: NonNegativeFloat = 0.0):
        super().__init__()
        self.cost_backup, self.unsafe_above = cost_backup, unsafe_above
        sizes = observation_size, len(action_low)
        self.policy = policy(observation_size=observation_size, action_low=action_low, action_high=action_high)
        self.guidance = guidance
        self.discount, self.cost_discount = discount, cost_discount
        self.polyak, self.target_interval = polyak, target_interval
        self.normaliser = normaliser or Normaliser(observation_size, False, False, discount)

        def critics() -> CriticEnsemble:
            return CriticEnsemble(2, *sizes, critic_hidden_sizes, "relu", "xavier")

        def cost_critics() -> CriticEnsemble:
            return CriticEnsemble(cost_members, *sizes, cost_hidden_sizes, "silu", cost_initialisation)

        self.critics, self.target_critics = critics(), critics()
        self.cost_critics, self.target_cost_critics = cost_critics(), cost_critics()
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_cost_critics.load_state_dict(self.cost_critics.state_dict())
        self.target_critics.requires_grad_(False)
        self.target_cost_critics.requires_grad_(False)
        self.energy = Energy(self.critics, self.cost_critics, risk_factor, guidance.lagrangian,
                             guidance.constraint_weight if guidance.kind != "none" else None,
                             guidance.dual.multiplier if guidance.is_statewise else None)
        networks: dict[str, tuple[Any, float]] = {
            "policy": (self.policy, policy_learning_rate), "critics": (self.critics, critic_learning_rate),
            "cost_critics": (self.cost_critics, cost_learning_rate)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(network.parameters(), lr=rate, fused=True)
            for name, (network, rate) in networks.items()} | guidance.dual.optimizers
        self.updates = 0

    def checkpoint(self) -> dict[str, Any]:
        """All state that an update reads and changes, as nested dictionaries of tensors and numbers."""
        return {"model": self.state_dict(), "updates": self.updates,
                "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `checkpoint` returned."""
        self.load_state_dict(state["model"])
        self.updates = state["updates"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict({"param_groups": optimizer.state_dict()["param_groups"],
                                       "state": {int(k): v for k, v in state["optimizers"].get(name, {}).items()}})

    def act(self, observation: Tensor, noise: RandomGenerator | None) -> Tensor:
        """Actions (B, d) at raw observations (B, s): stochastic with a source of noise, deterministic with None."""
        return act(self.policy, self.normaliser, observation, noise)

    def update(self, batch: Batch, noise: RandomGenerator, step: Step | None = None) -> Mapping[str, Tensor]:
        """One update from one batch of raw transitions.

        Args:
            step: the function that executes it (from `algd.execution.step.prepare_agent`); None: `Agent.step`.

        Returns:
            Scalars for the log, detached, on the device, valid until the next update.
        """
        metrics = (step or self.step)(batch, self.draw(len(batch.reward), noise), self.targets_due)
        self.updates += 1
        return metrics

    def draw(self, size: int, noise: RandomGenerator) -> Draws:
        """All random numbers of one update from a batch of this size."""
        return Draws(self.policy.draw(size, noise), self.policy.draw_loss(size, noise))

    @property
    def targets_due(self) -> bool:
        """Whether the next update also updates the target networks."""
        return self.updates % self.target_interval == 0

    def step(self, batch: Batch, draws: Draws, update_targets: bool) -> dict[str, Tensor]:
        """The update as a function of tensors alone: no random draw, no branch on a value, no synchronisation."""
        batch = batch._replace(observation=self.normaliser.observations(batch.observation),
                               next_observation=self.normaliser.observations(batch.next_observation),
                               reward=self.normaliser.rewards(batch.reward))
        metrics = self._update_critics(batch, draws.next_action)
        energy = self.energy.at(batch.observation)
        risk = energy.risk(batch.action)
        self.guidance.observe_batch(risk)
        policy_risk, policy_metrics = self._update_policy(batch.observation, energy, draws.loss)
        metrics |= policy_metrics
        metrics |= self.guidance.update(Signals(batch.observation, risk, policy_risk))
        if update_targets:
            self._update_targets()
        return metrics

    def _update_critics(self, batch: Batch, normals: Tensor) -> dict[str, Tensor]:
        """Reward: r + γ (min Q'(s', a') + entropy bonus), summed over the twins; cost: `cost_target`, each member its
        own, averaged."""
        with torch.no_grad():
            action, bonus = self.policy.sample(batch.next_observation, normals)
            value = self.target_critics(batch.next_observation, action).amin(0) + bonus
            target = batch.reward + self.discount * (1 - batch.reward_done) * value
            cost_value = self.target_cost_critics(batch.next_observation, action)
            cost_target = self.cost_target(batch.cost, batch.cost_done, cost_value)
        loss, q = self.critics.regress(batch.observation, batch.action, target, 1.0)
        self.optimizers["critics"].step()
        cost_loss, qc = self.cost_critics.regress(batch.observation, batch.action, cost_target, 1 / len(cost_target))
        self.optimizers["cost_critics"].step()
        return {"critic_loss": loss, "cost_critic_loss": cost_loss, "q": q.mean(), "qc": qc.mean(),
                "qc_std": self._spread(qc)}

    def cost_target(self, cost: Tensor, done: Tensor, value: Tensor) -> Tensor:
        """The cost critics' targets, (members, B), from costs (B,), ends (B,) and next values (members, B).

        cost_backup=sum: c + γ_c Qc'. cost_backup=reach: (1 − γ_c) g + γ_c max(g, Q_h'), and g at the end, with g = 1
        after an unsafe step and −1 after a safe one: the discounted worst future violation.
        """
        if self.cost_backup == "sum":
            return cost + self.cost_discount * (1 - done) * value
        violation = 2 * (cost > self.unsafe_above).to(value.dtype) - 1
        worst = torch.where(done > 0, violation, torch.maximum(violation, value))
        return (1 - self.cost_discount) * violation + self.cost_discount * worst

    @staticmethod
    def _spread(values: Tensor) -> Tensor:
        """Mean over the batch of the ensemble's standard deviation; values (members, B)."""
        return unbiased_std(values - values.mean(0)).mean() if len(values) > 1 else values.new_zeros(())

    def _update_policy(self, observation: Tensor, energy: EnergyAtStates,
                       draws: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns Qc at the actions at which the loss was evaluated, (B,), and scalars for the log."""
        if isinstance(self.policy, ImprovingPolicy):
            return self.policy.improve(observation, energy, draws, self.guidance, self.optimizers["policy"])
        loss, risk, metrics = self.policy.loss(observation, energy, draws)
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizers["policy"].step()
        return risk, {"policy_loss": loss.detach(), **metrics}

    @torch.no_grad()
    def _update_targets(self) -> None:
        for online, target in ((self.critics, self.target_critics), (self.cost_critics, self.target_cost_critics)):
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), self.polyak)

    # --- execution of updates: used by algd.execution only ------------------------------------------------------------

    def use_networks(self, mlp: type[MLP]) -> None:
        """Compute all networks with `mlp` from now on: another implementation of the same mathematics."""
        for module in self.modules():
            if isinstance(module, CriticEnsemble | ScoreNetwork | Perceptron):
                module.mlp = mlp

    def keep_out_of_compilation(self) -> None:
        """Exclude from torch.compile the calls in `step` that change parameters and the multiplier.

        Torch 2.13 silently loses two effects in a compiled region: an optimiser's step on a gradient that was
        assigned in the same region, and a buffer's new value. λ and the batch's risk would never change.
        """
        guidance: Any = self.guidance
        for owner, method in (*((optimizer, "step") for optimizer in self.optimizers.values()),
                              (guidance, "observe_batch"), (guidance, "update")):
            setattr(owner, method, torch.compiler.disable(getattr(owner, method)))

    @contextlib.contextmanager
    def capturable(self) -> Iterator[None]:
        """Let a CUDA graph capture the optimisers' steps inside this context; outside of captures torch would warn."""
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False
