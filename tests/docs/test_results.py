"""docs/results.md shows what its commands print of the runs in docs/results/, and every run that was begun."""

import csv
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import stdev

import pytest

import algd
from algd.run.episodes import run_episode
from algd.run.evaluation import Bounds
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main
from analysis.runs.episodes import rows
from analysis.runs.model import Evaluation
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
    before, shown = PAGE.split(f"    {command}\n\n", 1)
    # Its heading would be one of the page's.
    printed = re.sub(r"\A## .*\n", "", capsys.readouterr().out)
    # A note is not repeated.
    said = [line for line in before.splitlines() if line.startswith("- ")]
    printed = "\n".join(line for line in printed.splitlines() if line not in said).strip()
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


def last_ten(folder: Path) -> list[Evaluation]:
    """Return the evaluations of the second half of a finished run."""
    half = [point for point in read_run(folder).evaluations if point.step > 20_000]
    assert len(half) == 10
    return half


def finished(cell: str) -> list[Path]:
    """Return the finished runs of a method of the two studies, by seed."""
    return sorted(file.parent for file in DATA.glob(f"point_button1_[sh]*/point_button1/{cell}/seed=*/result.json"))


def listed(items: Iterable[str]) -> str:
    """Return the items as in a sentence: "1, 2 and 3"."""
    *first, last = items
    return f"{', '.join(first)} and {last}"


def test_how_often_the_cost_is_over_the_limit() -> None:
    """At the last ten evaluations of each diffusion run, as the page and the README say."""
    over = {guidance: [sum(point.mean_cost > 10 for point in last_ten(folder))
                       for agent in ("ddpm", "vesde") for folder in finished(f"{agent}-{guidance}")]
            for guidance in ("plain", "augmented")}
    readme, page = (" ".join(text.split()) for text in ((ROOT / "README.md").read_text(encoding="utf-8"), PAGE))
    plain, augmented = (f"{sum(counts)} of {10 * len(counts)}" for counts in over.values())
    gains = {guidance: [sum(point.mean_return for point in last_ten(folder))
                        for agent in ("ddpm", "vesde") for folder in finished(f"{agent}-{guidance}")]
             for guidance in over}
    assert sum(one > other for one, other in zip(gains["plain"], gains["augmented"], strict=True)) == 5
    assert (f"With plain guidance {plain} are over the limit, with augmented {augmented}, at lower returns in five of "
            "six pairs.") in readme
    (tested,) = re.findall(r"^\| all tasks +\| cost +\|.*\| ([\d.]+) +\| ([\d.]+) +\| –", PAGE, re.MULTILINE)
    assert "p = {:.3f}, {:.2f} corrected;".format(*map(float, tested)) in readme
    assert f"over the limit at {plain} with plain guidance" in page
    assert f"at {augmented} with augmented guidance" in page


def test_where_lambda_turns_and_where_it_does_not() -> None:
    """The rows of the page's table are those of the runs' tables; with augmented guidance λ and Qc are small."""
    rows = re.findall(r"^\| ([\w-]+), (\w+), seed (\d) \| (.*) \| .* \| (\d+) of 10 \| (.* / .*) \|$", PAGE,
                      re.MULTILINE)
    assert len(rows) >= 8
    for agent, guidance, seed, turns, within, mean in rows:
        folder = finished(f"{agent.lower().replace('-', '')}-{guidance}")[int(seed)]
        half = last_ten(folder)
        assert sum(point.mean_cost <= 10 for point in half) == int(within)
        assert mean == (f"{sum(point.mean_return for point in half) / 10:.1f} / "
                        f"{sum(point.mean_cost for point in half) / 10:.1f}")
        with (folder / "metrics.csv").open(newline="") as file:
            late = [row for row in csv.DictReader(file) if int(row["step"]) > 0]
        lam = {int(row["step"]): float(row["lam"]) for row in late}
        if guidance == "augmented":
            assert turns == "falls to 2e-8" and f"{lam[40_000]:.0e}" == "2e-08" and lam[15_000] < 0.002
            assert all(before > after for before, after in pairwise(lam.values()))
            assert all(-1.2 < float(row["constraint"]) < -0.65 for row in late if int(row["step"]) >= 22_000)
            continue
        steps = [b for a, b, c in zip(lam, [*lam][1:], [*lam][2:], strict=False)
                 if (lam[b] - lam[a]) * (lam[c] - lam[b]) < 0]
        said = [(float(value), int(step.replace(",", "")))
                for value, step in re.findall(r"([\d.]+) \(([\d,]+)\)", turns)]
        assert [step for _, step in said] == steps
        assert all(abs(value - lam[step]) < 0.06 * lam[step] for value, step in said)


def test_what_the_cost_critics_predict() -> None:
    rows = re.findall(r"^\| (.+) \| ([\d, ]+) \| ([-\d., ]+) \| ([\d., ]+) \|$",
                      PAGE.split("## The cost critics")[1].split("\n## ")[0], re.MULTILINE)
    assert len(rows) == 6
    for name, seeds, *means in rows:
        cell = "cvpo-plain" if name == "CVPO" else name.lower().replace("-", "").replace(", ", "-")
        folders = finished(cell)
        assert seeds == ", ".join(folder.name.split("=")[1].split("-")[0] for folder in folders)
        for mean, key in zip(means, ("predicted_cost", "discounted_cost"), strict=True):
            shown = []
            for folder in folders:
                with (folder / "evals.csv").open(newline="") as file:
                    values = [float(row[key]) for row in csv.DictReader(file)
                              if row["sampler"] == "deterministic" and int(row["step"]) > 20_000]
                shown.append(f"{sum(values) / len(values):.2f}")
            assert mean == ", ".join(shown)


def test_how_much_the_cost_critics_disagree() -> None:
    """Means over the last 20,000 steps of the members' standard deviation, and the least mean Qc after step 5,000."""
    def of(cell: str) -> tuple[list[float], list[float]]:
        deviations, least = [], []
        for folder in finished(cell):
            with (folder / "metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["qc"] and int(row["step"]) >= 5_000]
            late = [float(row["qc_std"]) for row in rows if int(row["step"]) > 20_000]
            deviations.append(round(sum(late) / len(late), 2))
            least.append(min(float(row["qc"]) for row in rows))
        return deviations, least

    (augmented, least), (vesde, vesde_least) = of("ddpm-augmented"), of("vesde-augmented")
    assert (min(augmented + vesde), max(augmented + vesde)) == (0.29, 0.56) and min(least + vesde_least) > 0
    (ddpm, ddpm_least), (vesde, vesde_least) = of("ddpm-plain"), of("vesde-plain")
    assert ddpm == [0.57, 1.16, 1.25] and vesde == [0.45, 1.42, 3.63]
    assert sum(value < 0 for value in ddpm_least + vesde_least) == 4 and round(min(vesde_least), 1) == -6.8
    assert of("gaussian-augmented")[0] == [3.40, 2.24, 3.07]
    assert of("gaussian-plain")[0] == [3.15, 0.85, 0.48, 1.30, 3.17, 1.47]  # FAC, then SAC-Lagrangian


def test_what_the_baselines_and_the_starts_are_said_to_be() -> None:
    """Numbers in the bullets on the other methods, and the runs that several versions of the code have trained."""
    said = " ".join(PAGE.split())
    costs = [point.mean_cost for cell in ("gaussian-plain", "gaussian-augmented") for folder in finished(cell)
             if "_short" in str(folder) for point in last_ten(folder)]
    assert f"jump between 0, where the policy stands still, and {max(costs):.0f}." in said and min(costs) == 0
    shares = {}
    for file in DATA.glob("point_button1_[sh]*/point_button1/*/seed=*/result.json"):
        training = read_run(file.parent).evaluations[-1].training
        assert training is not None
        shares[file.parent.parent.name, file.parent.name[:6]] = training.over
    (most, share), (cell, _) = sorted(shares.items(), key=lambda item: -item[1])[:2]
    assert most == ("vesde-plain", "seed=2") and cell == ("cvpo-plain", "seed=0")
    of_cvpo = [f"{shares['cvpo-plain', folder.name[:6]]:.0%}" for folder in finished("cvpo-plain")]
    assert (f"{listed(of_cvpo)} were over the limit; of the finished runs only VE-SDE's plain one with seed 2 "
            f"has more than {of_cvpo[0]}: {share:.0%}.") in said
    ends = [read_run(folder).evaluations[-1] for folder in finished("cvpo-plain")]
    assert (f"end at returns of {listed(f'{end.mean_return:.2f}' for end in ends)} and costs of "
            f"{listed(f'{end.mean_cost:.2f}' for end in ends)}.") in said
    over = [str(sum(point.mean_cost > 10 for point in last_ten(folder))) for folder in finished("cvpo-plain")]
    assert f"over the limit at {listed(over)} of the last ten evaluations." in said
    mixed = [folder.parent.name for folder in RUNS if (folder / "result.json").exists()
             and len({start["commit"] for start in RunFolder(folder).meta()["starts"]}) > 1]
    assert sorted(mixed) == ["cvpo-plain", "ddpm-augmented", "ddpm-plain", "gaussian-augmented", "gaussian-plain",
                             "gaussian-reachability", "vesde-plain"]
    assert "Seven of the finished runs were begun by one version of the code" in said
    last = [rows(folder / "metrics.csv")[-1] for folder in finished("gaussian-reachability")]
    entropies = listed(f"{float(row['entropy']):.2f}" for row in last)
    assert f"an entropy of {entropies}, of at most 2 ln 2" in said


def test_what_becomes_of_state_wise_multipliers() -> None:
    said = " ".join(PAGE.split("## λ and Qc")[1].split("\n## ")[0].split())

    def lams(cell: str, seed: int) -> dict[int, float]:
        (folder,) = (DATA / "point_button1_hard" / "point_button1" / cell).glob(f"seed={seed}-*")
        return {int(row["step"]): float(row["lam"]) for row in rows(folder / "metrics.csv") if row["lam"]}

    reach, fac = ([lams(cell, seed) for seed in range(3)] for cell in ("gaussian-reachability", "gaussian-plain"))
    assert f"is {reach[0][40_000]:.0e} and {reach[2][40_000]:.0e} on average at the end".replace("e-0", "e-") in said
    late = [lam for step, lam in reach[1].items() if step >= 22_000]
    assert f"and {min(late):.2f} to {max(late):.2f} from step 22,000 on with seed 1." in said
    assert f"({fac[0][40_000]:.0e} at the end)" in said
    assert f"it is {fac[1][22_500]:.0e} at step 22,500" in said and f"and {fac[1][23_000]:,.0f} at step 23,000" in said
    assert f"it is {fac[2][16_000]:.0e} at step 16,000" in said and f"and {fac[2][16_500]:,.0f} at step 16,500" in said


def test_what_hopper_does() -> None:
    """Costs and returns of the section's sentences, at the steps that they name."""
    said = " ".join(PAGE.split("## A velocity task")[1].split("\n## ")[0].split())
    place = DATA / "hopper_velocity_short" / "hopper_velocity"
    ((plain,), (augmented,), (cal,)) = ([*place.glob(f"{cell}/seed=0-*")] for cell in (
        "vesde-plain", "vesde-augmented", "gaussian-augmented"))
    costs, gains = ([{point.step: getattr(point, name) for point in read_run(folder).evaluations}
                     for folder in (plain, augmented, cal)] for name in ("mean_cost", "mean_return"))
    for first, last, words in ((16_000, 22_000, "its evaluations cost"), (30_000, 36_000, "36,000 cost")):
        high = [cost for step, cost in costs[0].items() if first <= step <= last]
        assert f"{words} {min(high):.0f} to {max(high):.0f}" in said and min(high) > 82.748
    assert f"a return of {gains[0][24_000]:.1f} in 24 steps, at a cost of {costs[0][24_000]:.1f}" in said
    assert f"at a cost of {costs[0][38_000]:.1f}. " in said
    assert f"that returns {gains[0][38_000]:.1f}, the highest" in said
    assert max(value for run in gains for value in run.values()) == gains[0][38_000]
    assert f"as before ({gains[0][40_000]:.1f} at a cost of {costs[0][40_000]:.1f})" in said
    assert (f"({costs[1][32_000]:.1f}, a return of {gains[1][32_000]:.0f}, where the plain run returns "
            f"{gains[0][32_000]:.0f})") in said
    assert f"({', '.join(f'{costs[1][step]:.1f}' for step in (34_000, 36_000, 38_000))})" in said
    assert f"ends at {costs[1][40_000]:.1f} with a return of {gains[1][40_000]:.0f};" in said
    logged = []
    for folder in (plain, cal):
        with (folder / "metrics.csv").open() as file:
            logged.append({int(row["step"]): row for row in csv.DictReader(file)})
    lam, of_cal = ({step: float(row["lam"]) for step, row in rows.items()} for rows in logged)
    assert [float(f"{lam[step]:.2g}") for step in (15_500, 33_000)] == [0.0017, 0.044]
    assert [float(f"{lam[step]:.3g}") for step in (25_000, 38_000)] == [1.41, 1.41]
    assert [f"{of_cal[step]:.0e}" for step in (24_000, 40_000)] == ["5e-05", "7e-08"]
    below = [-float(row["constraint"]) for step, row in logged[1].items() if step >= 15_000]
    assert f"means of Qc are {min(below):.1f} to {max(below):.1f} below h." in said
    assert f"grow to {max(gains[2].values()):.1f} at step 32,000 and are {gains[2][40_000]:.1f}" in said
    assert f"at a cost of {costs[2][40_000]:.1f}. Its" in said
    assert (f"(a return of {gains[2][24_000]:.1f}), after costs of {costs[2][20_000]:.1f} and {costs[2][22_000]:.1f}, "
            "while λ is 5e-5:") in said
    last = [[cost for step, cost in run.items() if step > 20_000] for run in costs]
    over = [sum(cost > 82.748 for cost in run) for run in last]
    means = [sum(gain for step, gain in run.items() if step > 20_000) / 10 for run in gains]
    spent = [sum(run) / 10 for run in last]
    assert max(spent) < 82.748
    assert f"plain at a cost of {spent[0]:.1f}, augmented at {spent[1]:.1f} and CAL at {spent[2]:.1f}." in said
    assert (f"{min(last[0]):.1f} to {max(last[0]):.1f} (standard deviation {stdev(last[0]):.0f}, with augmented "
            f"guidance {stdev(last[1]):.0f}): {over[0]} of the ten are over the limit, the others are two ") in said
    assert f"is {(10 * means[0] - gains[0][38_000]) / 9:.0f} instead of {means[0]:.0f}." in said
    assert (f"{over[1]} of ten are over the limit, at a mean return of {means[1]:.0f}, with CAL {over[2]}, at "
            f"{means[2]:.0f}.") in said
    late = [episode for episode in rows(plain / "evals.csv")
            if episode["sampler"] == "deterministic" and int(episode["step"]) >= 30_000]
    predicted, seen = (sum(float(episode[name]) for episode in late) / len(late)
                       for name in ("predicted_cost", "discounted_cost"))
    assert f"{predicted:.0f} on average from step 30,000 on, where the evaluations show {seen:.0f}." in said
    assert max(cost for step, cost in costs[1].items() if step <= 32_000) < 82.748


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
