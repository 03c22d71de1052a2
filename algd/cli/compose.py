"""The command line before Hydra composes it: flags moved to the front, overrides parsed, choices checked to exist."""

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, Sweep
from omegaconf import DictConfig, OmegaConf

from algd.errors import UsageError

# conf/ is in the package where it is installed, and beside it in a checkout.
CONF = next(folder for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf")
            if folder.is_dir())
OPTIONAL = ("experiment", "seeds")  # optional groups
PATH_KEYS = ("run", "runs_dir")
# Folders that Hydra would write; runs have folders of their own (`runs_dir`), and sweeps a file.
HYDRAS_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir")
HYDRAS_PARTS = tuple(field.name for field in dataclasses.fields(HydraConf))
# Hydra's own names for running members one after the other in this process: the sweeper is the same grid.
BASIC = {"hydra/launcher": "basic", "hydra/sweeper": "basic"}


def prepared(arguments: Sequence[str]) -> list[str]:
    """A command line for Hydra's parser: flags first, paths in quotes, ~ expanded.

    Hydra's parser needs all flags before the first override; here they may be anywhere.
    """
    actions = get_args_parser()._option_string_actions
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        action = actions.get(argument)
        if action is None:
            (flags if argument.startswith("-") else overrides).append(argument)
        elif action.nargs == "?":
            # --info with an override behind it is --info of everything.
            value = rest.pop(0) if rest and re.fullmatch(r"[a-z\-]+", rest[0]) else action.const
            flags.append(f"--{action.dest}={value}")
        elif action.nargs is None and not rest:
            overrides.append(argument)  # without its value it has to stay the last
        else:
            flags += [argument, *([rest.pop(0)] if action.nargs is None else [])]
    grid = [re.sub(r"^(hydra/sweeper)=basic$", r"\1=grid", override) for override in overrides]
    return [*flags, *map(quoted_path, grid)]


def quoted_path(argument: str) -> str:
    """`run=` and `runs_dir=` with the path in Hydra's quotes: its grammar refuses a second =, as in seed=0-1a2b3c4d.

    A comma in runs_dir separates values of a sweep, as in any other key, unless the user has typed quotes.
    """
    key, _, path = argument.partition("=")
    several = key == "runs_dir" and "," in path
    if key not in PATH_KEYS or several or path in ("", "null") or path[0] in "'\"" or "${" in path:
        return argument
    # In Hydra's quotes a backslash is literal unless it precedes a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + "\\'" * bool(found[2]), path)
    return f"{key}='{escaped}'"


def check_arguments(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line (`prepared`), with flags and choices checked.

    Hydra would merge a list of choices, accept a file of one group for another, and ignore a missing choice of an
    optional group.

    Raises:
        UsageError: the first that is wrong.
    """
    given = _parsed(arguments)
    if given.experimental_rerun is not None:
        raise UsageError("--experimental-rerun would execute a file's content; type the run's command again instead, "
                         "which is in its meta.json")
    if given.config_path is not None or given.config_name is not None:
        raise UsageError("--config-path and --config-name: there is one configuration, conf/config.yaml; "
                         "--config-dir=DIR adds files to its groups")
    overrides = OverridesParser.create().parse_overrides(given.overrides)
    more = user_folders(arguments)
    for override in overrides:
        _check_choice(override, more)
    typed: dict[str, Override] = {}
    for override in overrides:
        other = typed.setdefault(override.get_key_element().lstrip("+"), override)
        if other is not override and other.is_sweep_override() and override.is_sweep_override():
            raise UsageError(f"{other.input_line} and {override.input_line} both set {override.key_or_group}, and one "
                             "of them would be lost; give only one of them")
    typed = {override.key_or_group: override for override in overrides}
    if {"seeds", "seed"} <= typed.keys() and typed["seeds"].value() is not None:
        raise UsageError(f"{typed['seeds'].input_line} and {typed['seed'].input_line} both set the seeds; "
                         "give only one of them")
    return overrides


def user_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders that a command line adds to the groups: --config-dir, and those of hydra.searchpath."""
    given = _parsed(arguments)
    found = [Path(os.path.expanduser(given.config_dir))] if given.config_dir else []
    for argument in given.overrides:
        key, _, value = argument.partition("=")
        if key == "hydra.searchpath" and value.startswith("["):
            for entry in OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]))["x"]:  # type: ignore[index,call-overload]
                kind, _, place = str(entry).rpartition("://")
                if kind != "pkg":
                    found.append(Path(place))
                else:
                    found.append(_package_folder(place, argument))
    return found


def _package_folder(name: str, typed: str) -> Path:
    """The folder of an installed package. Raises UsageError if there is none."""
    try:
        spec = find_spec(name.replace("/", "."))
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{typed}: there is no package {name}")
    return Path(next(iter(spec.submodule_search_locations)))


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of a command line by Hydra's own parser.

    Raises:
        UsageError: one of them is wrong.
    """
    parser = get_args_parser()
    flags = sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))

    def refuse(message: str) -> NoReturn:
        if dashed := [argument for argument in arguments if re.match(r"--[a-z_]+(\.[\w.]+)?=", argument)
                      and argument.partition("=")[0] not in flags]:
            raise UsageError(f"{dashed[0]}: a key has no dashes, {dashed[0].lstrip('-')}; in the command of a W&B "
                             f"sweep that is ${{args_no_hyphens}} instead of ${{args}}; flags are {', '.join(flags)}")
        first = next((line.strip().rstrip(".:") for line in message.splitlines() if line.strip()), "")
        raise UsageError(f"{first}; flags are {', '.join(flags)}, and everything else is KEY=VALUE")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(arguments))


def composed(arguments: Sequence[str]) -> DictConfig:
    """The configuration of a command line (`prepared`), without running anything."""
    folders = [f"file://{folder.resolve()}" for folder in user_folders(arguments)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*_parsed(arguments).overrides, f"hydra.searchpath={folders}"])


def choices_of(group: str, more: Sequence[Path] = ()) -> list[str]:
    """The names that a group has, here and in the user's folders, sorted; none if it is not a group."""
    own = [path.stem for path in (CONF / group).glob("*.yaml")]
    theirs = [str(path.relative_to(folder / group).with_suffix("")) for folder in more
              for path in (folder / group).rglob("*.yaml")]
    return sorted({*own, *theirs}) if own else []


def _check_choice(override: Override, more: Sequence[Path]) -> None:
    """Check that an override of a group names one, or with -m several, of its files."""
    group, typed = override.key_or_group, override.input_line or ""
    if not group:
        raise UsageError(f"{typed} cannot be read: KEY=VALUE is needed")
    if group == "hydra":
        raise UsageError(f"{typed}: Hydra's settings are set one by one, such as hydra.launcher.jobs=2")
    part = group.split(".")[1] if group.startswith("hydra.") else None
    if part is not None and part not in HYDRAS_PARTS:
        close = difflib.get_close_matches(part, HYDRAS_PARTS, n=1)
        raise UsageError(f"{typed}: Hydra has no settings {part}" + (f"; did you mean hydra.{close[0]}?" if close else
                                                                   "; launchers' are hydra.launcher.KEY"))
    if group in HYDRAS_FOLDERS or group in ("hydra.run", "hydra.sweep"):
        raise UsageError(f"{typed}: Hydra makes no folders here; runs_dir=FOLDER is where runs and sweeps are written")
    if group in ("hydra.launcher._target_", "hydra.sweeper._target_"):
        group = group.split("._")[0].replace(".", "/")
        raise UsageError(f"{typed}: launchers and sweepers are chosen by name; "
                         f"{group} is one of {', '.join(_allowed(group, more))}")
    options = _allowed(group, more)
    if not options:
        return
    allowed = f"{group} is one of {', '.join(options)}"
    if override.package is not None or override.is_add() or override.is_delete():
        raise UsageError(f"{typed}: a group has one choice, which is written {group}=NAME; {allowed}")
    value = override.value()
    chosen: Sequence[Any] = value.list if isinstance(value, ChoiceSweep) else [value]
    if group in OPTIONAL and isinstance(value, Sweep | Glob):
        raise UsageError(f"{typed}: a file of {group} may set what to sweep over, so that only one can be chosen; "
                         f"{allowed}")
    if isinstance(value, Glob) or (isinstance(value, Sweep) and not isinstance(value, ChoiceSweep)):
        return
    for choice in chosen:
        name = choice.text if isinstance(choice, QuotedString) else choice
        if name is None and group in OPTIONAL:
            continue
        if not isinstance(name, str):
            raise UsageError(f"{typed}: one name is needed, {allowed}")
        if name not in options and "${" not in name:
            raise UsageError(f"{group}={name} is {_why_not(group, name)}: {allowed}")


def _allowed(group: str, more: Sequence[Path]) -> list[str]:
    options = choices_of(group, more)
    return sorted({*options, *([BASIC[group]] if group in BASIC else [])}) if options else []


def _why_not(group: str, name: str) -> str:
    """Why a choice is refused: it does not exist, or it is a Hydra plugin that would run members by itself."""
    if group in BASIC and name in _hydras_choices(group):
        return ("there, but not used here: members run as processes of their own, under locks and from frozen code, "
                "which Hydra's plugins do not know of")
    return "unknown"


def _hydras_choices(group: str) -> list[str]:
    """The choices of a group in Hydra and its installed plugins."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.plugins import Plugins

    Plugins.instance()
    return ConfigLoaderImpl(create_config_search_path(os.fspath(CONF))).get_group_options(group)
