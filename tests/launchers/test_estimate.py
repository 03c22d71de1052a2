"""Estimates of a sweep's cost from existing runs; the numbers are computed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.estimate import Cost, Speeds, amount, cost, estimate, makespan, simultaneous
from launchers.settings import LocalSettings, SlurmSettings
from launchers.states import RunState
from launchers.sweeps import Member


def member(run: str, updates_per_step: int = 2, env: str = "toy", threads: int = 1, runs: Path = Path("runs")
           ) -> Member:
    config: dict[str, Any] = {"updates_per_step": updates_per_step, "threads": threads, "device": "cpu",
                              "env": {"name": env}}
    return Member(runs / run, config)


def behind(step: int, seconds: float, updates: int = 0, state: str = "running") -> RunState:
    return RunState(state, step=step, updates=updates or 2 * step, seconds=seconds)


def test_speeds_are_medians_of_the_same_kind() -> None:
    """Only runs of the same environment, agent, guidance and updates per step count, each with its latest speed."""
    a, b, c = member("toy/x-y/seed=0-1"), member("toy/x-z/seed=0-1"), member("toy/x-y/seed=0-2", updates_per_step=20)
    speeds = Speeds([a, b, c])
    for seed, seconds in ((1, 40.0), (2, 10.0), (2, 90.0), (3, 20.0)):
        speeds.learn(Path(f"runs/toy/x-y/seed={seed}-1"), behind(10, seconds))
    speeds.learn(Path("runs/toy/x-y/seed=4-1"), behind(10, 1000.0, updates=200))
    speeds.learn(Path("runs/toy/x-y/seed=5-1"), behind(0, 7.0))
    assert [speeds.seconds_per_step(each.folder) for each in (a, b, c)] == [4.0, None, 100.0]
    assert speeds.seconds_left({a.folder: 100, c.folder: 10}, 2) == 1000.0
    assert speeds.seconds_left({a.folder: 100, b.folder: 1}, 2) is None and speeds.seconds_left({}, 2) == 0


def test_finished_runs_count_before_others() -> None:
    """The beginning of a run is slower than the whole, so unfinished runs count only if there are no finished ones."""
    a = member("toy/x-y/seed=0-1")
    speeds = Speeds([a])
    speeds.learn(Path("runs/toy/x-y/seed=1-1"), behind(10, 90.0))
    assert speeds.seconds_per_step(a.folder) == 9.0
    speeds.learn(Path("runs/toy/x-y/seed=2-1"), behind(100, 100.0, state="finished"))
    assert speeds.seconds_per_step(a.folder) == 1.0


def test_each_begins_as_soon_as_there_is_a_place() -> None:
    assert makespan([400.0, 200.0], 2) == 400.0
    assert makespan([3.0, 1.0, 1.0, 4.0], 2) == 6.0
    assert makespan([400.0, 400.0, 400.0], 2) == 800.0
    assert makespan([], 2) == 0.0


def test_costs() -> None:
    """A SLURM task costs what it requests until its longest run ends; a local run costs its threads."""
    members = [member(f"{env}/x-y/seed={seed}-1", env=env, threads=3) for env in ("toy", "ring") for seed in (0, 1, 2)]
    seconds = {each.folder: 3600.0 * hours for each, hours in zip(members, (1, 2, 4, 10, 10, 10), strict=True)}
    settings = SlurmSettings(per="env", tasks={"ring": {"gpus": 2, "cpus": 8, "runs_per_task": 3}}, runs_per_task=2)
    # toy: two runs of three threads for two hours and one for four, both tasks in one array; ring: one task.
    assert cost(members, seconds, settings, 4) == Cost(6 * (2 + 4) + 8 * 10, 2 * 10)
    assert cost(members, seconds, LocalSettings(), 2) == Cost(3 * 37, 0)
    on_gpus = [Member(each.folder, dict(each.config) | {"device": "auto"}) for each in members]
    assert cost(on_gpus, seconds, LocalSettings(), 4, gpus=2) == Cost(3 * 37, 37 / 2)


def test_runs_at_the_same_time_on_slurm() -> None:
    """`max_running` limits tasks, which have as many runs as the settings of their group say, or as are left."""
    members = [member(f"{env}/x-y/seed={seed}-1", env=env) for env in ("toy", "ring") for seed in range(5)]
    settings = SlurmSettings(per="env", tasks={"ring": {"runs_per_task": 3}}, runs_per_task=1)
    # Tasks: five of one run (toy), one of three and one of two (ring).
    limited = [simultaneous(settings.model_copy(update={"max_running": most}), members, 10) for most in (1, 2, 3, 9)]
    assert limited == [3, 5, 6, 10]
    assert simultaneous(settings, members, 10) == 10 and simultaneous(settings, members, 4) == 4


@pytest.mark.parametrize(("value", "said"), [(0.01, "less than 0.1"), (0.06, "0.1"), (3.14, "3.1"), (9.96, "10"),
                                            (1234.5, "1,234")])
def test_amounts(value: float, said: str) -> None:
    assert amount(value) == said


def test_said_before_submission(tmp_path: Path) -> None:
    """The estimate uses existing folders, and names a kind of run that has none."""
    done = tmp_path / "toy" / "x-y" / "seed=9-1"
    done.mkdir(parents=True)
    (done / "status.json").write_text(json.dumps(
        {"state": "finished", "step": 100, "total_steps": 100, "updates": 200, "seconds": 360.0}))
    members = [member(f"toy/x-y/seed={seed}-1", runs=tmp_path) for seed in (0, 1, 2)]
    rest = {each.folder: 1000 for each in members}
    settings = SlurmSettings(gpus=1, cpus=4, max_running=2)
    assert estimate(members, rest, settings) == \
        "estimate, 2 at once: 2:00:00, 12 core-hours, 3.0 GPU-hours (by 1 run of the same kind)"
    other = member("toy/x-z/seed=0-1", updates_per_step=1, runs=tmp_path)
    assert estimate([*members, other], rest | {other.folder: 5}, settings) == \
        "estimate: none, as there is no run of toy/x-z with 1 update a step to go by"
