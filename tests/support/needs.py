"""What tests need of the machine beside Python and git, and the Debian packages that have it.

    @pytest.mark.needs("browser")

Where it is missing the test is skipped with what to install, or fails where everything has to be there, as in CI
(ALGD_TESTS_NEED_ALL=1). tests/conftest.py applies the marks.
"""

import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from algd.execution.native import library
from tests.support import slurm_cluster

NEED_ALL = "ALGD_TESTS_NEED_ALL"


@dataclass(frozen=True)
class Need:
    """Something that a machine has or lacks.

    Attributes:
        what: its name in a sentence.
        remedy: what to do about it: Debian's packages, or a setting.
        is_there: looks for it.
    """

    what: str
    remedy: str
    is_there: Callable[[], bool]


def _has_namespaces() -> bool:
    """Whether a process may mount file systems of its own: not in most containers and in no chroot."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


NEEDS = {
    "browser": Need("Chromium", "Debian: chromium", lambda: shutil.which("chromium") is not None),
    "compiler": Need("a C compiler", "Debian: gcc libc6-dev", lambda: bool(library.compiler())),
    "latex": Need("pdflatex", "Debian: texlive-latex-base texlive-latex-recommended",
                  lambda: shutil.which("pdflatex") is not None),
    "namespaces": Need("leave to mount a file system in a namespace of its own",
                       "Debian: util-linux and mount, outside of chroots and containers without privileges",
                       _has_namespaces),
    "opengl": Need("OpenGL through EGL", "Debian: libegl1 libgl1-mesa-dri",
                   lambda: ctypes.util.find_library("EGL") is not None),
    "slurm": Need("SLURM and the rights of root", f"Debian: {slurm_cluster.PACKAGES}",
                  lambda: not slurm_cluster.missing()),
}


def lacking(name: str) -> str | None:
    """The sentence about what is missing for a need; None if it is there.

    Raises:
        KeyError: no such need.
    """
    need = NEEDS[name]
    return None if need.is_there() else f"{need.what} is missing ({need.remedy})"


def everything_is_needed() -> bool:
    """Whether a test that cannot run fails instead of being skipped."""
    return os.environ.get(NEED_ALL, "") not in ("", "0")
