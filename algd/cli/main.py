"""The command line on top of Hydra: one sentence and exit code 2 for what the user can put right."""

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from algd.errors import RunError, UsageError

CONF = Path(__file__).parents[2] / "conf"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EMFILE, errno.ENFILE)
OPTIONAL = ("experiment", "seeds")  # groups of which none need be chosen
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


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
        codes.append(carry_out(config, overrides))

    try:
        overrides = check_arguments(sys.argv[1:])
        application()
    except BrokenPipeError:
        # Whoever reads along, such as `| head`, has seen enough; nothing more is to be written, not even at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except UsageError as error:
        return _usage(str(error))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises ValueError for some command lines.
        return _usage(explain(error))
    except OSError as error:
        # Of a sweep: what one run meets is told by the run.
        if refusal(error) is None:
            raise
        print(f"error: {refusal(error)}", file=sys.stderr)
        return EXIT_FAILED
    return max(codes, default=0)


def check_arguments(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line whose flags and choices are known to be right.

    Hydra would take a list of choices and merge them, take a file of one group for another, and leave out what it does
    not find of a group that can be empty.

    Raises:
        UsageError: the first that is wrong.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = get_args_parser()
    flags = sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{one_line(message)}; flags are {', '.join(flags)}, and everything else is KEY=VALUE")

    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(list(arguments))
    if given.experimental_rerun is not None:
        raise UsageError("--experimental-rerun would execute what a file holds; type the run's command again instead, "
                         "which its meta.json has")
    if given.config_path is not None or given.config_name is not None:
        raise UsageError("--config-path and --config-name: there is one configuration, conf/config.yaml; "
                         "--config-dir=DIR adds files to its groups")
    overrides = OverridesParser.create().parse_overrides(given.overrides)
    for override in overrides:
        _check_choice(override, Path(given.config_dir) if given.config_dir else None)
    typed = {override.key_or_group: override for override in overrides}
    if {"seeds", "seed"} <= typed.keys() and typed["seeds"].value() is not None:
        raise UsageError(f"{typed['seeds'].input_line} and {typed['seed'].input_line} both say which seeds there are; "
                         "one of them is needed")
    return overrides


def _check_choice(override: Override, more: Path | None) -> None:
    """Whether an override of a group names one, or with -m several, of its files."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, Sweep

    group, typed = override.key_or_group, override.input_line or ""
    if not group:
        raise UsageError(f"{typed} cannot be read: KEY=VALUE is needed")
    if group == "hydra":
        raise UsageError(f"{typed}: Hydra's settings are set one by one, such as hydra.launcher.jobs=2")
    folders = [folder / group for folder in (CONF, more) if folder is not None and group]
    options = sorted(path.stem for folder in folders if (CONF / group).is_dir() for path in folder.glob("*.yaml"))
    if not options:
        return
    allowed = f"{group} is one of {', '.join(options)}"
    if override.package is not None or override.is_add() or override.is_delete():
        raise UsageError(f"{typed}: a group has one choice, which is written {group}=NAME; {allowed}")
    value = override.value()
    chosen: Sequence[Any] = value.list if isinstance(value, ChoiceSweep) else [value]
    if isinstance(value, Glob) or (isinstance(value, Sweep) and not isinstance(value, ChoiceSweep)):
        return
    for one in chosen:
        name = one.text if isinstance(one, QuotedString) else one
        if name is None and group in OPTIONAL:
            continue
        if not isinstance(name, str):
            raise UsageError(f"{typed}: one name is needed, {allowed}")
        if name not in options and "${" not in name:
            raise UsageError(f"{group}={name} is unknown: {allowed}")


def quoted_path(argument: str) -> str:
    """`run=` and `runs_dir=` with the path in Hydra's quotes: its grammar refuses a second =, as in seed=0-1a2b3c4d."""
    key, _, path = argument.partition("=")
    if key not in ("run", "runs_dir") or path in ("", "null") or path[0] in "'\"" or "${" in path:
        return argument
    # In Hydra's quotes a backslash is one of its own unless it stands before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + "\\'" * bool(found[2]), path)
    return f"{key}='{escaped}'"


def carry_out(config: DictConfig, overrides: Sequence[Override] = ()) -> int:
    """Do what a composed configuration asks for; what goes wrong is told. Returns the exit code.

    Args:
        overrides: what it was asked for with.
    """
    from algd.cli.modes import run_mode
    from algd.config.schema import resolve

    try:
        for override in overrides:
            if override.key_or_group.startswith(("hydra.launcher", "hydra/launcher", "hydra.sweeper")):
                raise UsageError(f"{override.input_line}: launchers run sweeps, and a sweep needs -m")
        return run_mode(resolve(config))
    except UsageError as error:
        return _usage(str(error))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        print(f"error: {refusal(error)}" if refusal(error) else traceback.format_exc(), file=sys.stderr)
        return EXIT_FAILED
    except Exception:
        traceback.print_exc()
        return EXIT_FAILED


def refusal(error: OSError) -> str | None:
    """What a file system refused, in one sentence; None if it is something else."""
    name = error.filename or "a file"
    if error.errno in NO_ROOM:
        return (f"{name} could not be written: {error.strerror}; once there is room again the same command goes on "
                "from the last checkpoint")
    if error.errno in UNUSABLE:
        return (f"{name} cannot be used: {error.strerror}; once that is mended the same command goes on from the last "
                "checkpoint")
    return None


def _usage(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return EXIT_USAGE


def one_line(text: str) -> str:
    """The first line of a message that says something, without its end."""
    return next((line.strip().rstrip(".:") for line in text.splitlines() if line.strip()), "")


def explain(error: Exception, overrides: Sequence[str] | None = None) -> str:
    """Hydra's or OmegaConf's error as one sentence.

    Args:
        error: what was raised.
        overrides: those of the configuration that could not be composed; None: the command line's.
    """
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is unknown: {group} is one of {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        typed = error.override if error.override.isprintable() else ascii(error.override)
        if "=" not in error.override:
            return f"{typed or ascii(typed)} cannot be read: KEY=VALUE is needed"
        return (f"{typed} cannot be read: a value with more in it than letters, digits and - _ . / : % + needs quotes "
                "of its own, as in \"logger.project='my runs'\", and a list is [a,b]")
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_key(match[1], sys.argv[1:] if overrides is None else overrides)
    if match := re.search(r"An item is already at '([^']*)'", text):
        return f"+{match[1]}: the configuration has this key already; leave out the +"
    if match := re.search(r"Could not delete from config. '([^']*)' does not exist", text):
        return _unknown_key(match[1], sys.argv[1:] if overrides is None else overrides)
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{match[1]}: several values are a sweep, which needs -m (a list is written [a,b])"
    if match := re.search(r"Sweep parameters '([^']*)' requires --multirun", text):
        return f"{match[1]}: several values are a sweep, which needs -m"
    if match := re.search(r"Could not (?:find|load) '([^']*)'", text):
        return f"there is no configuration {match[1]}"
    lines = [one_line(text), *([one_line(str(error.__cause__))] if error.__cause__ is not None else [])]
    return ": ".join(dict.fromkeys(filter(None, lines))) or type(error).__name__


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """A key that the configuration has not, with those that it may have been meant to be."""
    if key.startswith("hydra.launcher."):
        return f"{key} is not a key of the launcher; its keys are in {CONF / 'hydra' / 'launcher'}"
    keys, choices = _known_keys(overrides)
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    close = close or [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]][:3]
    group = key.partition(".")[0]
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif group in choices:
        hint = f"those of {choices[group]} are " + ", ".join(k for k in keys if k.startswith(f"{group}."))
    else:
        hint = f"the top-level keys are {', '.join(k for k in keys if '.' not in k)}"
    with_choice = f" with {choices[group]}" if group in choices else ""
    return f"{key} is not a key of the configuration{with_choice}; {hint}"


def _known_keys(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Every key, dotted, of the configuration with the groups that the overrides choose, and those choices."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    choices = {argument.partition("=")[0]: argument for argument in overrides
               if (CONF / argument.partition("=")[0]).is_dir() and re.fullmatch(r"[a-z]+=\w+", argument)}
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=list(choices.values())), resolve=False)
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if not str(name).startswith("_"):
                    keys.append(f"{prefix}{name}")
                    walk(value, f"{prefix}{name}.")

    walk(config, "")
    return keys, choices
