"""Every agent learns the toy task: feasible, with at least 80% of the best feasible return, on two of three seeds. The
baselines with hard constraints learn it and throttle, with seed 0 of the studies of docs/hard_constraints.md."""

import csv
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from algd.envs import throttle
from tests.support.command import only_run, run

# toy.optimum(limit=4, horizon=16), as computed by tests/envs/test_toy.py.
BEST_FEASIBLE, BEST_UNCONSTRAINED = 24.50, 29.93
LIMIT = 4.0
# The same for a lap of 20 steps: within the limit, and without any cost, toy.optimum(limit=0, horizon=20).
BEST_OF_A_LAP, BEST_SAFE = 30.50, 29.87
SPEED = 0.4  # throttle's limit, and reachability's limit per step
# The authors' rates, and their conversion of the budget, which is 6.7 times stricter: feasible after few updates.
AUTHORS = ["env.horizon=16", "env.cost_return=authors", "agent.discount=0.99", "agent.cost_discount=0.99",
           "agent.polyak=0.005", "agent.target_interval=2", "agent.policy_learning_rate=3e-4",
           "agent.critic_learning_rate=3e-4", "agent.cost_learning_rate=3e-4"]
SETTINGS = ["experiment=toy_guidance", *AUTHORS, "hydra.mode=RUN", "logger=none", "eval.every=10000"]
STEPS = {"vesde": 1500, "ddpm": 1500, "gaussian": 2500}
Result = tuple[float, float]


@pytest.fixture(scope="module")
def pool() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def train(pool: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory):
    """Return a function (agent, guidance, seed) ↦ future of the last deterministic evaluation's mean return, cost."""
    def job(agent: str, guidance: str, seed: int) -> Result:
        runs = tmp_path_factory.mktemp("runs")
        # In such short runs the Gaussian's default entropy bonus would outweigh the toy's rewards.
        temperature = ["agent.policy.initial_temperature=0.2"] if agent == "gaussian" else []
        run(*SETTINGS, *temperature, f"agent={agent}", f"guidance={guidance}", f"seed={seed}",
            f"total_steps={STEPS[agent]}", f"runs_dir={runs}")
        return last_evaluation(only_run(runs))

    def submit(agent: str, guidance: str, seed: int) -> Future[Result]:
        return pool.submit(job, agent, guidance, seed)

    return submit


def last_episodes(folder: Path) -> np.ndarray:
    """Return returns and costs of the last deterministic evaluation's episodes, (20, 2)."""
    with (folder / "evals.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sampler"] == "deterministic"]
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    assert len(rows) == 20
    return np.array([(float(row["return"]), float(row["cost"])) for row in rows])


def last_evaluation(folder: Path) -> Result:
    value, cost = last_episodes(folder).mean(0)
    return float(value), float(cost)


@pytest.mark.parametrize("agent", STEPS)
def test_augmented_learns(agent: str, train) -> None:
    results = [future.result() for future in [train(agent, "augmented", seed) for seed in (0, 1)]]

    def good() -> int:
        return sum(cost <= LIMIT and value >= 0.8 * BEST_FEASIBLE for value, cost in results)

    if good() == 1:
        results.append(train(agent, "augmented", 2).result())
    assert good() >= 2, results


def test_other_guidances_become_feasible_and_none_does_not(train) -> None:
    cells = [("vesde", "pid"), ("ddpm", "pid"), ("gaussian", "pid"), ("gaussian", "plain"), ("gaussian", "none")]
    futures = {cell: train(*cell, 0) for cell in cells}
    results = {cell: future.result() for cell, future in futures.items()}
    unconstrained, cost = results.pop(("gaussian", "none"))
    assert all(spent <= LIMIT for _, spent in results.values()), results
    # Without a constraint the return is above that of any feasible policy, and the cost over the limit.
    assert BEST_FEASIBLE < unconstrained <= BEST_UNCONSTRAINED + 0.5 and cost > 2 * LIMIT, (unconstrained, cost)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs_dir of both studies, without FAC on throttle, which oscillates."""
    runs = tmp_path_factory.mktemp("hard")
    for study in (["experiment=toy_hard"], ["experiment=throttle_hard", "~hydra.sweeper.cells.fac"]):
        run(*study, "seed=0", "logger=none", "eval.every=10000", "hydra.launcher.jobs=2", f"runs_dir={runs}")
    return runs


def episodes_of(hard: Path, cell: str) -> tuple[np.ndarray, np.ndarray]:
    """Return returns and costs of the last evaluation of a study's run."""
    (folder,) = (hard / cell).iterdir()
    value, cost = last_episodes(folder).T
    return value, cost


@pytest.mark.parametrize("agent", ["gaussian", "vesde"])
def test_reachability_learns_the_toy_without_a_single_unsafe_step(agent: str, hard: Path) -> None:
    value, cost = episodes_of(hard, f"toy/{agent}-reachability")
    assert cost.max() == 0 and value.mean() >= 0.6 * BEST_SAFE, (value, cost)


@pytest.mark.parametrize(("cell", "share"), [("gaussian-plain", 0.8), ("cvpo-plain", 0.7)])
def test_fac_and_cvpo_learn_the_toy_within_its_limit(cell: str, share: float, hard: Path) -> None:
    value, cost = episodes_of(hard, f"toy/{cell}")
    assert cost.mean() <= LIMIT and value.mean() >= share * BEST_OF_A_LAP, (value, cost)


def test_reachability_holds_throttles_speed_in_every_step(hard: Path) -> None:
    value, cost = episodes_of(hard, "throttle/gaussian-reachability")
    assert cost.max() <= SPEED and value.mean() >= 0.6 * throttle.optimum(SPEED, 1), (value, cost)


def test_cvpo_holds_throttles_speed_on_average(hard: Path) -> None:
    """The E-step bounds the mean cost and takes small steps, so the speed settles, unlike with plain guidance."""
    value, cost = episodes_of(hard, "throttle/cvpo-plain")
    assert cost.mean() == pytest.approx(SPEED, abs=0.15) and value.mean() >= 0.7 * throttle.optimum(SPEED, 1)
