"""The tests of the C library pass under the address and undefined-behaviour sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from algd.execution.native import library
from tests.support.command import ROOT
from tests.support.needs import sanitizer

pytestmark = pytest.mark.needs("sanitizers")

TESTS = "random_shapes or several_calls or number_of_threads or few_units"
# A fault that only a sanitizer sees: a row of weights is read one number too far.
OVERRUN = ("panels + q * WIDTH, from + q * by_k, 4 * width", "panels + q * WIDTH, from + q * by_k, 4 * width + 4")


def sanitizers() -> dict[str, str]:
    """Return the environment variables for loading a sanitized library."""
    return {"LD_PRELOAD": sanitizer(library.compiler()), "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1"}


def test_the_librarys_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-p",
         "tests.support.sanitized", "tests/execution/test_native.py", "-k", TESTS],
        cwd=ROOT, env=os.environ | sanitizers() | {"ALGD_CACHE": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_a_planted_overrun_is_seen(tmp_path: Path) -> None:
    right, wrong = OVERRUN
    source = library.SOURCE.read_text()
    assert source.count(right) == 1
    (tmp_path / "mlp.c").write_text(source.replace(right, wrong))
    code = f"""
import pathlib, torch
from algd.algorithm.mlp import Layer
from algd.execution.native import library
import tests.support.sanitized
library.SOURCE = pathlib.Path({str(tmp_path / "mlp.c")!r})
from algd.execution.native.mlp import NativeMLP
mlp = NativeMLP([Layer(torch.randn(32, 16), torch.randn(32)), Layer(torch.randn(16, 32), torch.randn(16))], "relu")
with torch.no_grad():
    values, trace = mlp.trace(torch.randn(20, 16))
    mlp.pull(trace, values)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                            env=os.environ | sanitizers() | {"ALGD_CACHE": str(tmp_path / "cache")})
    assert result.returncode and "heap-buffer-overflow" in result.stderr, result.stderr[-2000:]
