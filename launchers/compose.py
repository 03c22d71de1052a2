"""A grid's configurations, each group of choices composed once: Hydra takes a tenth of a second for each."""

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
    """Composes configurations as Hydra does.

    What Hydra does is to put the files of the chosen groups together, and then to set values. The first part is the
    same for all members with the same choices, and is done once for them. So is working out the values that refer to
    others (${...}), unless it is such a value, or one that is referred to, that is set.

    Args:
        loader, master: Hydra's.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], Composed] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The plain values with these overrides, not checked, without Hydra's own part.

        Raises:
            HydraException: an override cannot be read, or does not fit.
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
        """Whether an override chooses a file of a group, or is Hydra's own."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = key.startswith("hydra") or bool(
                self._loader.list_groups(key) or self._loader.get_group_options(key))
        return override.package is not None or self._groups[key]


class Composed:
    """A configuration that values are set in, again and again.

    Args:
        config: composed, without Hydra's own part.
    """

    def __init__(self, config: DictConfig):
        self._config = config
        self._references = [line for line in OmegaConf.to_yaml(config).splitlines() if "${" in line]
        try:
            self._plain: dict[str, Any] | None = plain_values(config)
        except UsageError:  # what is missing may be set
            self._plain = None

    def values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """The plain values with these values set. Raises HydraException or UsageError."""
        if self._plain is not None:
            plain = copy.deepcopy(self._plain)
            if all(self._set(plain, override) for override in overrides):
                return plain
        config = copy.deepcopy(self._config)
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)
        return plain_values(config)

    def _set(self, plain: dict[str, Any], override: Override) -> bool:
        """Set a value if that is all there is to do; False: it is for Hydra."""
        *groups, name = override.key_or_group.split(".")
        # A reference may also be relative, and then has no more of a key than its end.
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
