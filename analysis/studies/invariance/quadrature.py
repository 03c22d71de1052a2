"""Integration over the box [−1, 1]^d of integrands that are smooth except on level sets of Qc.

Densities of L_A have a kink where Qc = h − λ/ρ, and the integrand of P(Qc > h) a jump where Qc = h. Gauss-Legendre
panels end exactly there: in one dimension at the roots of Qc = level; in two dimensions at the roots along each line of
constant a₁, and across the lines at each a₁ where roots appear or disappear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre

from analysis.studies.invariance.problems import Array, Problem

NODES = 16  # Gauss-Legendre nodes per panel in one dimension
PLANE_NODES = (10, 8)  # the same in two dimensions, across and along the lines of constant a₁
SCAN = 2000  # intervals that are searched for roots in one dimension
PLANE_SCAN = (128, 32)  # the same in two dimensions, across and along the lines
HALVINGS = 40  # of an interval with a root: 2⁻⁴⁰ of its width remains


@dataclass(frozen=True)
class Rule:
    """A quadrature rule: nodes (n, d), sorted in 1-D, and weights (n,) with Σ weights · f(nodes) ≈ ∫ f over the box."""

    points: Array
    weights: Array


@lru_cache
def gauss(nodes: int) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights on [0, 1]."""
    x, w = legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2


def bisect(f: Callable[[Array], Array], left: Array, right: Array) -> Array:
    """Return the points in [left, right] (elementwise) where the sign of f changes."""
    left, right = left.copy(), right.copy()
    sign = f(left) > 0
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        same = (f(middle) > 0) == sign
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    return (left + right) / 2


def resolution(dimension: int, beta: float, rho: float) -> int:
    """Return the panels per dimension that resolve the narrowest feature, √(β/(1 + ρ)) for slopes of Qc about 1."""
    width = float(np.sqrt(beta / (1 + rho)))
    return max(80, int(np.ceil(2 / width))) if dimension == 1 else max(16, int(np.ceil(1 / width)))


@lru_cache(maxsize=4)
def build(problem: Problem, levels: tuple[float, ...], panels: int) -> Rule:
    """Return a rule whose panels end on the level sets Qc = level.

    Args:
        problem: defines Qc and the dimension.
        levels: values of Qc.
        panels: equal panels per dimension before splitting.
    """
    return _line(problem, levels, panels) if problem.dimension == 1 else _plane(problem, levels, panels)


def _line(problem: Problem, levels: tuple[float, ...], panels: int) -> Rule:
    grid = np.linspace(-1, 1, SCAN + 1)
    edges = [np.linspace(-1, 1, panels + 1)]
    for level in levels:
        def excess(x: Array, level: float = level) -> Array:
            return problem.cost.value(x[:, None]) - level
        positive = excess(grid) > 0
        change = np.flatnonzero(positive[1:] != positive[:-1])
        edges.append(bisect(excess, grid[change], grid[change + 1]))
    edge = np.unique(np.concatenate(edges))
    x, w = gauss(NODES)
    width = np.diff(edge)
    points = edge[:-1, None] + width[:, None] * x
    return Rule(points.reshape(-1, 1), (width[:, None] * w).ravel())


def _plane(problem: Problem, levels: tuple[float, ...], panels: int) -> Rule:
    across = [np.linspace(-1, 1, panels + 1), *(_changes(problem, level) for level in levels)]
    edge = np.unique(np.concatenate(across))
    t, w = gauss(PLANE_NODES[0])
    # Crossings appear like square roots at the end of a panel; the change of variable t²(3 − 2t) makes them smooth.
    x = (edge[:-1, None] + np.diff(edge)[:, None] * t**2 * (3 - 2 * t)).ravel()
    x_weight = (np.diff(edge)[:, None] * w * 6 * t * (1 - t)).ravel()

    along = [np.broadcast_to(np.linspace(-1, 1, panels + 1), (len(x), panels + 1))]
    along += [crossings(problem, x, level) for level in levels]
    y_edge = np.sort(np.concatenate(along, axis=1), axis=1)
    t, w = gauss(PLANE_NODES[1])
    width = np.diff(y_edge, axis=1)
    y = y_edge[:, :-1, None] + width[..., None] * t
    weights = x_weight[:, None, None] * width[..., None] * w
    points = _on_lines(x[:, None, None], y)
    used = np.broadcast_to(width[..., None] > 0, y.shape)  # padded roots give empty panels
    return Rule(points[used], weights[used])


@lru_cache(maxsize=64)
def _changes(problem: Problem, level: float) -> Array:
    """Return the values of a₁ at which the number of crossings of the line with the level changes."""
    scan = np.linspace(-1, 1, PLANE_SCAN[0] + 1)
    kind = _pattern(problem, scan, level)
    change = np.flatnonzero(kind[1:] != kind[:-1])
    left, right, rows = scan[change], scan[change + 1], np.arange(len(change))
    for _ in range(6):  # each iteration keeps 1/32 of the interval
        x = np.linspace(left, right, 33, axis=1)
        same = _pattern(problem, x.ravel(), level).reshape(x.shape) == kind[change][:, None]
        first = np.argmin(same, axis=1)
        left, right = x[rows, first - 1], x[rows, first]
    return (left + right) / 2


def _pattern(problem: Problem, x: Array, level: float) -> Array:
    """Return for each a₁ in x one plus its line's number of crossings of the level, negative if it starts above."""
    above = problem.cost.value(_on_lines(x[:, None], _cut(problem, x))) > level
    return np.where(above[:, 0], -1, 1) * (1 + (above[:, 1:] != above[:, :-1]).sum(1))


def crossings(problem: Problem, x: Array, level: float) -> Array:
    """Return for each a₁ in x the a₂ in [−1, 1] where Qc crosses the level, (len(x), most crossings), padded with 1."""
    def excess(rows: Array, y: Array) -> Array:
        return problem.cost.value(_on_lines(x[rows], y)) - level

    return _roots(excess, _cut(problem, x))


def _cut(problem: Problem, x: Array) -> Array:
    """Return a sorted grid of a₂ for each a₁ in x, with Qc's turning points, so that no pair of roots is missed."""
    def slope(rows: Array, y: Array) -> Array:
        return problem.cost.gradient(_on_lines(x[rows], y))[..., 1]

    grid = np.broadcast_to(np.linspace(-1, 1, PLANE_SCAN[1] + 1), (len(x), PLANE_SCAN[1] + 1))
    return np.sort(np.concatenate([grid, _roots(slope, grid)], axis=1), axis=1)


def _on_lines(x: Array, y: Array) -> Array:
    return np.stack(np.broadcast_arrays(x, y), -1)


def _roots(f: Callable[[Array, Array], Array], grid: Array) -> Array:
    """Return the roots of f(row, ·) between neighbours of grid[row], one row per row of the grid, padded with 1."""
    everywhere = np.broadcast_to(np.arange(len(grid))[:, None], grid.shape)
    positive = f(everywhere, grid) > 0
    rows, columns = np.nonzero(positive[:, 1:] != positive[:, :-1])
    found = bisect(lambda y: f(rows, y), grid[rows, columns], grid[rows, columns + 1])
    count = np.bincount(rows, minlength=len(grid))
    roots = np.ones((len(grid), count.max(initial=0)))
    place = np.arange(len(rows)) - np.concatenate([[0], np.cumsum(count)[:-1]])[rows]
    roots[rows, place] = found
    return roots
