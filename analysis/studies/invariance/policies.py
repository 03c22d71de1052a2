"""Boltzmann densities on the box, their expectations, and distances between them.

All policies of reading B are tilts of π* by a function of Qc: log(π_B/π*) = −(penalty_B(Qc − h) − λ*(Qc − h))/β +
constant, which is concave in Qc. Hence both have the same distribution of the action given Qc, and the two densities
are equal on at most two level sets of Qc, so that the total variation can be integrated exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from scipy.optimize import brentq

from analysis.studies.invariance.energies import Energy, penalty
from analysis.studies.invariance.problems import Array
from analysis.studies.invariance.quadrature import NODES, Rule, build


@dataclass(frozen=True)
class Policy:
    """π ∝ exp(−energy/β) on a rule's nodes.

    Attributes:
        energy: the energy.
        beta: temperature β > 0.
        rule: quadrature nodes and weights.
        log_density: log π at the nodes, (n,).
        mass: weights · π, (n,), which sums to 1.
    """

    energy: Energy
    beta: float
    rule: Rule
    log_density: Array
    mass: Array

    def mean(self, values: Array) -> float:
        """Return the expectation under π of values (n,) at the nodes."""
        return float(self.mass @ values)

    @property
    def reward(self) -> float:
        return self.mean(self.energy.problem.reward.value(self.rule.points))

    @property
    def cost(self) -> float:
        return self.mean(self.energy.problem.cost.value(self.rule.points))

    @property
    def cost_deviation(self) -> float:
        """Standard deviation of Qc."""
        return float(np.sqrt(self.mean((self.energy.problem.cost.value(self.rule.points) - self.cost) ** 2)))

    @property
    def risk(self) -> float:
        """P(Qc > h)."""
        return self.mean(self.energy.problem.cost.value(self.rule.points) > self.energy.problem.threshold)

    @property
    def entropy(self) -> float:
        return -self.mean(self.log_density)

    @property
    def objective(self) -> float:
        """F(π) = E[Q] + β·entropy."""
        return self.reward + self.beta * self.entropy


def boltzmann(energy: Energy, beta: float, rule: Rule) -> Policy:
    """Return π ∝ exp(−energy/β), normalised with the rule."""
    exponent = -energy.value(rule.points) / beta
    top = exponent.max()
    unnormalised = rule.weights * np.exp(exponent - top)
    total = unnormalised.sum()
    return Policy(energy, beta, rule, exponent - top - np.log(total), unnormalised / total)


def kl(p: Policy, q: Policy) -> float:
    """Return KL(p‖q) of two policies on the same rule, in nats."""
    return p.mean(p.log_density - q.log_density)


def crossing_levels(p: Policy, q: Policy) -> tuple[float, ...]:
    """Return the values of Qc, at most two, at which the densities of p and q are equal; q's energy is the plain one.

    The log ratio is c − g(Qc)/β with g convex, so there is at most one root on each side of its peak.
    """
    h = p.energy.problem.threshold
    costs = p.energy.problem.cost.value(p.rule.points)
    node = int(np.argmax(p.mass))
    level = (p.log_density - q.log_density)[node]

    def tilt(cost: float) -> float:
        return -float(penalty(np.array(cost - h), p.energy.lam, p.energy.rho) - q.energy.lam * (cost - h)) / p.beta

    constant = level - tilt(costs[node])
    low, high = float(costs.min()), float(costs.max())
    peak = low
    if p.energy.rho > 0:  # where [λ + ρ(Qc − h)]₊ equals q's multiplier
        peak = min(max(h + (q.energy.lam - p.energy.lam) / p.energy.rho, low), high)
    roots = []
    for end in (low, high):
        if end != peak and (tilt(end) + constant) * (tilt(peak) + constant) < 0:
            roots.append(brentq(lambda cost: tilt(cost) + constant, end, peak, xtol=1e-15))
    return tuple(roots)


def total_variation(p: Policy, q: Policy, panels: int) -> float:
    """Return ½ ∫|p − q|, integrated on a rule split where p = q; q's energy is the plain one."""
    rule = build(p.energy.problem, p.energy.kinks() + crossing_levels(p, q), panels)
    p, q = boltzmann(p.energy, p.beta, rule), boltzmann(q.energy, q.beta, rule)
    return float(0.5 * np.abs(p.mass - q.mass).sum())


def wasserstein_line(p: Policy, q: Policy) -> float:
    """Return W₁(p, q) in one dimension: ∫|P − Q| of the distribution functions, split where they are equal.

    Both policies have the same rule, with panels of `NODES` nodes; in a panel the density is interpolated by a
    polynomial.
    """
    half = p.rule.weights.reshape(-1, NODES).sum(1) / 2
    difference = (np.exp(p.log_density) - np.exp(q.log_density)).reshape(-1, NODES)
    nodes = legendre.leggauss(NODES)[0]
    to_series = np.linalg.inv(legendre.legvander(nodes, NODES - 1))
    density = np.einsum("ij,pj->pi", to_series, difference)
    # The distribution function at the start of a panel is the sum over the panels before it.
    steps = half * 2 * density[:, 0]
    start = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    cumulative = half[:, None] * legendre.legint(density, lbnd=-1, axis=1)
    cumulative[:, 0] += start
    total = 0.0
    for series, width in zip(cumulative, half, strict=True):
        ends = [-1.0, 1.0]
        values = legendre.legval(nodes, series)
        if values.min() < 0 < values.max():
            roots = legendre.legroots(series)
            real = roots[np.abs(roots.imag) < 1e-9].real
            ends = [-1.0, *sorted(real[np.abs(real) < 1]), 1.0]
        integral = legendre.legval(np.array(ends), legendre.legint(series))
        total += width * np.abs(np.diff(integral)).sum()
    return float(total)


def wasserstein_sliced(p: Policy, q: Policy, directions: int) -> float:
    """Return the sliced W₁ in two dimensions: the mean of W₁ between projections over equally spaced directions.

    It is a lower bound of W₁, exact for the discrete distributions of the nodes' masses.
    """
    angles = np.pi * (np.arange(directions) + 0.5) / directions
    difference = p.mass - q.mass
    total = 0.0
    for angle in angles:
        projected = p.rule.points[:, 0] * np.cos(angle) + p.rule.points[:, 1] * np.sin(angle)
        order = np.argsort(projected)
        total += float(np.abs(np.cumsum(difference[order])[:-1]) @ np.diff(projected[order]))
    return total / directions
