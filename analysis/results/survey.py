"""Both energies of a trained agent on a grid of actions at one state, with the policy's denoising paths.

States are from an episode of the deterministic policy. Action dimensions that are not drawn are fixed at the
deterministic action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.curvature import UNPENALISED_RHO, both_energies
from algd.algorithm.policies.diffusion import DiffusionPolicy
from algd.algorithm.rng import RandomGenerator
from algd.run.acting import Actor
from algd.run.episodes import Episode, run_episode
from algd.run.loaded_agent import LoadedAgent
from algd.seeding import episode_seed, stream

Floats = NDArray[np.float64]
RESOLUTION = 81  # grid points per dimension


@dataclass(frozen=True)
class Landscape:
    """Both energies at one state, as functions of one or two action dimensions.

    D is the number of drawn dimensions and n the number of grid points of each. Actions are in the environment's units.

    Attributes:
        agent_name, seed: of the run.
        step: training step of the networks.
        state_number: step of the episode at which the state occurs.
        dimensions: the drawn dimensions of the action, from 0.
        axes: the grid, D arrays (n,).
        energies: "plain" and "augmented", each (n,) or (n, n), indexed [first dimension, second].
        gradients: gradients of the energies, with a last axis D.
        risk: Qc on the grid.
        threshold, lam, rho: h, λ and ρ.
        paths: squashed latents x_K … x_0 of stochastic denoising, (P, K + 1, D); K = 0 for a Gaussian policy.
        mean_path: the same of deterministic denoising, (K + 1, D); it ends at the deterministic action.
        guide: the energy with which the policy was trained; None: neither of the two.
    """

    agent_name: str
    seed: int
    step: int
    state_number: int
    dimensions: tuple[int, ...]
    axes: list[Floats]
    energies: dict[str, Floats]
    gradients: dict[str, Floats]
    risk: Floats
    threshold: float
    lam: float
    rho: float
    paths: Floats
    mean_path: Floats
    guide: str | None


def episode(loaded: LoadedAgent, number: int = 0) -> Floats:
    """Return the raw observations (T, s) of one episode of the deterministic policy.

    Args:
        number: number of the episode, from which, with the run's seed, its seed is derived.
    """
    act, observations = Actor(loaded.agent, loaded.task, None), []

    def keep(sums: Episode, observation: Floats, action: Floats | None) -> None:
        if action is not None:
            observations.append(observation)

    seed = episode_seed(loaded.config["seed"], "landscape", number)
    if (error := run_episode(loaded.task, act, seed, cost_discount=1.0, observe=keep).error) is not None:
        raise error
    return np.asarray(observations, dtype=float)


def denoising_paths(agent: Agent, observation: Tensor, count: int, seed: int) -> tuple[Floats, Floats]:
    """Return the actions along `count` stochastic denoising paths (P, K + 1, d) and the deterministic one (K + 1, d).

    The paths of a policy that does not denoise have one action.

    Args:
        observation: (1, s), normalised.
        seed: seed of the noise.
    """
    policy, many = agent.policy, observation.expand(count, -1)
    with torch.no_grad():
        if isinstance(policy, DiffusionPolicy):
            normals = policy.draw(count, RandomGenerator(seed))
            stochastic = torch.stack([policy.squash(x) for x in policy.chain(many, normals)], dim=1)
            # With zero noise the stochastic process is the deterministic one.
            mean = torch.cat([policy.squash(x) for x in policy.chain(observation, torch.zeros_like(normals[:, :1]))])
        else:
            stochastic = policy.sample(many, policy.draw(count, RandomGenerator(seed))).action.unsqueeze(1)
            mean = policy.deterministic(observation)
    return stochastic.double().numpy(), mean.double().numpy()


def survey(loaded: LoadedAgent, observation: Floats, state_number: int = 0, dimensions: Sequence[int] = (0, 1),
           lam: float | None = None, paths: int = 12) -> Landscape:
    """Compute both energies and the policy's denoising paths at one state.

    Args:
        loaded: the agent, on the CPU.
        observation: (s,), raw.
        state_number: see `Landscape`.
        dimensions: one or two dimensions of the action.
        lam: λ of both energies; None: the agent's own.
        paths: number of stochastic denoising paths.

    Raises:
        UsageError: the agent was loaded without its critics.
    """
    loaded.require_critics()
    agent, space, chosen = loaded.agent, loaded.task.action_space, list(dimensions)
    state = loaded.observations(observation[None])
    seed = stream(loaded.config["seed"], "landscape paths", state_number)
    stochastic, mean = denoising_paths(agent, state, paths, seed)
    axes = [np.linspace(space.low[i], space.high[i], RESOLUTION, dtype=float) for i in chosen]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    actions = np.broadcast_to(mean[-1], (*mesh.shape[:-1], mean.shape[1])).copy()
    actions[..., chosen] = mesh
    flat = torch.as_tensor(actions.reshape(1, -1, mean.shape[1]), dtype=torch.float32)
    energies, gradients = {}, {}
    for name, energy in both_energies(agent, lam).items():
        values, slopes = energy.value_and_gradient(state, flat)
        energies[name] = values.double().numpy().reshape(mesh.shape[:-1])
        gradients[name] = slopes.double().numpy().reshape(actions.shape)[..., chosen]
    with torch.no_grad():
        risk = agent.energy.risk(state, flat).double().numpy().reshape(mesh.shape[:-1])
    guidance, config = agent.guidance, loaded.config
    return Landscape(
        agent_name=f"{config['agent']['name']}-{config['guidance']['name']}", seed=config["seed"], step=loaded.step,
        state_number=state_number, dimensions=tuple(chosen), axes=axes, energies=energies, gradients=gradients,
        risk=risk, threshold=guidance.threshold, lam=float(guidance.multiplier) if lam is None else lam,
        rho=guidance.rho or UNPENALISED_RHO, paths=stochastic[..., chosen], mean_path=mean[:, chosen],
        guide=None if guidance.kind == "none" or (guidance.rho and guidance.level == "batch") else guidance.kind)
