"""The state of a run: everything that changes while it trains, which is what a checkpoint holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch

from algd.algorithm.agent import Agent
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.run.collector import Collector
from algd.run.faults.divergence import Divergence
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.run.metrics import Means
from algd.run.schedule import Schedule
from algd.seeding import stream
from algd.storage.checkpoint_state import AgentState, CheckpointState
from algd.storage.run_folder import REEVALUATION
from algd.storage.table import Table


@dataclass
class TrainingState:
    """The parts of a run, and its counters.

    Everything done between two environment steps changes only this state or can be repeated from it, so a run that was
    killed and resumed writes the same rows and ends with the same networks.

    Attributes:
        seed: the run's.
        acting_noise, update_noise: the random generators of the policy's draws in the environment, and of the updates.
        tables: "episodes", "evals" and "metrics".
        warm_up_left: initial steps still to be taken.
        step: environment steps taken, not counting the initial ones.
        snapshots: the steps of the snapshots taken.
        last: newest values for the console; None: there is none yet.
    """

    seed: int
    agent: Agent
    replay: Replay
    collector: Collector
    schedule: Schedule
    means: Means
    divergence: Divergence
    errors: SimulatorErrors
    acting_noise: RandomGenerator
    update_noise: RandomGenerator
    tables: Mapping[str, Table]
    warm_up_left: int
    step: int = 0
    snapshots: list[int] = field(default_factory=list)
    last: dict[str, float | None] = field(default_factory=lambda: {
        "episode_return": None, "episode_cost": None, "lam": None})

    @property
    def row_step(self) -> int:
        """The step that rows carry: initial steps count up to 0."""
        return -self.warm_up_left if self.step == 0 else self.step

    def begin(self) -> None:
        """Start from scratch: empty tables, an empty replay buffer, the first episode."""
        self.replay.added = 0
        for table in self.tables.values():
            table.cut(None)
        self.collector.begin_episode(self.row_step)

    def checkpoint(self) -> CheckpointState:
        """The state without the replay buffer, whose transitions are saved separately."""
        return {"step": self.step, "warm_up_left": self.warm_up_left, "done_at": self.schedule.done_at,
                "snapshots": self.snapshots, "last": self.last, "agent": cast(AgentState, self.agent.checkpoint()),
                "means": self.means.checkpoint(), "divergence": self.divergence.checkpoint(),
                "simulator_errors": self.errors.count,
                "acting_noise": {"generator": self.acting_noise.generator.get_state()},
                "update_noise": {"generator": self.update_noise.generator.get_state()},
                "tables": {name: table.position() for name, table in self.tables.items()},
                **self.collector.checkpoint()}

    def restore(self, state: CheckpointState, warn: Callable[[str], None]) -> None:
        """Restore what `checkpoint` returned; the replay buffer has its transitions already.

        Args:
            state: of a run with the same configuration.
            warn: takes a sentence for the user.
        """
        self.step, self.warm_up_left = state["step"], state["warm_up_left"]
        self.schedule.done_at, self.last, self.snapshots = state["done_at"], state["last"], state["snapshots"]
        self.agent.restore(dict(state["agent"]))
        self.errors.count = state["simulator_errors"]
        self.divergence.restore(state["divergence"])
        self.means.restore(state["means"], self.update_noise.device)
        self.acting_noise.generator.set_state(state["acting_noise"]["generator"])
        self._restore_update_noise(state["update_noise"]["generator"], warn)
        for name, table in self.tables.items():
            table.cut(state["tables"][name], _is_reevaluation if name == "evals" else None)
        self.collector.restore(state, self.row_step)

    def _restore_update_noise(self, saved: torch.Tensor, warn: Callable[[str], None]) -> None:
        """Restore the generator, or reseed it: those of a CPU and of a GPU have different algorithms and states."""
        generator = self.update_noise.generator
        if saved.numel() == generator.get_state().numel():
            generator.set_state(saved)
            return
        generator.manual_seed(stream(self.seed, "updates", self.agent.updates))
        warn("the updates' random numbers are reseeded from here on, since the generator that was saved is for another "
             f"kind of device than {self.update_noise.device.type}: the run continues, but not bit for bit as it "
             "would have")


def _is_reevaluation(row: Mapping[str, str]) -> bool:
    """Whether a row of evals.csv was added after training: a resumed run does not write it again."""
    return REEVALUATION.fullmatch(row.get("source", "")) is not None
