"""Every agent with every guidance and level trains on the toy task, and every kind of task trains."""

import itertools
from pathlib import Path

import pytest
import torch

import algd
from algd.run.build import build_agent, build_task
from algd.seeding import stream
from algd.storage.run_folder import RunFolder
from tests.support.command import TINY, compose, only_run, status, train_here

SHORT = [*TINY, "initial_steps=30", "total_steps=60", "eval.every=40", "eval.episodes=1", "log_every=20", "snapshots=2",
         "checkpoint.every=50"]
CELLS = [(agent, guidance) for agent, guidance in itertools.product(
    ("vesde", "ddpm", "gaussian", "cvpo"), ("none", "plain", "augmented", "pid", "reachability"))]
FILES = {"config.yaml", "meta.json", "status.json", "episodes.csv", "evals.csv", "metrics.csv", "checkpoints",
         "snapshots", "lock"}


def check_run(arguments: list[str], runs: Path) -> None:
    """Train, and check that the folder is complete and that every network has changed."""
    train_here(*arguments, f"runs_dir={runs}")
    folder = only_run(runs)
    assert {path.name for path in folder.iterdir()} >= FILES
    assert status(folder)["state"] == "finished" and status(folder)["updates"] == 60
    config = RunFolder(folder).config()
    torch.manual_seed(stream(config["seed"], "networks"))
    before = build_agent(config, build_task(config)).state_dict()
    loaded = algd.load(folder)
    after = loaded.agent.state_dict()
    still = [name for name in before if name.split(".")[0] in ("policy", "critics", "cost_critics", "target_critics",
                                                              "target_cost_critics")
             and torch.equal(before[name], after[name])]
    assert still == []
    rule = config["guidance"].get("dual", {"name": "fixed"})["name"]
    moved = not torch.equal(torch.as_tensor(loaded.agent.guidance.multiplier),
                            build_agent(config, loaded.task).guidance.multiplier)
    # The E-step's minimum may be at the initial λ, if the cost is below the threshold.
    assert moved == (rule != "fixed") or rule == "estep"
    observation, _ = loaded.task.reset(seed=0)
    assert loaded.task.action_space.contains(loaded.act(observation))
    loaded.task.close()


@pytest.mark.parametrize(("agent", "guidance"), CELLS)
def test_every_cell_trains(agent: str, guidance: str, tmp_path: Path) -> None:
    check_run([*SHORT, "env=toy", f"agent={agent}", f"guidance={guidance}"], tmp_path)


@pytest.mark.parametrize(("agent", "guidance"), [("vesde", "augmented"), ("ddpm", "plain"), ("gaussian", "augmented")])
def test_batch_level_trains(agent: str, guidance: str, tmp_path: Path) -> None:
    check_run([*SHORT, "env=toy", f"agent={agent}", f"guidance={guidance}", "guidance.level=batch"], tmp_path)


RULES = [["guidance/dual=fixed"], ["guidance/dual=pid"], ["guidance/dual=statewise"], ["guidance.dual.signal=policy"],
         ["guidance.dual.signal=episodes", "guidance.dual.hold=20"]]


# Every rule with one agent, and every agent with the rule that uses most of it: its states and its actions.
@pytest.mark.parametrize(("agent", "guidance", "rule"), [
    *(("gaussian", "augmented" if number % 2 else "plain", rule) for number, rule in enumerate(RULES)),
    *((agent, guidance, RULES[2]) for agent, guidance in (
        ("vesde", "plain"), ("vesde", "augmented"), ("ddpm", "plain"), ("ddpm", "augmented"),
        ("gaussian", "augmented")))], ids=str)
def test_every_rule_for_the_multiplier_trains_and_goes_on(agent: str, guidance: str, rule: list[str],
                                                          tmp_path: Path) -> None:
    """A run in one go and one in two halves give the same rows and networks."""
    arguments = [*SHORT, "env=toy", f"agent={agent}", f"guidance={guidance}", *rule, "eval.every=30",
                 "checkpoint.keep_replay=true"]
    check_run(arguments, tmp_path / "whole")
    for steps in (30, 60):
        train_here(*arguments, f"total_steps={steps}", f"runs_dir={tmp_path / 'halves'}")
    whole, halves = only_run(tmp_path / "whole"), only_run(tmp_path / "halves")
    for table in ("episodes.csv", "evals.csv", "metrics.csv"):
        assert (whole / table).read_bytes() == (halves / table).read_bytes(), table
    expected, found = (algd.load(folder).agent.state_dict() for folder in (whole, halves))
    assert expected.keys() == found.keys()
    for name, value in expected.items():  # values not measured yet are NaN
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


def test_every_rule_for_the_multiplier_is_given_the_tasks_limits() -> None:
    """With every guidance and rule: the episodes' limit, 7, to rules of episodes, the critics' threshold to those of
    Qc. Seven per episode of 20 steps are 7/20/(1 − 0.99) = 35 discounted; of a worst violation the threshold is 0.
    """
    guidances = [["none"], ["pid"], ["reachability"], *(
        [guidance, f"guidance/dual={rule}"] for guidance in ("plain", "augmented")
        for rule in ("ascent", "pid", "fixed", "statewise")), ["plain", "guidance/dual=estep"]]
    found: set[tuple[str, str]] = set()
    for name, *rule in guidances:
        agent = "cvpo" if rule == ["guidance/dual=estep"] else "gaussian"
        config = compose(*TINY, "env=toy", "env.limit=7", f"agent={agent}", f"guidance={name}", *rule)
        guidance, threshold = build_agent(config, build_task(config)).guidance, 0.0 if name == "reachability" else 35.0
        assert guidance.threshold == pytest.approx(threshold)
        for given, expected in (("limit", 7.0), ("threshold", threshold)):
            if hasattr(guidance.dual, given):
                assert getattr(guidance.dual, given) == pytest.approx(expected), (name, rule, given)
                found.add((type(guidance.dual).__name__, given))
    assert found == {("LogAscent", "limit"), ("LogAscent", "threshold"), ("PID", "limit"), ("Statewise", "threshold")}


@pytest.mark.parametrize("cell", [["guidance=plain", "guidance/dual=estep"], ["guidance=none"],
                                  ["guidance=reachability"]], ids=str)
def test_expectation_maximisation_trains_and_goes_on(cell: list[str], tmp_path: Path) -> None:
    test_every_rule_for_the_multiplier_trains_and_goes_on("cvpo", cell[0].partition("=")[2], cell[1:], tmp_path)


@pytest.mark.parametrize("switches", [
    ["agent.policy.score_space=latent", "agent.policy.score_level=before", "agent.policy.score_detach=true"],
    ["agent=ddpm", "agent.policy.mc_rescale=true", "agent.policy.mc_clip=true",
     "agent.policy.process.schedule=variance_preserving", "agent.policy.process.beta_min=0.1",
     "agent.policy.process.beta_max=10"],
    ["normalise.observation=true", "normalise.reward=true", "agent.cost_members=1"]])
def test_switches_train(switches: list[str], tmp_path: Path) -> None:
    check_run([*SHORT, "env=toy", *switches], tmp_path)


@pytest.mark.parametrize("task", [
    ["env=point_button1", "agent=ddpm"], ["env=hopper_velocity", "guidance=plain"], ["env=safety_point_goal1"],
    ["env=gymnasium", "env.id=SafetyPointGoal2-v0", "agent=ddpm", "guidance=plain", "env.horizon=100"]])
def test_every_kind_of_task_trains(task: list[str], tmp_path: Path) -> None:
    check_run([*SHORT, *task], tmp_path)


def test_notebook(tmp_path: Path) -> None:
    """algd.load gives actions, critics, the energy with its multiplier, and snapshots."""
    train_here(*SHORT, "env=toy", f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    loaded = algd.load(folder)
    observation, _ = loaded.task.reset(seed=0)
    action = loaded.act(observation)
    assert (loaded.act(observation) == action).all()
    lam, weight = loaded.multiplier, loaded.qc(observation, action) - loaded.agent.guidance.threshold
    expected = -loaded.q(observation, action) + (max(lam + 1.0 * weight, 0.0)**2 - lam**2) / 2
    assert loaded.energy(observation, action) == pytest.approx(expected, abs=1e-5)
    first, last = sorted((folder / "snapshots").iterdir())
    assert algd.load(first).step == 30 and algd.load(last).step == loaded.step == 60
    final = algd.load(last).agent.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in loaded.agent.state_dict().items())
    assert any(not torch.equal(value, final[name]) for name, value in algd.load(first).agent.state_dict().items())
