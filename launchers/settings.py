"""The launchers' settings, `hydra.launcher.*`; conf/hydra/launcher/*.yaml documents each."""

import re
import subprocess
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from algd.config.messages import validated
from algd.config.values import name, refuse_secrets
from algd.errors import UsageError


def _slurm_word(value: str) -> str:
    # The values become lines of a batch script.
    if not re.fullmatch(r"[\w.,:@+\-&|*()\[\]=/%]+", value, re.ASCII):
        raise ValueError("should be letters, digits and . , : @ + - & | * ( ) [ ] = / % without spaces")
    return value


def _option(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_\-]*", value):
        raise ValueError("should be the long name of an option of sbatch, such as reservation")
    if (option := value.replace("_", "-")) in OWN_OPTIONS:
        raise ValueError(f"should not be there: {OWN_OPTIONS[option]}")
    return value


def _node(value: str) -> str:
    # The names are written into the batch script and counted there; a range such as n[1-3] would be several nodes.
    if not re.fullmatch(r"[A-Za-z0-9._\-]+", value):
        raise ValueError("should be the name of one node, such as n2")
    return value


def _whole_line(value: str) -> str:
    # The batch script checks the exit code after each line, so each must be a complete command.
    found = subprocess.run(["bash", "-n", "-c", value], capture_output=True, text=True)
    if found.returncode or not value.strip() or "\n" in value or value.rstrip().endswith("\\"):
        raise ValueError("should be a whole command of bash in one line")
    return value


# Options of sbatch that the launcher sets itself ↦ what a user is told.
OWN_OPTIONS = {"array": "the sweep's runs are the array", "comment": "by the comment a submission is found again",
               "wrap": "the launcher writes the script"} | {
    option: f"hydra.launcher.{key} sets it" for option, key in (
        ("job-name", "name"), ("partition", "partition"), ("account", "account"), ("qos", "qos"),
        ("constraint", "constraint"), ("exclude", "exclude"), ("time", "time"), ("mem", "memory_gb"),
        ("cpus-per-task", "cpus"), ("gpus", "gpus"), ("gpus-per-node", "gpus"), ("signal", "signal_seconds"))}
SweepName = Annotated[str, AfterValidator(name)]
Word = Annotated[str, AfterValidator(_slurm_word)]
Option = Annotated[str, AfterValidator(_option)]
Node = Annotated[str, AfterValidator(_node)]
ShellLine = Annotated[str, AfterValidator(_whole_line)]
# The settings that `hydra.launcher.tasks` may override.
TASK_KEYS = ("partition", "account", "qos", "constraint", "exclude", "time", "memory_gb", "cpus", "gpus", "sbatch",
             "setup", "runs_per_task", "signal_seconds")


class Settings(BaseModel):
    """Settings common to all launchers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: SweepName | None = None
    dry_run: bool = False
    retry_failed: bool = True
    tail: NonNegativeInt = 15
    on_end: ShellLine | None = None

    def kept(self) -> dict[str, Any]:
        """Return what a sweep's file stores for `retry`: no on_end, since another user's file must not run commands."""
        return self.model_dump(exclude={"on_end"})


class LocalSettings(Settings):
    """Settings of hydra/launcher=local."""

    jobs: PositiveInt | None = None


class SlurmSettings(Settings):
    """Settings of hydra/launcher=slurm."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    exclude: list[Node] = []
    time: PositiveInt = 240
    memory_gb: PositiveFloat | None = None
    cpus: PositiveInt | None = None
    gpus: NonNegativeInt = 0
    sbatch: dict[Option, str | int | float | bool] = {}
    setup: list[ShellLine] = []
    per: Literal["env", "agent", "guidance"] | None = None
    tasks: dict[SweepName, dict[str, Any]] = {}
    after: list[SweepName] = []
    most_excluded: NonNegativeInt = 2
    max_running: PositiveInt | None = None
    runs_per_task: PositiveInt = 1
    signal_seconds: PositiveInt = 120
    detach: bool = False
    poll_seconds: Annotated[float, Field(ge=2)] = 5.0

    def group_of(self, config: Mapping[str, Any]) -> str:
        """Return a run's task group, the name of its `per` choice such as its environment; "" without `per`."""
        return str(config[self.per]["name"]) if self.per else ""

    def of(self, group: str) -> "SlurmSettings":
        """Return the settings for the tasks of a group."""
        return self.model_copy(update=dict(self.tasks.get(group, {})))


def checked(model: type[Settings], given: Mapping[str, Any]) -> Any:
    """Return the checked settings, or raise UsageError that names the first invalid one."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(given)), resolve=True)
    assert isinstance(plain, dict)
    found = validated(model, {str(key): value for key, value in plain.items()}, "hydra.launcher")
    refuse_secrets({"hydra.launcher": found})
    if tasks := found.get("tasks"):
        if found["per"] is None:
            raise UsageError("hydra.launcher.tasks is for tasks that differ, and needs hydra.launcher.per=env, "
                             "per=agent or per=guidance")
        for group, own in tasks.items():
            place = f"hydra.launcher.tasks.{group}"
            if unknown := sorted(own.keys() - set(TASK_KEYS)):
                raise UsageError(f"{place}.{unknown[0]}: tasks may differ in {', '.join(TASK_KEYS)}")
            whole = validated(model, {key: value for key, value in found.items() if key not in own} | own, place)
            tasks[group] = {key: whole[key] for key in own}
    return model(**found)
