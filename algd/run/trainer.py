"""Training: one run from wherever its folder stands to its end."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from algd.algorithm.agent import Agent, Batch
from algd.algorithm.curvature import column_names, curvature, noise_levels
from algd.algorithm.dual import Fixed
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.config.identity import identity
from algd.envs.task import Task
from algd.errors import NumericalError, SimulatorError
from algd.execution.step import Execution, prepare_agent
from algd.logging.console import Console
from algd.run.evaluation import SAMPLERS, Actor, Episode, Interrupted, evaluate
from algd.run.faults.divergence import SETTLED, Divergence, look
from algd.run.faults.requests import Requests
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.seeding import episode_seed, stream
from algd.storage.checkpoint import Checkpoints, DamagedCheckpoint
from algd.storage.files import write_atomically
from algd.storage.run_folder import EPISODE_COLUMNS, EVALUATION_COLUMNS, REEVALUATION, RunFolder
from algd.storage.snapshots import DamagedSnapshot, read_snapshot, snapshot_name, write_snapshot
from algd.storage.table import Table

STATUS_SECONDS = 10.0


class Means:
    """Means of the updates' scalars, summed on the device: reading them out is the only synchronisation."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, scalars: Mapping[str, Tensor]) -> Tensor:
        """Take in one update's scalars; returns them as one vector in the order of `names`, still on the device."""
        values = torch.stack([value.detach().to(torch.float64) for value in scalars.values()])
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


def _is_reevaluation(row: Mapping[str, str]) -> bool:
    """Whether a row of evals.csv was added after training: going on with the run does not write it again."""
    return REEVALUATION.fullmatch(row.get("source", "")) is not None


class Trainer:
    """The training loop of one run.

    Everything that it does between two environment steps is either part of the checkpoint or can be repeated from
    it, so that a run that was killed and started again writes the same rows and ends with the same networks.

    Args:
        config: the checked configuration.
        folder: the run's folder, locked by this process.
        agent: the agent, on its device.
        task: the training environment.
        build_task: makes the evaluation environment, and a new one after the simulator failed.
        console: what a person sees.
        warnings: what the mirror of the logs has to say, asked at evaluations.
        requests: what somebody outside asks for.
        before: what status.json said of earlier starts.
        execution: how updates are executed.
    """

    def __init__(self, config: Mapping[str, Any], folder: RunFolder, agent: Agent, task: Task,
                 build_task: Callable[[], Task], console: Console, warnings: Callable[[], list[str]],
                 requests: Requests, before: Mapping[str, Any], execution: Execution):
        self.config, self.folder, self.agent, self.task = config, folder, agent, task
        self.console, self.warnings, self.requests = console, warnings, requests
        self._build_task = build_task
        self._evaluation_task: Task | None = None
        self.total_steps, seed = config["total_steps"], config["seed"]
        self.device = next(agent.parameters()).device
        self.update_step = prepare_agent(agent, execution)
        self.replay = Replay(config["buffer_size"], task.observation_space.shape[0], task.action_space.shape[0],
                             self.device)
        self.acting_noise = RandomGenerator(stream(seed, "acting"))
        self.update_noise = RandomGenerator(stream(seed, "updates"), self.device)
        self.act = Actor(agent, task, self.acting_noise)
        self.means = Means()
        self.simulator_errors = SimulatorErrors(config["simulator_errors"], folder.path / "simulator-errors.log",
                                                console.warn)
        self.divergence = self._signs()
        self.run_identity = identity(config)
        self.checkpoints = Checkpoints(folder.checkpoints, self.run_identity)
        self.tables = {"episodes": Table(folder.episodes, EPISODE_COLUMNS),
                       "evals": Table(folder.evals, EVALUATION_COLUMNS), "metrics": Table(folder.metrics)}

        self.observation: np.ndarray
        self.episode: Episode
        self.step = 0
        self.warm_up_left = config["initial_steps"]
        self.episodes_begun = 0
        self.done_at: dict[str, int] = {}
        self.snapshots: list[int] = []
        self.action_log: list[np.ndarray] = []
        self.last: dict[str, float | None] = {"episode_return": None, "episode_cost": None, "lam": None}
        # Clocks are for people and status.json alone; nothing that is compared between runs depends on them.
        self._seconds_before, self._updates_before = before.get("seconds", 0.0), before.get("timed_updates", 0)
        self._update_seconds_before = before.get("update_seconds", 0.0)
        self._started, self._update_seconds, self._updates_here, self._status_due = time.monotonic(), 0.0, 0, 0.0
        self._first_update: tuple[int, float] | None = None  # step and time, for the time that is left
        self._rates: dict[str, float | None] = {"updates_per_second": None, "seconds_left": None}

    def _signs(self) -> Divergence:
        """The signs of divergence that this agent can show."""
        agent, dual = self.agent, self.agent.guidance.dual
        backups = SETTLED * agent.target_interval / agent.polyak / (1 - agent.cost_discount)
        multiplier = None if isinstance(dual, Fixed) else float(dual.multiplier())
        return Divergence(self.task.budget, self.task.budget.threshold(agent.cost_discount), multiplier,
                          agent.discount, agent.cost_discount, backups)

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until the end or until asked to stop. Returns "finished" or "interrupted"."""
        self._resume_or_begin()
        while True:
            complete = self._at_boundary()
            if self.requests.stop:
                self.save_checkpoint()
                self._write_status("interrupted")
                return "interrupted"
            if self.requests.checkpoint:
                self.requests.checkpoint = False
                self.save_checkpoint()
            if not complete:
                continue
            if self.step >= self.total_steps:
                return self._finish()
            self._advance()

    @property
    def row_step(self) -> int:
        """The step that rows carry: initial steps count up to 0."""
        return -self.warm_up_left if self.step == 0 else self.step

    def _advance(self) -> None:
        """One environment step and its updates."""
        action = self.act(self.observation)
        try:
            following, reward, terminated, truncated, info = self.task.step(action)
        except SimulatorError as error:
            # There is no transition: neither the replay nor the count of steps sees it, and the transition before it
            # bootstraps, as one does before a time limit.
            self._abandon_episode(error)
            self._begin_episode()
            return
        self.action_log.append(action)
        self.replay.add(self.observation, action, reward, info["cost"], following, info["reward_done"],
                        info["cost_done"])
        self.agent.normaliser.observe(torch.as_tensor(following), reward, terminated or truncated)
        self.divergence.observe(reward, info["cost"])
        self.episode.add(reward, info["cost"])
        self.observation = following
        if self.warm_up_left:
            self.warm_up_left -= 1
        else:
            self.step += 1
            self._update()
        if terminated or truncated:
            self._end_episode()
        if (now := time.monotonic()) >= self._status_due:
            self._status_due = now + STATUS_SECONDS
            self._write_status("running")
        self.console.update(step=self.row_step, **self.last, **self._rates)

    def _update(self) -> None:
        """The updates of one environment step."""
        begin = time.perf_counter()
        if self._first_update is None:
            self._first_update = self.step - 1, time.monotonic()
        for _ in range(self.config["updates_per_step"]):
            batch = self.replay.sample(self.config["batch_size"], self.update_noise)
            values = self.means.add(self.agent.update(batch, self.update_noise, self.update_step))
            # On a GPU looking would wait for it: there the means are looked at when they are written.
            if values.device.type == "cpu" and not values.isfinite().all():
                self._stop_at(batch, values)
        self._update_seconds += time.perf_counter() - begin
        self._updates_here += self.config["updates_per_step"]

    def _stop_at(self, batch: Batch, values: Tensor) -> None:
        """Keep the batch of an update that went wrong, and end the run.

        Raises:
            NumericalError: always.
        """
        kept = self.folder.path / f"not-finite-step={self.step:09d}.safetensors"
        write_atomically(kept, save({name: part.contiguous().clone() for name, part in batch._asdict().items()}))
        wrong = [f"{name} is {value}" for name, value in zip(self.means.names, values.tolist(), strict=True)
                 if not np.isfinite(value)]
        raise NumericalError(f"{', '.join(wrong)} in update {self.agent.updates} at step {self.step}; "
                             f"its batch is {kept}")

    def _begin_episode(self) -> None:
        while True:
            self.episode = Episode(self.config["agent"]["cost_discount"])
            self.action_log = []
            self.episodes_begun += 1
            try:
                self.observation, _ = self.task.reset(seed=self._seed_of_episode(self.episodes_begun - 1))
                return
            except SimulatorError as error:
                self._abandon_episode(error)

    def _seed_of_episode(self, number: int) -> int:
        return episode_seed(self.config["seed"], "training episode", number)

    def _end_episode(self) -> None:
        self._write_episode()
        spent = self.task.budget.spent(self.episode.cost, self.episode.discounted_cost)
        self.agent.guidance.observe_episode(spent)
        self.last |= {"episode_return": self.episode.reward, "episode_cost": spent}
        self._begin_episode()

    def _abandon_episode(self, error: SimulatorError) -> None:
        """The episode ended because the simulator failed: it has a row, but its cost is not an episode's for λ.

        Raises:
            SimulatorError: the run has survived as many as it may.
        """
        self.episode.error = error
        self._write_episode()
        self.agent.normaliser.end_episode()
        self.simulator_errors.take(error)
        self._renew_task()

    def _write_episode(self) -> None:
        number = self.episodes_begun - 1
        self.tables["episodes"].append({"step": self.row_step, "episode": number,
                                        "seed": self._seed_of_episode(number), **self.episode.row()})

    def _renew_task(self) -> None:
        """A new training environment: what failed may be broken, and a resumed run has a new one too."""
        with contextlib.suppress(Exception):
            self.task.close()
        self.task = self._build_task()

    # --- between steps ----------------------------------------------------------------------------------------

    def _at_boundary(self) -> bool:
        """Whatever is due at this step, each thing once, in a fixed order.

        Returns False if an evaluation was cut short by a request: then this must be called again.
        """
        if self.warm_up_left == 0:
            at_end = self.step == self.total_steps
            evaluation = at_end or self.step % self.config["eval"]["every"] == 0
            if evaluation and self._first_time("evaluation") and not self._evaluate():
                return False
            if (evaluation or self.step % self.config["log_every"] == 0) and self._first_time("metrics"):
                self._log_metrics(evaluation)
            count = self.config["snapshots"]
            if count and self.step in {round(self.total_steps * i / count) for i in range(1, count + 1)} \
                    and self._first_time("snapshot"):
                self._save_snapshot()
        # At the end `_finish` makes one, and a replay that was dropped has nothing to count by.
        if self.step < self.total_steps and self.replay.added % self.config["checkpoint"]["every"] == 0 \
                and self._first_time("checkpoint"):
            self.save_checkpoint()
        return True

    def _first_time(self, what: str) -> bool:
        """Whether this has not been done at this point of the run yet; it counts as done from now on."""
        now = self.replay.added if what == "checkpoint" else self.step
        if self.done_at.get(what) == now:
            return False
        self.done_at[what] = now
        return True

    def _evaluate(self) -> bool:
        """Evaluate both samplers. Returns False, with no trace left, if a request came in between."""
        if self._evaluation_task is None:
            self._evaluation_task = self._build_task()
            settings = self.config["eval"]
            self.console.say(f"step {self.step}: evaluating {settings['episodes']} episodes with each sampler, as "
                             f"after every {settings['every']} steps")
        settings, table, budget = self.config["eval"], self.tables["evals"], self.task.budget
        before, errors_before = table.position(), self.simulator_errors.count
        results: dict[str, list[dict[str, Any]]] = {sampler: [] for sampler in SAMPLERS}
        try:
            for row in evaluate(self.agent, self._evaluation_task, self.config["seed"], self.step,
                                settings["episodes"], self.config["agent"]["cost_discount"], "train",
                                self._asked, self._renew_evaluation_task):
                table.append(row)
                results[row["sampler"]].append(row)
        except Interrupted:
            table.cut(before)
            self.simulator_errors.count = errors_before
            del self.done_at["evaluation"]
            return False
        for sampler, rows in results.items():
            mean_return, mean_spent = np.mean([(row["return"], budget.spent(row["cost"], row["discounted_cost"]))
                                               for row in rows], axis=0).tolist()
            self.console.evaluation(self.step, sampler, mean_return, mean_spent, mean_spent <= budget.limit)
            if cut := sum(row["simulator_error"] for row in rows):
                self.console.warn(f"step {self.step}: {cut} of these {len(rows)} episodes were ended by the simulator; "
                                  "what they had until then counts in the means")
        seen = look(float(self.agent.guidance.multiplier), budget, self.agent.cost_discount, results["stochastic"])
        for warning in [*self.divergence.after_evaluation(self.step, seen, self.agent.updates), *self.warnings()]:
            self.console.warn(warning)
        self._write_status("running")
        return True

    def _renew_evaluation_task(self, error: SimulatorError) -> Task:
        self.simulator_errors.take(error)
        if self._evaluation_task is not None:
            with contextlib.suppress(Exception):
                self._evaluation_task.close()
        self._evaluation_task = self._build_task()
        return self._evaluation_task

    def _asked(self) -> bool:
        return self.requests.stop is not None or self.requests.checkpoint

    def _curvature(self) -> dict[str, float]:
        """The curvature's columns, at states and draws that are this step's own: training's are not touched."""
        noise = RandomGenerator(stream(self.config["seed"], "curvature", self.step), self.device)
        settings = self.config["curvature"]
        observation = self.replay.sample(settings["states"], noise).observation
        return curvature(self.agent, observation, settings["samples"], noise)

    def _log_metrics(self, evaluation: bool) -> None:
        means = self.means.take()
        if not means:
            return
        for name, value in means.items():
            if not np.isfinite(value):
                raise NumericalError(f"{name} is {value} in the updates before step {self.step}")
        for warning in self.divergence.after_updates(self.step, means, self.agent.normaliser.reward_unit()):
            self.console.warn(warning)
        row: dict[str, float | str] = {name: float(f"{value:.9g}") for name, value in means.items()}
        row |= {"simulator_errors": self.simulator_errors.count, "warnings": self.divergence.count}
        if self.config["curvature"]["states"]:
            # The first row names the columns: also those that only evaluations fill.
            row |= dict.fromkeys(column_names(len(noise_levels(self.agent))), "")
            row |= {name: float(f"{value:.9g}") for name, value in (self._curvature() if evaluation else {}).items()}
        self.tables["metrics"].append({"step": self.step} | row)
        self.last["lam"] = means["lam"]

    def _save_snapshot(self) -> None:
        self.folder.snapshots.mkdir(exist_ok=True)
        write_snapshot(self.folder.snapshots / snapshot_name(self.step), self.agent.state_dict(), self.step,
                       self.run_identity)
        self.snapshots.append(self.step)

    def _finish(self) -> str:
        """Keep one last checkpoint, without the replay unless it is to stay."""
        if self._first_time("finish"):
            self.save_checkpoint(with_replay=self.config["checkpoint"]["keep_replay"])
        self.checkpoints.keep_newest()
        self._write_status("finished")
        return "finished"

    # --- checkpoints ------------------------------------------------------------------------------------------

    def save_checkpoint(self, with_replay: bool = True) -> None:
        """Save everything that the run needs to go on from this very point.

        Raises:
            NumericalError: a network is not finite; the checkpoint before stays the newest.
        """
        for name, value in self.agent.state_dict().items():
            if name.split(".")[0] not in ("guidance", "normaliser") and not value.isfinite().all():
                raise NumericalError(f"the network's {name} is not finite at step {self.step}: no checkpoint is made "
                                     "of it")
        for table in self.tables.values():
            table.sync()
        self.checkpoints.save({
            "step": self.step, "warm_up_left": self.warm_up_left, "episodes_begun": self.episodes_begun,
            "done_at": self.done_at, "last": self.last, "snapshots": self.snapshots,
            "episode": self.episode.checkpoint(), "simulator_errors": self.simulator_errors.count,
            "divergence": self.divergence.checkpoint(),
            "agent": self.agent.checkpoint(), "means": self.means.checkpoint(),
            "acting_noise": self.acting_noise.state_dict(), "update_noise": self.update_noise.state_dict(),
            "tables": {name: table.position() for name, table in self.tables.items()},
            # The environment itself: its episode's seed follows from the number, and its actions lead back here.
            "actions": np.array(self.action_log, self.task.action_space.dtype).reshape(
                -1, *self.task.action_space.shape),
            "observation": np.asarray(self.observation),
        }, self.replay if with_replay else None)
        self._write_status("running")

    def _resume_or_begin(self) -> None:
        for number in reversed(self.checkpoints.numbers()):
            try:
                state = self.checkpoints.load(number, self.replay)
                for name, table in self.tables.items():
                    if not table.holds(state["tables"][name]):
                        raise DamagedCheckpoint(f"{table.path} is damaged: it no longer begins with the rows that it "
                                                "had at this checkpoint")
            except DamagedCheckpoint as error:
                self.console.warn(f"checkpoint {number} cannot be used: {error}")
                self.checkpoints.set_aside(number)
                continue
            self._restore(state)
            return
        if self.folder.checkpoints.exists() or any(table.position()["size"] for table in self.tables.values()):
            self.console.warn(f"no checkpoint in {self.folder.checkpoints} can be used: the run begins again")
        self.replay.added = 0
        for table in self.tables.values():
            table.cut(None)
        self._begin_episode()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.warm_up_left = state["step"], state["warm_up_left"]
        self.done_at, self.last, self.snapshots = state["done_at"], state["last"], state["snapshots"]
        for step in self.snapshots:
            try:
                read_snapshot(self.folder.snapshots / snapshot_name(step), self.run_identity, step)
            except DamagedSnapshot as error:
                self.console.warn(f"{error}; nothing else depends on it, and fresh=true trains it anew")
        self.agent.restore(state["agent"])
        self.simulator_errors.count = state["simulator_errors"]
        self.divergence.restore(state["divergence"])
        self.means.restore(state["means"], self.device)
        self.acting_noise.load_state_dict(state["acting_noise"])
        self.update_noise.load_state_dict(state["update_noise"])
        for name, table in self.tables.items():
            table.cut(state["tables"][name], _is_reevaluation if name == "evals" else None)
        self.episodes_begun = state["episodes_begun"]
        self.episode = Episode(self.config["agent"]["cost_discount"])
        self.episode.restore(state["episode"])
        self._repeat_episode(list(state["actions"].numpy()), state["observation"].numpy())
        if self.step < self.total_steps:
            self.console.say(f"going on from step {self.row_step}")
            if not state["replay"]:
                self.warm_up_left = self.config["initial_steps"]
                self.console.warn(
                    f"this run was finished and its replay dropped: {self.warm_up_left} steps acted by the trained "
                    "policy fill it first (checkpoint.keep_replay=true keeps it, and makes extending exact)")

    def _repeat_episode(self, actions: list[np.ndarray], observation: np.ndarray) -> None:
        """Bring the environment back to where the open episode was."""
        inexact = "the run goes on, but not exactly as it would have without the interruption"
        for last_attempt in (False, True):
            try:
                self.observation, _ = self.task.reset(seed=self._seed_of_episode(self.episodes_begun - 1))
                for action in actions:
                    self.observation, *_ = self.task.step(action)
                break
            except SimulatorError as error:
                if last_attempt:
                    self.console.warn(f"the open episode cannot be repeated: {inexact}")
                    self._abandon_episode(error)
                    self._begin_episode()
                    return
                self.console.warn(f"{error}, while the open episode was repeated: trying once more")
                self._renew_task()
        self.action_log = actions
        if not np.array_equal(self.observation, observation):
            self.console.warn(f"env={self.task.name} did not come back to the same observation when its episode was "
                              f"repeated: {inexact}")

    # --- what is told -----------------------------------------------------------------------------------------

    def _write_status(self, state: str, reason: str | None = None) -> None:
        updates, seconds = self._updates_before + self._updates_here, self._update_seconds_before + self._update_seconds
        elapsed = self._seconds_before + time.monotonic() - self._started
        self.folder.write_status({
            "state": state, "step": self.row_step, "total_steps": self.total_steps, "updates": self.agent.updates,
            "updates_per_second": updates / seconds if seconds else None, "timed_updates": updates,
            "update_seconds": round(seconds, 3), "seconds": round(elapsed, 3),
            "simulator_errors": self.simulator_errors.count, "warnings": list(self.divergence.warnings.values()),
            "reason": reason})
        if self._updates_here and self._first_update is not None:
            first, since = self._first_update
            per_step = (time.monotonic() - since) / (self.step - first)
            self._rates = {"updates_per_second": self._updates_here / self._update_seconds,
                           "seconds_left": (self.total_steps - self.step) * per_step}

    def end(self, state: str, reason: str) -> None:
        """Record how the run ended when it did not end by itself."""
        self._write_status(state, reason)
