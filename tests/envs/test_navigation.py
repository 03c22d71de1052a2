"""The paper's navigation tasks, tested in the simulator: layouts, goals, costs and the ends of returns.

Numbers are repeated here from the original layouts, independently of the configurations.
"""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from algd.config.targets import check_target
from algd.envs import layouts, original_starts
from algd.errors import UsageError
from tests.support.episodes import CONF, goal_beams, record, task, towards_goal

BUTTON1 = {
    "hazards": [(0, -1.9), (0, 1.9), (0, 0), (1.9, 0), (-1.9, 0)], "hazard_radius": 0.17,
    "buttons": [(-1.3, -1.3), (1.3, -1.3), (-1.3, 1.3), (1.3, 1.3)],
    "gremlins": [(0, -1.3), (0, 1.3), (1.3, 0), (-1.3, 0)],
    "start": (-0.724665, 0.953750), "rotation": 2.234381, "goal": (-1.3, -1.3), "extents": (-2, -2, 2, 2),
}
BUTTON2 = {
    "hazards": [(0.1, -1.9), (-0.2, 1.7), (0.3, 0.1), (2, -0.1), (-1.8, 0.2), (-0.1, -1.2), (0, 1.3), (1.1, 0), (-1, 0),
                (0.2, -0.9), (-1.1, 1.1)], "hazard_radius": 0.22,
    "buttons": [(-1.1, -1.3), (1.8, -1.5), (-1.4, 0.6), (1, 1.3)],
    "start": (0.136678, 0.602530), "rotation": 2.866077, "goal": (-1.4, 0.6), "extents": (-1.8, -1.8, 1.8, 1.8),
}
PUSH1 = {
    "hazards": [(0.5, -0.5), (-0.5, -0.5), (1.8, 0.8), (-1.8, 0.8)], "hazard_radius": 0.3,
    "pillars": [(-2, 0), (2, 0), (0, 0), (1, 1), (-1, 1)],
    "start": (-1, -2), "rotation": 1.040154, "goal": (-1.0298, 0.1910), "extents": (-2, -2, 2, 2),
}
POINT, CAR = {"timestep": 0.006, "robot": "Point"}, {"timestep": 0.01, "robot": "Car"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "point_button1": {**BUTTON1, **POINT, "observations": 76}, "car_button1": {**BUTTON1, **CAR, "observations": 88},
    "point_button2": {**BUTTON2, **POINT, "observations": 60}, "car_button2": {**BUTTON2, **CAR, "observations": 72},
    "point_push1": {**PUSH1, **POINT, "observations": 76},
}
STILL = np.zeros(2)


def inner(env: gymnasium.Env) -> Any:
    """Return the simulator's task."""
    return env.unwrapped.task


def place(env: gymnasium.Env, x: float, y: float, joint: str | None = None, velocity: float = 0.0) -> None:
    """Move the Point robot, with a velocity along x, or the body of a free joint."""
    model, data = inner(env).model, inner(env).data
    if joint is None:  # the robot's slide joints are along the axes of its body, which is rotated at the start
        start, (w, *_, z) = model.body("agent").pos, model.body("agent").quat
        angle = 2 * np.arctan2(z, w)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        data.qpos[:2] = turn @ (x - start[0], y - start[1])
        data.qvel[:3] = *(turn @ (velocity, 0)), 0
    else:
        address = int(model.joint(joint).qposadr[0])
        data.qpos[address:address + 2] = x, y
    mujoco.mj_forward(model, data)


def push_against(env: gymnasium.Env, x: float, y: float, radius: float = 0.1, side: int = 1) -> tuple[Any, ...]:
    """Take a step at the end of which the back of the Point robot touches an object of this radius at this place.

    The robot moves along x, from larger (side 1) or smaller (-1) x.
    """
    place(env, x + side * (radius + 0.13), y, velocity=-2.0 * side)
    return env.step(STILL)


def positions(env: gymnasium.Env, name: str) -> list[tuple[float, float]]:
    """Return the positions of the bodies name0, name1, ... in the simulator."""
    model, data, found = inner(env).model, inner(env).data, []
    while mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name.format(len(found))) >= 0:
        found.append(tuple(data.body(name.format(len(found))).xpos[:2]))
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str) -> None:
    env, expected = task(name), LAYOUTS[name]
    observation, _ = env.reset(seed=5)
    simulation = inner(env)
    model, data = simulation.model, simulation.data
    assert observation.shape == env.observation_space.shape == (expected["observations"],)
    assert env.action_space.shape == (2,)
    for kind, size in (("hazard", expected["hazard_radius"]), ("button", 0.1), ("pillar", 0.2)):
        wanted = expected.get(f"{kind}s", [])
        found = positions(env, kind + "{}")
        assert np.allclose(found, wanted, rtol=0, atol=1e-9) and len(found) == len(wanted), kind
        assert all(model.geom(f"{kind}{i}").size[0] == size for i in range(len(wanted)))
    gremlins = expected.get("gremlins", [])
    assert np.allclose(positions(env, "gremlin{}obj"), gremlins, rtol=0, atol=1e-9)
    assert len(positions(env, "gremlin{}obj")) == len(gremlins)
    assert simulation.agent_name == expected["robot"]
    assert np.allclose(data.body("agent").xpos[:2], expected["start"], rtol=0, atol=1e-6)
    matrix = data.body("agent").xmat.reshape(3, 3)
    assert np.arctan2(matrix[1, 0], matrix[0, 0]) == pytest.approx(expected["rotation"], abs=1e-6)
    assert np.allclose(data.body("goal").xpos[:2], expected["goal"], rtol=0, atol=1e-4)
    assert model.opt.timestep == expected["timestep"]
    env.step(STILL)
    assert data.time == pytest.approx(10 * expected["timestep"])
    assert tuple(simulation.placements_conf.extents) == expected["extents"]
    assert (simulation.lidar_conf.num_bins, simulation.lidar_conf.max_dist) == (16, 3.0)
    assert (env.budget.limit, env.budget.kind, env.budget.horizon) == (10.0, "episode", 400)


def test_the_push_task_has_a_box_a_goal_and_constrained_pillars() -> None:
    env = task("point_push1")
    env.reset(seed=0)
    model, data, simulation = inner(env).model, inner(env).data, inner(env)
    assert np.allclose(data.body("push_box").xpos[:2], (0, -1.5), atol=1e-9)
    assert (model.geom("push_box").size == 0.2).all()
    matrix = data.body("push_box").xmat.reshape(3, 3)
    assert np.arctan2(matrix[1, 0], matrix[0, 0]) == pytest.approx(4.184350 - 2 * np.pi, abs=1e-6)
    assert simulation.push_box.null_dist == 0
    assert model.geom("goal").size[0] == 0.3
    assert simulation.pillars.is_constrained
    keepouts = {"agent": 0.4, "goal": 0.4, "push_box": 0.2, "hazards": 0.4, "pillars": 0.3}
    assert {thing: getattr(simulation, thing).keepout for thing in keepouts} == keepouts


def test_gremlins_move_on_circles_of_radius_travel_about_their_places() -> None:
    env = task("point_button1")
    env.reset(seed=0)
    centres = np.array(BUTTON1["gremlins"])
    distances, angles = [], []
    for _ in range(400):
        env.step(STILL)
        offsets = np.array(positions(env, "gremlin{}obj")) - centres
        distances.append(np.hypot(*offsets.T))
        angles.append(np.arctan2(*offsets[0]))
    settled = np.array(distances)[100:]  # a soft weld pulls them from their centres to the circle
    assert (np.abs(settled - 0.3) < 0.05).all()
    assert np.ptp(np.unwrap(angles)) == pytest.approx(400 * 10 * 0.006, rel=0.05), "one radian a second"


# ------------------------------------------------------------------------------------------------------------ goals


def test_a_new_goal_is_drawn_in_the_step_that_reaches_one() -> None:
    env = task("point_button1")
    env.reset(seed=0)
    simulation, goal, goals = inner(env), 0, []
    for _ in range(20):
        for button, (x, y) in enumerate(BUTTON1["buttons"]):
            *_, terminated, truncated, info = push_against(env, x, y)
            assert info.get("goal_met", False) == info["reward_done"] == (button == goal)
            assert not info["cost_done"] and not terminated and not truncated
            if button == goal:
                goal = int(simulation.buttons.goal_button)
                goals.append(goal)
                assert np.allclose(simulation.data.body("goal").xpos[:2], BUTTON1["buttons"][goal])
                assert simulation.last_dist_goal == pytest.approx(simulation.dist_goal())
    assert set(goals) == {0, 1, 2, 3}


def test_after_a_goal_buttons_are_invisible_and_free_for_ten_steps() -> None:
    env = task("point_button2")
    env.reset(seed=0)
    spaces = env.unwrapped.obs_space_dict
    start = sum(int(np.prod(space.shape)) for key, space in list(spaces.items())[:list(spaces).index("buttons_lidar")])
    assert push_against(env, -1.4, 0.6, side=-1)[4]["goal_met"]
    inner(env).buttons.goal_button = 3  # so that button 2 is wrong
    costs, seen = [], []
    for _ in range(12):
        observation, *_, info = push_against(env, -1.4, 0.6, side=-1)
        costs.append(info.get("cost_buttons", 0.0))
        seen.append(observation[start:start + 16].any())
    assert seen == [False] * 9 + [True] * 3, "the step that reached the goal was the first of the ten"
    assert costs == [0.0] * 10 + [1.0] * 2


def test_reaching_the_goal_with_the_box_moves_the_goal_within_its_area() -> None:
    env = task("point_push1")
    goals = []
    for seed in range(20):
        env.reset(seed=seed)
        goal = inner(env).data.body("goal").xpos[:2].copy()
        place(env, *goal, joint="push_box")
        *_, terminated, _, info = env.step(STILL)
        assert info["goal_met"] and info["reward_done"] and not info["cost_done"] and not terminated
        goals.append(inner(env).data.body("goal").xpos[:2].copy())
    goals = np.array(goals)
    assert (goals[:, 0] >= -1.6).all() and (goals[:, 0] <= 1.6).all()
    assert (goals[:, 1] >= -0.1).all() and (goals[:, 1] <= 1.6).all()
    assert len(np.unique(goals, axis=0)) == 20
    for others, keepout in ((PUSH1["hazards"], 0.4), (PUSH1["pillars"], 0.3), ([PUSH1["goal"]], 0.2),
                            ([PUSH1["start"]], 0.4)):
        distances = np.linalg.norm(goals[:, None] - np.array(others), axis=-1)
        assert (distances >= 0.4 + keepout - 0.05).all(), "the box and the robot have moved a little"


@pytest.mark.parametrize("name", LAYOUTS)
def test_start_and_first_goal_are_what_the_original_draws_with_seed_0(name: str) -> None:
    env = task(name)
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml").layout)
    if name == "point_push1":
        layout = layouts.PushLayout(**conf)
        start = original_starts.original_push_start(layout)
        moving, goal = [layout.box.rotation], layout.goal.first
    else:
        layout = layouts.ButtonLayout(**conf)
        start = original_starts.original_button_start(layout)
        moving, goal = layout.gremlins.rotations if layout.gremlins else [], layout.buttons.first_goal
    assert np.allclose(start.robot, layout.robot.at, rtol=0, atol=1e-6)
    assert np.allclose(start.rotations, [layout.robot.rotation, *moving], rtol=0, atol=1e-6)
    assert np.allclose(start.first_goal, goal, rtol=0, atol=5e-5)
    assert env.name == name


@pytest.mark.parametrize("steps_before", [0, 17])
def test_original_goals_depend_on_the_step_at_which_they_are_drawn_only(steps_before: int) -> None:
    drawn = []
    for seed in (0, 1, 2):
        env = task("point_button1", original_goals=True)
        env.reset(seed=seed)
        for _ in range(steps_before):
            env.step(STILL)
        assert push_against(env, -1.3, -1.3)[4]["goal_met"]
        drawn.append(inner(env).buttons.goal_button)
    layout = OmegaConf.to_container(OmegaConf.load(CONF / "point_button1.yaml").layout)
    stream = np.random.RandomState()
    stream.set_state(original_starts.original_button_start(layouts.ButtonLayout(**layout)).state)
    for _ in range(steps_before + 1):
        stream.binomial(10, 1.0)
    assert drawn == [stream.choice(4)] * 3


def test_under_original_goals_episodes_without_noise_are_one_and_the_same() -> None:
    def episode(env: gymnasium.Env, seed: int) -> list[np.ndarray]:
        beams = goal_beams(env)
        observations = [env.reset(seed=seed)[0]]
        for _ in range(400):
            observations.append(env.step(np.clip(towards_goal(observations[-1][beams], "Point"), -1, 1))[0])
        return observations

    original, ours = task("point_button1", original_goals=True), task("point_button1")
    first = episode(original, 0)
    assert np.array_equal(first, episode(original, 1))
    # Two seeds may draw equal goals as far as the robot gets.
    assert not all(np.array_equal(episode(ours, 0), episode(ours, seed)) for seed in (1, 2, 3))


def test_by_default_later_goals_come_from_the_episodes_seed() -> None:
    def goal(env: gymnasium.Env, seed: int) -> int:
        env.reset(seed=seed)
        assert push_against(env, -1.3, -1.3)[4]["goal_met"]
        return int(inner(env).buttons.goal_button)

    env = task("point_button1")
    goals = [goal(env, seed) for seed in range(30)]
    assert set(goals) == {0, 1, 2, 3}
    assert goals == [goal(env, seed) for seed in range(30)]


# ------------------------------------------------------------------------------------------------- costs and returns


def test_cost_is_an_indicator_for_each_step() -> None:
    env = task("point_button2")
    env.reset(seed=0)
    for (x, y), cost in [((0.3, 0.1), 1.0), ((0.3 + 0.2, 0.1), 1.0), ((0.3 + 0.24, 0.1), 0.0), ((0.15, -1.05), 1.0)]:
        place(env, x, y)
        assert env.step(STILL)[4]["cost"] == cost, (x, y)


def test_wrong_buttons_gremlins_and_pillars_cost_when_touched() -> None:
    env = task("point_button1")
    env.reset(seed=0)
    info = push_against(env, 1.3, 1.3)[4]
    assert (info["cost"], info["cost_buttons"]) == (1.0, 1.0) and "goal_met" not in info
    env.reset(seed=0)
    info = push_against(env, *positions(env, "gremlin{}obj")[0])[4]
    assert (info["cost"], info["cost_gremlins"], info["cost_hazards"]) == (1.0, 1.0, 0.0)
    env = task("point_push1")
    env.reset(seed=0)
    info = push_against(env, 1, 1, radius=0.2)[4]
    assert (info["cost"], info["cost_pillars"], info["cost_hazards"]) == (1.0, 1.0, 0.0)


def test_a_time_limit_ends_no_return() -> None:
    env = task("car_button2")
    env.reset(seed=0)
    for step in range(1, 401):
        *_, terminated, truncated, info = env.step(STILL)
        assert (terminated, truncated) == (False, step == 400)
        assert not info["reward_done"] and not info["cost_done"]


def test_goal_ends_return_can_be_switched_off() -> None:
    env = task("point_button1", goal_ends_return=False)
    env.reset(seed=0)
    info = push_against(env, -1.3, -1.3)[4]
    assert info["goal_met"] and not info["reward_done"]


def test_the_reward_is_progress_and_one_for_the_goal() -> None:
    env = task("point_button1")
    env.reset(seed=0)
    start, goal = np.array(BUTTON1["start"]), np.array(BUTTON1["goal"])
    _, reward, *_ = push_against(env, *goal)
    reached = inner(env).data.body("agent").xpos[:2]
    assert reward == pytest.approx(np.linalg.norm(start - goal) - np.linalg.norm(reached - goal) + 1, abs=1e-5)


# ----------------------------------------------------------------------------------------- seeds, pictures, mistakes


@pytest.mark.needs("opengl")
@pytest.mark.parametrize("name", ["point_button1", "point_push1", "safety_point_goal1"])
def test_rendering_shows_something_and_changes_nothing(name: str) -> None:
    plain, drawn = task(name), task(name, render_mode="rgb_array")
    for seed in (1, 2):
        assert np.array_equal(plain.reset(seed=seed)[0], drawn.reset(seed=seed)[0])
        for _ in range(5):
            frame = drawn.render()
            action = drawn.action_space.sample()
            assert np.array_equal(plain.step(action)[0], drawn.step(action)[0])
        assert frame.shape == (480, 480, 3) and frame.dtype == np.uint8
        assert frame.std() > 10
    assert not np.array_equal(frame, drawn.render()), "the robot has moved"


def test_a_reset_without_a_seed_follows_from_the_seeds_before() -> None:
    def later_goals(env: gymnasium.Env) -> list[int]:
        env.reset(seed=4)
        env.reset()
        return [push_against(env, x, y)[4]["reward_done"] for _ in range(5) for x, y in BUTTON1["buttons"]]

    assert later_goals(task("point_button1")) == later_goals(task("point_button1"))


@pytest.mark.parametrize(("path", "value"), [
    ("layout.hazards.radius", -1), ("layout.hazards.depth", 1), ("robot", "Boat"), ("limit", -1), ("timestep", 0),
    ("horizon", 0), ("lidar_bins", 2.5), ("goal_ends_return", "sometimes"),
])
def test_a_wrong_value_is_named_before_anything_is_built(path: str, value: Any) -> None:
    conf = OmegaConf.load(CONF / "point_button1.yaml")
    OmegaConf.update(conf, path, value)
    with pytest.raises(UsageError, match=f"env.{path}={value!r}"):
        check_target(OmegaConf.to_container(conf), "env", {"render_mode"})


@pytest.mark.parametrize(("path", "value", "message"), [
    ("layout.buttons.first_goal", 4, "env.layout.buttons=.*first_goal below the number of buttons, which is 4"),
    ("layout.gremlins.rotations", [0.0], "env.layout.gremlins=.*as many rotations as places, which are 4"),
])
def test_parts_of_a_layout_must_agree(path: str, value: Any, message: str) -> None:
    conf = OmegaConf.load(CONF / "point_button1.yaml")
    OmegaConf.update(conf, path, value)
    with pytest.raises(UsageError, match=message):
        check_target(OmegaConf.to_container(conf), "env", {"render_mode"})


def test_a_start_that_costs_is_refused() -> None:
    env = task("point_button1", layout={"robot": {"at": [0, 0.1]}})
    with pytest.raises(UsageError, match=r"env.layout.robot.at"):
        env.reset(seed=0)


def test_original_goals_need_a_layout_that_the_original_could_draw() -> None:
    with pytest.raises(InstantiationException, match="keepouts of some objects overlap") as raised:
        task("point_push1", original_goals=True, layout={"hazards": {"keepout": 3.0}})
    assert isinstance(raised.value.__cause__, UsageError)


def test_an_unknown_stock_task_is_named_with_ones_alike() -> None:
    with pytest.raises(InstantiationException, match=r"id=SafetyPointGoal-v0 .* SafetyPointGoal1-v0") as raised:
        task("safety_point_goal1", id="SafetyPointGoal-v0")
    assert isinstance(raised.value.__cause__, UsageError)
    with pytest.raises(InstantiationException, match="SafetyHopperVelocity-v1 is not a navigation task"):
        task("safety_point_goal1", id="SafetyHopperVelocity-v1")


def test_a_checked_configuration_builds_the_same_task() -> None:
    conf = check_target(OmegaConf.to_container(OmegaConf.load(CONF / "point_push1.yaml")), "env", {"render_mode"})
    checked, plain = (record(env, [0], [20]) for env in (instantiate(OmegaConf.create(conf)), task("point_push1")))
    assert np.array_equal(checked["observation"], plain["observation"])
