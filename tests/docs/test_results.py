"""docs/results.md shows what its commands print of the runs in docs/results/, and every run that was begun."""

import re
import shlex
from pathlib import Path

import pytest

import algd
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


def test_costs_after_the_corner_are_those_of_the_evaluations() -> None:
    """In the corner all evaluations are the same, as at step 2,000."""
    for guidance in ("augmented", "plain", "none"):
        (folder,) = (DATA / "point_button1_short" / "point_button1").glob(f"vesde-{guidance}/seed=0-*")
        steps = {point.step: f"{point.mean_return:.1f} / {point.mean_cost:.1f}"
                 for point in read_run(folder).evaluations}
        last = max(step for step in steps if steps[step] == steps[2000])
        later = [steps[last + 2000 * place] for place in range(1, 7)]
        assert f"{guidance}: {last:,}" in PAGE and f"| {guidance} | {' | '.join(later)} |" in PAGE


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
