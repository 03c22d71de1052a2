"""The layouts of the paper's navigation tasks: `layout` in conf/env/<task>.yaml."""

from pydantic import ConfigDict, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat
from pydantic.dataclasses import dataclass

Location = tuple[FiniteFloat, FiniteFloat]  # x, y in metres
Area = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]  # x_min, y_min, x_max, y_max in metres

closed = dataclass(frozen=True, config=ConfigDict(extra="forbid"))  # a misspelt key is an error


@closed
class RobotStart:
    """Where the robot starts: position, angle about the vertical in radians, and distance to keep from it."""

    at: Location
    rotation: FiniteFloat
    keepout: NonNegativeFloat


@closed
class Discs:
    """Hazards or pillars: upright cylinders of one radius, and the minimum distance of drawn objects from them."""

    at: list[Location]
    radius: PositiveFloat
    keepout: NonNegativeFloat


@closed
class ButtonSpheres:
    """Buttons. After a goal is reached all are invisible, and cost nothing, for `timeout` steps."""

    at: list[Location]
    radius: PositiveFloat
    keepout: NonNegativeFloat
    first_goal: NonNegativeInt
    timeout: NonNegativeInt

    def __post_init__(self) -> None:
        if self.first_goal >= len(self.at):
            raise ValueError(f"should have a first_goal below the number of buttons, which is {len(self.at)}")


@closed
class GremlinBoxes:
    """Boxes that move on circles of radius `travel` about their centres `at`, turned by `rotations` (radians)."""

    at: list[Location]
    rotations: list[FiniteFloat]
    travel: NonNegativeFloat
    keepout: NonNegativeFloat

    def __post_init__(self) -> None:
        if len(self.rotations) != len(self.at):
            raise ValueError(f"should have as many rotations as places, which are {len(self.at)}")


@closed
class Box:
    """The box to push. Its approach is rewarded beyond `null_distance` times its half size."""

    at: Location
    rotation: FiniteFloat
    half_size: PositiveFloat
    density: PositiveFloat
    keepout: NonNegativeFloat
    null_distance: NonNegativeFloat


@closed
class GoalArea:
    """The goal's first centre, and the area in which discs of radius `keepout` about later centres must lie."""

    first: Location
    area: Area
    radius: PositiveFloat
    keepout: NonNegativeFloat


@closed
class ButtonLayout:
    """Everything in a button task. `extents` is the area in which objects without a position are drawn."""

    extents: Area
    robot: RobotStart
    buttons: ButtonSpheres
    hazards: Discs
    gremlins: GremlinBoxes | None = None


@closed
class PushLayout:
    """Everything in a push task."""

    extents: Area
    robot: RobotStart
    goal: GoalArea
    box: Box
    hazards: Discs
    pillars: Discs
