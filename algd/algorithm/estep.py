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
LEAST, MOST = 1e-6, 1e5  # of η and λ, as in the authors' code


class Solution(NamedTuple):
    """The dual's minimiser.

    Attributes:
        temperature: η.
        multiplier: λ; 0 if there were no costs.
    """

    temperature: float
    multiplier: float


BEGIN = Solution(1.0, 1.0)


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


def solve(q: Floats, qc: Floats | None, threshold: float, epsilon: float, start: Solution) -> Solution:
    """The temperature η, and with costs the multiplier λ, that minimise the dual.

    Args:
        q: (B, N): Q, or with `qc` None minus the energy.
        qc: (B, N), or None: only η is solved for.
        threshold, epsilon: h, and ε in nats.
        start: where the search begins: the solution of the update before.
    """
    # η spans orders of magnitude: the search is over its logarithm. Shifting by a state's largest value changes g only
    # by a constant, and keeps it small relative to its slopes.
    shifted = q - q.max(1, keepdims=True)
    costs = np.zeros_like(q) if qc is None else qc

    def objective(x: Floats) -> tuple[float, Floats]:
        temperature = float(np.exp(x[0]))
        value, slope = dual(temperature, float(x[1]), shifted, costs, threshold, epsilon)
        return value, np.array([slope[0] * temperature, slope[1] if qc is not None else 0.0])

    bounds = [(np.log(LEAST), np.log(MOST)), (0.0, MOST if qc is not None else 0.0)]
    # If no policy within ε meets the constraint both grow to their bounds, where g is too flat to return.
    stuck = start.temperature >= MOST / 10 or start.multiplier >= MOST / 10
    first = BEGIN if stuck else start
    begin = np.array([np.log(np.clip(first.temperature, LEAST, MOST)), first.multiplier if qc is not None else 0.0])
    found = minimize(objective, begin, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 100})
    return Solution(float(np.exp(found.x[0])), float(found.x[1]))
