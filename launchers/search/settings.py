"""The search's settings, `hydra.sweeper.*`; conf/hydra/sweeper/optuna.yaml documents each."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt


class SearchSettings(BaseModel):
    """Settings of hydra/sweeper=optuna."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    n_trials: PositiveInt = 20
    batch: PositiveInt = 4
    sampler: Literal["tpe", "random"] = "tpe"
    n_startup_trials: NonNegativeInt = 10
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    objectives: Literal["return", "return_and_cost"] = "return"
    judged_by: Literal["deterministic", "stochastic"] = "deterministic"
    rungs: list[PositiveInt] = []
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    params: dict[str, Any] = {}
