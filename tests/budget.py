"""How long each group of tests may take: python -m tests.budget REPORT.xml compares a run of `make test` with it.

    python -m pytest -n logical --dist loadfile --junitxml REPORT.xml
    python -m tests.budget REPORT.xml

Prints the table of docs/promises.md: seconds of one core, as all tests together have 20 minutes of two.
"""

import fnmatch
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CORES, MINUTES = 2, 20


@dataclass(frozen=True)
class Group:
    """Tests of one subject.

    Attributes:
        name: as the page calls it.
        seconds: of one core that they may take.
        files: patterns of their files' names, without test_ and .py.
    """

    name: str
    seconds: int
    files: tuple[str, ...]


GROUPS = [
    Group("the mathematics and the update", 240, (
        "closed_forms", "invariance", "diffusion", "dual", "lagrangian", "golden", "curvature", "normalisation",
        "replay", "statistics", "update", "execution", "native", "properties")),
    Group("environments and pictures", 140, (
        "navigation*", "velocity", "toy", "registered_env", "video", "landscape")),
    Group("training and the command line", 390, (
        "matrix", "learning", "config", "command_line", "readme", "benchmarks", "promises")),
    Group("kills, damage, full disks, several at once", 460, (
        "kill", "resume", "checkpoint", "damage", "disk_full", "concurrency", "long_run")),
    Group("failing numbers and simulators, divergence", 80, (
        "numerical_failure", "simulator_failure", "divergence")),
    Group("bad input, foreign files, secrets", 160, ("bad_input", "untrusted", "secrets", "fuzz_readers")),
    Group("sweeps, local and on a real SLURM", 820, ("launch_*",)),
    Group("logging and analysis", 110, (
        "logging_*", "curves", "table", "report", "latex", "omnisafe", "wandb_source")),
]


def group_of(file: str) -> Group:
    """The group of tests/test_<file>.py.

    Raises:
        ValueError: it has none, or several.
    """
    found = [group for group in GROUPS if any(fnmatch.fnmatchcase(file, pattern) for pattern in group.files)]
    if len(found) != 1:
        raise ValueError(f"tests/test_{file}.py is in {len(found)} groups of tests/budget.py, and should be in one")
    return found[0]


def seconds_of_groups(report: Path) -> dict[str, float]:
    """What the groups took in a run of pytest, from its --junitxml."""
    taken: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].split(".")[1].removeprefix("test_")
        taken[group_of(file).name] += float(case.attrib["time"])
    return dict(taken)


def table(taken: dict[str, float]) -> str:
    """The groups with what they may take and took, in Markdown."""
    lines = ["| tests of | seconds of a core, at most | took |", "|---|---:|---:|"]
    lines += [f"| {group.name} | {group.seconds} | {taken.get(group.name, 0):.0f} |" for group in GROUPS]
    return "\n".join([*lines, f"| all | {sum(group.seconds for group in GROUPS)} | {sum(taken.values()):.0f} |"])


if __name__ == "__main__":
    print(table(seconds_of_groups(Path(sys.argv[1]))))
