"""Measure the time to list large sweeps: python -m benchmarks.sweeps [--runs 5000] [--composed 100]

Prints the seconds of `python -m launchers status` over a grid of existing runs, the seconds of a dry run of as many new
runs, and the CPU milliseconds in which one run's configuration is composed, checked and frozen in its folder. CPU time
depends less than wall time on what else the machine does.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode

from algd.cli.compose import CONF
from algd.config.schema import admitted
from algd.storage.run_folder import run_path
from launchers.compose import Composer
from launchers.processes import freeze


def make_grid(runs_dir: Path, count: int) -> None:
    """Write `count` runs in every state, and the sweep that contains them."""
    runs = []
    for number in range(count):
        run = f"toy/vesde-{('plain', 'augmented')[number % 2]}/seed={number}-{number:08x}"
        (runs_dir / run / "checkpoints" / "000001").mkdir(parents=True)
        (runs_dir / run / "config.yaml").touch()
        (runs_dir / run / "lock").touch()
        state = ("finished", "running", "interrupted", "failed")[number % 4]
        (runs_dir / run / "status.json").write_text(json.dumps(
            {"state": state, "step": number % 100, "total_steps": 100, "updates_per_second": 40.0, "seconds": 5.0}))
        runs.append(run)
    (runs_dir / "sweeps").mkdir()
    (runs_dir / "sweeps" / "grid.json").write_text(json.dumps({"runs": runs, "overrides": [[]] * count}))


def seconds_of(*command: str | Path) -> str:
    """Return the wall time and CPU time of a command, as text."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return f"{wall:.1f} s, {after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.1f} s of a core"


def milliseconds_each(runs_dir: Path, count: int) -> tuple[float, float, float]:
    """Return the CPU milliseconds of composing, of checking and of freezing one configuration of a grid."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("config", ["env=toy"], RunMode.MULTIRUN)
    composer = Composer(loader, master)
    admitted(composer.compose(["env=toy"]))  # the first one imports the configuration's modules
    clock = [time.process_time()]
    composed = [composer.compose(["env=toy", f"seed={seed}", f"runs_dir={runs_dir}"]) for seed in range(count)]
    clock.append(time.process_time())
    checked = [admitted(config) for config in composed]
    clock.append(time.process_time())
    for config in checked:
        freeze(run_path(config), config)
    clock.append(time.process_time())
    compose, check, frozen = ((after - before) / count * 1000 for before, after in pairwise(clock))
    return compose, check, frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--composed", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_grid(Path(folder) / "runs", given.runs)
        status = seconds_of("-m", "launchers", "status", Path(folder) / "runs")
        print(f"status of {given.runs} runs: {status}")
        listed = seconds_of("-m", "algd", "-m", "env=toy", "guidance=plain,augmented", f"seed=range({given.runs // 2})",
                            f"runs_dir={folder}/new", "hydra.launcher.dry_run=true")
        print(f"dry run of {given.runs} new runs: {listed}")
        compose, check, frozen = milliseconds_each(Path(folder) / "new", given.composed)
        print(f"a run of a grid: composed in {compose:.1f} ms, checked in {check:.1f} ms, "
              f"frozen in {frozen:.1f} ms")


if __name__ == "__main__":
    main()
