"""Train with the straightforward implementation, to compare what it learns with what the project's runs learn.

    python -m benchmarks.plain_run --env point_button1 --steps 20000 --updates-per-step 2 --seed 0 --out FOLDER

trains `benchmarks/plain_update.py` on a task with the settings of conf/. Initial weights, initial steps, batch size,
evaluation episodes and seeds are those of the project's run of this agent and seed with guidance=augmented. Every
`--evaluate-every` steps, at step 0 and at the end it evaluates `--episodes` deterministic and as many stochastic
episodes, and prints their means and the share of steps in which each component of the action was at a bound. FOLDER
gets evals.csv and episodes.csv with the project's columns; `predicted_cost` stays empty. A stopped run cannot be
resumed.
"""

import argparse
import csv
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algd.envs.task import Task
from algd.run.build import build_agent, build_task
from algd.run.episodes import Episode, run_episode
from algd.run.evaluation import SAMPLERS, Bounds
from algd.seeding import episode_seed, stream
from algd.storage.run_folder import EPISODE_COLUMNS, EVALUATION_COLUMNS
from benchmarks.plain_update import PlainAgent
from benchmarks.setting import configuration


def actor(agent: PlainAgent, task: Task, deterministic: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from an observation (s,) to the agent's action (d,), in the type and the bounds of the task."""
    space = task.action_space

    def act(observation: np.ndarray) -> np.ndarray:
        state = torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0)
        return agent.act(state, deterministic)[0].numpy().astype(space.dtype).clip(space.low, space.high)

    return act


def evaluate(agent: PlainAgent, task: Task, config: dict[str, Any], step: int,
             bounds: Bounds) -> Iterator[dict[str, Any]]:
    """Yield rows of evals.csv on the project's evaluation seeds, without advancing training's random numbers."""
    seed, purpose = config["seed"], "evaluation train"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, purpose + " noise", step))
        for sampler in SAMPLERS:
            act = actor(agent, task, sampler == "deterministic")
            for number in range(config["eval"]["episodes"]):
                reset = episode_seed(seed, purpose, step, number)
                episode = run_episode(task, act, reset, config["agent"]["cost_discount"], observe=bounds)
                yield {"step": step, "sampler": sampler, "source": "train", "episode": number, "seed": reset,
                       **episode.row()}


def train(config: dict[str, Any], out: Path) -> None:
    """Train from beginning to end, and write evals.csv and episodes.csv."""
    seed, batch_size = config["seed"], config["batch_size"]
    task, evaluation_task = build_task(config), build_task(config)
    torch.manual_seed(stream(seed, "networks"))
    agent = PlainAgent(build_agent(config, task), batch_size)
    torch.manual_seed(stream(seed, "plain run"))
    random.seed(stream(seed, "plain run"))
    act, begun, spent_on_updates = actor(agent, task, False), 0, 0.0

    def begin() -> tuple[np.ndarray, Episode]:
        observation, _ = task.reset(seed=episode_seed(seed, "training episode", begun))
        return observation, Episode(config["agent"]["cost_discount"])

    with (out / "evals.csv").open("x", newline="") as evals, (out / "episodes.csv").open("x", newline="") as episodes:
        evaluated = csv.DictWriter(evals, EVALUATION_COLUMNS)
        trained = csv.DictWriter(episodes, EPISODE_COLUMNS)
        evaluated.writeheader()
        trained.writeheader()
        observation, episode = begin()
        for step in range(-config["initial_steps"], config["total_steps"] + 1):
            if step >= 0 and (step % config["eval"]["every"] == 0 or step == config["total_steps"]):
                bounds = Bounds(task.action_space)
                rows = list(evaluate(agent, evaluation_task, config, step, bounds))
                evaluated.writerows(rows)
                evals.flush()
                rate = agent.updates / spent_on_updates if spent_on_updates else 0.0
                means = []
                for sampler in SAMPLERS:
                    sums = [(row["return"], row["cost"]) for row in rows if row["sampler"] == sampler]
                    means.append("{}: return {:.4g}, cost {:.4g}".format(sampler, *np.mean(sums, axis=0)))
                print(f"step {step}/{config['total_steps']}  {'; '.join(means)}  λ {agent.log_lam.exp().item():.4g}  "
                      f"at a bound {', '.join(f'{share:.2f}' for share in bounds.shares())}  "
                      f"{rate:.3g} updates/s", flush=True)
            if step == config["total_steps"]:
                break
            action = act(observation)
            following, reward, terminated, truncated, info = task.step(action)
            agent.replay.append((observation, action, reward, info["cost"], following, info["reward_done"],
                                 info["cost_done"]))
            episode.add(reward, info["cost"])
            observation = following
            if step >= 0:
                start = time.perf_counter()
                for _ in range(config["updates_per_step"]):
                    agent.update()
                spent_on_updates += time.perf_counter() - start
            if terminated or truncated:
                trained.writerow({"step": step + 1, "episode": begun, "seed": episode_seed(
                    seed, "training episode", begun), **episode.row()})
                episodes.flush()
                begun += 1
                observation, episode = begin()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="point_button1", help="a task of conf/env/")
    parser.add_argument("--agent", choices=("vesde", "ddpm"), default="vesde")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps, not counting the initial ones")
    parser.add_argument("--updates-per-step", type=int, default=2)
    parser.add_argument("--evaluate-every", type=int, default=2_000, metavar="STEPS")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes of each sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder without evals.csv")
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE", help="other keys of conf/, such as initial_steps=100")
    given = parser.parse_args()
    if (given.out / "evals.csv").exists() or (given.out / "episodes.csv").exists():
        parser.error(f"--out {given.out}: there is a run already; name another folder")
    config = configuration(f"agent={given.agent}", "guidance=augmented", f"env={given.env}", f"seed={given.seed}",
                           f"total_steps={given.steps}", f"updates_per_step={given.updates_per_step}",
                           f"eval.every={given.evaluate_every}", f"eval.episodes={given.episodes}", *given.more)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    train(config, given.out)


if __name__ == "__main__":
    main()
