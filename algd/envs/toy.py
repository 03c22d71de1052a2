"""A toy task that is learned in about a minute: driving along a ring road with a hazard on it.

A point is at (along, across): a distance along the road, which closes on itself after `ROAD` units, and an offset
from the road's middle, positive towards the ring's outside. The action moves it by SPEED · action. Reward is earned
for driving forward, most in the middle of the road, and more in the hazard, which tempts an unconstrained policy:

    reward = REWARD · a_along · exp(−(across / LANE)²) · (1 + TEMPTATION · depth)
    cost   = COST · depth,    depth = max(0, 1 − (distance to the hazard's centre / HAZARD_RADIUS)²)

both at the point that is reached. An episode starts some distance before the hazard and lasts, in conf/env/toy.yaml,
for a lap at full speed: the cost per step is then the same over an episode as without end, as a value that bootstraps
through the time limit assumes. An unconstrained policy drives straight through, and a feasible one leaves the middle of
the road and comes back. There are two ways round, inside and outside, and between them a ridge: the landscape of the
constrained problem is not convex. The hazard's centre lies a little outside the middle, so that passing inside is
better. The position is the complete state, and only NumPy is needed. `optimum` computes the best return.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from algd.budget import Budget, CostReturn, Kind
from algd.envs.task import Task

ROAD = 5.0  # length of the road, which is a ring
EDGE = 1.0  # the offset from the middle stays in [-EDGE, EDGE]
SPEED = 0.25  # the longest step, along and across
LANE = 2.5  # offset at which the reward would have fallen by the factor e; at the edge it has lost 15%
REWARD = 1.5  # of a full step along the middle
TEMPTATION = 1.5  # the relative increase of the reward in the hazard's centre
COST = 15.0  # of a step that ends in the hazard's centre
HAZARD = (0.0, 0.1)  # the hazard's centre, (along, across)
HAZARD_RADIUS = 0.5
START_ALONG = (-2.2, -1.0)  # where episodes start, uniformly
START_ACROSS = (-0.3, 0.3)

PICTURE = 256  # pixels
ROAD_WIDTH = 0.35  # half of the road's width in a picture, as a multiple of the ring's radius
GRASS, ASPHALT, MIDDLE, DANGER, TRAIL, DRIVER = np.array(
    [(46, 66, 48), (70, 74, 82), (150, 154, 160), (214, 62, 48), (240, 200, 90), (255, 255, 255)], float)

Floats = NDArray[np.float64]


def advance(along: Floats, across: Floats, action: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """One step of many points at once, for `optimum`; `Road.step` is the same for one.

    Args:
        along, across: positions, (...).
        action: (..., 2), which broadcasts against the positions.

    Returns:
        The next positions along and across, rewards and costs, each (...).
    """
    along = along + SPEED * action[..., 0]
    across = np.clip(across + SPEED * action[..., 1], -EDGE, EDGE)
    ahead = (along - HAZARD[0] + ROAD / 2) % ROAD - ROAD / 2
    depth = np.maximum(0.0, 1 - (ahead**2 + (across - HAZARD[1]) ** 2) / HAZARD_RADIUS**2)
    reward = REWARD * action[..., 0] * np.exp(-((across / LANE) ** 2)) * (1 + TEMPTATION * depth)
    return along, across, reward, COST * depth


class Road(gymnasium.Env):
    """The environment of this module's docstring.

    Observations are (cos φ, sin φ, across), with φ = 2π along / ROAD; actions are in [−1, 1]². Episodes are truncated
    after `horizon` steps, never terminated. A trajectory is a function of the reset's seed and the actions.

    Args:
        horizon: steps in an episode.
        render_mode: "rgb_array" lets `render` draw the road, the hazard and the path so far.
    """

    def __init__(self, horizon: int, render_mode: Literal["rgb_array"] | None = None):
        self.horizon, self.render_mode = horizon, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
        bound = np.array([1, 1, EDGE], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bound, bound)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self._path: list[tuple[float, float]] = []

    def render(self) -> NDArray[np.uint8] | None:
        """The ring from above, (256, 256, 3), driven anticlockwise: the road, the hazard in red, the path so far."""
        if self.render_mode is None:
            return None
        picture = _background()
        for number, (along, across) in enumerate(self._path):
            newest = number == len(self._path) - 1
            angle, radius = 2 * math.pi / ROAD * along, 1 + ROAD_WIDTH * across / EDGE
            distance = np.hypot(_X - radius * math.cos(angle), _Y - radius * math.sin(angle))
            _paint(picture, distance - (0.05 if newest else 0.02), DRIVER if newest else TRAIL)
        return picture.round().astype(np.uint8)

    def _observation(self) -> NDArray[np.float32]:
        along, across = self._path[-1]
        phase = 2 * math.pi / ROAD * along
        return np.array((math.cos(phase), math.sin(phase), across), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._path = [(self.np_random.uniform(*START_ALONG), self.np_random.uniform(*START_ACROSS))]
        return self._observation(), {}

    def step(self, action: NDArray) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        # Plain numbers: for one point much faster than the arrays of `advance`.
        forward, sideways = float(action[0]), float(action[1])
        along = self._path[-1][0] + SPEED * forward
        across = min(max(self._path[-1][1] + SPEED * sideways, -EDGE), EDGE)
        ahead = (along - HAZARD[0] + ROAD / 2) % ROAD - ROAD / 2
        depth = max(0.0, 1 - (ahead**2 + (across - HAZARD[1]) ** 2) / HAZARD_RADIUS**2)
        reward = REWARD * forward * math.exp(-((across / LANE) ** 2)) * (1 + TEMPTATION * depth)
        self._path.append((along, across))
        return self._observation(), reward, False, len(self._path) > self.horizon, {"cost": COST * depth}


_X, _Y = np.meshgrid(np.linspace(-1.5, 1.5, PICTURE), np.linspace(1.5, -1.5, PICTURE))


def _paint(picture: Floats, outside: Floats, colour: Floats) -> None:
    """Colour the pixels whose signed distance from a shape is negative, with an edge as soft as a pixel."""
    share = np.clip(0.5 - outside * PICTURE / 3, 0, 1)[..., None]
    picture += share * (colour - picture)


def _background() -> Floats:
    """The ring road and the hazard, redder where it is deeper, (256, 256, 3)."""
    picture = np.broadcast_to(GRASS, (PICTURE, PICTURE, 3)).copy()
    radius = np.hypot(_X, _Y)
    _paint(picture, np.abs(radius - 1) - ROAD_WIDTH, ASPHALT)
    _paint(picture, np.abs(radius - 1) - 0.008, MIDDLE)
    along = np.arctan2(_Y, _X) * ROAD / (2 * math.pi) - HAZARD[0]
    across = np.clip((radius - 1) / ROAD_WIDTH, -1, 1) * EDGE - HAZARD[1]
    depth = np.clip(1 - (along**2 + across**2) / HAZARD_RADIUS**2, 0, 1)
    picture += (np.sqrt(depth) * 0.9)[..., None] * (DANGER - picture)
    return picture


@dataclass(frozen=True)
class Optimum:
    """The returns of the best policies, averaged over starts: undiscounted sums over an episode.

    Attributes:
        unconstrained_return, unconstrained_cost: of the policy that maximises the return alone.
        feasible_return: the greatest mean return of any policy, random ones included, whose mean cost is at
            most the limit.
        multiplier: the λ at which maximising return − λ · cost gives that value.
    """

    unconstrained_return: float
    unconstrained_cost: float
    feasible_return: float
    multiplier: float


def optimum(limit: float, horizon: int, resolution: int = 12, actions: int = 5) -> Optimum:
    """The best returns with and without the constraint, by dynamic programming on a grid.

    The problem over random policies is a linear program, so strong duality holds: the best feasible return is
    min over λ ≥ 0 of  max over π of (return − λ · cost) + λ · limit, and the inner maximum is found by backward
    induction over the `horizon` steps. The function of λ is convex: its minimum is found by bisection on its slope,
    limit − cost. For limit 4 and horizon 20 the returns at the defaults, 35.93 and 30.50, differ by less than 0.2%
    from those at twice the resolution and four times the actions.

    Args:
        limit: allowed cost of an episode.
        horizon: steps in an episode.
        resolution: grid points per unit of length; values between them are interpolated bilinearly.
        actions: actions tried, per dimension, evenly spaced in [−1, 1].
    """
    columns, rows = round(ROAD * resolution), round(2 * EDGE * resolution) + 1
    along, across = (g.ravel()[:, None] for g in np.meshgrid(
        np.arange(columns) * ROAD / columns, np.linspace(-EDGE, EDGE, rows), indexing="ij"))
    levels = np.linspace(-1, 1, actions)
    choices = np.stack(np.meshgrid(levels, levels, indexing="ij"), -1).reshape(1, -1, 2)
    next_along, next_across, reward, cost = advance(along, across, choices)

    def interpolation(along: Floats, across: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The four grid points around each position and their weights, each (4, ...)."""
        i, j = along / ROAD * columns, (across + EDGE) / (2 * EDGE) * (rows - 1)
        low_i, low_j = np.floor(i).astype(np.int64), np.minimum(j.astype(np.int64), rows - 2)
        u, v = i - low_i, j - low_j
        corners = [((low_i + di) % columns) * rows + low_j + dj for di in (0, 1) for dj in (0, 1)]
        return np.stack(corners), np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])

    corners, weights = interpolation(next_along, next_across)
    starts = np.meshgrid(np.linspace(*START_ALONG, 41), np.linspace(*START_ACROSS, 41), indexing="ij")
    start_corners, start_weights = interpolation(*starts)
    everywhere = np.arange(len(along))

    def best(lam: float) -> tuple[float, float]:
        """Mean return and cost of the policy that maximises return − lam · cost."""
        returns = costs = np.zeros(len(along))
        for _ in range(horizon):
            of_action = [now + sum(w * later[c] for w, c in zip(weights, corners, strict=True))
                         for now, later in ((reward, returns), (cost, costs))]
            choice = (of_action[0] - lam * of_action[1]).argmax(1)
            returns, costs = of_action[0][everywhere, choice], of_action[1][everywhere, choice]
        of_return, of_cost = (float((start_weights * v[start_corners]).sum(0).mean()) for v in (returns, costs))
        return of_return, of_cost

    free_return, free_cost = best(0.0)
    if free_cost <= limit:
        return Optimum(free_return, free_cost, free_return, 0.0)
    low, high = 0.0, 1.0
    while best(high)[1] > limit:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if best(middle)[1] > limit else (low, middle)
    at_high = best(high)
    return Optimum(free_return, free_cost, at_high[0] + high * (limit - at_high[1]), high)


def make(
    name: str,
    family: Literal["toy"],
    reference_steps: PositiveInt,
    limit: NonNegativeFloat,
    limit_kind: Kind,
    horizon: PositiveInt,
    cost_return: CostReturn = "authors",
    render_mode: Literal["rgb_array"] | None = None,
) -> Task:
    """The toy as a task. The arguments are conf/env/toy.yaml's keys; `reference_steps` is the default of
    total_steps."""
    return Task(Road(horizon, render_mode), name, family, Budget(limit, limit_kind, horizon, cost_return))
