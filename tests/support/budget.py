"""Time budgets of groups of tests, and the times that they took:

    python -m pytest -n logical --dist loadfile --no-loadscope-reorder --junitxml REPORT.xml
    python -m tests.support.budget REPORT.xml

prints the table of docs/promises.md, in seconds of one core. All tests together may take 25 minutes on two cores.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CORES, MINUTES = 2, 25


@dataclass(frozen=True)
class Group:
    """Tests of one subject.

    Attributes:
        name: name on the page.
        seconds: budget, in seconds of one core.
        files: module names after "tests.", or folder.* for all other modules of a folder.
    """

    name: str
    seconds: int
    files: tuple[str, ...]


# A module's own name takes precedence over its folder's pattern.
GROUPS = [
    Group("the mathematics and the update", 350, (
        "algorithm.*", "execution.*", "analysis.test_closed_forms", "analysis.test_invariance",
        "analysis.test_statistics")),
    Group("environments and pictures", 100, ("envs.*", "run.test_video", "analysis.test_landscape")),
    Group("training and the command line", 580, (
        "run.*", "config.*", "cli.*", "docs.*", "package.*", "benchmarks.*", "storage.*")),
    Group("kills, damage, full disks, several at once", 350, (
        "run.test_kill", "run.test_resume", "storage.test_checkpoint", "storage.test_damage", "run.test_disk_full",
        "run.test_concurrency", "run.test_long_run")),
    Group("failing numbers and simulators, divergence", 70, (
        "run.test_numerical_failure", "run.test_simulator_failure", "run.test_divergence")),
    Group("bad input, foreign files, secrets", 150, (
        "cli.test_bad_input", "run.test_untrusted", "run.test_secrets", "storage.test_fuzz_readers")),
    Group("sweeps, local and on a real SLURM", 1220, ("launchers.*",)),
    Group("logging and analysis", 180, ("logging.*", "analysis.*")),
]


def group_of(module: str) -> Group:
    """Return the group of a test module, given by its dotted name after "tests.".

    Raises:
        ValueError: it has none.
    """
    for pattern in (module, module.partition(".")[0] + ".*"):
        for group in GROUPS:
            if pattern in group.files:
                return group
    raise ValueError(f"tests.{module} is in no group of tests/support/budget.py")


def seconds_of_groups(report: Path) -> dict[str, float]:
    """Return the seconds that each group took, from the --junitxml report of pytest."""
    taken: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        module = ".".join(case.attrib["classname"].split(".")[1:3])
        taken[group_of(module).name] += float(case.attrib["time"])
    return dict(taken)


def table(taken: dict[str, float]) -> str:
    """Format the groups with their budgets and times as Markdown."""
    lines = ["| tests of | seconds of one core, at most | took |", "|---|---:|---:|"]
    lines += [f"| {group.name} | {group.seconds} | {taken.get(group.name, 0):.0f} |" for group in GROUPS]
    return "\n".join([*lines, f"| all | {sum(group.seconds for group in GROUPS)} | {sum(taken.values()):.0f} |"])


if __name__ == "__main__":
    print(table(seconds_of_groups(Path(sys.argv[1]))))
