"""The launchers' own keys, `hydra.launcher.*`; conf/hydra/launcher/*.yaml says what each is."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from algd.errors import UsageError

SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]


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

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: PositiveInt = 240
    memory_gb: PositiveFloat | None = None
    cpus: PositiveInt = 1
    gpus: NonNegativeInt = 0
    sbatch: dict[str, str | int | float | bool] = {}
    setup: list[str] = []
    max_running: PositiveInt | None = None
    runs_per_task: PositiveInt = 1
    signal_seconds: PositiveInt = 120
    detach: bool = False
    poll_seconds: Annotated[float, Field(ge=2)] = 5.0


def checked(model: type[Settings], given: Mapping[str, Any]) -> Any:
    """The settings, or a UsageError that names the first wrong one."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["hydra.launcher", *(str(part) for part in first["loc"] if part in model.model_fields)])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{key}.{first['loc'][0]}: there is no such key; "
                             f"allowed are {', '.join(model.model_fields)}") from error
        allowed = first["msg"].removeprefix("Input should ").removeprefix("Value error, ")
        raise UsageError(f"{key}={first['input']!r}: it should {allowed}") from error
