"""Command lines of flags and arguments whose mistakes are reported in one sentence, with exit code 2."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from algd.errors import ExitCode, UsageError, refusal
from algd.streams import discard_output, prepare_streams


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message."""
        raise UsageError(f"{' '.join(message.split())}; see {self.prog} --help")


def run_command(command: Callable[[], int]) -> int:
    """Run a command, which returns its exit code, and report errors in one sentence. Returns the exit code."""
    prepare_streams()
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()
        return ExitCode.BROKEN_PIPE
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except OSError as error:
        said = refusal(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
