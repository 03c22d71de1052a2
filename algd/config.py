"""A run's configuration: checked against the code that it names, normalised, and identified by what matters.

The checks come from the code itself: top-level keys from `Settings`, and those of agent, guidance, environment and
logger from the annotations of the function or class that their `_target_` names. So a new one brings its own checks.
"""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
)

from algd.errors import UsageError

# What names code in a configuration may only name the framework's own: a run's folder from elsewhere is data.
TARGET_PACKAGES = ("algd.", "analysis.")
# Arguments that the code supplies, not the configuration.
SUPPLIED = {"observation_size", "action_low", "action_high", "guidance", "threshold", "normaliser",
            "render_mode", "folder"}
SUPPLIED_TO_GUIDANCE = {"limit"}
# Keys that do not determine a run's result; total_steps does not either, since a run can be extended.
NOT_IDENTITY = {"mode", "experiment", "run", "study", "total_steps", "logger", "checkpoint", "snapshots", "device",
                "threads", "runs_dir", "fresh", "log_every"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


class _Strict(BaseModel):
    model_config = STRICT


class Normalise(_Strict):
    observation: bool
    reward: bool


class Evaluation(_Strict):
    every: PositiveInt
    episodes: PositiveInt
    video: bool


class Curvature(_Strict):
    states: NonNegativeInt
    samples: PositiveInt


class Checkpointing(_Strict):
    every: PositiveInt
    keep_replay: bool


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("should be auto, cpu, cuda or cuda:N")
    return value


class Settings(_Strict):
    """The top-level keys; conf/config.yaml says what each is."""

    mode: Literal["train", "eval", "study"]
    experiment: str | None
    run: str | None
    study: dict[str, Any] | None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    total_steps: PositiveInt
    initial_steps: NonNegativeInt
    updates_per_step: NonNegativeInt
    batch_size: PositiveInt
    buffer_size: PositiveInt
    normalise: Normalise
    eval: Evaluation
    curvature: Curvature
    log_every: PositiveInt
    snapshots: NonNegativeInt
    checkpoint: Checkpointing
    device: Annotated[str, AfterValidator(_device)]
    threads: Literal["auto"] | PositiveInt
    runs_dir: Annotated[str, Field(min_length=1)]
    fresh: bool
    agent: dict[str, Any]
    guidance: dict[str, Any]
    env: dict[str, Any]
    logger: dict[str, Any]


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain, checked and normalised values.

    Raises:
        UsageError: the first thing that is wrong, with its key, its value and what is allowed.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key or 'the configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return check({str(key): value for key, value in plain.items()})


def check(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, checked and normalised (1e5 for an integer becomes 100000). Raises UsageError as `resolve`."""
    checked = _validated(Settings, plain, "")
    for group in ("agent", "guidance", "env", "logger"):
        supplied = SUPPLIED | SUPPLIED_TO_GUIDANCE if group == "guidance" else SUPPLIED
        checked[group] = _check_target(checked[group], group, supplied)
        name = checked[group].get("name")
        if group != "logger" and not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UsageError(f"{group}.name={name!r}: a name of letters, digits, '_', '-' and '.' is needed, "
                             "since it names a folder")
    if checked["study"] is not None:
        checked["study"] = _check_target(checked["study"], "study", SUPPLIED)
    if checked["batch_size"] > checked["buffer_size"]:
        raise UsageError(f"batch_size={checked['batch_size']}: the replay holds only "
                         f"buffer_size={checked['buffer_size']} transitions; batch_size can be at most that")
    seen = checked["initial_steps"] + checked["total_steps"]
    if checked["mode"] == "train" and checked["batch_size"] > seen:
        raise UsageError(f"batch_size={checked['batch_size']}: the run sees only initial_steps + total_steps = {seen} "
                         "transitions; batch_size can be at most that")
    return checked


def locate(target: Any, key: str) -> Callable[..., Any]:
    """The function or class that a `_target_` names.

    Raises:
        UsageError: it is not the framework's own, or does not exist.
    """
    if not isinstance(target, str) or not target.startswith(TARGET_PACKAGES):
        raise UsageError(f"{key}._target_={target!r}: only code of this project can be named, "
                         f"such as {TARGET_PACKAGES[0]}agent.Agent")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}._target_={target!r}: there is no such function or class ({error})") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not found.__module__.startswith(TARGET_PACKAGES):
        raise UsageError(f"{key}._target_={target!r}: a function or class of this project is needed")
    return found


def _check_target(node: Mapping[str, Any], key: str, supplied: set[str]) -> dict[str, Any]:
    """A `_target_` node with its values checked against the target's annotations."""
    target = locate(node.get("_target_"), key)
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    parameters = [p for p in inspect.signature(target).parameters.values()]
    names = {p.name for p in parameters}
    values = {k: v for k, v in node.items() if not k.startswith("_")}
    for name in values:
        if name not in names:
            known = sorted(names - supplied)
            raise UsageError(f"{key}.{name} is not a key of {key}={node.get('name', node['_target_'])}; "
                             f"its keys are {', '.join(known)}")
    nested = {k: _check_target(v, f"{key}.{k}", supplied) for k, v in values.items()
              if isinstance(v, dict) and "_target_" in v}
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in parameters
        if p.name not in nested and (p.name in values or p.name not in supplied)}
    model = create_model("Arguments", __config__=STRICT, **fields)
    checked = _validated(model, {k: v for k, v in values.items() if k not in nested}, key)
    special = {k: v for k, v in node.items() if k.startswith("_")}
    # In the order of the node: a configuration is read by people.
    return special | {k: nested[k] if k in nested else checked[k] for k in values}


def _validated(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The model's values, or a UsageError that names the first wrong one."""
    try:
        result = model.model_validate(dict(values)).model_dump()
    except ValidationError as error:
        first, *others = error.errors()
        # A location ends with the branch's name where a union was tried; no key is spelled like that.
        branch = not isinstance(first["loc"][-1], int) and first["loc"][-1] not in values and len(first["loc"]) > 1
        in_union = [e for e in others if branch and e["loc"][:-1] == first["loc"][:-1]]
        location = first["loc"][:-1] if in_union else first["loc"]
        key = ".".join(str(part) for part in (prefix, *location) if part != "")
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{key}={first['input']!r}: there is no such key; "
                             f"allowed are {', '.join(sorted(model.model_fields))}") from error
        if first["type"] == "missing":
            raise UsageError(f"{key} is missing") from error
        allowed = " or ".join(re.sub(r"^(Value error, )?(Input )?should ", "", e["msg"]) for e in (first, *in_union))
        sentence = f"{key}={first['input']!r}: it should {allowed}".replace("it should List", "the list")
        raise UsageError(sentence) from error
    for name, value in result.items():
        if isinstance(values.get(name), bool) and not isinstance(value, bool):
            raise UsageError(f"{prefix + '.' if prefix else ''}{name}={values[name]!r}: a number is needed, "
                             "not true or false")
    return result


def identity(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell configurations apart by what determines a run's result."""
    relevant = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    relevant["eval"] = {k: v for k, v in relevant["eval"].items() if k != "video"}
    canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
