"""How long sweeps of many runs take to list: python -m benchmarks.sweeps [--runs 5000] [--composed 100]

Prints the seconds of `python -m launchers status` over a grid of runs that are there, and, for each run of a grid, the
milliseconds that it takes to compose a configuration, those to check it, and those to freeze it in its folder.
"""

import argparse
import json
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
    """So many runs in every state, and the sweep that they belong to."""
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


def seconds_of_status(runs_dir: Path) -> float:
    """Wall time of the whole command."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "launchers", "status", runs_dir], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def milliseconds_each(runs_dir: Path, count: int) -> tuple[float, float, float]:
    """Composing, checking and freezing one configuration of a grid."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("config", ["env=toy"], RunMode.MULTIRUN)
    composer = Composer(loader, master)
    admitted(composer.compose(["env=toy"]))  # The first imports what the configuration names.
    clock = [time.perf_counter()]
    composed = [composer.compose(["env=toy", f"seed={seed}", f"runs_dir={runs_dir}"]) for seed in range(count)]
    clock.append(time.perf_counter())
    checked = [admitted(config) for config in composed]
    clock.append(time.perf_counter())
    for config in checked:
        freeze(run_path(config), config)
    clock.append(time.perf_counter())
    compose, check, frozen = ((after - before) / count * 1000 for before, after in pairwise(clock))
    return compose, check, frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--composed", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_grid(Path(folder) / "runs", given.runs)
        print(f"status of {given.runs} runs: {seconds_of_status(Path(folder) / 'runs'):.1f} s")
        compose, check, frozen = milliseconds_each(Path(folder) / "new", given.composed)
        print(f"a run of a grid: composed by Hydra in {compose:.0f} ms, checked in {check:.1f} ms, "
              f"frozen in {frozen:.1f} ms")


if __name__ == "__main__":
    main()
