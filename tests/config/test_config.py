"""Configurations: all compose and build, errors are reported, and runs have different identities."""

import itertools
from pathlib import Path

import pytest

from algd.config.identity import identity
from algd.config.schema import check
from algd.config.targets import locate
from algd.errors import UsageError
from algd.run.build import build_agent, build_task
from algd.storage.run_folder import run_path
from tests.support.command import CONF, compose


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


AGENTS, GUIDANCES, TASKS = options("agent"), options("guidance"), options("env")


@pytest.mark.parametrize("env", TASKS)
def test_every_task_composes(env: str) -> None:
    needed = ["env.id=Pendulum-v1"] if env == "gymnasium" else []
    config = compose(f"env={env}", *needed)
    assert config["total_steps"] == config["env"]["reference_steps"] > 0
    assert config["env"]["limit"] >= 0 and config["env"]["limit_kind"] in ("episode", "discounted")
    if env != "gymnasium":
        assert config["env"]["name"] == env and config["env"]["horizon"] > 0


@pytest.mark.parametrize(("agent", "guidance"), itertools.product(AGENTS, GUIDANCES))
def test_every_cell_builds(agent: str, guidance: str) -> None:
    config = compose(f"agent={agent}", f"guidance={guidance}", "env=toy", "logger=none")
    task = build_task(config)
    built = build_agent(config, task)
    # The threshold of a reachability critic is 0, between safe and unsafe, whatever the budget.
    threshold = 0.0 if guidance == "reachability" else task.budget.threshold(config["agent"]["cost_discount"])
    assert built.guidance.threshold == threshold
    assert (config["agent"]["name"], config["guidance"]["name"]) == (agent, guidance)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    assert compose(f"experiment={experiment}")["experiment"] == experiment


@pytest.mark.parametrize("seeds", options("seeds"))
def test_seed_presets(seeds: str) -> None:
    count = {"one": 1, "three": 3, "five": 5, "ten": 10}[seeds]
    text = (CONF / "seeds" / f"{seeds}.yaml").read_text()
    assert f'seed: "{",".join(map(str, range(count)))}"' in text


def test_defaults_are_the_authors() -> None:
    """The command line's defaults are the authors' hyper-parameters."""
    config = compose()
    agent, policy = config["agent"], config["agent"]["policy"]
    assert (config["initial_steps"], config["updates_per_step"], config["batch_size"]) == (5000, 10, 256)
    assert config["buffer_size"] == 1_000_000
    assert (agent["discount"], agent["cost_discount"]) == (0.99, 0.99)
    assert (agent["polyak"], agent["target_interval"]) == (5e-3, 2)
    assert {agent[f"{what}_learning_rate"] for what in ("policy", "critic", "cost")} == {3e-4}
    assert (agent["cost_members"], agent["risk_factor"], agent["cost_initialisation"]) == (4, 1.0, "normal")
    assert agent["critic_hidden_sizes"] == agent["cost_hidden_sizes"] == [256, 256]
    assert policy["hidden_sizes"] == [128, 128, 128] and policy["embedding_size"] == 16
    assert (policy["beta"], policy["mc_samples"], policy["score_weight"]) == (1.0, 4, 0.1)
    assert (policy["score_space"], policy["score_level"], policy["score_detach"]) == ("action", "after", False)
    assert (policy["process"]["steps"], policy["process"]["sigma_min"], policy["process"]["sigma_max"]) == (5, 0.01, 1)
    guidance, dual = ({k: v for k, v in one.items() if not k.startswith("_") and k != "dual"}
                      for one in (config["guidance"], config["guidance"]["dual"]))
    assert guidance == {"name": "augmented", "rho": 1.0, "level": "pointwise"}
    assert dual == {"name": "ascent", "initial_multiplier": 0.6931, "learning_rate": 3e-4, "signal": "replay",
                    "hold": 0, "window": 10}
    process = compose("agent=ddpm")["agent"]["policy"]["process"]
    assert (process["schedule"], process["beta_min"], process["beta_max"], process["guidance_scale"]) == (
        "linear", 1e-4, 0.02, 0.05)


WRONG = {
    "total_steps=-5": "total_steps=-5: it should be greater than 0",
    "total_steps=0": "total_steps=0: it should be greater than 0",
    "total_steps=1.5": "total_steps=1.5: it should be a valid integer",
    "seed=-1": "seed=-1: it should be greater than or equal to 0",
    "seed=true": "seed=True: a number is needed, not true or false",
    "initial_steps=null": "initial_steps=None: it should be a valid integer",
    "agent.policy.process.steps=0": "agent.policy.process.steps=0: it should be greater than 0",
    "agent.policy.process.sigma_min=-0.1": "sigma_min=-0.1: it should be greater than 0",
    "agent.policy.hidden_sizes=[]": "agent.policy.hidden_sizes=[]: it should have at least 1 item",
    "agent.policy.hidden_sizes=[64,0]": "agent.policy.hidden_sizes.1=0: it should be greater than 0",
    "agent.policy.beta=nan": "agent.policy.beta=nan: it should be a finite number",
    "agent.policy.score_space=both": "score_space='both': it should be 'action' or 'latent'",
    "agent.discount=1.0": "agent.discount=1.0: it should be less than 1",
    "agent.cost_members=0": "agent.cost_members=0: it should be greater than 0",
    "guidance.rho=0": "guidance.rho=0: it should be greater than 0",
    "guidance.rho=inf": "guidance.rho=inf: it should be a finite number",
    "guidance.level=state": "guidance.level='state': it should be 'pointwise' or 'batch'",
    "env.limit=-1": "env.limit=-1: it should be greater than or equal to 0",
    "batch_size=2000000": "the replay holds only buffer_size=1000000 transitions",
    "device=tpu": "device='tpu': it should be auto, cpu, cuda or cuda:N",
    "threads=0": "threads=0: it should be 'auto' or be greater than 0",
    "mode=test": "mode='test': it should be 'train', 'eval' or 'study'",
    "+speed=3": "speed=3: there is no such key; allowed are agent, batch_size",
    "+guidance.gain=3": "guidance.gain is not a key of guidance=augmented; its keys are dual, level",
    "+guidance.dual.gain=3": "guidance.dual.gain is not a key of guidance.dual=ascent; its keys are hold",
    "guidance.dual.signal=both": "guidance.dual.signal='both': it should be 'replay', 'policy' or 'episodes'",
    "guidance.dual.hold=-1": "guidance.dual.hold=-1: it should be greater than or equal to 0",
    "agent._target_=os.system": "only code of this project can be named",
    "agent._target_=algd.algorithm.agent.os": "agent._target_='algd.algorithm.agent.os'",
    "agent._target_=algd.algorithm.agent.nothing.Here": "there is no such function or class",
    "agent._target_=algd.nothing.Here": "only code of this project can be named, here that of algd.algorithm.agent",
    "agent.name=../up": "agent.name='../up': a name of at most 80 letters",
    "env.name=/tmp/x": "env.name='/tmp/x': a name of at most 80 letters",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_are_told(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(override)
    assert WRONG[override] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_larger_than_the_run() -> None:
    with pytest.raises(UsageError, match="sees only initial_steps \\+ total_steps = 110 transitions"):
        compose("initial_steps=10", "total_steps=100")


def test_snapshots_beyond_the_end() -> None:
    with pytest.raises(UsageError, match="the run ends at total_steps=100, before step 200; every step in the list"):
        compose("snapshots=[200,50]", "total_steps=100", "batch_size=8")
    assert compose("snapshots=[100,50]", "total_steps=100", "batch_size=8")["snapshots"] == [100, 50]


def test_numbers_are_normalised() -> None:
    assert identity(compose("buffer_size=1e5")) == identity(compose("buffer_size=100000"))
    assert isinstance(compose("total_steps=2e4")["total_steps"], int)


def test_identity() -> None:
    """Keys that cannot change a run's result do not change its identity; all others do."""
    base = compose("env=toy")
    same = ["total_steps=999", "logger=none", "checkpoint.every=7", "runs_dir=elsewhere", "device=cpu", "threads=2",
            "experiment=invariance", "fresh=true", "snapshots=3", "log_every=9", "eval.video=true"]
    different = ["seed=1", "agent=ddpm", "guidance=plain", "env=hopper_velocity", "guidance.rho=2", "env.limit=7",
                 "eval.every=123", "eval.episodes=3", "initial_steps=1", "updates_per_step=2",
                 "agent.policy.mc_samples=8", "normalise.reward=true", "buffer_size=5000"]
    assert all(identity(compose("env=toy", override)) == identity(base) for override in same)
    changed = [identity(compose("env=toy", override)) for override in different]
    assert len({*changed, identity(base)}) == len(different) + 1


def test_run_path() -> None:
    config = compose("env=toy", "seed=3", "guidance=plain", "agent=ddpm", "runs_dir=here")
    assert run_path(config) == Path(f"here/toy/ddpm-plain/seed=3-{identity(config)}")


def test_a_checked_configuration_is_a_configuration() -> None:
    config = compose("env=toy")
    assert check(config) == config


def test_what_can_be_named() -> None:
    assert locate("algd.algorithm.agent.Agent", "agent").__name__ == "Agent"
    for target in ("builtins.exec", "algd.cli.main.os.system", "algd.algorithm.agent.Annotated", None, 3, "algd."):
        with pytest.raises(UsageError):
            locate(target, "agent")
