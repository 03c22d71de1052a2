"""The schedule of evaluations, metrics, snapshots and checkpoints between the environment steps of a run."""

from collections.abc import Mapping
from typing import Any, Literal

Action = Literal["evaluation", "metrics", "snapshot", "checkpoint", "finish"]


def snapshot_steps(config: Mapping[str, Any]) -> list[int]:
    """Return the steps at which a run takes snapshots: those listed, or the given number of evenly spaced ones."""
    asked, total = config["snapshots"], config["total_steps"]
    return [round(total * i / asked) for i in range(1, asked + 1)] if isinstance(asked, int) else list(asked)


class Schedule:
    """Which evaluations, rows of metrics.csv, snapshots and checkpoints are due.

    Evaluations, metrics and snapshots are counted in environment steps after the initial steps; checkpoints in
    transitions, so that the initial steps have some, too.

    Args:
        config: the checked configuration.

    Attributes:
        done_at: the step at which each was last done (for a checkpoint: the number of transitions). It is part of a
            checkpoint, so that a resumed run repeats nothing.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._total_steps = config["total_steps"]
        self._evaluate_every, self._log_every = config["eval"]["every"], config["log_every"]
        self._save_every = config["checkpoint"]["every"]
        self._snapshot_steps = set(snapshot_steps(config))
        self.done_at: dict[str, int] = {}

    def is_evaluation(self, step: int) -> bool:
        """Whether there is an evaluation at this step: at step 0, then every `eval.every` steps, and at the end."""
        return step == self._total_steps or step % self._evaluate_every == 0

    def due(self, step: int, initial_steps_left: int, transitions: int) -> list[Action]:
        """Return the actions that are due now and not done yet, in the order in which to do them.

        Args:
            step: environment steps taken.
            initial_steps_left: initial steps still to be taken.
            transitions: how many were ever added to the replay buffer.
        """
        due: list[Action] = []
        if initial_steps_left == 0:
            if self.is_evaluation(step):
                due.append("evaluation")
            if self.is_evaluation(step) or step % self._log_every == 0:
                due.append("metrics")
            if step in self._snapshot_steps:
                due.append("snapshot")
        # The end has a checkpoint of its own, and a replay buffer that was dropped has nothing to count by.
        if step < self._total_steps and transitions % self._save_every == 0:
            due.append("checkpoint")
        return [action for action in due if not self.is_done(action, step, transitions)]

    def is_done(self, action: Action, step: int, transitions: int) -> bool:
        """Whether it has been done at this point."""
        return self.done_at.get(action) == (transitions if action == "checkpoint" else step)

    def mark_done(self, action: Action, step: int, transitions: int) -> None:
        """Note that it has been done at this point."""
        self.done_at[action] = transitions if action == "checkpoint" else step
