"""The mark `needs`: tests whose requirements this machine lacks are skipped, or fail if nothing may be skipped."""

import functools
from pathlib import Path

import pytest

from tests.support import needs

lacking = functools.cache(needs.lacking)

# `make test` distributes files to its processes in this order, so that no long file is left for the end.
LONGEST = ("launchers/test_slurm.py", "launchers/test_local.py", "run/test_resume.py", "launchers/test_nodes.py",
           "execution/test_execution.py", "run/test_matrix.py", "run/test_learning.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(name, ...): what the machine must have (tests/support/needs.py)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test before its fixtures are set up. A test's own mark takes precedence over its module's."""
    mark = item.get_closest_marker("needs")
    if sentences := [sentence for name in (mark.args if mark else ()) if (sentence := lacking(name))]:
        (pytest.fail if needs.everything_is_needed() else pytest.skip)("; ".join(sentences))
