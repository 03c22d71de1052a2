"""Modules outside this project whose code a configuration may name: those that the user trusts, by name.

A configuration lists them under `trusted`, which is recorded with the run. The list alone imports nothing, since a
folder may come from somebody else: only the command line or `algd.load` makes this process trust a module.
"""

from collections.abc import Collection, Iterable

from algd.config.values import MODULE
from algd.errors import UsageError

_trusted: set[str] = set()


def module_name(value: str) -> str:
    """The dotted name of a module that is not this project's; ValueError otherwise."""
    if not MODULE.fullmatch(value):
        raise ValueError("should be the dotted name of a module, such as my_lab.lagrangians")
    if is_within(value, ("algd", "analysis", "launchers")):
        raise ValueError("should be a module outside this project, whose own code needs no trust")
    return value


def trust(modules: Iterable[str]) -> None:
    """Let configurations name code of these modules and of those below them, in this process from now on.

    Args:
        modules: their names; a text is one name.

    Raises:
        UsageError: one is not a module's name.
    """
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            _trusted.add(module_name(module))
        except ValueError as error:
            raise UsageError(f"trusted={module!r}: it {error}") from error


def is_trusted(module: str) -> bool:
    """Whether configurations may name code of this module in this process."""
    return is_within(module, _trusted)


def is_within(module: str, packages: Collection[str]) -> bool:
    """Whether a module is one of these modules or packages, or below one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)
