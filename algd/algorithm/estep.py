"""The E-step of constrained variational policy optimisation (CVPO; Liu et al., arXiv 2201.11927).

Per state, actions a_1 … a_N of the policy get the weights

    q(a|s) ∝ exp(−E(s, a)/η),

the distribution of least energy among those whose KL divergence from the policy is at most ε on average over states.
With E = −Q + λ (Qc − h), the plain Lagrangian, and λ solved for together with the temperature η, its mean cost is at
most h, too: that is CVPO. With any other energy only η is solved for; with E = −Q this is maximum a posteriori policy
optimisation (MPO).

Both are the minimiser of a convex function of two variables, the dual

    g(η, λ) = η ε + λ h + mean_s η log mean_a exp((Q − λ Qc)/η).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]
LEAST, MOST = 1e-6, 1e5  # bounds of η and λ, as in the authors' code


class Solution(NamedTuple):
    """The dual's minimiser.

    Attributes:
        temperature: η.
        multiplier: λ; 0 if there were no costs.
    """

    temperature: float
    multiplier: float


def dual(temperature: float, multiplier: float, q: Floats, qc: Floats, threshold: float,
         epsilon: float) -> tuple[float, Floats]:
    """g(η, λ) and its gradient (2,).

    Args:
        temperature, multiplier: η > 0 and λ ≥ 0.
        q, qc: (B, N), values of N actions of the policy at B states.
        threshold: h.
        epsilon: ε, nats.
    """
    exponents = (q - multiplier * qc) / temperature
    largest = exponents.max(1, keepdims=True)
    weights = np.exp(exponents - largest)
    means = weights.mean(1, keepdims=True)
    weights /= q.shape[1] * means
    log_means = largest + np.log(means)
    value = temperature * (epsilon + log_means.mean()) + multiplier * threshold
    of_temperature = epsilon + log_means.mean() - (weights * exponents).sum(1).mean()
    of_multiplier = threshold - (weights * qc).sum(1).mean()
    return float(value), np.array([of_temperature, of_multiplier])


def solve(q: Floats, qc: Floats | None, threshold: float, epsilon: float, multiplier: float) -> Solution:
    """The temperature η, and with costs the multiplier λ, that minimise the dual.

    Args:
        q: (B, N): Q, or with `qc` None minus the energy.
        qc: (B, N), or None: only η is solved for.
        threshold, epsilon: h, and ε in nats.
        multiplier: where the search for λ begins: the solution of the update before.
    """
    # Subtracting a constant per state does not change the minimiser. Dividing by the spread makes the search
    # independent of the scale of rewards and costs, and η starts at its solution for normal values, std/√(2ε). From a
    # much smaller η the search would not recover: there a single action has all the weight, and the dual's slope in
    # log η is η log N.
    reward = q - q.mean(1, keepdims=True)
    reward_unit = max(float(reward.std()), LEAST)
    cost, limit, cost_unit = np.zeros_like(q), 0.0, reward_unit
    if qc is not None:
        cost, limit = qc - qc.mean(1, keepdims=True), threshold - float(qc.mean())
        cost_unit = max(float(cost.std()), LEAST)
    reward, cost, limit, unit = reward / reward_unit, cost / cost_unit, limit / cost_unit, reward_unit / cost_unit

    def objective(x: Floats) -> tuple[float, Floats]:
        # η spans orders of magnitude: the search is over its logarithm.
        temperature = float(np.exp(x[0]))
        value, slope = dual(temperature, float(x[1]), reward, cost, limit, epsilon)
        return value, np.array([slope[0] * temperature, slope[1] if qc is not None else 0.0])

    bounds = [(np.log(LEAST / reward_unit), np.log(MOST / reward_unit)), (0.0, MOST / unit if qc is not None else 0.0)]
    # If no policy within ε satisfies the constraint, λ grows to its bound, where the dual is too flat to recover from.
    begin = np.array([-0.5 * np.log(2 * epsilon), min(multiplier / unit, 10.0) if qc is not None else 0.0])
    found = minimize(objective, begin, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 100})
    return Solution(float(np.exp(found.x[0])) * reward_unit, float(found.x[1]) * unit)
