"""Predictions for throttle (docs/throttle.md): minimisers over the speed, and the closed loop of policy and λ.

With Q = GAIN·v − … and Qc = v for a speed v in [0, 1], the minimisers over v are

    L    1 for λ < λ*, 0 for λ > λ*, any v at λ = λ* = GAIN
    L_A  v(λ) = h + (λ* − λ)/ρ, clipped to [0, 1]

A stochastic policy v = (1 + tanh(x + σε))/2 cannot place all its actions at the minimiser. It can choose x, and the
mean energy of L_A is minimal where E[(1 − tanh²) ([λ + ρ(v − h)]₊ − λ*)] = 0, which is v(λ) for σ = 0. Nothing is
fitted to runs.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from algd.algorithm.dual import LogAscent, Signal, Signals
from algd.envs.throttle import GAIN

Floats = NDArray[np.float64]
LATENTS = np.linspace(-5, 5, 1001)[:, None]
LAG = 40  # updates that a policy lags behind λ: measured by `MeasuredRun.lags` with plain guidance and signal=policy
LEVELS = np.geomspace(1e-4, 1e4, 161)  # values of λ between which the closed loop interpolates
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # for expectations over a standard normal ε


def minimiser(lam: Floats | float, limit: float, rho: float) -> Floats:
    """Return the speed that minimises L (rho = 0) or L_A at λ."""
    lam = np.asarray(lam, dtype=float)
    if rho == 0:
        return np.where(lam < GAIN, 1.0, 0.0)
    return np.clip(limit + (GAIN - lam) / rho, 0, 1)


def noisy_minimiser(lam: float, limit: float, rho: float, spread: float) -> tuple[float, float]:
    """Return the noise-free speed and the mean speed of the policy that minimises the mean of L (rho = 0) or L_A at λ.

    Args:
        spread: σ, the standard deviation of the first latent action x + σε.
    """
    speeds = (1 + np.tanh(LATENTS + spread * _NODES)) / 2
    if rho == 0:
        energies = (lam - GAIN) * speeds
    else:
        energies = (np.maximum(lam + rho * (speeds - limit), 0)**2 - lam**2) / (2 * rho) - GAIN * speeds
    best = (energies @ _WEIGHTS).argmin()
    return float((1 + np.tanh(LATENTS[best, 0])) / 2), float(speeds[best] @ _WEIGHTS / _WEIGHTS.sum())


@cache
def closed_loop(limit: float, rho: float, updates: int, initial_steps: int, initial_multiplier: float,
                learning_rate: float, signal: Signal = "replay", spread: float = 0.0,
                lag: int = 0) -> tuple[Floats, Floats]:
    """Simulate dual ascent with a policy that always minimises the mean energy at its λ.

    Args:
        limit: h.
        rho: ρ; 0: the plain Lagrangian.
        updates: number of updates, one after each step, from a replay buffer that keeps everything.
        initial_steps: steps before the first update, at the mean speed 1/2 of an untrained policy.
        initial_multiplier, learning_rate, signal: settings of dual ascent. "replay": the cost is the mean of all speeds
            so far; "policy" and "episodes": the mean speed of the policy.
        spread: σ of the policy; 0: a deterministic policy.
        lag: number of updates by which the policy lags behind λ.

    Returns:
        Noise-free speeds and λ, each (updates,).
    """
    rule = LogAscent(initial_multiplier, learning_rate, "replay", threshold=limit)
    table = np.array([noisy_minimiser(lam, limit, rho, spread) for lam in LEVELS]) if spread else None
    total, speeds, lams = initial_steps / 2, np.empty(updates), np.empty(updates)
    nothing = torch.zeros(1, 1)
    for update in range(updates):
        lams[update] = rule.multiplier().item()
        lam = lams[max(update - lag, 0)]
        if table is None:
            speeds[update] = mean = float(minimiser(lam, limit, rho))
        else:
            speeds[update], mean = (np.interp(np.log(lam), np.log(LEVELS), column) for column in table.T)
        total += mean
        measured = total / (initial_steps + update + 1) if signal == "replay" else mean
        cost = torch.tensor([measured], dtype=torch.float64)
        rule.observe_batch(Signals(nothing, cost, cost))
    return speeds, lams


def swing(values: Floats) -> float:
    """Return the maximum minus the minimum over the second half."""
    half = values[len(values) // 2:]
    return float(half.max() - half.min())
