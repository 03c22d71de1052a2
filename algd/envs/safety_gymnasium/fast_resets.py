"""Faster resets of Safety-Gymnasium's navigation environments, with the same draws to the last bit.

They avoid decoding 25 MB of sky texture, which becomes a gradient in pictures; parsing the same YAML again; and drawing
candidate positions one by one.
"""

import contextlib
import copy
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import yaml

from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium

import_safety_gymnasium()

from safety_gymnasium import world as package_world  # noqa: E402
from safety_gymnasium.assets.mocaps import Gremlins  # noqa: E402
from safety_gymnasium.utils.common_utils import ResamplingError  # noqa: E402
from safety_gymnasium.utils.random_generator import RandomGenerator  # noqa: E402
from safety_gymnasium.world import World  # noqa: E402


@functools.cache
def assets() -> dict[str, Any]:
    """The package's textures, materials and meshes, with a sky that needs no file."""
    with open(os.path.join(package_world.BASE_DIR, "configs", "assets.yaml"), encoding="utf-8") as file:
        content = yaml.load(file, Loader=yaml.SafeLoader)
    content["textures"]["skybox"] = {"@type": "skybox", "@builtin": "gradient", "@rgb1": "0.45 0.62 0.82",
                                     "@rgb2": "0.9 0.94 0.98", "@width": "64", "@height": "384"}
    return content


@contextlib.contextmanager
def _cached_assets() -> Iterator[None]:
    """While open, the module that builds worlds reads `assets` wherever it loads YAML."""
    original = package_world.yaml
    package_world.yaml = SimpleNamespace(load=lambda *_, **__: copy.deepcopy(assets()), FullLoader=None)
    try:
        yield
    finally:
        package_world.yaml = original


@dataclass(frozen=True)
class Index:
    """Indices, in a compiled model, of everything that the task accesses by name.

    Attributes:
        bodies: object name ↦ ids of its bodies, or the id of its only one.
        sensors: sensor name ↦ location of its values.
        mocaps: ids of the mocap bodies that move the gremlins.
        geoms: names of the geoms.
        of_agent: whether each geom belongs to the robot.
    """

    bodies: dict[str, Any]
    sensors: dict[str, slice]
    mocaps: np.ndarray
    geoms: list[str]
    of_agent: list[bool]


def index(model: mujoco.MjModel, agent: Any, obstacles: list[Any]) -> Index:
    """Return the index of a model with this robot and these objects."""
    bodies: dict[str, Any] = {"agent": model.body("agent").id}
    mocaps = np.zeros(0, dtype=int)
    for thing in obstacles:
        suffix = "obj" if isinstance(thing, Gremlins) else ""
        if hasattr(thing, "num"):
            names = [f"{thing.name[:-1]}{i}{suffix}" for i in range(thing.num)]
            bodies[thing.name] = np.array([model.body(name).id for name in names], dtype=int)
        else:
            bodies[thing.name] = model.body(thing.name).id
        if isinstance(thing, Gremlins):
            mocaps = np.array([model.body(f"gremlin{i}mocap").mocapid[0] for i in range(thing.num)], dtype=int)
    sensors = {}
    for i in range(model.nsensor):
        start = int(model.sensor_adr[i])
        sensors[model.sensor(i).name] = slice(start, start + int(model.sensor_dim[i]))
    geoms = [model.geom(i).name for i in range(model.ngeom)]
    of_agent = [name in agent.body_info.geom_names for name in geoms]
    return Index(bodies, sensors, mocaps, geoms, of_agent)


class FastWorld(World):
    """A world whose engine, shared by robot and objects, carries the model's index."""

    def build(self) -> None:
        with _cached_assets():
            super().build()
        self.engine.index = index(self.model, self._agent, self._obstacles)


class FastRandomGenerator(RandomGenerator):
    """Draws the package's layouts with up to a hundred candidate positions at a time."""

    def build_layout(self) -> dict[str, np.ndarray]:
        if not _uniform_is_lower_plus_range_times_sample():
            return super().build_layout()
        plan = self._plan()
        if plan is None:
            return super().build_layout()
        before = self.random_generator.get_state(legacy=False)
        samples = Samples(self.random_generator)
        for _ in range(10000):
            layout = _draw_layout(plan, samples)
            if layout is not None:
                break
        self.random_generator.set_state(before)
        self.random_generator.random_sample(samples.used)  # leaves the generator in the state after single draws
        if layout is None:
            raise ResamplingError("Failed to sample layout of objects")
        self.layout = layout
        return layout

    def _plan(self) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] | None:
        """For each object its name, lower corner (2,) and size (2,) of its area, and least distances to those before.

        None if an object has several areas, between which another draw chooses, or none.
        """
        plan: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
        keepouts: list[float] = []
        for name, (areas, keepout) in self.placements.items():
            if areas is not None and len(areas) != 1:
                return None
            area = self.placements_extents if areas is None else areas[0]
            x_min, y_min, x_max, y_max = self.constrain_placement(area, keepout)
            if areas is not None and (x_min > x_max or y_min > y_max):
                return None
            lower, upper = np.array([x_min, y_min]), np.array([x_max, y_max])
            distances = np.array([other + self.placements_margin + keepout for other in keepouts])
            plan.append((name, lower, upper - lower, distances))
            keepouts.append(keepout)
        return plan


class Samples:
    """Uniform samples on [0, 1) of a generator, read ahead in blocks."""

    def __init__(self, generator: np.random.RandomState):
        self._generator = generator
        self._block = np.zeros(0)
        self._next = 0
        self.used = 0

    def peek(self, count: int) -> np.ndarray:
        if self._next + count > len(self._block):
            self._block = np.concatenate([self._block[self._next:], self._generator.random_sample(4096)])
            self._next = 0
        return self._block[self._next:self._next + count]

    def take(self, count: int) -> None:
        self._next += count
        self.used += count


def _draw_layout(plan: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
                 samples: Samples) -> dict[str, np.ndarray] | None:
    """One attempt: an object after the other, a hundred tries for each; None if one has no position."""
    places = np.empty((len(plan), 2))
    for i, (_, lower, size, distances) in enumerate(plan):
        for tries in (8, 92):  # most objects need few tries
            candidates = lower + size * samples.peek(2 * tries).reshape(tries, 2)
            offsets = np.square(candidates[:, None] - places[:i])
            free = (np.sqrt(offsets[..., 0] + offsets[..., 1]) >= distances).all(axis=1)
            if free.any():
                chosen = int(free.argmax())
                samples.take(2 * (chosen + 1))
                places[i] = candidates[chosen]
                break
            samples.take(2 * tries)
        else:
            return None
    return {name: place.copy() for (name, *_), place in zip(plan, places, strict=True)}


@functools.cache
def _uniform_is_lower_plus_range_times_sample() -> bool:
    """Whether NumPy rounds `uniform` after the product and after the sum: it may fuse them on some processors."""
    lower, size = -1.1, 2.3
    return np.array_equal(np.random.RandomState(0).uniform(lower, lower + size, 1000),
                          lower + (lower + size - lower) * np.random.RandomState(0).random_sample(1000))
