"""One seed a run; everything that is random gets a stream of its own from it."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for one purpose, independent of every other purpose and index.

    Args:
        seed: the run's seed.
        purpose: what the stream is for, for example "training episode".
        index: further numbers that tell streams of one purpose apart, for example the episode's.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def episode_seed(seed: int, purpose: str, *index: int) -> int:
    """The same as a 31-bit seed, which every environment takes."""
    return stream(seed, purpose, *index) >> 32
