"""The command line on top of Hydra: one sentence and exit code 2 for what the user can put right."""

import difflib
import errno
import os
import re
import sys
import traceback
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from algd.errors import UsageError

CONF = Path(__file__).parent.parent / "conf"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main() -> int:
    """Run what the command line says. Returns the exit code."""
    # Hydra then raises what is wrong instead of printing a trace and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra's parser wants its flags before the first override, people put -m anywhere; so flags come first (stably).
    sys.argv[1:] = sorted(map(quoted_path, sys.argv[1:]), key=lambda argument: argument not in ("-m", "--multirun"))
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def application(config: DictConfig) -> None:
        # What leaves this function as an exception would be announced by Hydra in its own words, and end a sweep.
        codes.append(_run(config))

    try:
        application()
    except UsageError as error:
        return _usage(str(error))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises ValueError for some command lines, such as agent=null.
        return _usage(explain(error))
    return max(codes, default=0)


def quoted_path(argument: str) -> str:
    """`run=` and `runs_dir=` with the path in Hydra's quotes: its grammar refuses a second =, as in seed=0-1a2b3c4d."""
    key, _, path = argument.partition("=")
    if key not in ("run", "runs_dir") or not path or path[0] in "'\"" or "${" in path:
        return argument
    return f"{key}='" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _run(config: DictConfig) -> int:
    from algd.config import resolve
    from algd.modes import run_mode

    try:
        return run_mode(resolve(config))
    except UsageError as error:
        return _usage(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in NO_ROOM:
            traceback.print_exc()
        else:
            print(f"error: {error.filename or 'a file'} could not be written: {error.strerror}; once there is room "
                  "again the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_FAILED
    except Exception:
        traceback.print_exc()
        return EXIT_FAILED


def _usage(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return EXIT_USAGE


def explain(error: Exception) -> str:
    """Hydra's or OmegaConf's error as one sentence."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is unknown: {group} is one of {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: {error.message.splitlines()[0]}"
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_key(match[1])
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{match[1]}: several values are a sweep, which needs -m (a list is written [a,b])"
    if match := re.search(r"Could not (?:find|load) '([^']*)'", text):
        return f"there is no configuration {match[1]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ": ".join(lines[:2]) if lines else type(error).__name__


def _unknown_key(key: str) -> str:
    """A key that the configuration has not, with those that it may have been meant to be."""
    from hydra.core.global_hydra import GlobalHydra

    if key.startswith("hydra.launcher."):
        return f"{key} is not a key of the launcher; its keys are in {CONF / 'hydra' / 'launcher'}"
    keys = _known_keys() if GlobalHydra.instance() is not None else []
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    close = close or [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]][:3]
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; the top-level keys are in {CONF / 'config.yaml'}"
    return f"{key} is not a key of the configuration{hint}"


def _known_keys() -> list[str]:
    """Every key of the default configuration, dotted, and the names of the groups."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"), resolve=False)
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                keys.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    walk(config, "")
    return keys
