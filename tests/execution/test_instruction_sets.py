"""What holds to rounding holds on other processors: the numerical tests pass with every lesser set of instructions."""

import os
import subprocess
import sys

import torch

from tests.support.command import ROOT

# As torch and MKL, which chooses its products by itself, call them; from the least on.
LEVELS = {"default": "COMPATIBLE", "avx2": "AVX2", "avx512": "AVX512"}
NUMERICAL = [*(f"tests/algorithm/test_{name}.py" for name in ("golden", "noise_processes", "dual", "normalisation")),
             "tests/execution/test_native.py", "tests/execution/test_float32.py"]
# Of the tests of networks in C those that fit a minute; in test_float32.py one guidance, with every agent.
SELECTION = "algorithm or random_shapes or several_calls or few_units or (augmented and rounding)"


def lesser() -> list[str]:
    """The levels below this process's own."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    return list(LEVELS)[:list(LEVELS).index(own)] if own in LEVELS else []


def test_numerical_tests_pass_with_lesser_instructions() -> None:
    """With this process's own they are run as they are; what the processor does not have cannot be tried."""
    for level in lesser():
        assert (failures := failures_with(level)) is None, failures


def failures_with(level: str) -> str | None:
    """What the numerical tests print where one fails with these instructions; None if all pass."""
    code = ("import sys, torch, pytest; assert torch.backends.cpu.get_cpu_capability().lower() == sys.argv[1]; "
            "sys.exit(pytest.main(sys.argv[2:]))")
    result = subprocess.run([sys.executable, "-c", code, level, "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
                             *NUMERICAL, "-k", SELECTION], cwd=ROOT, capture_output=True, text=True,
                            env=os.environ | {"ATEN_CPU_CAPABILITY": level, "MKL_CBWR": LEVELS[level]})
    return result.stdout[-4000:] + result.stderr[-2000:] if result.returncode else None
