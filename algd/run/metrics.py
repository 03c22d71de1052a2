"""Rows of metrics.csv: means over the updates since the previous row."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.curvature import column_names, curvature, noise_levels
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.errors import NumericalError, UsageError
from algd.run.faults.divergence import Divergence
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.seeding import stream
from algd.storage.table import Table


class Means:
    """Means of the updates' scalars, summed on the device: only reading them synchronises."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, scalars: Mapping[str, Tensor]) -> Tensor:
        """Add one update's scalars; returns them as one vector in the order of `names`, still on the device.

        Raises:
            UsageError: their names differ from those of the update before.
        """
        values = torch.stack([value.detach().to(torch.float64) for value in scalars.values()])
        if self.sums is not None and self.names != list(scalars):
            raise UsageError(f"an update's scalars are {', '.join(scalars)}, those of the update before "
                             f"{', '.join(self.names)}: an agent has to return the same ones in every update")
        self.names = list(scalars)
        self.sums = values.clone() if self.sums is None else self.sums.add_(values)
        self.count += 1
        return values

    def take(self) -> dict[str, float]:
        """The means since the last call; empty if there was no update."""
        if self.sums is None:
            return {}
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))
        self.sums, self.count = None, 0
        return means

    def checkpoint(self) -> dict[str, Any]:
        return {"names": self.names, "count": self.count} | ({} if self.sums is None else {"sums": self.sums})

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.names, self.count = state["names"], state["count"]
        self.sums = state["sums"].to(device) if "sums" in state else None


class MetricsLog:
    """Writes the rows.

    Args:
        config: the checked configuration.
        agent: the agent.
        replay: has the states at which the curvature is computed.
        table: metrics.csv.
        divergence: the signs of divergence, which the means may show.
        errors: the simulator's failures so far.
        warn: takes a sentence for the user.

    Attributes:
        means: those since the last row.
    """

    def __init__(self, config: Mapping[str, Any], agent: Agent, replay: Replay, table: Table, divergence: Divergence,
                 errors: SimulatorErrors, warn: Callable[[str], None]):
        self._seed, self._states = config["seed"], config["curvature"]["states"]
        self._samples = config["curvature"]["samples"]
        self._agent, self._replay, self._table = agent, replay, table
        self._divergence, self._errors, self._warn = divergence, errors, warn
        self.means = Means()

    def write(self, step: int, with_curvature: bool) -> dict[str, float]:
        """Write a row and return the means; nothing and empty if there was no update since the last.

        Raises:
            NumericalError: a mean is not finite.
        """
        means = self.means.take()
        if not means:
            return {}
        for name, value in means.items():
            if not np.isfinite(value):
                raise NumericalError(f"{name} is {value} in the updates before step {step}")
        for warning in self._divergence.after_updates(step, means, self._agent.normaliser.reward_unit()):
            self._warn(warning)
        row: dict[str, float | str] = {name: float(f"{value:.9g}") for name, value in means.items()}
        row |= {"simulator_errors": self._errors.count, "warnings": self._divergence.count}
        if self._states:
            # The first row names the columns: also those that only evaluations fill.
            row |= dict.fromkeys(column_names(len(noise_levels(self._agent))), "")
            if with_curvature:
                row |= {name: float(f"{value:.9g}") for name, value in self._curvature(step).items()}
        self._table.append({"step": step} | row)
        return means

    def _curvature(self, step: int) -> dict[str, float]:
        """The curvature's columns, with states and draws from a random stream of this step, apart from training's."""
        noise = RandomGenerator(stream(self._seed, "curvature", step), next(self._agent.parameters()).device)
        observation = self._replay.sample(self._states, noise).observation
        return curvature(self._agent, observation, self._samples, noise)
