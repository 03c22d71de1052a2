"""In long runs only the tables grow with the number of episodes. `python -m tests.soak` runs 1e5 of them."""

from pathlib import Path

import pytest

from tests.soak.long import long_run


@pytest.mark.parametrize(("episodes", "updates"), [(4000, 0), (500, 1)])
def test_memory_and_files_are_flat(episodes: int, updates: int, tmp_path: Path) -> None:
    course = long_run(episodes, updates, tmp_path / "long", samples=100)
    assert len(course.episodes) >= 100 and course.episodes[-1] > 0.99 * episodes
    # 1 kB kept per episode would be 1.3 MB in the last third of 4000 episodes, and 4 MB over all.
    assert course.growth < 600_000, course.memory
    assert course.open_files[0] == course.open_files[1] and max(course.files) <= course.open_files[0] + 3, course.files
    # One line at the first update, one every 30 seconds, two per evaluation.
    assert course.said < 4000 + 200 * course.seconds / 30
