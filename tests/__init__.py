"""The tests. One thread a process, as trainings have it: more in every worker of pytest-xdist wait for each other."""

import os
import signal

# In the background of a shell Ctrl-C is ignored, also by the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
