"""The command algd, also python -m algd and python run.py; algd check tests a configuration's parts."""

import sys

from algd.errors import ExitCode


def main() -> int:
    """Run what the command line says. Returns the exit code."""
    try:
        # Not above: to import Hydra and the rest takes seconds, in which Ctrl-C is no error either.
        from algd.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
