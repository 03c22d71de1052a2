"""The launchers' own keys, `hydra.launcher.*`; conf/hydra/launcher/*.yaml says what each is."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from omegaconf import OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from algd.config.messages import validated
from algd.config.values import name


def _slurm_word(value: str) -> str:
    # They become lines of a script.
    if not re.fullmatch(r"[\w.,:@+\-&|*()\[\]=/%]+", value, re.ASCII):
        raise ValueError("should be letters, digits and . , : @ + - & | * ( ) [ ] = / % without spaces")
    return value


def _option(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_\-]*", value):
        raise ValueError("should be the long name of an option of sbatch, such as reservation")
    return value


SweepName = Annotated[str, AfterValidator(name)]
Word = Annotated[str, AfterValidator(_slurm_word)]
Option = Annotated[str, AfterValidator(_option)]


class Settings(BaseModel):
    """The keys that every launcher has."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: SweepName | None = None
    dry_run: bool = False
    retry_failed: bool = True
    tail: NonNegativeInt = 15


class LocalSettings(Settings):
    """hydra/launcher=local."""

    jobs: PositiveInt | None = None


class SlurmSettings(Settings):
    """hydra/launcher=slurm."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: PositiveInt = 240
    memory_gb: PositiveFloat | None = None
    cpus: PositiveInt = 1
    gpus: NonNegativeInt = 0
    sbatch: dict[Option, str | int | float | bool] = {}
    setup: list[str] = []
    max_running: PositiveInt | None = None
    runs_per_task: PositiveInt = 1
    signal_seconds: PositiveInt = 120
    detach: bool = False
    poll_seconds: Annotated[float, Field(ge=2)] = 5.0


def checked(model: type[Settings], given: Mapping[str, Any]) -> Any:
    """The settings, or a UsageError that names the first wrong one."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(given)), resolve=True)
    assert isinstance(plain, dict)
    return model(**validated(model, {str(key): value for key, value in plain.items()}, "hydra.launcher"))
