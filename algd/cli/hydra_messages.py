"""Errors of Hydra and OmegaConf as one sentence that names what was typed and what is allowed."""

import difflib
import os
import re
import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from algd.cli.compose import CONF, choices_of, user_folders


def one_line(text: str) -> str:
    """The first non-empty line of a message, without a final "." or ":"."""
    return next((line.strip().rstrip(".:") for line in text.splitlines() if line.strip()), "")


def explain(error: Exception, overrides: Sequence[str] | None = None) -> str:
    """Hydra's or OmegaConf's error as one sentence.

    Args:
        error: what was raised.
        overrides: those of the configuration that could not be composed; None: the command line's.
    """
    text = str(error)
    typed = sys.argv[1:] if overrides is None else overrides
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is unknown: {group} is one of {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        wrong = error.override if error.override.isprintable() else ascii(error.override)
        if "/" in error.override and os.path.exists(error.override):
            return f"{wrong} cannot be read: KEY=VALUE is needed; mode=eval run={wrong} evaluates a run"
        if "=" not in error.override:
            return f"{wrong or ascii(wrong)} cannot be read: KEY=VALUE is needed"
        return (f"{wrong} cannot be read: a value with more in it than letters, digits and - _ . / : % + needs quotes "
                "of its own, as in \"logger.project='my runs'\", and a list is [a,b]")
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_key(match[1], typed)
    if match := re.search(r"An item is already at '([^']*)'", text):
        return f"+{match[1]}: the configuration has this key already; leave out the +"
    if match := re.search(r"Could not delete from config. '([^']*)' does not exist", text):
        return _unknown_key(match[1], typed)
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        also = "a folder with a comma in its name needs quotes of its own" if match[1].startswith("runs_dir=") else \
            "a list is written [a,b]"
        return f"{match[1]}: several values are a sweep, which needs -m ({also})"
    if match := re.search(r"Sweep parameters '([^']*)' requires --multirun", text):
        return f"{match[1]}: several values are a sweep, which needs -m"
    if match := re.search(r"In '([^']*)': (?:Could not find|Could not load) '([^']*)'", text):
        return _missing_file(match[2], f"{match[1]}.yaml asks for {match[2]}, which is not there")
    if match := re.search(r"Could not (?:find|load) '([^']*)'", text):
        return _missing_file(match[1], f"there is no configuration {match[1]}")
    lines = [one_line(text), *([one_line(str(error.__cause__))] if error.__cause__ is not None else [])]
    return ": ".join(dict.fromkeys(filter(None, lines))) or type(error).__name__


def _missing_file(name: str, sentence: str) -> str:
    """A sentence on a file that is missing, with what its group has."""
    group = name.rpartition("/")[0].lstrip("/")
    options = choices_of(group, user_folders(sys.argv[1:])) if group else []
    return sentence + (f"; {group} is one of {', '.join(options)}" if options else "")


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """An unknown key, with similar known ones."""
    given = next((text for text in overrides if text.partition("=")[0] == key), key)
    if key.startswith(("hydra.launcher.", "hydra.sweeper.")):
        return _unknown_plugin_key(key, given, overrides)
    if "/" in key and os.path.exists(given):
        return f"{given} cannot be read: KEY=VALUE is needed; mode=eval run={given} evaluates a run"
    if key == "guidance/dual":
        chosen = [text for name in ("guidance=", "experiment=") for text in overrides if text.startswith(name)]
        return (f"{given}: the rule that moves λ can be chosen with guidance=augmented and guidance=plain alone"
                + (f", not with {chosen[0]}" if chosen else ""))
    keys, choices = _known_keys(overrides)
    if key.startswith("env.kwargs.") and "env.kwargs" in keys:
        return f"{given}: a key that env.kwargs does not have yet is written with a +, as in +{given}"
    group, _, name = key.partition(".")
    if f"{group}.dual.{name}" in keys:
        return f"{key} is {group}.dual.{name}: it is a key of the rule that moves λ (guidance/dual=...)"
    if group in choices and not any(known.startswith(f"{group}.") for known in keys):
        return f"{key} is not a key of the configuration: {choices[group]} has no keys"
    parent, _, last = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if parent and k.rpartition(".")[0] == parent}
    if siblings:
        close = [siblings[found] for found in difflib.get_close_matches(last, siblings, n=3, cutoff=0.6)]
    else:
        close = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    close = close or [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]][:3]
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif siblings:
        hint = f"the keys of {parent} are {', '.join(siblings)}"
    elif group in choices:
        hint = f"those of {choices[group]} are " + ", ".join(k for k in keys if k.startswith(f"{group}."))
    else:
        hint = f"the top-level keys are {', '.join(k for k in keys if '.' not in k)}"
    with_choice = f" with {choices[group]}" if group in choices else ""
    return f"{key} is not a key of the configuration{with_choice}; {hint}"


def _unknown_plugin_key(key: str, given: str, overrides: Sequence[str]) -> str:
    """An unknown key of the launcher or the sweeper, with similar ones of the one that is chosen, or who has it."""
    _, part, name = key.split(".", 2)
    chosen = [text for text in overrides if re.match(rf"(experiment|hydra/{part})=[\w/]+$", text)]
    folders = [f"file://{folder.resolve()}" for folder in user_folders(sys.argv[1:])]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = compose("config", overrides=[*chosen, f"hydra.searchpath={folders}"], return_hydra_config=True)
        except HydraException:  # a choice that cannot be composed is reported separately
            composed = compose("config", return_hydra_config=True)
        settings = composed.hydra
    group = f"hydra/{part}"
    own = [name for name in settings[part] if not name.startswith("_")]
    first = name.partition(".")[0]
    if first in own and first != name:
        return f"{given}: a key that hydra.{part}.{first} does not have yet is written with a +, as in +{given}"
    owners = [other for other in choices_of(group) if first in OmegaConf.load(CONF / group / f"{other}.yaml")]
    close = difflib.get_close_matches(name, own, n=3, cutoff=0.6)
    if owners:
        hint = f"{group}={owners[0]} has it"
    elif close:
        hint = f"did you mean {' or '.join(f'hydra.{part}.{other}' for other in close)}?"
    else:
        hint = f"its keys are {', '.join(own)}"
    return f"{key} is not a key of {group}={settings.runtime.choices[group]}; {hint}"


def _known_keys(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Every key, dotted, of the configuration with the groups that the overrides choose, and those choices."""
    choices = {argument.partition("=")[0]: argument for argument in overrides
               if (CONF / argument.partition("=")[0]).is_dir() and re.fullmatch(r"[a-z]+(/[a-z]+)*=[\w/]+", argument)
               and not argument.startswith("hydra/")}
    folders = [f"file://{folder.resolve()}" for folder in user_folders(sys.argv[1:])]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = compose("config", overrides=[*choices.values(), f"hydra.searchpath={folders}"])
        except HydraException:  # a choice that cannot be composed is reported separately
            composed = compose("config")
        config = OmegaConf.to_container(composed, resolve=False)
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if not str(name).startswith("_"):
                    keys.append(f"{prefix}{name}")
                    walk(value, f"{prefix}{name}.")

    walk(config, "")
    return keys, choices
