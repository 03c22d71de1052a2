"""docs/results.md shows what its commands print of the runs in docs/results/, and every run that was begun."""

import csv
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest

import algd
from algd.run.episodes import run_episode
from algd.run.evaluation import Bounds
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main
from analysis.runs.read import read_run
from tests.support.command import ROOT

DATA = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
RUNS = sorted(path.parent for path in DATA.rglob("config.yaml"))
PRINTED = [line.strip() for line in PAGE.splitlines()
           if re.match(r"    python -m analysis (table|compare) docs/results/", line)]


@pytest.mark.parametrize("command", PRINTED)
def test_its_tables_are_what_the_command_prints(command: str, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(command)[3:], "--no-cache"]) == 0
    shown = PAGE.split(f"    {command}\n\n", 1)[1]
    # Its heading would be one of the page's.
    printed = re.sub(r"\A## .*\n", "", capsys.readouterr().out).strip()
    assert shown.startswith(printed), printed


def test_every_run_that_was_begun_is_on_the_page() -> None:
    """And in one of its tables: the commands name all folders that there are."""
    lines = set()
    for folder in map(RunFolder, RUNS):
        config, status = folder.config(), folder.status()
        lines.add(f"| {config['agent']['name']}, {config['guidance']['name']} | {config['seed']} | {status['state']} | "
                  f"{status['step']:,} | {status['seconds'] / 3600:.1f} | {folder.path.relative_to(DATA).parts[0]} |")
    assert len(lines) == len(RUNS)
    assert set(re.findall(r"^\| \w+, \w+ \| \d+ \| \w+ \| .*$", PAGE, re.MULTILINE)) == lines
    tabled = {argument.split("/")[2] for command in PRINTED for argument in shlex.split(command)[4:]
              if argument.startswith("docs/results/")}
    assert {folder.relative_to(DATA).parts[0] for folder in RUNS} == tabled


def test_how_often_the_cost_is_over_the_limit() -> None:
    """In the second half of each run that the page compares, and in all of them as the page and the README say."""
    over: dict[str, list[int]] = {"plain": [], "augmented": []}
    for agent, guidance, seed, within, mean in re.findall(
            r"^\| ([\w-]+), (\w+), seed (\d) \|.*\| (\d+) of 10 \| (.* / .*) \|$", PAGE, re.MULTILINE):
        (folder,) = (DATA / "point_button1_short" / "point_button1").glob(
            f"{agent.lower().replace('-', '')}-{guidance}/seed={seed}-*")
        half = [point for point in read_run(folder).evaluations if point.step > 20_000]
        assert len(half) == 10 and sum(point.mean_cost <= 10 for point in half) == int(within)
        assert mean == (f"{sum(point.mean_return for point in half) / 10:.1f} / "
                        f"{sum(point.mean_cost for point in half) / 10:.1f}")
        over[guidance].append(10 - int(within))
        with (folder / "metrics.csv").open(newline="") as file:
            late = [float(row["lam"]) for row in csv.DictReader(file) if int(row["step"]) >= 15_000]
        assert max(late) < 0.002 if guidance == "augmented" else max(late) > 0.03
    assert {guidance: (len(counts), sum(counts)) for guidance, counts in over.items()} == {
        "plain": (3, 28), "augmented": (5, 15)}
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "λ swings, and 28 of these 30 are over the limit; of augmented's, 15 of 50." in readme
    page = " ".join(PAGE.split())
    assert "over the limit at 28 of the 30" in page and "over the limit at 15 of 50" in page


def test_costs_after_the_corner_are_those_of_the_evaluations() -> None:
    """In the corner all evaluations are the same, as at step 2,000."""
    for guidance in ("augmented", "plain", "none"):
        (folder,) = (DATA / "point_button1_short" / "point_button1").glob(f"vesde-{guidance}/seed=0-*")
        steps = {point.step: f"{point.mean_return:.1f} / {point.mean_cost:.1f}"
                 for point in read_run(folder).evaluations}
        last = max(step for step in steps if steps[step] == steps[2000])
        later = [steps[last + 2000 * place] for place in range(1, 7)]
        assert f"{guidance}: {last:,}" in PAGE and f"| {guidance} | {' | '.join(later)} |" in PAGE


def test_the_two_implementations_on_throttle() -> None:
    """Means over the second half of the steps, by seed."""
    costs = defaultdict(list)
    with (DATA / "side_by_side" / "throttle.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["sampler"] == "stochastic" and int(row["step"]) >= 1500:
                costs[row["implementation"], int(row["seed"])].append(float(row["cost"]))
    for implementation in ("project", "straightforward"):
        means = [costs[implementation, seed] for seed in range(5)]
        assert {len(values) for values in means} == {11}
        assert f"| {implementation} | {' | '.join(f'{sum(values) / 11:.2f}' for values in means)} |" in PAGE


@pytest.mark.parametrize("name", ["project", "straightforward"])
def test_the_two_implementations_on_point_button1(name: str) -> None:
    """Every seed of both."""
    places = {"project": DATA / "point_button1_short" / "point_button1" / "vesde-augmented",
              "straightforward": DATA / "side_by_side" / "point_button1"}
    folders = sorted(places[name].glob("seed=*"))
    assert len(folders) >= 2
    for seed, path in enumerate(folders):
        sums = defaultdict(list)
        with (path / "evals.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["sampler"] == "deterministic" and 0 < int(row["step"]) <= 20_000:
                    sums[int(row["step"])].append((float(row["return"]), float(row["cost"])))
        means = [" / ".join(f"{sum(values) / len(values):.1f}" for values in zip(*sums[step], strict=True))
                 for step in sorted(sums)]
        assert len(means) == 10 and f"| {name}, {seed} | {' | '.join(means)} |" in PAGE


@pytest.mark.parametrize(("cell", "steers"), [("ddpm-augmented", True), ("ddpm-plain", True),
                                              ("vesde-augmented", True), ("vesde-plain", False),
                                              ("vesde-none", False)])
def test_which_published_policies_steer(cell: str, steers: bool) -> None:
    """In an episode without noise the steering of two of the five is nearly always at its lower bound."""
    (folder,) = (DATA / "point_button1_short" / "point_button1").glob(f"{cell}/seed=0-*")
    agent = algd.load(folder)
    bounds, task = Bounds(agent.action_space), agent.task
    run_episode(task, agent.act, 1, 0.99, observe=bounds)
    _, steering = bounds.shares()
    assert steering > -0.9 if steers else steering < -0.95


@pytest.mark.parametrize("folder", [run for run in RUNS if (run / "snapshots").exists()], ids=str)
def test_a_published_policy_acts(folder: Path) -> None:
    agent = algd.load(folder)
    assert agent.action_space.contains(agent.act(agent.task.reset(seed=0)[0]))


def test_nothing_tells_of_the_machine() -> None:
    """Small files alone, without hosts and places."""
    for path in DATA.rglob("*"):
        if path.is_file():
            assert path.stat().st_size < 1_000_000 and path.suffix in (".csv", ".json", ".yaml", ".safetensors", ".mp4")
            if path.suffix in (".csv", ".json", ".yaml"):
                assert not re.search(r"/root|/home|/tmp|\"host\"", path.read_text(encoding="utf-8")), path
