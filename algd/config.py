"""A run's configuration: checked against the code that it names, normalised, and identified by what matters.

The checks come from the code itself: top-level keys from `Settings`, and those of agent, guidance, environment and
logger from the annotations of the function or class that their `_target_` names. So a new one brings its own checks.

A configuration may come out of somebody else's folder. It names code only where a `_target_` belongs, and only code of
the room for it (`ROOMS`); nothing in it is looked up later, in the environment or elsewhere; and no text in it can
end a line or a path early.
"""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model

from algd.errors import UsageError
from algd.secret_values import secret_values

# Where a configuration names code, and the room of the project that the code must be in.
ROOMS = {"agent": "algd.agent.", "agent.policy": "algd.policies.", "agent.policy.process": "algd.diffusion.",
         "guidance": "algd.guidance.", "env": "algd.envs.", "logger": "algd.logging.", "study": "analysis."}
# What the named function must say that it returns, or which class it must be.
RESULTS = {"agent": "algd.agent.Agent", "guidance": "algd.guidance.Guidance", "env": "algd.envs.task.Task"}
# What costs nothing to make is made at once: its constructor knows which values do not go together.
MADE_AT_ONCE = ("agent.policy.process",)
# Arguments that the code supplies, not the configuration.
SUPPLIED = {"observation_size", "action_low", "action_high", "guidance", "threshold", "normaliser",
            "render_mode", "folder"}
SUPPLIED_TO_GUIDANCE = {"limit"}
# Keys that do not determine a run's result; total_steps does not either, since a run can be extended.
NOT_IDENTITY = {"mode", "experiment", "run", "study", "total_steps", "logger", "checkpoint", "snapshots", "device",
                "threads", "compile", "runs_dir", "fresh", "log_every", "simulator_errors"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,79}")
A_NAME = "a name of at most 80 letters, digits, '_', '-' and '.', the first a letter or a digit"
# Texts end up in paths, tables, logs and scripts, one line each. Lone surrogates are what no file can hold.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
SECRET_KEY = re.compile(r"(?i)(^|[_.\-])(api_?key|access_?key|token|secret|passwd|password|credentials?)$")

Count = Annotated[int, Field(gt=0, le=10**15)]
CountOrZero = Annotated[int, Field(ge=0, le=10**15)]

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


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
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
        raise ValueError("should be auto, cpu, cuda or cuda:N")
    return value


def name(value: str) -> str:
    """A name that folders and files can have; ValueError otherwise."""
    if not NAME.fullmatch(value):
        raise ValueError(f"should be {A_NAME}")
    return value


class Settings(_Strict):
    """The top-level keys; conf/config.yaml says what each is."""

    mode: Literal["train", "eval", "study"]
    experiment: Annotated[str, AfterValidator(name)] | None
    run: Annotated[str, StringConstraints(min_length=1)] | None
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
    snapshots: Annotated[int, Field(ge=0, le=10**4)]
    checkpoint: Checkpointing
    device: Annotated[str, AfterValidator(_device)]
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=4096)]
    compile: Literal["auto"] | bool
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
        if lacking := re.search(r"[Mm]issing mandatory value: ([\w.]+)", str(error)):
            raise UsageError(f"{lacking[1]} has no value, and needs one: {lacking[1]}=...") from error
        raise UsageError(f"{error.full_key or 'the configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    checked = check({str(key): value for key, value in plain.items()})
    _refuse_secrets(checked)
    return checked


def check(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, checked and normalised (1e5 for an integer becomes 100000). Raises UsageError as `resolve`."""
    checked = validated(Settings, plain, "")
    for group in ("agent", "guidance", "env", "logger"):
        supplied = SUPPLIED | SUPPLIED_TO_GUIDANCE if group == "guidance" else SUPPLIED
        checked[group] = _check_target(checked[group], group, supplied)
        name = checked[group].get("name")
        if group != "logger" and not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UsageError(f"{group}.name={shortened(name)}: {A_NAME}, is needed, since it names a folder")
    if checked["study"] is not None:
        checked["study"] = _check_target(checked["study"], "study", SUPPLIED)
        if checked["mode"] != "study":
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


def _leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings and lists that is neither, with its dotted key; a mapping's keys too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            inner = f"{place}.{key}" if place else str(key)
            if not isinstance(key, str) or not key:
                raise UsageError(f"{inner}: {key!r} is not a name of a key")
            _refuse_foreign(f"{place or 'the configuration'}: the key", key)
            if isinstance(value, Mapping | list | tuple):
                _refuse_foreign(inner, value)
                yield from _leaves(value, inner)
            else:
                yield inner, value
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{place}.{index}")
    else:
        yield place, node


def _refuse_foreign(key: str, value: Any) -> None:
    """What must not stand in a configuration, whoever wrote it."""
    place, _, last = key.rpartition(".")
    if re.fullmatch(r"_[a-z]+_", last) and not (place in ROOMS and last in ("_target_", "_partial_", "_convert_")):
        raise UsageError(f"{key}={value!r}: keys with underscores round them name code; "
                         f"allowed are _target_, _partial_ and _convert_ of {', '.join(ROOMS)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{key}={shortened(value)}: it should be less than {2**63}")
    if not isinstance(value, str):
        return
    if UNPRINTABLE.search(value):
        raise UsageError(f"{key}={value!r}: line ends, other control characters and bytes that are no text "
                         "are not allowed in a value")
    if "${" in value:
        raise UsageError(f"{key}={value!r}: only values are allowed here, nothing that is looked up with ${{...}}")


def _refuse_secrets(config: Mapping[str, Any]) -> None:
    """A configuration is saved, shown and shared: no key of an account may be in it."""
    secrets = secret_values()
    for key, value in _leaves(config, ""):
        if SECRET_KEY.search(key) and value is not None:
            raise UsageError(f"{key}: its name says that it is a secret, and a configuration is saved and shared; "
                             "an environment variable is the place for it")
        if isinstance(value, str) and (name := next((secrets[one] for one in secrets if one in value), None)):
            raise UsageError(f"{key}: its value is the secret of the environment variable {name}, and a configuration "
                             "is saved and shared; another value is needed")


def locate(target: Any, key: str) -> Callable[..., Any]:
    """The function or class that the `_target_` of a key names.

    Raises:
        UsageError: it is not one of the key's room (`ROOMS`), does not exist, or makes something else.
    """
    room = ROOMS[key]
    if not isinstance(target, str) or not target.startswith(room) or not all(map(str.isidentifier, target.split("."))):
        raise UsageError(f"{key}._target_={target!r}: only code of this project can be named, here that of "
                         f"{room.rstrip('.')}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{key}._target_={target!r}: there is no such function or class ({error})") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not found.__module__.startswith(room.rstrip(".")):
        raise UsageError(f"{key}._target_={target!r}: a function or class of {room.rstrip('.')} is needed")
    made = found if inspect.isclass(found) else get_type_hints(found).get("return")
    if key in RESULTS and f"{getattr(made, '__module__', '')}.{getattr(made, '__name__', made)}" != RESULTS[key]:
        raise UsageError(f"{key}._target_={target!r}: a function is needed whose annotation says that it returns "
                         f"{RESULTS[key]}")
    return found


def _check_target(node: Any, key: str, supplied: set[str], partial: bool = False) -> dict[str, Any]:
    """A `_target_` node with its values checked against the target's annotations."""
    if not isinstance(node, Mapping):
        raise UsageError(f"{key}={node!r}: a group of keys with a _target_ in {ROOMS[key].rstrip('.')} is needed")
    target = locate(node.get("_target_"), key)
    if node.get("_partial_", False) is not partial:
        raise UsageError(f"{key}._partial_={node.get('_partial_')!r}: it should be {str(partial).lower()}")
    if node.get("_convert_", "all") != "all":
        raise UsageError(f"{key}._convert_={node['_convert_']!r}: it should be all")
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    parameters = [p for p in inspect.signature(target).parameters.values()]
    names = {p.name for p in parameters}
    values = {k: v for k, v in node.items() if not k.startswith("_")}
    for name in values:
        if name not in names:
            known = sorted(names - supplied)
            raise UsageError(f"{key}.{name} is not a key of {key}={node.get('name', node['_target_'])}; "
                             f"its keys are {', '.join(known)}")
    nested = {k: _check_target(v, f"{key}.{k}", supplied, get_origin(hints.get(k)) is Callable)
              for k, v in values.items() if f"{key}.{k}" in ROOMS}
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in parameters
        if p.name not in nested and (p.name in values or p.name not in supplied)}
    model = create_model("Arguments", __config__=STRICT, **fields)
    checked = validated(model, {k: v for k, v in values.items() if k not in nested}, key)
    if key in MADE_AT_ONCE:
        try:
            target(**checked)
        except ValueError as error:
            raise UsageError(f"{key}.{error}") from error
    special = {k: v for k, v in node.items() if k.startswith("_")}
    # In the order of the node: a configuration is read by people.
    return special | {k: nested[k] if k in nested else checked[k] for k in values}


def validated(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values as the model has them.

    Args:
        model: what is allowed.
        values: by the model's keys.
        prefix: the dotted key that they stand under; "" for none.

    Raises:
        UsageError: the first that is wrong, with its key, its value and what is allowed.
    """
    for key, value in _leaves(values, prefix):
        _refuse_foreign(key, value)
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
            fields = model.model_fields
            for part in first["loc"][:-1]:
                fields = getattr(fields[str(part)].annotation, "model_fields", {})
            raise UsageError(f"{key}={shortened(first['input'])}: there is no such key; "
                             f"allowed are {', '.join(sorted(fields))}") from error
        if first["type"] == "missing":
            raise UsageError(f"{key} is missing") from error
        allowed = " or ".join(dict.fromkeys(_allowed(e, model) for e in (first, *in_union)))
        raise UsageError(f"{key}={shortened(first['input'])}: it should {allowed}") from error
    for name, value in result.items():
        _refuse_truth(values.get(name), value, f"{prefix}.{name}" if prefix else name)
    return result


def _allowed(error: Any, model: type[BaseModel]) -> str:
    """What pydantic misses in a value, to be read after "it should"."""
    kind, context = error["type"], error.get("ctx", {})
    many = f"{context.get('min_length')} item{'s' * (context.get('min_length') != 1)}"
    if kind == "model_type":
        field = model.model_fields[error["loc"][0]].annotation
        return f"be a group of the keys {', '.join(getattr(field, 'model_fields', ()))}"
    special = {"int_parsing_size": "be a valid integer, and a smaller one", "too_short": f"have at least {many}",
               "string_too_short": "not be empty", "sequence_str": "be a list", "list_type": "be a list",
               "dict_type": "be a group of keys", "bool_parsing": "be true or false", "bool_type": "be true or false",
               "callable_type": "be a group of keys with a _target_", "string_type": "be a text"}
    if kind in special:
        return special[kind]
    text = re.sub(r"^(Value error, )?(Input )?(should )?", "", error["msg"])
    return text if error["msg"].startswith(("Input should", "Value error, should")) else f"suit: {text}"


def shortened(value: Any) -> str:
    """A value as it is typed in Python, cut where it is too long for a sentence."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-30:]} ({len(text)} characters)"


def _refuse_truth(given: Any, result: Any, key: str) -> None:
    """Refuse true and false where a number came of it."""
    if isinstance(given, bool) and not isinstance(result, bool):
        raise UsageError(f"{key}={given!r}: a number is needed, not true or false")
    if isinstance(given, Sequence) and isinstance(result, list | tuple) and not isinstance(given, str):
        for index, (one, other) in enumerate(zip(given, result, strict=False)):
            _refuse_truth(one, other, f"{key}.{index}")
    elif isinstance(given, Mapping) and isinstance(result, Mapping):
        for name in given:
            _refuse_truth(given[name], result.get(name), f"{key}.{name}")


def identity(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell configurations apart by what determines a run's result."""
    relevant = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    relevant["eval"] = {k: v for k, v in relevant["eval"].items() if k != "video"}
    canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
