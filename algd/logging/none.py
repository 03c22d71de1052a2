"""No mirror: the run is recorded only in its folder."""

from pathlib import Path


class Nothing:
    """A mirror that does nothing."""

    def start(self, folder: Path) -> None:
        """Do nothing."""

    def warnings(self) -> list[str]:
        """Return no warnings."""
        return []

    def close(self, state: str) -> None:
        """Do nothing."""
