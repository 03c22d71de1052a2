"""No mirror: the run's folder alone."""

from pathlib import Path


class Nothing:
    """Mirrors to nowhere."""

    def start(self, folder: Path) -> None:
        """Nothing starts."""

    def warnings(self) -> list[str]:
        """There is nothing to warn of."""
        return []

    def close(self, state: str) -> None:
        """Nothing ends."""
