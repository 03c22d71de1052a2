"""The command line: python run.py agent=vesde guidance=augmented env=point_button1 seed=0"""

import sys

from algd.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
