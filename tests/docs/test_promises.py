"""The page of promises names only tests, commands and files that exist."""

import ast
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import MEASUREMENTS
from tests.support.budget import CORES, GROUPS, MINUTES, group_of, seconds_of_groups, table
from tests.support.command import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_holds_a_promise_is_there(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for of, name in NAMED if of == file} <= tests


def test_every_promise_is_held_by_a_test() -> None:
    promises, _, rest = PAGE.partition("## What the tests may take")
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 25 and rest
    test = r"`tests/[\w/]+\.py::test_\w+`"
    assert [row for row in rows if not re.search(rf"\| {test}( {test})* \|$", row)] == []


def test_every_measurement_is_on_the_page_of_benchmarks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [name for name in MEASUREMENTS if f"python -m benchmarks {name}" not in page] == []


def test_every_test_has_a_share_of_the_time() -> None:
    of_files = {path: group_of(f"{path.parent.name}.{path.stem}") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {group.name for group in of_files.values()} == {group.name for group in GROUPS}
    assert sum(group.seconds for group in GROUPS) <= 60 * MINUTES * CORES
    assert [group.name for group in GROUPS if f"\n| {group.name} | {group.seconds} |" not in PAGE] == []


def test_what_a_run_of_the_tests_took(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.algorithm.test_dual" name="a" time="1.25"/>'
        '<testcase classname="tests.algorithm.test_golden" name="b" time="2.0"/>'
        '<testcase classname="tests.run.test_kill" name="c" time="40"/></testsuite></testsuites>')
    taken = seconds_of_groups(tmp_path / "report.xml")
    assert taken == {"the mathematics and the update": 3.25, "kills, damage, full disks, several at once": 40.0}
    assert "| the mathematics and the update | 350 | 3 |" in table(taken)
    assert table(taken).endswith("| all | 3000 | 43 |")
    with pytest.raises(ValueError, match=r"tests\.nothing is in no group"):
        group_of("nothing")
