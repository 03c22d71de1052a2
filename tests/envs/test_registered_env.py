"""env=gymnasium: registered environments as tasks, and the errors for unsuitable ones."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from algd.envs.registered import folder_name, make
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium
from algd.envs.task import Task, probe
from algd.errors import UsageError
from tests.support.command import compose

Box = gymnasium.spaces.Box


class Corridor(gymnasium.Env):
    """Costs 0.5 per step and terminates after `ends_after` steps; spaces and the reporting of costs are arguments."""

    def __init__(self, ends_after: int = 10**9, observations: gymnasium.Space | None = None,
                 actions: gymnasium.Space | None = None, reports_cost: bool = True, render_mode: str | None = None):
        self.observation_space = observations or Box(-1, 1, (3,), np.float32)
        self.action_space = actions or Box(-1, 1, (2,), np.float32)
        self.ends_after, self.reports_cost, self.render_mode = ends_after, reports_cost, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observation(), 1.0, self.steps >= self.ends_after, False, (
            {"cost": 0.5} if self.reports_cost else {"speed": 1.0})

    def _observation(self) -> Any:
        if isinstance(self.observation_space, gymnasium.spaces.Dict):
            return {"position": np.array([1, 2], np.float32), "speed": np.array([3], np.float32)}
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)


DICT = gymnasium.spaces.Dict({"position": Box(-9, 9, (2,), np.float32), "speed": Box(-9, 9, (1,), np.float32)})
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "Corridor-v0": {},
    "CorridorEndless-v0": {},
    "CorridorDict-v0": {"observations": DICT},
    "CorridorDiscrete-v0": {"actions": gymnasium.spaces.Discrete(2)},
    "CorridorUnbounded-v0": {"actions": Box(-np.inf, np.inf, (2,), np.float32)},
    "CorridorPicture-v0": {"observations": Box(0, 255, (8, 8, 3), np.uint8)},
    "CorridorFree-v0": {"reports_cost": False},
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, kwargs in ENVIRONMENTS.items():
        gymnasium.register(name, Corridor, max_episode_steps=None if "Endless" in name else 30, kwargs=kwargs)
    yield
    for name in ENVIRONMENTS:
        del gymnasium.registry[name]


def task_of(id: str, *arguments: str) -> Task:
    values = compose("env=gymnasium", f"env.id={id}", "logger=none", *arguments)["env"]
    return make(**{key: value for key, value in values.items() if key != "_target_"})


def length(task: Task) -> tuple[int, bool, bool]:
    """Run an episode with action 0 and return its length, and whether it was terminated and truncated."""
    task.reset(seed=0)
    for step in range(1, 10_000):
        *_, terminated, truncated, info = task.step(np.zeros(task.action_space.shape, task.action_space.dtype))
        assert isinstance(info["cost"], float)
        if terminated or truncated:
            return step, terminated, truncated
    raise AssertionError("the episode does not end")


def test_the_registered_horizon_is_taken() -> None:
    task = task_of("Corridor-v0", "env.limit=7", "env.limit_kind=discounted")
    assert length(task) == (30, False, True)
    assert (task.budget.limit, task.budget.kind, task.budget.horizon) == (7.0, "discounted", 30)
    assert (task.name, task.family) == ("Corridor-v0", "other")


@pytest.mark.parametrize("horizon", [12, 45])
def test_a_given_horizon_replaces_the_registered_one(horizon: int) -> None:
    task = task_of("Corridor-v0", f"env.horizon={horizon}")
    assert length(task) == (horizon, False, True) and task.budget.horizon == horizon


def test_a_horizon_beyond_an_inner_time_limit_is_refused() -> None:
    """The episodes would have 30 steps, and the threshold would be computed for more."""
    gymnasium.register("CorridorInside-v0", lambda: gymnasium.make("Corridor-v0"), max_episode_steps=40)
    try:
        for given, horizon in ((("env.horizon=31",), 31), ((), 40)):
            with pytest.raises(UsageError, match=rf"env\.horizon={horizon}: a TimeLimit .* at most 30 are possible"):
                task_of("CorridorInside-v0", *given)
        assert length(task_of("CorridorInside-v0", "env.horizon=30")) == (30, False, True)
    finally:
        del gymnasium.registry["CorridorInside-v0"]


def test_keyword_arguments_reach_the_environment() -> None:
    task = task_of("Corridor-v0", "+env.kwargs.ends_after=5")
    assert length(task) == (5, True, False)
    task.reset(seed=0)
    ends = [task.step(np.zeros(2, np.float32))[4] for _ in range(5)]
    assert [info["cost_done"] for info in ends] == [info["reward_done"] for info in ends] == [False] * 4 + [True]


def test_without_any_horizon_one_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"env\.id=CorridorEndless-v0.*env\.horizon="):
        task_of("CorridorEndless-v0")
    assert length(task_of("CorridorEndless-v0", "env.horizon=9")) == (9, False, True)


def test_observations_in_a_dictionary_are_flattened() -> None:
    task = task_of("CorridorDict-v0")
    observation, _ = task.reset(seed=0)
    assert observation.tolist() == [1, 2, 3] and task.observation_space.shape == (3,)


@pytest.mark.parametrize(("id", "reason"), [
    ("CorridorDiscrete-v0", "actions are Discrete"),
    ("CorridorUnbounded-v0", "finite bounds"),
    ("CorridorPicture-v0", "a flat Box is needed"),
    ("CorridorFree-v0", r"reports no cost.*speed"),
    ("Corridr-v0", r"similar ones are .*Corridor-v0"),
    ("no_such_module:Corridor-v0", "no_such_module cannot be imported"),
    ("Corridor-v0 +env.kwargs.colour=red", r"cannot be made with env\.kwargs=.*colour"),
])
def test_what_cannot_be_trained_is_said_in_a_sentence(id: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        probe(task_of(*id.split()))
    assert "\n" not in str(caught.value)


def test_a_module_that_lies_here_is_found_when_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("beside_it.py").write_text("import gymnasium\n")
    with pytest.raises(UsageError, match=r"trusted=\[beside_it\] the file beside_it\.py of this folder is found"):
        task_of("beside_it:Corridor-v0")


def test_a_missing_id_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"env\.(id|name)"):
        compose("env=gymnasium", "logger=none")


def test_a_module_named_in_the_id_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mazes_for_a_test.py").write_text(
        "import gymnasium\nfrom tests.envs.test_registered_env import Corridor\n"
        "gymnasium.register('MazeOfAModule-v0', Corridor, max_episode_steps=8)\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(UsageError, match="module:MazeOfAModule-v0"):
            task_of("MazeOfAModule-v0")
        task = task_of("mazes_for_a_test:MazeOfAModule-v0")
        assert task.name == "mazes_for_a_test-MazeOfAModule-v0"
        assert length(task) == (8, False, True)
    finally:
        gymnasium.registry.pop("MazeOfAModule-v0", None)
        sys.modules.pop("mazes_for_a_test", None)


def test_the_configuration_holds_a_name_that_can_be_a_folder() -> None:
    config = compose("env=gymnasium", "env.id=some.module:Deep/Maze-v0", "logger=none")
    assert config["env"]["name"] == "some.module-Deep-Maze-v0" and config["env"]["id"] == "some.module:Deep/Maze-v0"
    assert folder_name("../x") == "x" and folder_name("...") == "environment"


@pytest.mark.parametrize("id", ["SafetyPointGoal2-v0", "safety_gymnasium:SafetyPointGoal2-v0"])
def test_safety_gymnasium_is_known(id: str) -> None:
    task = task_of(id, "env.horizon=40")
    assert length(task) == (40, False, True)
    assert task.name == folder_name(id) and task.observation_space.shape == (60,)


def test_safety_gymnasium_costs_are_the_third_of_its_own_six_values() -> None:
    task = task_of("SafetyPointGoal2-v0", "env.horizon=200")
    own = import_safety_gymnasium().make("SafetyPointGoal2-v0")
    rng = np.random.default_rng(0)
    task.reset(seed=0)
    own.reset(seed=0)
    costs, expected = [], []
    for _ in range(200):
        action = rng.uniform(-1, 1, 2)
        *_, info = task.step(action)
        costs.append(info["cost"])
        expected.append(own.step(action)[2])
    assert costs == expected and max(costs) > 0


def test_safety_gymnasium_cannot_be_made_longer_than_it_is() -> None:
    with pytest.raises(UsageError, match=r"env\.horizon=2000.*at most 1000"):
        task_of("SafetyPointGoal2-v0", "env.horizon=2000")
    with pytest.raises(UsageError, match=r"similar ones are .*SafetyPointGoal2-v0"):
        task_of("SafetyPointGaol2-v0")
