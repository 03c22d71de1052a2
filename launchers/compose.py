"""Compose the configurations of a grid, each choice of config files once: Hydra takes 0.1 s for each."""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from algd.config.schema import plain_values
from algd.errors import UsageError

SCALARS = (bool, int, float, str, type(None))


class Composer:
    """Composes configurations as Hydra does, with caching.

    Hydra first merges the files of the chosen config groups, then sets values. The merge is the same for all members
    with the same choices and is done once for them. Interpolations (${...}) are also resolved once, unless a set value
    contains one or is referred to by one.

    Args:
        loader, master: Hydra's config loader and its configuration of the multirun.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], Composed] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the plain, unchecked values with these overrides, without Hydra's own section.

        Raises:
            HydraException: an override cannot be parsed or applied.
            UsageError: a value is missing.
        """
        for text in overrides:
            if text not in self._parsed:
                (self._parsed[text],) = self._parser.parse_overrides([text])
        choices = tuple(text for text in overrides if self._is_choice(self._parsed[text]))
        if choices not in self._composed:
            config = self._loader.load_sweep_config(self._master, list(choices))
            with open_dict(config):
                del config["hydra"]
            self._composed[choices] = Composed(config)
        return self._composed[choices].values([self._parsed[text] for text in overrides if text not in choices])

    def _is_choice(self, override: Override) -> bool:
        """Return whether an override chooses a config group's file, or is one of Hydra's own."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = key.startswith("hydra") or bool(
                self._loader.list_groups(key) or self._loader.get_group_options(key))
        return override.package is not None or self._groups[key]


class Composed:
    """A composed configuration in which values can be set repeatedly.

    Args:
        config: the composed configuration without Hydra's own section.
    """

    def __init__(self, config: DictConfig):
        self._config = config
        self._references = [line for line in OmegaConf.to_yaml(config).splitlines() if "${" in line]
        try:
            self._plain: dict[str, Any] | None = plain_values(config)
        except UsageError:  # an override may set the missing value
            self._plain = None

    def values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """Return the plain values with these overrides. Raises HydraException or UsageError."""
        if self._plain is not None:
            plain = copy.deepcopy(self._plain)
            if all(self._set(plain, override) for override in overrides):
                return plain
        config = copy.deepcopy(self._config)
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)
        return plain_values(config)

    def _set(self, plain: dict[str, Any], override: Override) -> bool:
        """Set a value directly if no more is needed; return False if Hydra must apply the override."""
        *groups, name = override.key_or_group.split(".")
        # An interpolation may be relative, and then contains only the last part of a key.
        if override.type != OverrideType.CHANGE or any(name in reference for reference in self._references):
            return False
        group: Any = plain
        for each in groups:
            group = group.get(each) if isinstance(group, dict) else None
        if not isinstance(group, dict) or not isinstance(group.get(name, group), SCALARS):
            return False
        try:
            value = override.value()
        except HydraException:
            return False
        if not isinstance(value, SCALARS) or "$" in str(value):
            return False
        group[name] = value
        return True
