"""The replay buffer: adding, wrapping, saving and restoring, and uniform sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator


def add(replay: Replay, number: int) -> None:
    """Add transition `number`, whose fields all encode that number."""
    n = float(number)
    replay.add(np.array([n, n + 0.1]), np.array([n + 0.2], np.float32), n + 0.3, n + 0.4, np.array([n + 0.5, n + 0.6]),
               number % 2 == 0, number % 3 == 0)


def numbers(rows: np.ndarray) -> list[int]:
    return [int(row[0]) for row in rows]


def test_fields_come_back() -> None:
    replay = Replay(10, 2, 1)
    for number in range(4):
        add(replay, number)
    batch = replay.split(replay.rows[:4])
    expected = torch.arange(4.0)
    torch.testing.assert_close(batch.observation, torch.stack([expected, expected + 0.1], 1))
    torch.testing.assert_close(batch.action, expected[:, None] + 0.2)
    torch.testing.assert_close(batch.reward, expected + 0.3)
    torch.testing.assert_close(batch.cost, expected + 0.4)
    torch.testing.assert_close(batch.next_observation, torch.stack([expected + 0.5, expected + 0.6], 1))
    assert batch.reward_done.tolist() == [1, 0, 1, 0] and batch.cost_done.tolist() == [1, 0, 0, 1]


def test_ring_overwrites_the_oldest() -> None:
    replay = Replay(3, 2, 1)
    for number in range(5):
        add(replay, number)
        assert len(replay) == min(number + 1, 3)
    assert sorted(numbers(replay.rows.numpy())) == [2, 3, 4]


def test_samples_are_uniform_over_what_was_added() -> None:
    replay = Replay(100, 2, 1)
    for number in range(7):
        add(replay, number)
    drawn = replay.sample(70_000, RandomGenerator(0)).observation[:, 0].int()
    counts = torch.bincount(drawn, minlength=7)
    assert counts.sum() == 70_000 and len(counts) == 7
    assert (counts - 10_000).abs().max() < 500  # five standard deviations


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 12), first=st.integers(0, 30), more=st.integers(0, 12))
def test_rows_written_and_restored(capacity: int, first: int, more: int) -> None:
    """Rows that `written` returns are restored in another buffer, also where the two wrap."""
    replay = Replay(capacity, 2, 1)
    for number in range(first):
        add(replay, number)
    twin = Replay(capacity, 2, 1)
    twin.restore(first - len(replay), np.concatenate([*replay.written(first - len(replay), first),
                                                      np.empty((0, 9), np.float32)]))
    for number in range(first, first + more):
        add(replay, number)
    last = first + more
    since = max(first, last - capacity)
    twin.restore(since, np.concatenate([*replay.written(since, last), np.empty((0, 9), np.float32)]))
    assert twin.added == replay.added and len(twin) == len(replay)
    np.testing.assert_array_equal(twin.rows[:len(twin)], replay.rows[:len(replay)])


def test_only_what_is_restored_is_copied_to_the_device() -> None:
    """`restore` copies only the given rows, since buffers of a million rows are restored in hundreds of segments."""
    replay = Replay(5, 2, 1)
    replay.rows = torch.full_like(replay.rows, -1.0)  # represents a GPU's memory
    rows = torch.arange(4 * 9, dtype=torch.float32).reshape(4, 9)
    replay.restore(3, rows.numpy())
    expected = torch.stack([rows[2], rows[3], torch.full((9,), -1.0), rows[0], rows[1]])
    torch.testing.assert_close(replay.rows, expected, rtol=0, atol=0)


def test_rows_that_are_gone_are_refused() -> None:
    replay = Replay(3, 2, 1)
    for number in range(5):
        add(replay, number)
    with pytest.raises(ValueError, match="ring of 3 that has seen 5"):
        replay.written(1, 5)
