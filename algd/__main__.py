"""python -m algd: the same command as run.py; python -m algd check tests a configuration's parts."""

import sys

from algd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
