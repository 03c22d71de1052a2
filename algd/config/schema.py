"""A run's configuration: composed values checked and normalised.

The checks come from the code itself: top-level keys from `Settings`, and those of agent, guidance, environment and
logger from the annotations of the function or class that their `_target_` names (`algd.config.targets`).
"""

import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from algd.config.messages import STRICT, validated
from algd.config.targets import SUPPLIED, SUPPLIED_TO_GUIDANCE, check_target
from algd.config.trust import module_name, trust
from algd.config.values import A_NAME, NAME, name, refuse_secrets, shortened
from algd.errors import UsageError

Count = Annotated[int, Field(gt=0, le=10**15)]
CountOrZero = Annotated[int, Field(ge=0, le=10**15)]
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


class _Strict(BaseModel):
    model_config = STRICT


class Normalise(_Strict):
    observation: bool
    reward: bool


class Evaluation(_Strict):
    every: Count
    episodes: Annotated[int, Field(gt=0, le=10**6)]
    video: bool


class Curvature(_Strict):
    states: Annotated[int, Field(ge=0, le=10**6)]
    samples: Annotated[int, Field(gt=0, le=10**6)]


class Checkpointing(_Strict):
    every: Count
    keep_replay: bool


def _device(value: str) -> str:
    if not DEVICE.fullmatch(value):
        raise ValueError("should be auto, cpu, cuda or cuda:N")
    return value


class Settings(_Strict):
    """The top-level keys; conf/config.yaml says what each is."""

    mode: Literal["train", "eval", "study"]
    experiment: Annotated[str, AfterValidator(name)] | None
    run: Annotated[str, StringConstraints(min_length=1), AfterValidator(os.path.expanduser)] | None
    study: dict[str, Any] | None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    total_steps: Count
    initial_steps: CountOrZero
    updates_per_step: Annotated[int, Field(ge=0, le=10**6)]
    simulator_errors: CountOrZero
    batch_size: Count
    buffer_size: Count
    normalise: Normalise
    eval: Evaluation
    curvature: Curvature
    log_every: Count
    snapshots: Annotated[int, Field(ge=0, le=10**4)] | Annotated[list[Count], Field(max_length=10**4)]
    checkpoint: Checkpointing
    device: Annotated[str, AfterValidator(_device)]
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=4096)]
    compile: Literal["auto"] | bool
    runs_dir: Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
    fresh: bool
    trusted: list[Annotated[str, AfterValidator(module_name)]] = []
    agent: dict[str, Any]
    guidance: dict[str, Any]
    env: dict[str, Any]
    logger: dict[str, Any]
    callbacks: list[dict[str, Any]] = []


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain, checked and normalised values; listed modules are trusted from now on.

    Raises:
        UsageError: the first thing that is wrong, with its key, its value and what is allowed.
    """
    return admitted(plain_values(config))


def plain_values(config: DictConfig) -> dict[str, Any]:
    """The values of a composed configuration, not checked yet. Raises UsageError for one that is missing."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if lacking := re.search(r"[Mm]issing mandatory value: ([\w.]+)", str(error)):
            raise UsageError(f"{lacking[1]} has no value, and needs one: {lacking[1]}=...") from error
        raise UsageError(f"{error.full_key or 'the configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def admitted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, checked and normalised; modules that they list are trusted from now on. Raises UsageError."""
    if isinstance(listed := values.get("trusted", []), list) and all(isinstance(name, str) for name in listed):
        trust(listed)
        # The working directory is searched last.
        if listed and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    checked = check(values)
    if checked["run"] is not None and checked["mode"] != "eval":
        raise UsageError(f"run={checked['run']}: only mode=eval takes it; mode={checked['mode']} would ignore it")
    snapshots = checked["snapshots"] if isinstance(checked["snapshots"], list) else []
    if (late := max(snapshots, default=0)) > checked["total_steps"]:
        raise UsageError(f"snapshots: the run ends at total_steps={checked['total_steps']}, before step {late}; "
                         "every step in the list can be at most total_steps")
    refuse_secrets(checked)
    return checked


def check(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, checked and normalised (1e5 for an integer becomes 100000). Raises UsageError as `resolve`."""
    checked = validated(Settings, plain, "")
    for group in ("agent", "guidance", "env", "logger"):
        supplied = SUPPLIED | SUPPLIED_TO_GUIDANCE if group == "guidance" else SUPPLIED
        checked[group] = check_target(checked[group], group, supplied, listed=checked["trusted"])
        name = checked[group].get("name")
        if group != "logger" and not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UsageError(f"{group}.name={shortened(name)}: {A_NAME}, is needed, since it names a folder")
    checked["callbacks"] = [check_target(node, f"callbacks.{number}", set(), listed=checked["trusted"])
                            for number, node in enumerate(checked["callbacks"])]
    if checked["study"] is not None and checked["mode"] != "study":
        raise UsageError(f"mode={checked['mode']}: experiment={checked['experiment']} is a study that is computed, "
                         "not a run; it needs mode=study")
    if checked["batch_size"] > checked["buffer_size"]:
        raise UsageError(f"batch_size={checked['batch_size']}: the replay holds only "
                         f"buffer_size={checked['buffer_size']} transitions; batch_size can be at most that")
    seen = checked["initial_steps"] + checked["total_steps"]
    if checked["mode"] == "train" and checked["batch_size"] > seen:
        raise UsageError(f"batch_size={checked['batch_size']}: the run sees only initial_steps + total_steps = {seen} "
                         "transitions; batch_size can be at most that")
    return checked
