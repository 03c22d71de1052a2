"""Weights & Biases: a mirror of a run's folder in a W&B run, online or offline.

The `wandb` client runs only in the mirroring process. By itself, without a reachable server, it blocks for a minute and
a half at its start and longer at its end. Here its start has a time limit, after which it writes offline files, and its
end is limited by the trainer (`algd.logging.mirror`).

    python -m algd.logging.wandb FOLDER      sends the rows that W&B does not have yet, without training
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from algd.errors import UsageError
from algd.logging.follower import Destination, Pause, Report, follow_beside, follow_later
from algd.logging.mirror import Mirror
from algd.logging.sent import JOURNAL, Sent
from algd.logging.tables import read_config, read_json

MODULE = "algd.logging.wandb"
DIRECTORY = "wandb"
RUN_ID = "WANDB_RUN_ID"
Mode = Literal["online", "offline"]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")]
Tag = Annotated[str, Field(min_length=1, max_length=64)]
LONGEST_ID = 128
LONGEST_TEXT = 1000
# How often the client writes its rows to disk. If all processes are killed at once, W&B lacks the rows after that.
FLUSH_SECONDS = 1.0


class Wandb(Mirror):
    """Mirrors a run to Weights & Biases.

    Args:
        project: W&B project.
        entity: W&B user or team; None: the account's own default.
        mode: "offline": files under the run's wandb/ directory, for `wandb sync` later; "online": sent as rows come.
        group: W&B group; None: the experiment's name, where the run belongs to one.
        tags: tags in addition to the names of environment, agent and guidance.
        system_metrics: whether the client samples CPU, memory and GPU.
        start_seconds: seconds that an online start may take before it falls back to offline.
        finish_seconds: seconds that the client has at the end of the run.
        seconds_between_reads: seconds between two looks at the run's files.
    """

    def __init__(self, project: Name = "algd", entity: Name | None = None, mode: Mode = "offline",
                 group: Name | None = None, tags: Sequence[Tag] = (), system_metrics: bool = False,
                 start_seconds: PositiveFloat = 30.0, finish_seconds: PositiveFloat = 15.0,
                 seconds_between_reads: Pause = 2.0):
        options = {"project": project, "entity": entity, "mode": mode, "group": group, "tags": list(tags),
                   "system_metrics": system_metrics, "start_seconds": start_seconds, "finish_seconds": finish_seconds,
                   "seconds_between_reads": seconds_between_reads}
        super().__init__(MODULE, "W&B", DIRECTORY, options, finish_seconds)

    def lacks(self, folder: Path) -> bool:
        """Whether WANDB_RUN_ID, which the agent of a W&B sweep sets for each trial, names a run that has no rows."""
        if not (wanted := os.environ.get(RUN_ID)):
            return False
        sent = Sent(folder / DIRECTORY / JOURNAL)
        return wanted != sent.identity and not sent.journal_of(wanted).exists()


def run_id(folder: Path) -> str:
    """A W&B id from a run's identity: the last three parts of its folder, in characters that ids may hold.

    A folder that a fresh start moved aside (`NAME.old-1`) keeps its own W&B run: the new one is numbered.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(folder.parts[-3:])).strip("-.")
    earlier = sum(path.name.startswith(f"{folder.name}.old-") for path in folder.parent.iterdir())
    return name[-(LONGEST_ID - 10):] + (f"-fresh{earlier}" if earlier else "")


def without_long_texts(value: Any) -> Any:
    """A JSON value without the texts, at any depth of its objects, that do not belong in a table: git's diff."""
    if isinstance(value, dict):
        return {key: without_long_texts(part) for key, part in value.items()
                if not (isinstance(part, str) and len(part) > LONGEST_TEXT)}
    if isinstance(value, list):
        return [without_long_texts(part) for part in value]
    return value


def described(folder: Path) -> dict[str, Any]:
    """What W&B shows as the run's config: the resolved config and what meta.json says, but for long texts."""
    meta = without_long_texts(read_json(folder / "meta.json"))
    return read_config(folder) | ({"meta": meta} if meta else {})


def chosen_tags(config: Mapping[str, Any], tags: Sequence[str]) -> list[str]:
    """The user's tags and the names of what was composed, each once."""
    names = [(config.get(group) or {}).get("name") for group in ("env", "agent", "guidance")]
    return list(dict.fromkeys([*tags, *(str(name)[:64] for name in names if name)]))


class WandbRun:
    """An open W&B run as a destination. Scalars have `env_step` as their axis.

    W&B's own step counts the records over all processes of the run. A run that is resumed online therefore tells how
    many it has, and records that were lost when an earlier process was killed are sent again.
    """

    def __init__(self, run: Any, sent: Sent):
        self._run, self._sent = run, sent
        if run.settings.mode == "online":
            sent.keep(run.starting_step)
        self._first = max(0, run.starting_step - len(sent.records))
        run.define_metric("env_step")
        run.define_metric("*", step_metric="env_step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log({"env_step": step, **values})

    def video(self, step: int, path: Path) -> None:
        import wandb

        self._log({"env_step": step, "eval/video": wandb.Video(str(path), caption=path.stem)})

    def warnings(self, step: int, texts: list[str]) -> None:
        self._run.summary.update({"warnings": "\n".join(texts)})

    def flush(self) -> None:
        """The client writes by itself, every `FLUSH_SECONDS`."""

    def close(self, state: str, status: Mapping[str, Any]) -> None:
        self._run.summary.update({f"status/{key}": value for key, value in status.items()
                                  if isinstance(value, int | float | str) and key != "sha256"})
        if state == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)

    def _log(self, record: dict[str, Any]) -> None:
        self._run.log(record, step=self._first + len(self._sent.records))


def open_run(folder: Path, options: Mapping[str, Any], sent: Sent, report: Report) -> Destination:
    """Open or continue the folder's W&B run; where that fails online, offline, with a warning."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    sent.turn_to(os.environ.get(RUN_ID) or sent.identity or run_id(folder))
    config = described(folder)
    # config.yaml and meta.json say what ran, where and from which code; the client need not find out again.
    wishes = {"init_timeout": options["start_seconds"], "console": "off", "disable_git": True, "disable_code": True,
              "save_code": False, "x_disable_meta": True, "x_save_requirements": False,
              "x_disable_stats": not options["system_metrics"],
              "x_disable_machine_info": not options["system_metrics"],
              "x_transaction_log_flush_interval": FLUSH_SECONDS}
    # Settings with x_ come and go between the client's versions.
    settings = wandb.Settings(**{name: wish for name, wish in wishes.items() if name in wandb.Settings.model_fields})

    def start(mode: Mode) -> Any:
        return wandb.init(
            project=options["project"], entity=options["entity"], mode=mode, dir=str(folder), id=sent.identity,
            name="/".join(folder.parts[-3:]), group=options["group"] or config.get("experiment"),
            tags=chosen_tags(config, options["tags"]), config=config, allow_val_change=True, resume="allow",
            settings=settings)

    try:
        run = start(options["mode"])
        failure = None
    except (wandb.Error, TimeoutError) as error:
        if options["mode"] == "offline":
            raise
        failure = " ".join(str(error).split())[:200]
        wandb.teardown()  # Frees the id, which the failed start still holds.
        run = start("offline")
    if failure is not None:
        url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        report(f"W&B at {url} cannot be used ({failure}); this run is logged offline; send it later with: "
               f"python -m {MODULE} {shlex.quote(str(folder))}")
    return WandbRun(run, sent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Mirror one folder: beside a trainer (`--beside`), or by hand."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Send a run's folder to W&B: the rows "
                                     "that it has not got yet.")
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--mode", choices=["online", "offline"], default="online")
    parser.add_argument("--project", help="default: the run's own logger.project, or algd")
    parser.add_argument("--entity", help="default: the run's own logger.entity, or the account's")
    parser.add_argument("--beside", metavar="OPTIONS", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    options: dict[str, Any] = {"project": "algd", "entity": None, "group": None, "tags": [],
                               "system_metrics": False, "start_seconds": 60.0}
    try:
        if given.beside is not None:
            options = json.loads(given.beside)
            follow_beside(folder, folder / DIRECTORY, lambda at, sent, report: open_run(at, options, sent, report),
                          options["seconds_between_reads"], 0.9 * options["finish_seconds"])
            return 0
        if (folder / "config.yaml").exists():
            own = read_config(folder).get("logger") or {}
            options |= {key: value for key, value in own.items() if key in options and key != "start_seconds"}
        options |= {key: value for key, value in vars(given).items() if key in ("project", "entity") and value}
        options["mode"] = given.mode
        follow_later(folder, folder / DIRECTORY, lambda at, sent, report: open_run(at, options, sent, report))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
