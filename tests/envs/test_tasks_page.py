"""docs/tasks.md agrees with the tasks."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.support.episodes import CONF, names, task

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
TASKS = [name for family in ("paper", "stock") for kind in ("navigation", "velocity") for name in names(family, kind)]
OWN = names("toy", "toy") + names("toy", "throttle")


def rows(columns: int) -> dict[str, list[str]]:
    """Return the rows of the page's tables of tasks with this number of columns, by their first cell."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")]
             for table in tables if table.startswith("| task ") for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells if len(row) == columns}


def test_all_paper_and_stock_tasks_exist_and_are_on_the_page() -> None:
    assert len(names("paper", "navigation") + names("paper", "velocity")) == 9
    assert len(names("stock", "navigation") + names("stock", "velocity")) == 13
    assert set(rows(8)) == set(TASKS + OWN) and OWN == ["toy", "throttle"]
    assert set(rows(5)) == set(TASKS), "every task's speed is on the page"


@pytest.mark.parametrize("name", TASKS + OWN)
def test_a_row_holds_the_tasks_facts(name: str) -> None:
    env, conf = task(name), OmegaConf.load(CONF / f"{name}.yaml")
    budget = env.budget
    assert rows(8)[name] == [
        str(env.observation_space.shape[0]), str(env.action_space.shape[0]), str(budget.horizon), f"{budget.limit:g}",
        budget.kind, f"{budget.threshold(0.99):.4f}", f"{conf.reference_steps:,}"]
    assert (conf.name, env.name, env.family) == (name, name, conf.family)


@pytest.mark.parametrize(("name", "steps"), [
    ("point_button1", 100_000), ("car_button1", 150_000), ("point_button2", 200_000), ("point_push1", 200_000),
    ("car_button2", 300_000), ("halfcheetah_velocity", 100_000), ("hopper_velocity", 150_000),
    ("ant_velocity", 200_000), ("humanoid_velocity", 500_000),
])
def test_reference_steps_are_the_authors(name: str, steps: int) -> None:
    assert OmegaConf.load(CONF / f"{name}.yaml").reference_steps == steps


@pytest.mark.parametrize("name", [name for name in TASKS if name.startswith("safety_")])
def test_stock_tasks_have_the_published_horizon_and_limit(name: str) -> None:
    budget = task(name).budget
    assert (budget.limit, budget.kind, budget.horizon) == (25.0, "episode", 1000)
