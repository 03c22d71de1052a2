"""Navigation tasks: a robot with lidar presses buttons, reaches goals or pushes a box among obstacles.

Two families that never share a table. The stock tasks are Safety-Gymnasium's as released. The paper tasks are those
of Cheng et al. (arXiv 2602.02924): the variant of Safety Gym that came with CVPO (Liu et al., arXiv 2201.11927),
rebuilt on Safety-Gymnasium's simulator. There the layout is data, and every episode has the same start and the same
first goal. Later goals are drawn from a generator, see `original_goals` below.

In both families an episode is a pure function of the seed given to `reset` and of the actions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from algd.budget import Budget, CostReturn, Kind
from algd.envs.layouts import ButtonLayout, Location, PushLayout
from algd.envs.original_starts import original_button_start, original_push_start
from algd.envs.safety_gymnasium.fast_steps import accelerate
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium, make_stock
from algd.envs.task import Task
from algd.errors import UsageError

import_safety_gymnasium()

from safety_gymnasium.assets.geoms import Hazards, Pillars  # noqa: E402
from safety_gymnasium.assets.mocaps import Gremlins  # noqa: E402
from safety_gymnasium.bases.base_task import BaseTask  # noqa: E402
from safety_gymnasium.builder import Builder  # noqa: E402
from safety_gymnasium.tasks.safe_navigation.button.button_level0 import ButtonLevel0  # noqa: E402
from safety_gymnasium.tasks.safe_navigation.push.push_level0 import PushLevel0  # noqa: E402
from safety_gymnasium.world import World  # noqa: E402

Robot = Literal["Point", "Car"]


def paper_button(name: str, family: Literal["paper", "other"], robot: Robot, timestep: PositiveFloat,
                 layout: ButtonLayout, lidar_bins: PositiveInt, lidar_range: PositiveFloat,
                 goal_ends_return: bool, original_goals: bool, limit: NonNegativeFloat, limit_kind: Kind,
                 horizon: PositiveInt, reference_steps: PositiveInt,
                 cost_return: CostReturn = "authors", render_mode: str | None = None) -> Task:
    """A button task as in the paper: press the goal button, touch no other, keep out of hazards and gremlins' way.

    Args:
        name, family: name the task in folders and tables.
        robot: Point has 2 actions, forward and turn; Car has 2, its wheels.
        timestep: of the physics, in seconds; an environment step is ten of them.
        layout: where things are; a mapping of `ButtonLayout`'s fields, or one.
        lidar_bins, lidar_range: number of lidar bins for each kind of object, and how far it sees, in metres.
        goal_ends_return: a reached goal ends the reward's return (not the episode); the cost's return never ends.
        original_goals: later goals come from a generator that is seeded with 0 at every reset and has drawn what the
            original draws before the first goal, so that equal actions meet equal goals in every episode.
            Otherwise they come from the seed given to `reset`.
        limit, limit_kind: the allowed cost, per episode or discounted; a step costs 0 or 1.
        horizon: steps after which an episode is truncated.
        reference_steps: environment steps that the paper's authors ran.
        cost_return: how a limit per episode becomes the cost critic's threshold (`Budget`).
        render_mode: None, or "rgb_array" for pictures.
    """
    layout = ButtonLayout(**_plain(layout)) if isinstance(layout, Mapping) else layout
    with np.errstate(over="ignore"):  # of gymnasium, comparing the bounds of actions with the largest float64
        task = PaperButton(robot, timestep, layout, lidar_bins, lidar_range, horizon)
    stream = original_button_start(layout).state if original_goals else None
    budget = Budget(limit, limit_kind, horizon, cost_return)
    return _assembled(task, stream, goal_ends_return, name, family, budget, render_mode)


def paper_push(name: str, family: Literal["paper", "other"], robot: Robot, timestep: PositiveFloat, layout: PushLayout,
               lidar_bins: PositiveInt, lidar_range: PositiveFloat, goal_ends_return: bool, original_goals: bool,
               limit: NonNegativeFloat, limit_kind: Kind, horizon: PositiveInt, reference_steps: PositiveInt,
               cost_return: CostReturn = "authors", render_mode: str | None = None) -> Task:
    """The push task as in the paper: push the box to the goal, touch no pillar, keep out of hazards.

    Arguments as in `paper_button`; layout is a mapping of `PushLayout`'s fields, or one.
    """
    layout = PushLayout(**_plain(layout)) if isinstance(layout, Mapping) else layout
    with np.errstate(over="ignore"):  # as in `paper_button`
        task = PaperPush(robot, timestep, layout, lidar_bins, lidar_range, horizon)
    stream = original_push_start(layout).state if original_goals else None
    budget = Budget(limit, limit_kind, horizon, cost_return)
    return _assembled(task, stream, goal_ends_return, name, family, budget, render_mode)


def stock_navigation(name: str, family: Literal["stock", "other"], id: str, limit: NonNegativeFloat, limit_kind: Kind,
                     horizon: PositiveInt, reference_steps: PositiveInt,
                     cost_return: CostReturn = "authors", render_mode: str | None = None) -> Task:
    """A navigation task of Safety-Gymnasium as released, with a new layout at every reset.

    Args:
        id: the package's own, for example SafetyPointGoal1-v0.

    The others as in `paper_button`.

    Raises:
        UsageError: the package does not have the id, or it is not a navigation task.
    """
    env = make_stock(id, horizon, render_mode)
    if not isinstance(env.unwrapped, Builder):
        raise UsageError(f"env={name}: id={id} is not a navigation task of safety-gymnasium")
    env.unwrapped.task.num_steps = horizon
    accelerate(env.unwrapped)
    show_everything(env.unwrapped)
    return Task(env, name, family, Budget(limit, limit_kind, horizon, cost_return))


def _assembled(task: BaseTask, stream: Any, goal_ends_return: bool, name: str, family: Literal["paper", "other"],
               budget: Budget, render_mode: str | None) -> Task:
    env = PaperBuilder(task, name, stream, render_mode)
    accelerate(env)
    show_everything(env)
    return Task(PaperReturns(env, goal_ends_return), name, family, budget)


def show_everything(env: Builder) -> None:
    """Render the whole area; the package renders the robot's view."""
    env.render_parameters.camera_name = "fixedfar"
    env.render_parameters.width = env.render_parameters.height = 480


def _plain(value: Any) -> Any:
    """Configuration containers as dicts and lists, which is what the layout's types accept."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


class PaperReturns(gymnasium.Wrapper):
    """Convert a paper task's six values to gymnasium's five, with the ends of the returns (see `Task`)."""

    def __init__(self, env: gymnasium.Env, goal_ends_return: bool):
        super().__init__(env)
        self.goal_ends_return = goal_ends_return

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        six: Any = self.env.step(action)
        observation, reward, cost, terminated, truncated, info = six
        info["cost"] = cost
        info["reward_done"] = terminated or (self.goal_ends_return and info.get("goal_met", False))
        info["cost_done"] = False
        return observation, reward, terminated, truncated, info


class PaperBuilder(Builder):
    """Safety-Gymnasium's environment around a given task, with the generator that draws the later goals.

    Args:
        task: it draws nothing before its second goal.
        name: of the task.
        stream: None, or the state of the generator at every episode's start. Without it, the seed given to `reset`
            makes the generator; a reset without a seed draws one from gymnasium's generator.
        render_mode: as in gymnasium.
    """

    def __init__(self, task: BaseTask, name: str, stream: Any, render_mode: str | None):
        self._task = task
        self._stream = stream
        super().__init__(name, config={}, render_mode=render_mode)

    def _get_task(self) -> BaseTask:
        self._task.build_observation_space()
        return self._task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        gymnasium.Env.reset(self, seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        try:
            observation, info = super().reset(seed=seed)
        except AssertionError as error:
            if "starting cost" not in str(error):
                raise
            raise UsageError(f"env={self.task_id}: in this layout the robot's start position has a cost; move "
                             "env.layout.robot.at or what lies there") from error
        generator = np.random.RandomState(seed)  # the simulator's kind, whose draws NumPy has promised not to change
        if self._stream is not None:
            generator.set_state(self._stream)
        self.task.random_generator.random_generator = generator
        return observation, info


class FixedLayout(BaseTask):
    """Replaces the drawing of a layout in both kinds of paper task; to be inherited before the simulator's task.

    The model is compiled once and kept. A reset restores its data.
    """

    timestep: float
    rotations: dict[str, float]
    first_goal_at: Location
    goal: Any
    world: Any

    def fix(self, layout: ButtonLayout | PushLayout, timestep: float, lidar_bins: int, lidar_range: float,
            horizon: int) -> None:
        self.timestep, self.num_steps = timestep, horizon
        self.lidar_conf.num_bins, self.lidar_conf.max_dist = lidar_bins, lidar_range
        self.placements_conf.extents = layout.extents
        start = layout.robot
        self.agent.locations, self.agent.rot, self.agent.keepout = [start.at], start.rotation, start.keepout

    def locations(self) -> dict[str, np.ndarray]:
        """Where each object starts, by the simulator's names."""
        places = {"agent": self.agent.locations[0]}
        for thing in self._obstacles:
            if thing is self.goal:
                places["goal"] = self.first_goal_at
            elif hasattr(thing, "num"):
                places |= {f"{thing.name[:-1]}{i}": thing.locations[i] for i in range(thing.num)}
            else:
                places[thing.name] = thing.locations[0]
        return {name: np.array(place, dtype=float) for name, place in places.items()}

    def place_first_goal(self) -> None:
        self.goal_is_first = False
        self._set_goal(np.array(self.first_goal_at, dtype=float))
        mujoco.mj_forward(self.model, self.data)

    def _build(self) -> None:
        layout = self.locations()
        if self.world_info.world_config_dict is None:
            self._build_placements_dict()
            conf = self.placements_conf
            self.random_generator.set_placements_info(conf.placements, conf.extents, conf.margin)
            config = self._build_world_config(layout)
            for kind in ("geoms", "free_geoms", "mocaps"):
                for name, thing in config[kind].items():
                    thing["rot"] = self.rotations.get(name, 0.0)
            self.world = self.world or World(self.agent, self._obstacles)
            self.world.parse(config)
            self.world.build()
            self.model.opt.timestep = self.timestep
            self.world_info.world_config_dict = config
        mujoco.mj_resetData(self.model, self.data)
        self.world_info.layout = self.random_generator.layout = layout
        self.goal_is_first = True


class PaperButton(FixedLayout, ButtonLevel0):
    """The simulator's button task with a fixed layout and a fixed first goal."""

    def __init__(self, robot: Robot, timestep: float, layout: ButtonLayout, lidar_bins: int, lidar_range: float,
                 horizon: int):
        super().__init__({"agent_name": robot})
        self.fix(layout, timestep, lidar_bins, lidar_range, horizon)
        buttons, hazards, gremlins = layout.buttons, layout.hazards, layout.gremlins
        self.first_goal, self.first_goal_at = buttons.first_goal, buttons.at[buttons.first_goal]
        self.buttons.num, self.buttons.locations = len(buttons.at), buttons.at
        self.buttons.size, self.buttons.keepout = buttons.radius, buttons.keepout
        self.buttons.resampling_delay, self.buttons.is_constrained = buttons.timeout, True
        self.goal.size = 2 * buttons.radius  # a translucent marker about the goal button
        self._add_geoms(Hazards(num=len(hazards.at), locations=hazards.at, size=hazards.radius,
                                keepout=hazards.keepout))
        self.rotations = {}
        if gremlins is not None:
            self._add_mocaps(Gremlins(num=len(gremlins.at), locations=gremlins.at, travel=gremlins.travel,
                                      keepout=gremlins.keepout))
            for i, rotation in enumerate(gremlins.rotations):
                self.rotations |= {f"gremlin{i}obj": rotation, f"gremlin{i}mocap": rotation}

    def build_goal_button(self) -> None:
        if self.goal_is_first:
            self.buttons.goal_button = self.first_goal
            self.place_first_goal()
        else:
            super().build_goal_button()


class PaperPush(FixedLayout, PushLevel0):
    """The simulator's push task with a fixed layout and a fixed first goal."""

    def __init__(self, robot: Robot, timestep: float, layout: PushLayout, lidar_bins: int, lidar_range: float,
                 horizon: int):
        super().__init__({"agent_name": robot})
        self.fix(layout, timestep, lidar_bins, lidar_range, horizon)
        goal, box = layout.goal, layout.box
        self.first_goal_at, self.goal.placements = goal.first, [goal.area]
        self.goal.size, self.goal.keepout = goal.radius, goal.keepout
        self.push_box.locations, self.push_box.keepout = [box.at], box.keepout
        self.push_box.size, self.push_box.density = box.half_size, box.density
        self.push_box.null_dist = box.null_distance
        self.rotations = {"push_box": box.rotation}
        for kind, discs in ((Hazards, layout.hazards), (Pillars, layout.pillars)):
            self._add_geoms(kind(num=len(discs.at), locations=discs.at, size=discs.radius, keepout=discs.keepout))

    def build_goal_position(self) -> None:
        if self.goal_is_first:
            self.place_first_goal()
        else:
            super().build_goal_position()
