"""The logger group of the configuration: complete, commented, validated, and cheap to import."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
from omegaconf import OmegaConf
from pydantic import ConfigDict, ValidationError, validate_call

from algd.logging.none import Nothing
from algd.logging.tensorboard import TensorBoard
from algd.logging.wandb import Wandb

ROOT = Path(__file__).resolve().parents[2]
LOGGERS = {"wandb": Wandb, "tensorboard": TensorBoard, "none": Nothing}


@pytest.mark.parametrize("name", LOGGERS)
def test_yaml_shows_every_argument_with_its_default_and_a_comment(name: str) -> None:
    text = (ROOT / "conf" / "logger" / f"{name}.yaml").read_text()
    config = OmegaConf.create(text)
    parameters = inspect.signature(LOGGERS[name]).parameters
    values = {key: value for key, value in OmegaConf.to_container(config).items() if not key.startswith("_")}
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()} == {
        key: parameter.default for key, parameter in parameters.items()}
    for line in text.splitlines():
        if not line.startswith(("_", "#")):
            assert " # " in line, f"no comment: {line}"
    assert type(hydra.utils.instantiate(config)) is LOGGERS[name]


@pytest.mark.parametrize(("wrong", "value"), [
    ("mode", "onlin"), ("project", ""), ("project", "a/b"), ("tags", ["x" * 65]), ("tags", "one"),
    ("finish_seconds", 0), ("start_seconds", -1), ("seconds_between_reads", 0.0), ("entity", "")])
def test_annotations_refuse_wrong_values(wrong: str, value: Any) -> None:
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(Wandb.__init__)
    with pytest.raises(ValidationError):
        checked(object.__new__(Wandb), **{wrong: value})


def test_training_side_imports_no_client() -> None:
    """Importing the mirrors imports no client, which only their processes need, and no torch, which these do not."""
    code = ("import sys; import algd.logging.wandb, algd.logging.tensorboard, algd.logging.console; "
            "print({'wandb', 'tensorboard', 'torch', 'rich'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_nothing_does_nothing(tmp_path: Path) -> None:
    logger = Nothing()
    logger.start(tmp_path)
    assert logger.warnings() == []
    logger.close("finished")
    assert list(tmp_path.iterdir()) == []
