"""The training loop of one run, from its folder's state to its end."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from algd.algorithm.agent import Agent, Batch
from algd.algorithm.replay import Replay
from algd.algorithm.rng import RandomGenerator
from algd.config.identity import identity
from algd.envs.task import Task
from algd.errors import NumericalError
from algd.execution.step import Execution, prepare_agent
from algd.logging.console import Console
from algd.run.acting import Actor
from algd.run.callbacks import Callbacks
from algd.run.clock import Clock
from algd.run.collector import Collector
from algd.run.evaluation import SAMPLERS, Evaluator
from algd.run.faults.divergence import Divergence, evaluation_means
from algd.run.faults.requests import Requests
from algd.run.faults.simulator_errors import SimulatorErrors
from algd.run.metrics import MetricsLog
from algd.run.persistence import Persistence
from algd.run.schedule import Schedule
from algd.run.start import record_inexact
from algd.run.state import TrainingState
from algd.seeding import stream
from algd.storage.files import write_atomically
from algd.storage.run_folder import EPISODE_COLUMNS, EVALUATION_COLUMNS, RunFolder
from algd.storage.table import Table


class Trainer:
    """The loop: do what is due between two environment steps, then a step and its updates.

    Args:
        config: the checked configuration.
        folder: the run's folder, locked by this process.
        agent: the agent, on its device.
        task: the training environment.
        build_task: makes the evaluation environment, and a new one after the simulator failed.
        console: the console.
        mirror_warnings: returns new warnings of the mirror; called at evaluations.
        requests: requests by signals.
        clock: times the run and its updates.
        execution: how updates are executed.
        callbacks: observe the run.
    """

    def __init__(self, config: Mapping[str, Any], folder: RunFolder, agent: Agent, task: Task,
                 build_task: Callable[[], Task], console: Console, mirror_warnings: Callable[[], list[str]],
                 requests: Requests, clock: Clock, execution: Execution, callbacks: Callbacks):
        self.config, self.folder, self.agent, self.budget = config, folder, agent, task.budget
        self.console, self.requests, self.clock = console, requests, clock
        self._mirror_warnings, self._callbacks = mirror_warnings, callbacks
        self.total_steps, seed = config["total_steps"], config["seed"]
        device = next(agent.parameters()).device
        self._execute_update = prepare_agent(agent, execution)
        tables = {"episodes": Table(folder.episodes, EPISODE_COLUMNS),
                  "evals": Table(folder.evals, EVALUATION_COLUMNS), "metrics": Table(folder.metrics)}
        acting_noise = RandomGenerator(stream(seed, "acting"))
        replay = Replay(config["buffer_size"], task.observation_space.shape[0], task.action_space.shape[0], device)
        errors = SimulatorErrors(config["simulator_errors"], folder.path / "simulator-errors.log", console.warn)
        divergence = Divergence.of(agent, self.budget)
        self.metrics = MetricsLog(config, agent, replay, tables["metrics"], divergence, errors, console.warn)
        self.state = TrainingState(
            seed=seed, agent=agent, replay=replay, means=self.metrics.means, divergence=divergence, errors=errors,
            collector=Collector(agent, task, build_task, Actor(agent, task, acting_noise), seed, tables["episodes"],
                                errors, console.warn),
            schedule=Schedule(config), acting_noise=acting_noise,
            update_noise=RandomGenerator(stream(seed, "updates"), device), tables=tables,
            warm_up_left=config["initial_steps"])
        self.evaluator = Evaluator(config, agent, build_task, tables["evals"], errors, console, self._is_asked)
        self.persistence = Persistence(folder, self.state, identity(config), console)
        self._rates = clock.rates(0, self.total_steps)

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until the end or until a stop is requested. Returns "finished" or "interrupted"."""
        self.begin_or_resume()
        while True:
            complete = self._do_what_is_due()
            if self.requests.stop:
                self._save_checkpoint()
                self.write_status("interrupted")
                return "interrupted"
            if self.requests.checkpoint:
                self.requests.checkpoint = False
                self._save_checkpoint()
            if not complete:
                continue
            if self.state.step >= self.total_steps:
                self._finish()
                return "finished"
            self.advance()

    def advance(self) -> None:
        """One environment step, its updates, and the end of the episode if it is over."""
        state = self.state
        transition = state.collector.step(state.row_step)
        if transition is None:
            return
        state.replay.add(*transition[:-1])
        self.agent.normaliser.observe(torch.as_tensor(transition.next_observation), transition.reward,
                                      transition.over)
        state.divergence.observe(transition.reward, transition.cost)
        warming_up = state.warm_up_left > 0
        if warming_up:
            state.warm_up_left -= 1
        else:
            state.step += 1
        self._callbacks.on_step(state.row_step, transition)
        if not warming_up:
            self.update()
        if transition.over:
            row = state.collector.end_episode(state.row_step)
            spent = self.budget.spent(row["cost"], row["discounted_cost"])
            self.agent.guidance.observe_episode(spent)
            self._callbacks.on_episode(row)
            state.last |= {"episode_return": row["return"], "episode_cost": spent}
        if self.clock.is_status_due():
            self.write_status("running")
        self.console.update(step=state.row_step, **state.last, **self._rates)

    def update(self) -> None:
        """The updates of one environment step."""
        state, count = self.state, self.config["updates_per_step"]
        with self.clock.updating(state.step, count):
            for _ in range(count):
                batch = state.replay.sample(self.config["batch_size"], state.update_noise)
                scalars = self.agent.update(batch, state.update_noise, self._execute_update)
                values = state.means.add(scalars)
                # On a GPU this would synchronise at every update: there the means are checked when they are written.
                if values.device.type == "cpu" and not values.isfinite().all():
                    self._stop_at(batch, values)
                self._callbacks.on_update(state.step, state.means.names, values)

    def _do_what_is_due(self) -> bool:
        """Do what is due at this step. Returns False if an evaluation was interrupted: then it is still due."""
        state, schedule = self.state, self.state.schedule
        point = state.step, state.warm_up_left, state.replay.added
        for action in schedule.due(*point):
            if action == "evaluation" and not self._evaluate():
                return False
            # Before the checkpoint is saved, which includes the mark.
            schedule.mark_done(action, state.step, state.replay.added)
            if action == "metrics":
                means = self.metrics.write(state.step, with_curvature=schedule.is_evaluation(state.step))
                state.last["lam"] = means.get("lam", state.last["lam"])
            elif action == "snapshot":
                self.persistence.save_snapshot()
            elif action == "checkpoint":
                self._save_checkpoint()
        return True

    def _evaluate(self) -> bool:
        """Evaluate both samplers, and check for signs of divergence. Returns False if it was interrupted."""
        state = self.state
        evaluation = self.evaluator.evaluate(state.step)
        if evaluation is None:
            return False
        rows = evaluation.rows
        means = evaluation_means(float(self.agent.guidance.multiplier), self.budget, self.agent.cost_discount,
                                 rows["stochastic"], evaluation.at_bound)
        for warning in state.divergence.after_evaluation(state.step, means, self.agent.updates,
                                                         self.agent.normaliser.reward_unit()):
            self.console.warn(warning)
        for warning in self._mirror_warnings():
            self.console.warn(warning)
        self._callbacks.on_evaluation([row for sampler in SAMPLERS for row in rows[sampler]])
        self.write_status("running")
        return True

    def _is_asked(self) -> bool:
        """Whether a checkpoint or a stop is requested, for which an evaluation is interrupted."""
        return self.requests.stop is not None or self.requests.checkpoint

    def _stop_at(self, batch: Batch, values: Tensor) -> None:
        """Save the batch of a failed update, and end the run.

        Raises:
            NumericalError: always.
        """
        step = self.state.step
        kept = self.folder.path / f"not-finite-step={step:09d}.safetensors"
        write_atomically(kept, save({name: part.contiguous().clone() for name, part in batch._asdict().items()}))
        wrong = [f"{name} is {value}" for name, value in zip(self.state.means.names, values.tolist(), strict=True)
                 if not np.isfinite(value)]
        raise NumericalError(f"{', '.join(wrong)} in update {self.agent.updates} at step {step}; its batch is {kept}")

    # --- begin, save, end -------------------------------------------------------------------------------------

    def begin_or_resume(self) -> None:
        """Restore the newest good checkpoint, or begin if there is none."""
        state = self.state
        has_replay = self.persistence.restore()
        if has_replay is None:
            state.begin()
            return
        if state.step >= self.total_steps:
            return
        self.console.say(f"going on from step {state.row_step}")
        if not has_replay:
            state.warm_up_left = self.config["initial_steps"]
            self.console.warn(
                f"this run was finished and its replay dropped: {state.warm_up_left} steps acted by the trained "
                "policy fill it first (checkpoint.keep_replay=true keeps it, and makes extending exact)")
            record_inexact(self.folder)

    def _save_checkpoint(self) -> None:
        self.persistence.save_checkpoint()
        self.write_status("running")

    def _finish(self) -> None:
        """Keep one last checkpoint, without the replay buffer unless checkpoint.keep_replay is set."""
        point = self.state.step, self.state.replay.added
        if not self.state.schedule.is_done("finish", *point):
            self.state.schedule.mark_done("finish", *point)
            self.persistence.save_checkpoint(with_replay=self.config["checkpoint"]["keep_replay"])
        self.persistence.keep_newest()
        self.write_status("finished")

    def write_status(self, status: str, reason: str | None = None) -> None:
        """Write status.json, and measure the current rate."""
        state = self.state
        self.folder.write_status({
            "state": status, "step": state.row_step, "total_steps": self.total_steps, "updates": self.agent.updates,
            **self.clock.times(), "simulator_errors": state.errors.count,
            "warnings": list(state.divergence.warnings.values()), "reason": reason})
        self._rates = self.clock.rates(state.step, self.total_steps)
