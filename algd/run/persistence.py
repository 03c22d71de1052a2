"""Saving and restoring a run's state."""

from algd.errors import NumericalError
from algd.logging.console import Console
from algd.run.state import TrainingState
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.checkpoint_state import CheckpointState, checked
from algd.storage.run_folder import RunFolder
from algd.storage.snapshots import DamagedSnapshot, read_snapshot, snapshot_name, write_snapshot


class Persistence:
    """The checkpoints and snapshots of a run.

    Args:
        folder: the run's folder.
        state: what is saved.
        run: the run's identity, which is in every file.
        console: the console.
    """

    def __init__(self, folder: RunFolder, state: TrainingState, run: str, console: Console):
        self._folder, self._state, self._run, self._console = folder, state, run, console
        self._checkpoints = Checkpoints(folder.checkpoints, run)

    def save_checkpoint(self, with_replay: bool = True) -> None:
        """Save everything that the run needs to resume from this point.

        Raises:
            NumericalError: a network is not finite; the previous checkpoint stays the newest.
        """
        state = self._state
        for name, value in state.agent.state_dict().items():
            if name.split(".")[0] not in ("guidance", "normaliser") and not value.isfinite().all():
                raise NumericalError(f"the network's {name} is not finite at step {state.step}: no checkpoint is made "
                                     "of it")
        for table in state.tables.values():
            table.sync()
        self._checkpoints.save(state.checkpoint(), state.replay if with_replay else None)

    def save_snapshot(self) -> None:
        """Save the networks and λ."""
        state = self._state
        self._folder.snapshots.mkdir(exist_ok=True)
        write_snapshot(self._folder.snapshots / snapshot_name(state.step), state.agent.state_dict(), state.step,
                       self._run)
        state.snapshots.append(state.step)

    def keep_newest(self) -> None:
        """Remove all checkpoints but the newest."""
        self._checkpoints.keep_newest()

    def restore(self) -> bool | None:
        """Restore the newest good checkpoint; damaged ones are set aside.

        Returns:
            Whether the checkpoint had the replay buffer; None if there is no good one: nothing was restored, and the
            tables are empty or may be cut.
        """
        for number in reversed(self._checkpoints.numbers()):
            try:
                state, has_replay = self._load(number)
            except DamagedCheckpoint as error:
                self._console.warn(f"checkpoint {number} cannot be used: {error}")
                self._checkpoints.set_aside(number)
                continue
            self._check_snapshots(state["snapshots"])
            self._state.restore(state, self._console.warn)
            return has_replay
        written = [table for table in self._state.tables.values() if table.position()["size"]]
        exist = self._folder.checkpoints.exists()
        if exist or written:
            # A run that was killed before its first checkpoint has nothing to keep.
            kept = ", ".join(table.set_aside().name for table in written) if exist else ""
            self._console.warn(f"no checkpoint in {self._folder.checkpoints} can be used: the run begins again"
                               f"{f'; its tables are kept as {kept}' * bool(kept)}")
        return None

    def _load(self, number: int) -> tuple[CheckpointState, bool]:
        """A checkpoint whose tables are still there; its transitions go into the replay buffer."""
        loaded = self._checkpoints.load(number, self._state.replay)
        try:
            state = checked(loaded)
        except ValueError as error:
            raise DamagedCheckpoint(f"it is not of this project's format ({error})") from error
        for name, table in self._state.tables.items():
            if not table.holds(state["tables"][name]):
                raise DamagedCheckpoint(f"{table.path} is damaged: it no longer begins with the rows that it had at "
                                        "this checkpoint")
        return state, loaded["replay"]

    def _check_snapshots(self, steps: list[int]) -> None:
        for step in steps:
            try:
                read_snapshot(self._folder.snapshots / snapshot_name(step), self._run, step)
            except DamagedSnapshot as error:
                self._console.warn(f"{error}; nothing else depends on it, and fresh=true trains the run from scratch")
