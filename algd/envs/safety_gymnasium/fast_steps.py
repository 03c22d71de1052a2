"""The same navigation episodes in less time: faster resets and steps of Safety-Gymnasium's environments.

`accelerate` gives the objects of ONE environment faster methods; other environments, and the package itself, are
unchanged. Observations, rewards, costs and the generator's draws are the same to the last bit, because the arithmetic
is the package's own, operation by operation. Avoided are

- at a reset: see `fast_resets`;
- at a step: looking up bodies, sensors and contacts by name; computing each lidar beam by itself; moving each
  gremlin by itself; repeating `mj_forward` on an unchanged state; checking that the observation is in its space.
"""

from typing import Any

import mujoco
import numpy as np

from algd.envs.safety_gymnasium.fast_resets import FastRandomGenerator, FastWorld
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium

import_safety_gymnasium()

from safety_gymnasium.agents import Car, Point  # noqa: E402
from safety_gymnasium.assets.free_geoms import PushBox, Vases  # noqa: E402
from safety_gymnasium.assets.geoms import Buttons, Goal, Hazards, Pillars  # noqa: E402
from safety_gymnasium.assets.mocaps import Gremlins  # noqa: E402
from safety_gymnasium.builder import Builder  # noqa: E402
from safety_gymnasium.tasks.safe_navigation.button.button_level0 import ButtonLevel0  # noqa: E402


def accelerate(env: Builder) -> bool:
    """Replace the slow methods of one environment's objects, before its first reset.

    Returns:
        Whether that was done. An environment with a robot, an object or a kind of observation that has no fast
        methods here is left as it is.

    Raises:
        ValueError: the environment has been reset already.
    """
    task = env.task
    if task.world is not None:
        raise ValueError(f"{env.task_id} has been reset already: accelerate it before")
    if not (all(type(thing) in FAST for thing in (task.agent, *task._obstacles))
            and not any(getattr(thing, "is_comp_observed", False) for thing in task._obstacles)
            and not (task.observe_vision or task.debug or task._is_load_static_geoms or task.action_noise)
            and task.observation_flatten and task.lidar_conf.type == "pseudo"):
        return False
    task.world = FastWorld(task.agent, task._obstacles)
    task.random_generator.__class__ = FastRandomGenerator
    for thing in (task.agent, *task._obstacles):
        thing.__class__ = FAST[type(thing)]
    task.__class__ = fast_task(type(task))
    return True


# A fast class has one base, the package's class, so that an object of the package can become one of it.


def touched(engine: Any) -> list[str]:
    """Return the names of the geoms that touch the robot, once for each contact."""
    geoms, of_agent = engine.index.geoms, engine.index.of_agent
    pairs = engine.data.contact.geom.tolist()
    return [geoms[b] if of_agent[a] else geoms[a] for a, b in pairs if of_agent[a] != of_agent[b]]


def positions(self: Any) -> np.ndarray:
    """Positions of one kind of object, (n, 3), or of a unique object, (3,)."""
    return self.engine.data.xpos[self.engine.index.bodies[self.name]].copy()


def robot_position(self: Any) -> np.ndarray:
    return self.engine.data.xpos[self.engine.index.bodies["agent"]].copy()


def robot_rotation(self: Any) -> np.ndarray:
    return self.engine.data.xmat[self.engine.index.bodies["agent"]].copy().reshape(3, -1)


def sensor_values(self: Any, name: str) -> np.ndarray:
    return self.engine.data.sensordata[self.engine.index.sensors[name]].copy()


class FastPoint(Point):
    pos, mat, get_sensor = property(robot_position), property(robot_rotation), sensor_values


class FastCar(Car):
    pos, mat, get_sensor = property(robot_position), property(robot_rotation), sensor_values


class FastGoal(Goal):
    pos = property(positions)


class FastPushBox(PushBox):
    pos = property(positions)


class FastVases(Vases):
    pos = property(positions)


class FastHazards(Hazards):
    pos = property(positions)

    def cal_cost(self) -> dict[str, float]:
        if not self.is_constrained:
            return {}
        offsets = np.square(self.pos[:, :2] - self.agent.pos[:2])
        distances = np.sqrt(offsets[:, 0] + offsets[:, 1])
        return {"cost_hazards": sum(self.cost * (self.size - near) for near in distances[distances <= self.size])}


class FastPillars(Pillars):
    pos = property(positions)

    def cal_cost(self) -> dict[str, float]:
        if not self.is_constrained:
            return {}
        return {"cost_pillars": self.cost * sum(name.startswith("pillar") for name in touched(self.engine))}


class FastButtons(Buttons):
    pos = property(positions)

    def cal_cost(self) -> dict[str, float]:
        if not self.is_constrained or self.timer != 0:
            return {}
        goal = f"button{self.goal_button}"
        wrong = sum(name.startswith("button") and name != goal for name in touched(self.engine))
        return {"cost_buttons": self.cost * wrong}


class FastGremlins(Gremlins):
    pos = property(positions)

    def move(self) -> None:
        data = self.engine.data
        phase = float(data.time)
        data.mocap_pos[self.engine.index.mocaps] = (np.sin(phase) * self.travel, np.cos(phase) * self.travel, self.size)

    def cal_cost(self) -> dict[str, float]:
        if not self.is_constrained:
            return {}
        return {"cost_gremlins": self.contact_cost * sum(name.startswith("gremlin") for name in touched(self.engine))}


FAST = {Point: FastPoint, Car: FastCar, Hazards: FastHazards, Pillars: FastPillars, Buttons: FastButtons,
        Gremlins: FastGremlins, Vases: FastVases, Goal: FastGoal, PushBox: FastPushBox}


def fast_task(task: type) -> type:
    """The fast subclass of a task's class.

    `simulation_forward`, a new goal and a reset leave the simulator's derived quantities up to date, and neither
    these robots nor any object moves otherwise. So the package's further calls of `mj_forward` before
    it reads costs and observations change nothing, and are omitted.
    """
    methods: dict[str, Any] = {"simulation_forward": simulate, "calculate_cost": total_cost, "obs": observation}
    if issubclass(task, ButtonLevel0):
        methods["goal_achieved"] = property(goal_is_touched)
    return type(f"Fast{task.__name__}", (task,), methods)


def simulate(self: Any, action: np.ndarray) -> bool:
    """One environment step of physics. Returns whether the simulator failed: never, MuJoCo's bindings raise nothing."""
    self.agent.apply_action(action)
    steps = self.random_generator.binomial(self.sim_conf.frameskip_binom_n, self.sim_conf.frameskip_binom_p)
    if self._mocaps:
        for _ in range(steps):
            for mocap in self._mocaps.values():
                mocap.move()
            mujoco.mj_step(self.model, self.data)
    else:
        mujoco.mj_step(self.model, self.data, steps)
    mujoco.mj_forward(self.model, self.data)
    return False


def total_cost(self: Any) -> dict[str, float]:
    """The cost of each kind of object, and their sum."""
    cost: dict[str, float] = {}
    for obstacle in self._obstacles:
        cost.update(obstacle.cal_cost())
    cost["cost_sum"] = sum(cost.values())
    return cost


def observation(self: Any) -> np.ndarray:
    """The robot's sensors and a lidar for each kind of object, flat, in the order of the observation space."""
    seen = [thing for thing in self._obstacles if thing.is_lidar_observed]
    parts = self.agent.obs_sensor()
    beams = lidar(self.agent.pos, self.agent.mat, [np.reshape(thing.pos, (-1, 3)) for thing in seen], self.lidar_conf)
    for thing, closeness in zip(seen, beams, strict=True):
        hidden = isinstance(thing, Buttons) and thing.timer != 0
        parts[f"{thing.name}_lidar"] = np.zeros_like(closeness) if hidden else closeness
    return np.concatenate([np.ravel(parts[key]) for key in self.obs_info.obs_space_dict.spaces])


def goal_is_touched(self: Any) -> bool:
    return f"button{self.buttons.goal_button}" in touched(self.world.engine)


def lidar(robot: np.ndarray, rotation: np.ndarray, groups: list[np.ndarray], conf: Any) -> np.ndarray:
    """The package's lidar for several kinds of object at once.

    Args:
        robot: the robot's position, (3,).
        rotation: its rotation matrix, (3, 3).
        groups: for each kind of object the positions, (n, 3) each; their heights do not matter.
        conf: the task's lidar configuration.

    Returns:
        (kinds, bins): for each kind and direction the closeness of the nearest object, from 0 (at `conf.max_dist`
        or further) to 1, spread over neighbouring bins if `conf.alias`.
    """
    bins = conf.num_bins
    offsets = np.concatenate(groups)
    offsets[:, 2] = 0.0
    offsets -= robot
    flat = np.matmul(offsets[:, None, :], rotation)[:, 0, :2]  # one product a row, as the package makes it
    places = flat[:, 0] + 1j * flat[:, 1]
    distances = np.abs(places)
    angles = np.angle(places) % (np.pi * 2)
    size = (np.pi * 2) / bins
    if conf.max_dist is None:
        closeness = np.exp(-conf.exp_gain * distances)
    else:
        closeness = np.maximum(0, conf.max_dist - distances) / conf.max_dist
    kinds = [kind for kind, group in enumerate(groups) for _ in range(len(group))]
    beams = [[0.0] * bins for _ in groups]
    for kind, angle, near in zip(kinds, angles.tolist(), closeness.tolist(), strict=True):
        beam = beams[kind]
        bin = int(angle / size)
        share = (angle - size * bin) / size
        bin %= bins
        beam[bin] = max(beam[bin], near)
        if conf.alias:
            after, before = (bin + 1) % bins, bin - 1
            beam[after] = max(beam[after], share * near)
            beam[before] = max(beam[before], (1 - share) * near)
    return np.array(beams)
