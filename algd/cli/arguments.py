"""Command lines of flags and arguments whose mistakes are told as everywhere else: one sentence, exit code 2."""

import argparse
from typing import NoReturn

from algd.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with what is wrong and where it is explained."""
        raise UsageError(f"{' '.join(message.split())}; {self.prog} --help tells what is allowed")
