"""The tests. One thread a process, as trainings have it: more in every worker of pytest-xdist wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
