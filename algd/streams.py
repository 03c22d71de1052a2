"""The standard streams of a command, whatever its caller left of them."""

import io
import os
import sys


def prepare_streams() -> None:
    """Open closed streams on os.devnull, and let standard output escape what its encoding lacks.

    With a closed stream the first file that the command opens would get its number, and all that is meant for the
    stream. A table with † would end a command in a locale without UTF-8, as standard error never does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard what is still to be written on standard output: its reader has gone, and the flush at exit would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
