"""The memory of a process, as Linux counts it."""

from pathlib import Path


def resident(pid: int | str = "self", line: str = "VmRSS") -> int:
    """Return the resident memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(text.split()[1]) for text in lines if text.startswith(f"{line}:"))


def peak_resident() -> int:
    """Return the largest resident memory that this process has had, in bytes.

    getrusage's ru_maxrss would include the process that started this one: it survives fork and exec.
    """
    return resident(line="VmHWM")
