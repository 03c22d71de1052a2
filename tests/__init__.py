"""Tests. Torch uses one thread per process, as in training: with more, workers of pytest-xdist slow each other down."""

import os
import signal

# A shell's background processes ignore Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
