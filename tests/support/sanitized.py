"""A pytest plugin that builds the C library with the address and undefined-behaviour sanitizers:

    python -m pytest -p tests.support.sanitized ...

libasan must be preloaded (LD_PRELOAD).
"""

from algd.execution.native import library

library.FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
