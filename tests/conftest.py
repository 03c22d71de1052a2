"""The mark `needs`: a test that this machine has not everything for is skipped, or fails where it must not be."""

import functools

import pytest

from tests.support import needs

lacking = functools.cache(needs.lacking)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(name, ...): what the machine must have (tests/support/needs.py)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture is set up. The nearest mark counts: a test's own replaces its module's."""
    mark = item.get_closest_marker("needs")
    if sentences := [sentence for name in (mark.args if mark else ()) if (sentence := lacking(name))]:
        (pytest.fail if needs.everything_is_needed() else pytest.skip)("; ".join(sentences))
