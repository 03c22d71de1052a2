"""A grid's configurations, each group of choices composed once: Hydra takes a tenth of a second for each."""

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict


class Composer:
    """Composes configurations as Hydra does.

    What Hydra does is to put the files of the chosen groups together, and then to set values. The first part is the
    same for all members with the same choices, and is done once for them.

    Args:
        loader, master: Hydra's.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._choices: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with these overrides, without Hydra's own part.

        Raises:
            HydraException: an override cannot be read, or does not fit.
        """
        for text in overrides:
            if text not in self._parsed:
                (self._parsed[text],) = self._parser.parse_overrides([text])
                self._choices[text] = self._is_choice(self._parsed[text])
        choices = tuple(text for text in overrides if self._choices[text])
        if choices not in self._composed:
            composed = self._loader.load_sweep_config(self._master, list(choices))
            with open_dict(composed):
                del composed["hydra"]
            self._composed[choices] = composed
        config = copy.deepcopy(self._composed[choices])
        ConfigLoaderImpl._apply_overrides_to_config(
            [self._parsed[text] for text in overrides if not self._choices[text]], config)
        return config

    def _is_choice(self, override: Override) -> bool:
        """Whether an override chooses a file of a group, or is Hydra's own."""
        key = override.key_or_group
        return override.package is not None or key.startswith("hydra") or bool(
            self._loader.list_groups(key) or self._loader.get_group_options(key))
