"""Command lines of flags and arguments whose mistakes are reported in one sentence, with exit code 2."""

import argparse
from typing import NoReturn

from algd.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message."""
        raise UsageError(f"{' '.join(message.split())}; see {self.prog} --help")
