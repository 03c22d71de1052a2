"""Recording episodes of environments, also in a new process:

    python -m tests.support.episodes KIND OUT SEED,SEED STEPS,STEPS TASK TASK

KIND is "task" for the project's task, or "reference" for the same task without acceleration: a stock task from
Safety-Gymnasium's own `make`, a paper task without `accelerate` and with a new world at every reset.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from algd.envs.safety_gymnasium.import_repairs import deprecations_unsaid, import_safety_gymnasium

CONF = Path(__file__).parents[2] / "conf" / "env"
Episodes = dict[str, np.ndarray]


def names(family: str, kind: str) -> list[str]:
    """Return the tasks of a family ("paper", "stock") and a kind ("navigation", "velocity")."""
    found = []
    for path in sorted(CONF.glob("*.yaml")):
        conf = OmegaConf.load(path)
        if conf._target_.startswith(f"algd.envs.{kind}.") and conf.family == family:
            found.append(path.stem)
    return found


def task(name: str, **overrides: Any) -> gymnasium.Env:
    """Return the environment of a task, as configured by its YAML file."""
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), overrides))


def reference(name: str) -> gymnasium.Env:
    """Return the same environment without acceleration."""
    package = import_safety_gymnasium()
    conf = OmegaConf.load(CONF / f"{name}.yaml")
    with deprecations_unsaid(), np.errstate(over="ignore"):
        env = package.make(conf.id) if conf.family == "stock" else unaccelerated(conf)
    env = package.wrappers.SafetyGymnasium2Gymnasium(env)
    return env if conf.family == "stock" else Rebuilt(env)


def unaccelerated(conf: Any) -> gymnasium.Env:
    """Return a paper navigation task before `accelerate`."""
    from algd.envs import layouts, navigation  # not needed for references of stock tasks

    layout = OmegaConf.to_container(conf.layout)
    if "paper_push" in conf._target_:
        bare = navigation.PaperPush(conf.robot, conf.timestep, layouts.PushLayout(**layout), 16, 3.0, 400)
    else:
        bare = navigation.PaperButton(conf.robot, conf.timestep, layouts.ButtonLayout(**layout), 16, 3.0, 400)
    return navigation.PaperBuilder(bare, conf.name, None, None)


class Rebuilt(gymnasium.Wrapper):
    """A paper task that builds a new world at every reset, as Safety-Gymnasium's own tasks do."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        simulation = self.unwrapped.task
        simulation.world = simulation.world_info.world_config_dict = None
        return self.env.reset(**kwargs)


def goal_beams(env: gymnasium.Env) -> slice | None:
    """Return the slice of the goal's lidar in an observation; None if there is none."""
    start = 0
    for key, space in getattr(env.unwrapped, "obs_space_dict", {}).items():
        size = int(np.prod(space.shape))
        if key == "goal_lidar":
            return slice(start, start + size)
        start += size
    return None


def towards_goal(beams: np.ndarray, robot: str) -> np.ndarray:
    """Return an action that moves a robot towards the goal that its lidar sees."""
    directions = (np.arange(len(beams)) + 0.5) * 2 * np.pi / len(beams)
    x, y = beams @ np.cos(directions), beams @ np.sin(directions)
    if robot == "Car":  # faces along y, and positive wheel actions drive it backwards
        angle = np.arctan2(-x, y)
        return 0.5 * np.array([-np.cos(angle) - np.sin(angle), np.sin(angle) - np.cos(angle)])
    angle = np.arctan2(y, x)
    return np.array([0.7 * np.cos(angle), 2 * angle])


def record(env: gymnasium.Env, seeds: list[int], steps: list[int]) -> Episodes:
    """Record an episode for each seed, of at most its number of steps; robots with lidar move to goals, with noise."""
    generator = np.random.RandomState(7)
    low, high = env.action_space.low, env.action_space.high
    beams = goal_beams(env)
    columns: dict[str, list[Any]] = {"observation": [], "reward": [], "cost": [], "ends": [], "goal": []}
    for seed, length in zip(seeds, steps, strict=True):
        observation, _ = env.reset(seed=seed)
        columns["observation"].append(observation)
        for _ in range(length):
            action = generator.uniform(low, high)
            if beams is not None:
                wanted = towards_goal(observation[beams], env.unwrapped.task.agent_name)
                action = np.clip(wanted + 0.3 * action, low, high)
            observation, reward, terminated, truncated, info = env.step(action.astype(env.action_space.dtype))
            for key, value in (("observation", observation), ("reward", reward), ("cost", info["cost"]),
                               ("ends", (terminated, truncated)), ("goal", info.get("goal_met", False))):
                columns[key].append(value)
            if terminated or truncated:
                break
    return {key: np.array(values) for key, values in columns.items()}


class FreshProcess:
    """Episodes recorded in a new process, which starts at once; `episodes` waits for it."""

    def __init__(self, kind: str, tasks: list[str], seeds: list[int], steps: list[int], folder: Path):
        self._out = folder / f"{kind}.npz"
        numbers = [",".join(map(str, values)) for values in (seeds, steps)]
        command = [sys.executable, "-m", "tests.support.episodes", kind, str(self._out), *numbers, *tasks]
        self._process = subprocess.Popen(command, cwd=CONF.parent.parent, stderr=subprocess.PIPE, text=True)

    def episodes(self, name: str) -> Episodes:
        errors = self._process.communicate()[1] if self._process.poll() is None else ""
        assert self._process.returncode == 0, errors
        with np.load(self._out) as saved:
            return {key.split("/")[1]: saved[key] for key in saved.files if key.split("/")[0] == name}


def main(kind: str, out: str, seeds: str, steps: str, *tasks: str) -> None:
    make = {"task": task, "reference": reference}[kind]
    numbers = [[int(value) for value in values.split(",")] for values in (seeds, steps)]
    recorded = {name: record(make(name), *numbers) for name in tasks}
    if kind == "reference" and all(name.startswith("safety_") for name in tasks):
        assert "algd.envs.safety_gymnasium.fast_steps" not in sys.modules
    np.savez(out, **{f"{name}/{key}": value for name, columns in recorded.items() for key, value in columns.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
