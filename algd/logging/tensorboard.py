"""TensorBoard: a mirror of a run's folder as event files under its tensorboard/ directory.

The event files are written by the `tensorboard` package alone; the mirroring process needs no torch.

    python -m algd.logging.tensorboard FOLDER      writes what the event files lack, without training
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from algd.errors import UsageError
from algd.logging.follower import Destination, Pause, Report, follow_beside, follow_later
from algd.logging.mirror import Mirror
from algd.logging.sent import Sent

MODULE = "algd.logging.tensorboard"
DIRECTORY = "tensorboard"


class TensorBoard(Mirror):
    """Mirrors a run's scalars and config to TensorBoard event files; videos stay where they are, in videos/.

    Args:
        finish_seconds: seconds that the writer has at the end of the run.
        seconds_between_reads: seconds between two looks at the run's files.
    """

    def __init__(self, finish_seconds: PositiveFloat = 15.0, seconds_between_reads: Pause = 2.0):
        options = {"finish_seconds": finish_seconds, "seconds_between_reads": seconds_between_reads}
        super().__init__(MODULE, "TensorBoard", DIRECTORY, options, finish_seconds)


class EventFile:
    """A new event file in a directory, as a destination. TensorBoard shows a directory's files as one run."""

    def __init__(self, directory: Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(directory))

    def text(self, tag: str, words: str, step: int = 0) -> None:
        """A text, shown in a fixed-width font."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        indented = "\n".join("    " + line for line in words.splitlines())
        self._add(step, text_pb(tag, indented))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]))

    def video(self, step: int, path: Path) -> None:
        """TensorBoard has no place for video files."""

    def warnings(self, step: int, texts: list[str]) -> None:
        self.text("warnings", "\n".join(texts), step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, state: str, status: Mapping[str, Any]) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def open_events(folder: Path, sent: Sent, report: Report) -> Destination:
    """A new event file for the rows to come; the first one holds the config too."""
    events = EventFile(folder / DIRECTORY)
    if not sent.identity:
        sent.identity = "/".join(folder.parts[-3:])
        events.text("config", (folder / "config.yaml").read_text())
        events.flush()
    return events


def main(arguments: Sequence[str] | None = None) -> int:
    """Mirror one folder: beside a trainer (`--beside`), or by hand."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Write a run's folder as TensorBoard "
                                     "events: the rows that are not there yet.")
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--beside", metavar="OPTIONS", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    try:
        if given.beside is not None:
            options = json.loads(given.beside)
            follow_beside(folder, folder / DIRECTORY, open_events, options["seconds_between_reads"],
                          0.9 * options["finish_seconds"])
        else:
            follow_later(folder, folder / DIRECTORY, open_events)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
