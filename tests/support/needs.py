"""What tests need of the machine beside Python and git, and the Debian packages that have it.

    @pytest.mark.needs("browser")

Where it is missing the test is skipped with what to install, or fails where everything has to be there, as in CI
(ALGD_TESTS_NEED_ALL=1). tests/conftest.py applies the marks.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import dataclass

from algd.execution.native import library
from tests.support import slurm_cluster, virtual_nodes

NEED_ALL = "ALGD_TESTS_NEED_ALL"


@dataclass(frozen=True)
class Need:
    """Something that a machine has or lacks.

    Attributes:
        what: its name in a sentence.
        packages: Debian's, separated by spaces.
        is_there: looks for it.
    """

    what: str
    packages: str
    is_there: Callable[[], bool]


def _can_mount() -> bool:
    """Whether a file system can be mounted in a namespace of its own: not in a chroot, nor in most containers."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def _has_sanitizers() -> bool:
    """Whether the C compiler brings the address sanitizer as a library that can be loaded first."""
    command = library.compiler()
    return bool(command) and os.path.exists(sanitizer(command))


def sanitizer(command: list[str]) -> str:
    """The path of a compiler's address sanitizer; a name without a folder if it has none."""
    return subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) is not None for name in names)


NEEDS = {
    "browser": Need("Chromium", "chromium chromium-driver", _programs("chromium", "chromedriver")),
    "compiler": Need("a C compiler", "gcc libc6-dev", lambda: bool(library.compiler())),
    "latex": Need("pdflatex", "texlive-latex-base texlive-latex-recommended", _programs("pdflatex")),
    "namespaces": Need("leave to mount file systems in a namespace of its own", "util-linux mount", _can_mount),
    "opengl": Need("OpenGL through EGL", "libegl1 libgl1-mesa-dri", lambda: find_library("EGL") is not None),
    "sanitizers": Need("GCC's address sanitizer", "gcc libc6-dev", _has_sanitizers),
    "nodes": Need("SLURM, and leave to give processes host names, mounts and process ids of their own",
                  f"{slurm_cluster.PACKAGES} util-linux", lambda: not virtual_nodes.missing_for_nodes()),
    "slurm": Need("SLURM with accounting, and root's rights to start it", slurm_cluster.PACKAGES,
                  lambda: not slurm_cluster.missing()),
}


def lacking(name: str) -> str | None:
    """The sentence about what is missing for a need; None if it is there.

    Raises:
        KeyError: no such need.
    """
    need = NEEDS[name]
    return None if need.is_there() else f"missing: {need.what} (Debian: {need.packages})"


def everything_is_needed() -> bool:
    """Whether a test that cannot run fails instead of being skipped."""
    return os.environ.get(NEED_ALL, "") not in ("", "0")
