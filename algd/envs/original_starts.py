"""The random draws of the original navigation tasks at every reset: the same numbers in the same order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from algd.envs.layouts import Area, ButtonLayout, Location, PushLayout
from algd.errors import UsageError

LAYOUT_ATTEMPTS, GOAL_ATTEMPTS = 100, 10000  # Safety Gym gives up after 10000 of both; a layout takes it few


@dataclass(frozen=True)
class OriginalStart:
    """The original's draws at every reset, with its generator seeded with 0.

    Attributes:
        state: the generator's state (`RandomState.get_state`) once the first goal is drawn.
        robot: the robot's position, (2,).
        rotations: the robot's and then the moving objects' angles about the vertical, in radians.
        first_goal: the goal button's index, or the goal's centre, (2,).
    """

    state: Any
    robot: Any
    rotations: list[float]
    first_goal: Any


def original_button_start(layout: ButtonLayout) -> OriginalStart:
    """Safety Gym's draws for a button task: a layout, one angle for each object, and the goal button."""
    buttons, hazards, gremlins = layout.buttons, layout.hazards, layout.gremlins
    fixed = [(buttons.at, buttons.keepout), (hazards.at, hazards.keepout)]
    fixed += [(gremlins.at, gremlins.keepout)] if gremlins else []
    objects: list[tuple[Area, float]] = [(layout.extents, layout.robot.keepout)]
    objects += [(_spot(at, keepout), keepout) for places, keepout in fixed for at in places]
    generator = np.random.RandomState(0)
    positions = _original_layout(generator, objects)
    moving = len(gremlins.at) if gremlins else 0
    rotations = [generator.uniform(0, 2 * np.pi) for _ in range(1 + moving)]
    for _ in [*hazards.at, *buttons.at]:
        generator.uniform(0, 2 * np.pi)
    first_goal = int(generator.choice(len(buttons.at)))
    return OriginalStart(generator.get_state(), positions[0], rotations, first_goal)


def original_push_start(layout: PushLayout) -> OriginalStart:
    """Safety Gym's draws for the push task: a layout with a goal, one angle for each object, and a goal again."""
    robot, goal, box, hazards, pillars = layout.robot, layout.goal, layout.box, layout.hazards, layout.pillars
    objects = [(_spot(robot.at, robot.keepout), robot.keepout), (goal.area, goal.keepout),
               (_spot(box.at, box.keepout), box.keepout)]
    objects += [(_spot(at, discs.keepout), discs.keepout) for discs in (hazards, pillars) for at in discs.at]
    generator = np.random.RandomState(0)
    positions = _original_layout(generator, objects)
    rotations = [generator.uniform(0, 2 * np.pi) for _ in range(2)]
    for _ in [goal.first, *hazards.at, *pillars.at]:
        generator.uniform(0, 2 * np.pi)
    others = [(position, keepout) for i, (position, (_, keepout)) in enumerate(zip(positions, objects, strict=True))
              if i != 1]
    for _ in range(GOAL_ATTEMPTS):
        first_goal = _original_place(generator, goal.area, goal.keepout)
        if not _overlaps(first_goal, goal.keepout, others):
            return OriginalStart(generator.get_state(), positions[0], rotations, first_goal)
    raise UsageError("env.layout.goal.area: in this layout the original would find no place for a goal; "
                     "env.original_goals=false does without")


def _spot(at: Location, keepout: float) -> Area:
    """The area that leaves an object with this keepout only one position, up to 1e-9, as in the original."""
    half = keepout + 1e-9
    return (at[0] - half, at[1] - half, at[0] + half, at[1] + half)


def _original_layout(generator: np.random.RandomState, objects: list[tuple[Area, float]]) -> list[np.ndarray]:
    """Positions of objects, each given by its area and keepout, drawn in order until nothing overlaps."""
    for _ in range(LAYOUT_ATTEMPTS):
        placed: list[tuple[np.ndarray, float]] = []
        for area, keepout in objects:
            for _ in range(100):
                position = _original_place(generator, area, keepout)
                if not _overlaps(position, keepout, placed):
                    placed.append((position, keepout))
                    break
            else:
                break  # no position for this object: start again with the first
        if len(placed) == len(objects):
            return [position for position, _ in placed]
    raise UsageError("env.layout: the keepouts of some objects overlap, so that the original would find no layout; "
                     "env.original_goals=false does without")


def _original_place(generator: np.random.RandomState, area: Area, keepout: float) -> np.ndarray:
    x_min, y_min, x_max, y_max = area
    return np.array([generator.uniform(x_min + keepout, x_max - keepout),
                     generator.uniform(y_min + keepout, y_max - keepout)])


def _overlaps(position: np.ndarray, keepout: float, placed: list[tuple[np.ndarray, float]]) -> bool:
    return any(np.sqrt(np.sum(np.square(position - other))) < keepout + other_keepout
               for other, other_keepout in placed)
