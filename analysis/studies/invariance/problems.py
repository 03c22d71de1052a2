"""One-state constrained problems on the box [−1, 1]^d whose optimal policies can be computed to high precision.

Problem P:  max over densities π on the box of  F(π) = E_π[Q] + β·entropy(π)  subject to  E_π[Qc] ≤ h.

Q and Qc are sums of shapes with values, gradients and Hessians in closed form. Actions `a` have the shape (..., d),
values (...), gradients (..., d) and Hessians (..., d, d). All quantities are dimensionless.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray


class Shape(Protocol):
    """A term of Q or Qc."""

    def value(self, a: Array) -> Array: ...
    def gradient(self, a: Array) -> Array: ...
    def hessian(self, a: Array) -> Array: ...


@dataclass(frozen=True)
class Linear:
    """slope · a"""

    slope: tuple[float, ...]

    def value(self, a: Array) -> Array:
        return a @ np.array(self.slope)

    def gradient(self, a: Array) -> Array:
        return np.broadcast_to(np.array(self.slope), a.shape).copy()

    def hessian(self, a: Array) -> Array:
        return np.zeros((*a.shape, a.shape[-1]))


@dataclass(frozen=True)
class Quadratic:
    """Σ_i scale_i (a_i − centre_i)²"""

    centre: tuple[float, ...]
    scale: tuple[float, ...]

    def value(self, a: Array) -> Array:
        return ((a - np.array(self.centre)) ** 2) @ np.array(self.scale)

    def gradient(self, a: Array) -> Array:
        return 2 * np.array(self.scale) * (a - np.array(self.centre))

    def hessian(self, a: Array) -> Array:
        return np.broadcast_to(2 * np.diag(self.scale), (*a.shape, a.shape[-1])).copy()


@dataclass(frozen=True)
class Bump:
    """height · exp(−|a − centre|² / (2 width²))"""

    centre: tuple[float, ...]
    width: float
    height: float

    def value(self, a: Array) -> Array:
        return self.height * np.exp(-((a - np.array(self.centre)) ** 2).sum(-1) / (2 * self.width**2))

    def gradient(self, a: Array) -> Array:
        return -self.value(a)[..., None] * (a - np.array(self.centre)) / self.width**2

    def hessian(self, a: Array) -> Array:
        u = (a - np.array(self.centre)) / self.width**2
        outer = u[..., :, None] * u[..., None, :]
        return self.value(a)[..., None, None] * (outer - np.eye(a.shape[-1]) / self.width**2)


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(−(slope · a + offset)))"""

    slope: tuple[float, ...]
    offset: float

    def value(self, a: Array) -> Array:
        return 0.5 * (1 + np.tanh((a @ np.array(self.slope) + self.offset) / 2))

    def gradient(self, a: Array) -> Array:
        p = self.value(a)
        return (p * (1 - p))[..., None] * np.array(self.slope)

    def hessian(self, a: Array) -> Array:
        p, slope = self.value(a), np.array(self.slope)
        return (p * (1 - p) * (1 - 2 * p))[..., None, None] * np.outer(slope, slope)


@dataclass(frozen=True)
class Step:
    """1 if a_1 > edge, else 0. Its derivatives are zero, as they are away from the edge."""

    edge: float

    def value(self, a: Array) -> Array:
        return (a[..., 0] > self.edge).astype(float)

    def gradient(self, a: Array) -> Array:
        return np.zeros_like(a)

    def hessian(self, a: Array) -> Array:
        return np.zeros((*a.shape, a.shape[-1]))


@dataclass(frozen=True)
class Sum:
    """A sum of shapes: Q or Qc."""

    shapes: tuple[Shape, ...]

    def value(self, a: Array) -> Array:
        return sum((shape.value(a) for shape in self.shapes), np.zeros(a.shape[:-1]))

    def gradient(self, a: Array) -> Array:
        return sum((shape.gradient(a) for shape in self.shapes), np.zeros_like(a))

    def hessian(self, a: Array) -> Array:
        return sum((shape.hessian(a) for shape in self.shapes), np.zeros((*a.shape, a.shape[-1])))

    @property
    def differentiable(self) -> bool:
        return not any(isinstance(shape, Step) for shape in self.shapes)


@dataclass(frozen=True)
class Problem:
    """A problem P without its temperature.

    Attributes:
        name: name in tables.
        dimension: d, 1 or 2.
        reward: Q.
        cost: Qc.
        threshold: h; some action has Qc < h, so that P is convex with a strictly feasible point.
        formula: Q, Qc and h as text.
        about: what the problem represents.
    """

    name: str
    dimension: int
    reward: Sum
    cost: Sum
    threshold: float
    formula: str
    about: str


def _problem(name: str, dimension: int, reward: list[Shape], cost: list[Shape], threshold: float,
             formula: str, about: str) -> Problem:
    return Problem(name, dimension, Sum(tuple(reward)), Sum(tuple(cost)), threshold, formula, about)


_CATALOGUE = [
    _problem("linear", 1, [Linear((1.0,))], [Linear((1.0,))], 0.0,
             "Q = a, Qc = a, h = 0",
             "closed form: λ* = 1 and π* is uniform at every β"),
    _problem("quadratic", 1, [Quadratic((0.7,), (-2.0,))], [Quadratic((0.0,), (1.0,))], 0.15,
             "Q = −2(a − 0.7)², Qc = a², h = 0.15",
             "concave Q, convex Qc: strong duality also for single actions"),
    _problem("saturated", 1, [Linear((0.5,))], [Sigmoid((8.0,), 3.0)], 0.6,
             "Q = a/2, Qc = sigmoid(8a + 3), h = 0.6",
             "a cost that saturates: most actions cost the most, Qc is skewed to the left"),
    _problem("two_hills", 1, [Quadratic((0.6,), (-1.0,)), Bump((-0.6,), 0.15, 0.5)], [Linear((1.0,))], 0.2,
             "Q = −(a − 0.6)² + bump(−0.6; 0.15, 0.5), Qc = a, h = 0.2",
             "non-concave Q, yet one action is optimal"),
    _problem("hazard", 1, [Quadratic((0.2,), (-1.0,))], [Bump((0.1,), 0.25, 1.0)], 0.3,
             "Q = −(a − 0.2)², Qc = bump(0.1; 0.25, 1), h = 0.3",
             "a hazard on top of the best action: non-convex Qc"),
    _problem("gap", 1, [Bump((-0.5,), 0.2, 0.6), Bump((0.5,), 0.2, 1.0)], [Sigmoid((10.0,), 0.0)], 0.4,
             "Q = bump(−0.5; 0.2, 0.6) + bump(0.5; 0.2, 1), Qc = sigmoid(10a), h = 0.4",
             "a good risky action and a fair safe one: the best policy throws a coin"),
    _problem("binary", 1, [Linear((0.4,))], [Step(0.2)], 0.2,
             "Q = 0.4a, Qc = 1[a > 0.2], h = 0.2",
             "a cost with two values"),
    _problem("slack", 1, [Quadratic((-0.1,), (-0.5,))], [Linear((1.0,))], 0.3,
             "Q = −(a + 0.1)²/2, Qc = a, h = 0.3",
             "the budget suffices on average, single actions exceed it"),
    _problem("never", 1, [Quadratic((-0.1,), (-0.5,))], [Linear((1.0,))], 1.2,
             "Q = −(a + 0.1)²/2, Qc = a, h = 1.2",
             "no action exceeds the budget"),
    _problem("disc", 2, [Quadratic((0.7, 0.3), (-1.0, -1.0))], [Quadratic((0.0, 0.0), (1.0, 1.0))], 0.25,
             "Q = −|a − (0.7, 0.3)|², Qc = |a|², h = 0.25",
             "concave Q, convex Qc"),
    _problem("obstacle", 2, [Quadratic((0.6, 0.0), (-0.5, -0.5))], [Bump((0.4, 0.0), 0.3, 1.0)], 0.2,
             "Q = −|a − (0.6, 0)|²/2, Qc = bump((0.4, 0); 0.3, 1), h = 0.2",
             "a round hazard before the goal: non-convex Qc"),
    _problem("valley", 2, [Linear((1.0, 0.0)), Bump((0.0, 0.5), 0.3, 0.5), Bump((0.0, -0.5), 0.3, 0.4)],
             [Linear((1.0, 0.0))], -0.1,
             "Q = a₁ + bump((0, 0.5); 0.3, 0.5) + bump((0, −0.5); 0.3, 0.4), Qc = a₁, h = −0.1",
             "two modes along the level sets of Qc"),
    _problem("gap_plane", 2, [Bump((-0.5, 0.0), 0.25, 0.6), Bump((0.5, 0.0), 0.25, 1.0)],
             [Bump((0.5, 0.1), 0.35, 1.0)], 0.35,
             "Q = bump((−0.5, 0); 0.25, 0.6) + bump((0.5, 0); 0.25, 1), Qc = bump((0.5, 0.1); 0.35, 1), h = 0.35",
             "the coin in the plane"),
    _problem("slack_plane", 2, [Quadratic((0.0, 0.0), (-0.5, -0.5))], [Bump((0.5, 0.5), 0.3, 1.0)], 0.3,
             "Q = −|a|²/2, Qc = bump((0.5, 0.5); 0.3, 1), h = 0.3",
             "the budget suffices on average, single actions exceed it"),
]
PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in _CATALOGUE}
