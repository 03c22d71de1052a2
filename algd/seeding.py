"""Seeds of independent random streams, all derived from the run's seed."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed for one purpose, independent of every other purpose and index.

    Args:
        seed: the run's seed.
        purpose: what the stream is for, for example "training episode".
        index: numbers that distinguish streams of one purpose, for example the episode's.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def episode_seed(seed: int, purpose: str, *index: int) -> int:
    """Return the same as a 31-bit seed, which every environment accepts."""
    return stream(seed, purpose, *index) >> 32
