"""Boltzmann densities on the box, what they expect, and how far apart they are.

All B policies are tilts of π* through Qc alone: log(π_B/π*) = −(penalty_B(Qc − h) − λ*(Qc − h))/β + constant, a
concave function of Qc. Hence, given the value of Qc, the action is distributed alike under both; and the two densities
are equal on at most two level sets of Qc, which makes the total variation exactly integrable.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from scipy.optimize import brentq
from scipy.special import rel_entr

from analysis.studies.invariance.energies import Energy, penalty
from analysis.studies.invariance.problems import Array
from analysis.studies.invariance.quadrature import NODES, Rule, build


@dataclass(frozen=True)
class Policy:
    """π ∝ exp(−energy/β) on a rule's nodes.

    Attributes:
        energy: the energy.
        beta: temperature β > 0.
        rule: nodes and weights.
        log_density: log π at the nodes, (n,).
        mass: weights · π, (n,), sums to 1.
    """

    energy: Energy
    beta: float
    rule: Rule
    log_density: Array
    mass: Array

    def mean(self, values: Array) -> float:
        """E_π of values at the nodes, (n,)."""
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
    """π ∝ exp(−energy/β), normalised with the rule."""
    exponent = -energy.value(rule.points) / beta
    top = exponent.max()
    unnormalised = rule.weights * np.exp(exponent - top)
    total = unnormalised.sum()
    return Policy(energy, beta, rule, exponent - top - np.log(total), unnormalised / total)


def kl(p: Policy, q: Policy) -> float:
    """KL(p‖q) of two policies on one rule, in nats."""
    return p.mean(p.log_density - q.log_density)


def kl_masses(p: Array, q: Array) -> float:
    """KL(p‖q) of two probability vectors, in nats."""
    return float(rel_entr(p, q).sum())


def crossing_levels(p: Policy, q: Policy) -> tuple[float, ...]:
    """The values of Qc, at most two, at which the densities of two tilts of one another are equal.

    q's energy is the plain one. The log ratio is then c − g(Qc)/β with g convex: at most one root on each side of its
    peak.
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
    if p.energy.rho > 0:  # where [λ + ρ(Qc − h)]₊ equals the other's multiplier
        peak = min(max(h + (q.energy.lam - p.energy.lam) / p.energy.rho, low), high)
    roots = []
    for end in (low, high):
        if end != peak and (tilt(end) + constant) * (tilt(peak) + constant) < 0:
            roots.append(brentq(lambda cost: tilt(cost) + constant, end, peak, xtol=1e-15))
    return tuple(roots)


def total_variation(p: Policy, q: Policy, panels: int) -> float:
    """½ ∫|p − q|, split where p = q; q's energy is the plain one."""
    rule = build(p.energy.problem, p.energy.kinks() + crossing_levels(p, q), panels)
    p, q = boltzmann(p.energy, p.beta, rule), boltzmann(q.energy, q.beta, rule)
    return float(0.5 * np.abs(p.mass - q.mass).sum())


def wasserstein_line(p: Policy, q: Policy) -> float:
    """W₁(p, q) in one dimension, ∫|P − Q| of the distribution functions, split where they are equal.

    Both live on one rule of panels of `NODES` nodes. In a panel the density is its interpolating polynomial.
    """
    half = p.rule.weights.reshape(-1, NODES).sum(1) / 2
    difference = (np.exp(p.log_density) - np.exp(q.log_density)).reshape(-1, NODES)
    nodes = legendre.leggauss(NODES)[0]
    to_series = np.linalg.inv(legendre.legvander(nodes, NODES - 1))
    density = np.einsum("ij,pj->pi", to_series, difference)
    # Distribution functions at a panel's start add up from the panels before it.
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
    """Sliced W₁ in two dimensions: the mean over equally spaced directions of W₁ between projections on them.

    A lower bound of W₁. The distribution functions of the nodes' masses are compared exactly.
    """
    angles = np.pi * (np.arange(directions) + 0.5) / directions
    difference = p.mass - q.mass
    total = 0.0
    for angle in angles:
        projected = p.rule.points[:, 0] * np.cos(angle) + p.rule.points[:, 1] * np.sin(angle)
        order = np.argsort(projected)
        total += float(np.abs(np.cumsum(difference[order])[:-1]) @ np.diff(projected[order]))
    return total / directions
