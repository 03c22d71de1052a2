"""Where Hydra looks for plugins: names for what is in `launchers`, imported only when a sweep begins."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Local(Launcher):
    """hydra/launcher=local"""

    kind = "local"

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.master = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from launchers.grid import launch_grid

        # Runs return nothing to this process. How they ended is the exit code.
        raise SystemExit(launch_grid(self.kind, self.settings, self.context, self.master, job_overrides))


class Slurm(Local):
    """hydra/launcher=slurm"""

    kind = "slurm"


class Grid(BasicSweeper):
    """hydra/sweeper=grid: Hydra's own grid, that leaves no multirun.yaml, nor composes every configuration twice."""

    def sweep(self, arguments: list[str]) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (grid,) = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        return [self.launcher.launch(grid, initial_job_idx=0)]
