"""Hydra plugins for the launchers and sweepers; `launchers` itself is imported only when a sweep begins."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from algd.errors import ExitCode, UsageError


class Local(Launcher):
    """The plugin hydra/launcher=local."""

    kind = "local"

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.master = hydra_context, config
        if variables := config.hydra.job.env_set:
            raise UsageError(f"hydra.job.env_set: {', '.join(map(str, variables))} would not be set in the runs of a "
                             "sweep, which have the variables of the command's own environment, and on SLURM also "
                             "those that lines of hydra.launcher.setup export")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # Runs return nothing to this process; the exit code says how they ended.
        try:
            from launchers.grid import launch_grid

            raise SystemExit(launch_grid(self.kind, self.settings, self.context, self.master, job_overrides))
        except KeyboardInterrupt:
            print("interrupted; what was submitted or finished stays so, and the same command resumes from there",
                  file=sys.stderr)
            raise SystemExit(ExitCode.INTERRUPTED) from None


class Slurm(Local):
    """The plugin hydra/launcher=slurm."""

    kind = "slurm"


class Grid(BasicSweeper):
    """The plugin hydra/sweeper=grid: every combination of the swept values, in each cell of a study.

    This is Hydra's own grid, but it writes no multirun.yaml and does not compose every configuration twice.

    Args:
        max_batch_size: as in Hydra's BasicSweeper.
        params: key ↦ the values to sweep over, as text.
        cells: name ↦ the overrides of one cell of the study's table, for tables that are not full grids; None: one cell
            without overrides. Cells vary fastest, so that the first runs to finish make a complete small table.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None,
                 cells: Mapping[str, Sequence[str]] | None = None):
        super().__init__(max_batch_size, params)
        self.cells = {name: list(overrides) for name, overrides in (cells or {}).items()}

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (grid,) = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        return [self.launcher.launch(with_cells(grid, self.cells), initial_job_idx=0)]


def with_cells(grid: Sequence[Sequence[str]], cells: Mapping[str, Sequence[str]]) -> Sequence[Sequence[str]]:
    """Return every combination of a grid in every cell, with the cells of a combination in a row.

    Raises:
        UsageError: a key is in both a cell and the grid, so that its value would be ambiguous.
    """
    if not cells:
        return grid
    swept = {_key(override) for combination in grid for override in combination}
    for name, overrides in cells.items():
        for override in overrides:
            if _key(override) in swept:
                raise UsageError(f"{_key(override)}: the study's cell {name} sets it already, to "
                                 f"{override.partition('=')[2]}; leave it out, or change the cell in the study's file")
    return [[*combination, *overrides] for combination in grid for overrides in cells.values()]


def _key(override: str) -> str:
    """Return the key of an override, without a prefix such as ++."""
    return override.partition("=")[0].lstrip("+~")


class Optuna(Sweeper):
    """The plugin hydra/sweeper=optuna: hyper-parameter search under the cost constraint (`launchers.search`).

    Args:
        settings: the keys of conf/hydra/sweeper/optuna.yaml.
    """

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        if not isinstance(self.launcher, Local):
            raise UsageError("hydra/sweeper=optuna: trials are processes of their own; hydra/launcher is local or "
                             "slurm")
        try:
            from launchers.search.driver import search
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise UsageError("hydra/sweeper=optuna needs the package optuna: pip install -c constraints.txt "
                             "optuna") from error

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        from_study = [f"{key}={value}" for key, value in (self.settings.get("params") or {}).items()]
        typed = parser.parse_overrides(arguments)
        keys = {override.key_or_group for override in typed}
        own = [override for override in parser.parse_overrides(from_study) if override.key_or_group not in keys]
        raise SystemExit(search(self.launcher.kind, self.launcher.settings, self.settings, self.hydra_context,
                                self.launcher.master, [*own, *typed]))
