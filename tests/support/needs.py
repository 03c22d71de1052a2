"""What tests need of the machine besides Python and git, and the Debian packages that provide it.

    @pytest.mark.needs("browser")

If it is missing, the test is skipped with a hint what to install, or fails with ALGD_TESTS_NEED_ALL=1, as in CI.
tests/conftest.py applies the marks.
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
    """A requirement on the machine.

    Attributes:
        what: its name in messages.
        packages: Debian packages, separated by spaces.
        is_there: checks for it.
    """

    what: str
    packages: str
    is_there: Callable[[], bool]


def _can_mount() -> bool:
    """Return whether a file system can be mounted in a new namespace: not in a chroot, nor in most containers."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def _has_sanitizers() -> bool:
    """Return whether the C compiler has the address sanitizer as a library that can be preloaded."""
    command = library.compiler()
    return bool(command) and os.path.exists(sanitizer(command))


def sanitizer(command: list[str]) -> str:
    """Return the path of a compiler's address sanitizer; a name without a folder if it has none."""
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
    """Return a message on what is missing for a requirement; None if nothing is.

    Raises:
        KeyError: there is no such requirement.
    """
    need = NEEDS[name]
    return None if need.is_there() else f"missing: {need.what} (Debian: {need.packages})"


def everything_is_needed() -> bool:
    """Return whether tests that cannot run fail instead of being skipped."""
    return os.environ.get(NEED_ALL, "") not in ("", "0")
