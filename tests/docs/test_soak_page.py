"""docs/soak.md agrees with its data, as do the pages that the command writes."""

import csv
import re
from collections import Counter
from pathlib import Path

from tests.soak.__main__ import CAMPAIGNS, Result, write
from tests.soak.campaigns import Trial
from tests.support.command import ROOT


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its header."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")][2:]


def test_the_page_agrees_with_its_data() -> None:
    page = (ROOT / "docs" / "soak.md").read_text(encoding="utf-8")
    campaigns, places = (rows(ROOT / "docs" / "soak" / f"{name}.csv") for name in ("campaigns", "places"))
    assert [row["campaign"] for row in campaigns] == [campaign.name for campaign in CAMPAIGNS]
    *shown, total = table(page, "Campaigns")
    assert [[cells[0].strip("`"), cells[2].split()[0], *cells[3:]] for cells in shown] == \
        [[row[key] for key in ("campaign", "trials", "faults", "problems", "minutes")] for row in campaigns]
    assert total[2:5] == [str(sum(int(row[key]) for row in campaigns)) for key in ("trials", "faults", "problems")]
    outcomes = Counter[tuple[str, str]]()
    for row in places:
        outcomes[row["campaign"], row["outcome"]] += int(row["count"])
    ended = table(page, "How they ended")
    assert {(name.strip("`"), outcome): int(count) for name, outcome, count in ended} == outcomes


def test_the_command_writes_a_page_and_its_data(tmp_path: Path) -> None:
    trials = [Trial("unlink a", 1, None, "the same"), Trial("unlink a", 2, None, "the same"),
              Trial("write b", 0, None, "the same"), Trial("write b", 1, "differs | here", "")]
    results = {"kill": Result(trials, seconds=90, complete=True)}
    write(tmp_path / "soak.md", results, "python -m tests.soak --only kill", 90)
    assert rows(tmp_path / "soak" / "campaigns.csv") == [
        {"campaign": "kill", "trials": "4", "complete": "1", "faults": "4", "problems": "1", "minutes": "1.5"}]
    places = [list(row.values()) for row in rows(tmp_path / "soak" / "places.csv")]
    assert places == [["kill", "unlink a", "the same", "3"], ["kill", "write b", "PROBLEM", "1"],
                      ["kill", "write b", "the same", "1"]]
    page = (tmp_path / "soak.md").read_text(encoding="utf-8")
    assert "    python -m tests.soak --only kill\n\n2 minutes on " in page
    shown = [cells[2:] for cells in table(page, "Campaigns")]
    assert shown == [["4 (all there are)", "4", "1", "1.5"], ["4", "4", "1", "1.5"]]
    assert table(page, "How they ended") == [["`kill`", "the same", "4"], ["`kill`", "PROBLEM", "1"]]
    assert page.endswith("## Problems\n\n    kill: differs | here\n")
