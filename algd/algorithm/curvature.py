"""Convexity of the energies over actions: the smallest eigenvalue of the Hessians of L and L_A.

Both energies are compared at one multiplier λ, on the same critics, at the same states and actions, in two ways.

*Raw*: ∇²E(a), by automatic differentiation. With ReLU reward critics −∇²Q is zero almost everywhere: the curvature
is in kinks, where the second derivative does not exist. Raw curvature alone is therefore hardly informative.

*Smoothed*: ∇² of E_σ(a) = E[E(a + σε)], ε ~ N(0, I), the energy for an estimator with noise level σ, kinks
included. Differentiating the Gaussian (Stein's identity) leaves only first derivatives, which ReLU networks have
almost everywhere:

    ∇²E_σ(a) = E[∇E(a + σε) εᵀ] / σ = E[(εεᵀ − I) E(a + σε)] / σ²

The second form needs no gradient, but its variance grows as 1/σ⁴ times that of the energy; the first form's as 1/σ²
times that of the gradient. Even the first has the error of ε's sample covariance on a quadratic. This module computes
the first form by the stochastic spherical-radial rule of degree 3 (Genz and Monahan, SIAM J. Sci. Comput. 19(2),
1998): directions u_1 … u_d that form a random orthonormal basis, both signs of each, at one random radius r, which
follows the chi distribution with d + 2 degrees of freedom because of the rule's weight d/r²:

    ∇²E_σ(a) = E_{u, r} [ Σ_j (∇E(a + σ r u_j) − ∇E(a − σ r u_j)) u_jᵀ / (2 σ r) ]

Central differences of the gradient along a random basis with a random step: unbiased for every energy, and exact
with a single draw wherever the energy is cubic. The smallest eigenvalue of an average of few draws is still biased
a little low, since it is a concave function of the matrix; more draws reduce that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from algd.algorithm import lagrangian
from algd.algorithm.agent import Agent
from algd.algorithm.energy import Energy
from algd.algorithm.noise_processes import VESDE
from algd.algorithm.policies.diffusion import DiffusionPolicy
from algd.algorithm.rng import RandomGenerator

ENERGIES = ("plain", "augmented")
QUANTILES = (0.1, 0.5, 0.9)
UNPENALISED_RHO = 1.0  # ρ of L_A where the guidance has none


@dataclass(frozen=True)
class Directions:
    """Random directions and radii of the spherical-radial rule, S draws at each of B actions.

    Attributes:
        bases: (S, B, d, d); the columns of each matrix are an orthonormal basis, uniformly distributed up to signs.
        radii: (S, B), chi-distributed with d + 2 degrees of freedom.
    """

    bases: Tensor
    radii: Tensor


def draw(samples: int, batch: int, size: int, noise: RandomGenerator) -> Directions:
    """`samples` draws at each of `batch` actions of `size` dimensions."""
    # The sign of a column, a convention of QR, does not matter: both signs are used.
    bases = torch.linalg.qr(noise.normal(samples, batch, size, size)).Q
    return Directions(bases, noise.normal(samples, batch, size + 2).norm(dim=-1))


def both_energies(agent: Agent, lam: Tensor | float | None = None, rho: float | None = None) -> dict[str, Energy]:
    """L and L_A on the agent's critics, at one multiplier.

    Args:
        agent: the agent.
        lam: λ; None: the guidance's own, at every call.
        rho: ρ of L_A; None: the guidance's own, or 1 where it has none.
    """
    guidance = agent.guidance
    penalty = rho or guidance.rho or UNPENALISED_RHO

    def at_multiplier(formula: Callable[[Tensor, Tensor, Tensor | float], Tensor],
                      weight: Callable[[Tensor, Tensor | float], Tensor | float]) -> Energy:
        def multiplier() -> Tensor | float:
            return guidance.multiplier if lam is None else lam

        return Energy(agent.critics, agent.cost_critics, agent.energy.risk_factor,
                      lambda q, qc: formula(q, qc, multiplier()), lambda qc: weight(qc, multiplier()))

    threshold = guidance.threshold
    return {"plain": at_multiplier(partial(lagrangian.plain, threshold=threshold), lambda qc, lam: lam),
            "augmented": at_multiplier(partial(lagrangian.augmented, threshold=threshold, rho=penalty),
                                       partial(lagrangian.constraint_weight, threshold=threshold, rho=penalty))}


def noise_levels(agent: Agent) -> list[float]:
    """σ_1 … σ_K of the agent's noise process; for a policy without one, five from 0.01 to 1 like VE-SDE's."""
    process = agent.policy.process if isinstance(agent.policy, DiffusionPolicy) else VESDE(5, 0.01, 1.0)
    return process.spreads.tolist()


def raw_hessian(energy: Energy, observation: Tensor, action: Tensor) -> Tensor:
    """∇²_a E, (B, d, d), at normalised observations (B, s) and actions (B, d), by automatic differentiation."""
    def at_one(a: Tensor, s: Tensor) -> Tensor:
        return energy(s.unsqueeze(0), a.unsqueeze(0)).squeeze(0)

    # Reverse over reverse: SiLU's backward has no forward mode.
    return vmap(jacrev(grad(at_one)))(action, observation)


def smoothed_hessian(energy: Energy, observation: Tensor, action: Tensor, sigma: float, draws: Directions) -> Tensor:
    """∇²_a of E[E(s, a + σε)], (B, d, d), symmetrised.

    Samples are neither squashed nor clipped to the box of actions, like those of the score's estimator.

    Args:
        energy: the energy E.
        observation: (B, s), normalised.
        action: (B, d).
        sigma: σ > 0, action units.
        draws: of `draw`, for this batch.
    """
    total = action.new_zeros(*action.shape, action.shape[-1])
    # Draw by draw, so that memory does not grow with their number.
    for basis, radius in zip(draws.bases, draws.radii, strict=True):
        step, directions = sigma * radius.to(action)[:, None, None], basis.to(action).mT
        offsets = step * directions  # (B, d, d): row j is σ r u_j
        points = torch.cat([action.unsqueeze(1) + offsets, action.unsqueeze(1) - offsets], dim=1)
        _, gradients = energy.value_and_gradient(observation, points)
        forward, backward = gradients.chunk(2, dim=1)
        total += ((forward - backward) / (2 * step)).mT @ directions
    return (total + total.mT) / (2 * len(draws.bases))


def smallest_eigenvalue(matrices: Tensor) -> Tensor:
    """(B,), the smallest eigenvalue of each symmetric matrix (B, d, d)."""
    return torch.linalg.eigvalsh(matrices)[:, 0]


def column_names(levels: int) -> list[str]:
    """The names of `curvature`'s scalars for K noise levels, in its order."""
    return [f"curvature_{energy}_{scale}_q{round(100 * q)}" for energy in ENERGIES
            for scale in ("raw", *(f"s{k}" for k in range(1, levels + 1))) for q in QUANTILES]


def curvature(agent: Agent, observation: Tensor, samples: int, noise: RandomGenerator) -> dict[str, float]:
    """Quantiles over states of the smallest Hessian eigenvalue of L and L_A at the policy's stochastic actions.

    All scales and both energies share the actions and the draws, so that they are comparable.

    Args:
        agent: the agent; λ and ρ are its guidance's (ρ = 1 where that has none).
        observation: (B, s), raw.
        samples: S, draws of 2d gradients for each smoothed energy.
        noise: the generator of actions and draws.

    Returns:
        curvature_<plain|augmented>_<raw|s1 … sK>_q<10|50|90>, in energy units per squared action unit.
    """
    action = agent.act(observation, noise)
    observation = agent.normaliser.observations(observation)
    batch, size = action.shape
    draws = draw(samples, batch, size, noise)
    levels: Sequence[float] = noise_levels(agent)
    eigenvalues = []
    for energy in both_energies(agent).values():
        raw = raw_hessian(energy, observation, action)
        smoothed = [smoothed_hessian(energy, observation, action, sigma, draws) for sigma in levels]
        eigenvalues += [smallest_eigenvalue(matrices) for matrices in (raw, *smoothed)]
    table = torch.stack(eigenvalues)
    quantiles = torch.quantile(table, table.new_tensor(QUANTILES), dim=1).T
    return dict(zip(column_names(len(levels)), quantiles.flatten().tolist(), strict=True))
