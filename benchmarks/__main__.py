"""Run all benchmarks, or those that are named.

    python -m benchmarks [--quick] [NAME ...]

Each is a module that describes its method (python -m benchmarks.NAME --help). Variants run in separate processes, on
one thread, after a burn-in, and take turns, so that ratios hold on a busy machine too. Absolute numbers, and
`side_by_side`, need an idle machine.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib import metadata

from algd.storage.provenance import processor

# In the order of docs/benchmarks.md, with the arguments of a quick pass.
MEASUREMENTS = {
    "updates": ["--rounds", "1", "--updates", "1", "--sizes", "76x2"],
    "acting": ["--quick"],
    "environments": ["--episodes", "1", "point_button1", "hopper_velocity"],
    "replay": ["--quick"],
    "whole_runs": ["--quick"],
    "checkpoints": ["--quick"],
    "side_by_side": ["--quick"],
    "seeds": ["--quick"],
}


def machine() -> str:
    """Return the processor, cores and versions on which the numbers depend, as a line."""
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "gymnasium", "mujoco"))
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}"


def main() -> int:
    """Run the benchmarks; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the numbers mean nothing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MEASUREMENTS)}; all by default")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(MEASUREMENTS)):
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(MEASUREMENTS)}")
    print(machine())
    failed = []
    for name in given.names or MEASUREMENTS:
        print(f"\n## {name}\n", flush=True)
        begin = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", *(MEASUREMENTS[name] if given.quick else [])]
        if subprocess.run(command).returncode:
            failed.append(name)
        print(f"\n({time.monotonic() - begin:.0f} s)", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
