"""A pytest plugin: the C library built with the address and the undefined-behaviour sanitizer.

    python -m pytest -p tests.support.sanitized ...

with libasan loaded before everything else (LD_PRELOAD).
"""

from algd.execution.native import library

library.FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
