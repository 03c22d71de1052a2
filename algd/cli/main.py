"""The command line on top of Hydra: one sentence and exit code 2 for errors that the user can correct."""

import os
import sys
import traceback
from collections.abc import Sequence

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from algd.cli.compose import CONF, check_arguments, composed, prepared
from algd.cli.hydra_messages import explain
from algd.errors import ExitCode, RunError, UsageError, refusal
from algd.logging.wandb import RUN_ID
from algd.streams import discard_output

STUDY_KEYS = ("mode", "experiment", "runs_dir", "trusted")  # what counts of a configuration with mode=study


def main() -> int:
    """Run the command line and return its exit code."""
    # Hydra then raises instead of printing a trace and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    checks = sys.argv[1:2] == ["check"]
    sys.argv[1:] = prepared(sys.argv[1 + checks:])
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def application(config: DictConfig) -> None:
        # Hydra would report an exception from this function in its own words, and end a sweep.
        codes.append(carry_out(config, overrides, HydraConfig.get()))

    try:
        if checks:
            codes.append(check_command())
        else:
            overrides = check_arguments(sys.argv[1:])
            application()
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return ExitCode.BROKEN_PIPE
    except UsageError as error:
        return _usage(str(error))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises ValueError for some command lines.
        return _usage(explain(error))
    except OSError as error:
        # Only a sweep's or a check's: a run reports its own.
        said = refusal(error, resumable=not checks)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return ExitCode.FAILED
    return max(codes, default=0)


def check_command() -> int:
    """python -m algd check KEY=VALUE ...: test the parts of a configuration. Returns the exit code."""
    from algd.cli.check import check

    if flag := next((argument for argument in sys.argv[1:] if argument.startswith("-")
                     and not argument.startswith("--config-dir")), None):
        raise UsageError(f"{flag}: algd check takes KEY=VALUE of one run and --config-dir=DIR alone; it tests the "
                         "parts of that configuration, such as agent=vesde env=toy")
    check_arguments(sys.argv[1:])
    return check(composed(sys.argv[1:]))


def carry_out(config: DictConfig, overrides: Sequence[Override] = (), settings: HydraConf | None = None) -> int:
    """Execute a composed configuration, and report errors. Returns the exit code.

    Args:
        config: composed.
        overrides: of the command line.
        settings: Hydra's own part of the configuration; None: there is none.
    """
    from algd.cli.modes import run_mode
    from algd.config.schema import resolve

    try:
        if settings is not None and settings.mode == RunMode.RUN:
            _refuse_launcher(config, overrides, settings)
            if config.mode == "eval" and config.run is not None:
                from algd.run.reevaluation import KEYS

                _refuse_other_settings(overrides, KEYS, "mode=eval evaluates a run with the run's own settings")
            elif config.mode == "study" and config.experiment is not None:
                _refuse_other_settings(overrides, STUDY_KEYS, "mode=study has settings of its own")
        elif settings is not None:
            os.environ.pop(RUN_ID, None)  # it is the id of one W&B run, not of every member of a sweep
        return run_mode(resolve(config))
    except UsageError as error:
        return _usage(str(error))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except OSError as error:
        said = refusal(error, resumable=config.mode == "train")
        print(f"error: {said}" if said else traceback.format_exc(), file=sys.stderr)
        return ExitCode.FAILED
    except Exception:
        traceback.print_exc()
        return ExitCode.FAILED


def _refuse_launcher(config: DictConfig, overrides: Sequence[Override], settings: HydraConf) -> None:
    """Refuse a single run with a launcher, which would have no effect: the run would train in this process.

    Raises:
        UsageError: there is such a choice, typed or in a file.
    """
    needs = "launchers run sweeps, and a sweep needs -m"
    for override in overrides:
        if override.key_or_group.startswith(("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper")):
            raise UsageError(f"{override.input_line}: {needs}")
    for group, usual in (("hydra/launcher", "local"), ("hydra/sweeper", "grid")):
        chosen = settings.runtime.choices[group]
        if chosen != usual and config.mode == "train":
            raise UsageError(f"{group}={chosen}, which experiment={settings.runtime.choices['experiment']} or another "
                             f"file chooses: {needs}")


def _refuse_other_settings(overrides: Sequence[Override], keys: Sequence[str], why: str) -> None:
    """Refuse settings of a run for a mode in which they would have no effect.

    Args:
        overrides: those that were typed.
        keys: the mode's keys; `env` alone has no effect in any.
        why: begins the sentence.

    Raises:
        UsageError: another one is typed.
    """
    typed = {override.key_or_group for override in overrides}
    takes = {*keys} - ({"env"} if "env.id" not in typed else set())
    lost = [override.input_line or "" for override in overrides
            if override.key_or_group not in takes and not override.key_or_group.startswith(("hydra.", "study."))]
    if lost:
        raise UsageError(f"{', '.join(lost)}: {why}; the keys that it takes are {', '.join(keys)}"
                         + ", and those of study" * (keys is STUDY_KEYS))


def _usage(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return ExitCode.USAGE
