"""The values of `mode`: train a run, evaluate one again, or compute a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algd.config.targets import SUPPLIED, check_target
from algd.errors import UsageError

# The package with the functions that compute studies; named only here.
STUDIES = "analysis.studies"


def run_mode(config: Mapping[str, Any]) -> int:
    """Execute the checked configuration's mode. Returns the exit code."""
    if config["mode"] == "train":
        from algd.run.train import train

        return train(config)
    if config["mode"] == "eval":
        from algd.run.reevaluation import reevaluate

        return reevaluate(config)
    from algd.run.build import build

    if config["study"] is None or config["experiment"] is None:
        raise UsageError("mode=study: name a study with experiment=..., for example experiment=invariance")
    study = check_target(config["study"], "study", SUPPLIED, listed=config["trusted"], package=STUDIES)
    build(study, folder=Path(config["runs_dir"]) / "studies" / config["experiment"])
    return 0
