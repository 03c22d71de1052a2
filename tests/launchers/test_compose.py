"""A grid's configurations equal those that Hydra composes one by one."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import open_dict

from algd.cli.compose import CONF
from algd.config.schema import plain_values
from launchers.compose import Composer

GRID = [["env=toy", "seed=0"], ["env=toy", "seed=1"], ["seed=1", "env=toy", "agent=ddpm", "guidance=plain"],
        ["env=toy", "agent=ddpm", "agent.policy.beta=2.0", "guidance=plain"], ["experiment=toy_guidance", "seed=3"],
        ["env=toy", "agent.critic_hidden_sizes=[8,8]", "logger=none", "total_steps=1e4"], ["env=toy", "seed=0"],
        # Interpolations and their targets; new and deleted keys, strings and null.
        ["env=toy", "env.reference_steps=77"], ["env=toy", "env.reference_steps=77", "total_steps=5"],
        ["env=gymnasium", "env.id=Reacher-v4", "env.limit=3"], ["env=toy", "total_steps=${seed}", "seed=9"],
        ["env=toy", "+guidance.cost_backup=reach"], ["env=toy", "~agent.policy.beta"], ["env=toy", "run='a b'"],
        ["env=toy", "+agent.policy={beta:3.0}"], ["env=toy", "agent.policy.beta=null", "seed=1"]]


def test_composed_as_hydra_does() -> None:
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    master = loader.load_configuration("config", ["env=toy"], RunMode.MULTIRUN)
    composer = Composer(loader, master)
    for overrides in GRID:
        whole = loader.load_sweep_config(master, overrides)
        with open_dict(whole):
            del whole["hydra"]
        assert composer.compose(overrides) == plain_values(whole), overrides
    for wrong in (["env=toy", "seeed=1"], ["+seed=1"], ["env=toy", "agent.policy.betta=1"]):
        with pytest.raises(HydraException):
            composer.compose(wrong)
