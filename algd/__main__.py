"""The command algd, also python -m algd and python run.py; algd check tests a configuration's parts."""

import sys

from algd.errors import ExitCode
from algd.streams import prepare_streams


def main() -> int:
    """Run the command line and return its exit code."""
    prepare_streams()
    try:
        # Not above: importing Hydra and the rest takes seconds, during which Ctrl-C has to be handled too.
        from algd.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
