"""The numerical tests pass with every smaller instruction set, as of other processors."""

import os
import subprocess
import sys

import torch

from tests.support.command import ROOT

# Names for torch and for MKL, which selects its kernels independently; smallest first.
LEVELS = {"default": "COMPATIBLE", "avx2": "AVX2", "avx512": "AVX512"}
NUMERICAL = [*(f"tests/algorithm/test_{name}.py" for name in ("golden", "noise_processes", "dual", "normalisation")),
             "tests/execution/test_native.py", "tests/execution/test_float32.py"]
# The tests of networks in C that take a minute together; of test_float32.py one guidance, with every agent.
SELECTION = "algorithm or random_shapes or several_calls or few_units or (augmented and rounding)"


def lesser() -> list[str]:
    """Return the levels below that of this process."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    return list(LEVELS)[:list(LEVELS).index(own)] if own in LEVELS else []


def test_numerical_tests_pass_with_lesser_instructions() -> None:
    """The level of this process is tested by running the tests themselves; higher ones cannot be tested."""
    for level in lesser():
        assert (failures := failures_with(level)) is None, failures


def failures_with(level: str) -> str | None:
    """Run the numerical tests at this level; return their output if one fails, otherwise None."""
    code = ("import sys, torch, pytest; assert torch.backends.cpu.get_cpu_capability().lower() == sys.argv[1]; "
            "sys.exit(pytest.main(sys.argv[2:]))")
    result = subprocess.run([sys.executable, "-c", code, level, "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
                             *NUMERICAL, "-k", SELECTION], cwd=ROOT, capture_output=True, text=True,
                            env=os.environ | {"ATEN_CPU_CAPABILITY": level, "MKL_CBWR": LEVELS[level]})
    return result.stdout[-4000:] + result.stderr[-2000:] if result.returncode else None
