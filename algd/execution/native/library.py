"""mlp.c as a shared library, built by the machine's compiler at first use and cached."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from algd.errors import UsageError

SOURCE = Path(__file__).with_name("mlp.c")
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-mtune=native", "-fopenmp", "-shared", "-fPIC"]
INSTRUCTIONS = {"AVX512": ["-mavx512f", "-mfma"], "AVX2": ["-mavx2", "-mfma"]}
"""The compiler's flags for what torch calls this processor's instruction set. Not -march=native: a cluster's nodes
may share a cache, and what is in it has to run on each."""

DIGEST = hashlib.sha256().digest_size
POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_long


class LayerStruct(ctypes.Structure):
    """mlp.c's `Layer`."""

    _fields_ = (("k", INT), ("n", INT), ("forward", POINTER), ("backward", POINTER), ("bias", POINTER),
                ("forward_by_member", LONG), ("forward_by_row", LONG), ("backward_by_member", LONG),
                ("backward_by_row", LONG), ("bias_by_member", LONG), ("of_weight", POINTER), ("of_bias", POINTER))


class NetworkStruct(ctypes.Structure):
    """mlp.c's `Network`."""

    _fields_ = (("threads", INT), ("members", INT), ("count", INT), ("activation", INT), ("widest", INT),
                ("layers", POINTER), ("scratch", POINTER))


# The first argument is a network's address; only `algd.execution.native.network` calls these.
SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "panel_size": ([INT, INT], LONG),
    "scratch_size": ([INT], LONG),
    "pack": ([INT, INT, INT, POINTER, LONG, LONG, LONG, POINTER], None),
    "forward": ([POINTER, INT, POINTER, LONG, POINTER, LONG, LONG, INT, POINTER, POINTER, POINTER], None),
    "backward": ([POINTER, INT, *[POINTER] * 6], None),
    "gradients": ([POINTER, INT, POINTER, LONG, *[POINTER] * 3], INT),
    "choose": ([INT, INT, POINTER, POINTER, POINTER], None),
}


def compiler() -> list[str]:
    """The command of the C compiler: $CC, or the first of cc, gcc and clang; empty if there is none.

    Raises:
        UsageError: $CC is not a command.
    """
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise UsageError(f"compile=true: CC={os.environ['CC']} cannot be read ({error}); use compile=false") from error
    for command in ([named] if named else [["cc"], ["gcc"], ["clang"]]):
        if shutil.which(command[0]):
            return command
    return []


def worthwhile() -> bool:
    """Return whether the library is available here and was measured to be faster than torch (docs/benchmarks.md)."""
    if platform.system() != "Linux" or torch.backends.cpu.get_cpu_capability() not in INSTRUCTIONS:
        return False
    try:
        library()
    except UsageError:
        return False
    return True


def cache() -> Path:
    """Return the folder of built libraries: $ALGD_CACHE, the virtual environment, or without one ~/.cache."""
    if os.environ.get("ALGD_CACHE"):
        return Path(os.environ["ALGD_CACHE"])
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "share" / "algd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "algd"


@functools.cache
def library() -> Any:
    """Return the functions of mlp.c, building the library if necessary.

    Raises:
        UsageError: they cannot be built or loaded.
    """
    flags = FLAGS + INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])
    digest = hashlib.sha256(repr((flags, platform.machine())).encode() + SOURCE.read_bytes()).hexdigest()[:16]
    name = f"mlp-{digest}.so"
    # Without a cache that can be found, written and executed from, every process builds its own.
    with contextlib.suppress(OSError, RuntimeError):
        built = cache() / name
        with contextlib.suppress(OSError):
            return _load(built)
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=built.parent) as temporary:
            loaded = _build(Path(temporary) / name, flags)
            os.replace(Path(temporary) / name, built)
            return loaded
    try:
        with tempfile.TemporaryDirectory() as temporary:
            return _build(Path(temporary) / name, flags)
    except OSError as error:
        raise UsageError(f"compile=true: networks in C cannot be built or loaded ({error}); use "
                         "compile=false") from error


def _build(new: Path, flags: list[str]) -> ctypes.CDLL:
    """Build and load the library. At the file's end, where no loader looks, is the SHA-256 of what is before."""
    command = compiler()
    if not command:
        wanted = f"CC={os.environ['CC']} is not" if os.environ.get("CC") else "no cc, gcc or clang is"
        raise UsageError(f"compile=true: networks in C need a compiler, and {wanted} there; install one, or use "
                         "compile=false")
    result = subprocess.run([*command, *flags, str(SOURCE), "-o", str(new)], capture_output=True, text=True,
                            errors="replace")
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
        raise UsageError(f"compile=true: {shlex.join(command)} cannot build {SOURCE} ({said[0].strip()}); use "
                         "compile=false")
    with new.open("r+b") as file:
        file.write(hashlib.file_digest(file, "sha256").digest())
        file.flush()
        os.fsync(file.fileno())
    return _load(new)


def _load(path: Path) -> ctypes.CDLL:
    """Load a library.

    Raises:
        OSError: it cannot be loaded, or is damaged: a process that ran it would be killed, or compute something else.
    """
    content = path.read_bytes()
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        raise OSError(f"{path} is damaged")
    found = ctypes.CDLL(str(path))
    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, result
    return found
