"""python -m launchers: what became of runs, and what to do about it, on any machine that sees their folders.

    status [WHERE ...]     a table, joined with what SLURM says; --watch, --json
    retry [WHERE ...]      run again what failed, was lost or was interrupted, as its sweep did, with the code of now
    cancel WHERE ...       stop what runs, with a checkpoint, and take what waits out of the queue
    logs RUN [-f]          what a run has said
    sync [WHERE ...]       upload offline W&B runs

WHERE is a run's folder, a folder above runs (default: runs), or a sweep's file, runs/sweeps/NAME.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from algd.cli.arguments import Parser
from algd.config.targets import require_trust
from algd.config.trust import trust
from algd.errors import ExitCode, UsageError
from algd.storage.provenance import process_record
from algd.storage.run_folder import RunFolder
from launchers.launch import SETTINGS, in_wandb, launch
from launchers.processes import LOG, tail
from launchers.slurm.launcher import Elements, Readings, lines_of, submitted_tasks
from launchers.slurm.queue import Queue, available
from launchers.states import is_held
from launchers.sweeps import SWEEPS, Member, Sweep, begin_sweep, load_sweep, named_runs, sweeps_of
from launchers.table import Line, as_data, as_text, counted, say, shown_path

WATCH_SECONDS = 5.0
AGAIN = ("failed", "lost", "interrupted", "cancelled")


class Inquiry:
    """Some runs, the sweeps that they belong to, and what SLURM says of them."""

    def __init__(self, where: Sequence[Path]):
        self.folders = named_runs(where)
        self.sweeps = [sweep for runs_dir in dict.fromkeys(folder.parents[2] for folder in self.folders)
                       for sweep in sweeps_of(runs_dir)]
        wanted = set(self.folders)
        self.elements: Elements = {folder: element for folder, element in submitted_tasks(self.sweeps).items()
                                   if folder in wanted}
        # A finished run's task has nothing more to tell.
        asked = {element for folder, element in self.elements.items()
                 if RunFolder(folder).status().get("state") != "finished"}
        self.queue = Queue(asked if available() else ())
        self.refresh = self.queue.refresh_once

    def lines(self) -> list[Line]:
        """The runs as they are now."""
        tasks = self.refresh()
        self.refresh = self.queue.refresh
        return lines_of(self.folders, {folder: element for folder, element in self.elements.items()
                                       if element in tasks}, tasks, Readings())

    def newest_sweep(self, folder: Path) -> Sweep | None:
        """The sweep that a run was last part of."""
        return next((sweep for sweep in reversed(self.sweeps) if folder in sweep.folders), None)


def status(where: Sequence[Path], watch: bool, as_json: bool) -> int:
    """Print the runs' states. Returns 0."""
    inquiry = Inquiry(where)
    while True:
        lines = inquiry.lines()
        if as_json:
            print(json.dumps([as_data(line) for line in lines], indent=1), flush=True)
        else:
            if watch and sys.stdout.isatty():
                print("\033[H\033[2J", end="")
            print(f"{as_text(lines)}\n{len(lines)} runs: {counted([line.state for line in lines])}", flush=True)
        if not watch or all(line.state in ("finished", *AGAIN) for line in lines):
            return 0
        time.sleep(WATCH_SECONDS)


def retry(where: Sequence[Path], trusted: Sequence[str] = ()) -> int:
    """Run again what failed or stopped, with the launcher and the settings of the sweep that it was last part of.

    Args:
        where: the runs.
        trusted: modules whose code their configurations may name; nothing else that is not this project's is run.
    """
    trust(trusted)
    inquiry = Inquiry(where)
    chosen = [line.folder for line in inquiry.lines() if line.state in AGAIN and not line.folder_state.held]
    if not chosen:
        say("nothing failed or was stopped")
        return 0
    groups: dict[Path | None, list[Path]] = {}
    for folder in chosen:
        sweep = inquiry.newest_sweep(folder)
        groups.setdefault(sweep.file if sweep else None, []).append(folder)
    codes = []
    for file, folders in groups.items():
        earlier = load_sweep(file) if file else None
        given = dict(earlier.launcher) if earlier else {"kind": "local"}
        settings = SETTINGS[given.pop("kind")].model_validate(given | {"retry_failed": True, "dry_run": False})
        members = [Member(folder, RunFolder(folder).config() | {"fresh": False}) for folder in folders]
        for member in members:
            require_trust(member.config, shown_path(member.folder))
        name = f"{earlier.name}-retry" if earlier and not earlier.name.endswith("-retry") else \
            earlier.name if earlier else None
        sweep = begin_sweep(folders[0].parents[2], name, earlier.experiment if earlier else None, members,
                            {"kind": "slurm" if "partition" in given else "local", **settings.model_dump()})
        codes.append(launch(sweep, [in_wandb(member, sweep) for member in members], settings))
    return max(codes)


def cancel(where: Sequence[Path]) -> int:
    """Stop runs with a checkpoint: SLURM's tasks, launchers on this machine, and runs on this machine."""
    inquiry = Inquiry(where)
    lines = inquiry.lines()
    active = {inquiry.elements[line.folder] for line in lines if line.folder in inquiry.elements
              and line.state in ("running", "queued")}
    if active:
        names = sorted(f"{job}_{index}" for job, index in active)
        also = {folder for folder, element in submitted_tasks(inquiry.sweeps).items() if element in active}
        for folder in sorted(also - set(inquiry.folders)):
            say(f"in the same task, and stopped with it: {shown_path(folder)}")
        # One process for thousands of tasks would have too long a command line.
        for first in range(0, len(names), 500):
            subprocess.run(["scancel", *names[first:first + 500]], check=True)
        say(f"cancelled {len(names)} task{'s' * (len(names) != 1)} of SLURM")
    files, named = {path.resolve() for path in where}, set(inquiry.folders)
    whole = [sweep for sweep in inquiry.sweeps if sweep.file in files
             or {folder for folder in sweep.folders if folder.exists()} <= named]
    stopped = stop_here(whole, [line.folder for line in lines if line.folder_state.held])
    if not active and not stopped:
        say("nothing runs or waits")
    return 0


def stop_here(sweeps: Iterable[Sweep], held: Iterable[Path]) -> int:
    """Send SIGTERM to the launchers of these sweeps and the processes of these runs on this machine; how many."""
    count = 0
    for sweep in sweeps:
        if sweep.launcher.get("kind") == "local" and is_ours(sweep.driver):
            os.kill(sweep.driver["pid"], signal.SIGTERM)
            say(f"asked the launcher of {sweep.name} to stop")
            count += 1
    for folder in held:
        starts = RunFolder(folder).meta().get("starts") or [{}]
        if is_ours(starts[-1]):
            os.kill(starts[-1]["pid"], signal.SIGTERM)
            say(f"asked to stop: {shown_path(folder)}")
            count += 1
        elif not starts[-1].get("slurm_job"):
            say(f"runs on {starts[-1].get('host')}, and must be cancelled there: {shown_path(folder)}")
    return count


def is_ours(process: Mapping[str, Any]) -> bool:
    """Whether a process that was recorded (`process_record`) is on this machine and still the same one."""
    if not isinstance(process.get("pid"), int):
        return False
    now = process_record(process["pid"])
    return now["ticks"] is not None and all(process.get(key) == value for key, value in now.items())


def logs(folder: Path, follow: bool, lines: int) -> int:
    """Print the end of a run's log, and with `follow` what is added to it, until the run has ended."""
    path = folder / LOG
    if not path.exists():
        raise UsageError(f"{path} does not exist: this run has not been started by a sweep")
    for line in tail(path, lines):
        print(line)
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        while follow:
            ended = not is_held(folder)
            if added := file.read():
                sys.stdout.write(added.decode(errors="replace"))
                sys.stdout.flush()
            elif ended:
                break
            else:
                time.sleep(0.5)
    return 0


def sync(where: Sequence[Path]) -> int:
    """Upload the offline W&B runs of these runs, oldest first, each once. Returns 1 if one was refused."""
    client = Path(sys.executable).with_name("wandb")
    failed = 0
    for folder in named_runs(where):
        parts = [part for part in sorted((folder / "wandb").glob("offline-run-*"))
                 if not list(part.glob("*.wandb.synced"))]
        if not parts:
            continue
        if is_held(folder):
            say(f"still running, and left for later: {shown_path(folder)}")
            continue
        result = subprocess.run([client, "sync", *parts], capture_output=True, text=True)
        failed += result.returncode != 0
        say(f"{'not uploaded' if result.returncode else 'uploaded'}: {shown_path(folder)}"
            + (f": {' '.join(result.stderr.split())[:300]}" if result.returncode else ""))
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(prog="python -m launchers", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    where: dict[str, argparse.ArgumentParser] = {}
    for name, text in (("status", "how runs are"), ("retry", "run again what failed"), ("cancel", "stop runs"),
                       ("sync", "upload offline W&B runs")):
        where[name] = commands.add_parser(name, help=text)
        where[name].add_argument("where", nargs="+" if name == "cancel" else "*", type=Path, default=[Path("runs")],
                                 help=f"run folders, folders above runs, or {SWEEPS}/NAME.json")
    where["retry"].add_argument("--trust", action="append", default=[], metavar="MODULE",
                                help="a module whose code the runs' configurations may name; can be repeated")
    where["status"].add_argument("--watch", action="store_true", help="again and again until all have ended")
    where["status"].add_argument("--json", action="store_true", help="as JSON")
    log = commands.add_parser("logs", help="what a run has said")
    log.add_argument("run", type=Path, help="the run's folder")
    log.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    log.add_argument("-n", "--lines", type=int, default=30, help="how many lines from the end")
    try:
        given = parser.parse_args(arguments)
        if given.command == "status":
            return status(given.where, given.watch, given.json)
        if given.command == "logs":
            return logs(given.run, given.follow, given.lines)
        if given.command == "retry":
            return retry(given.where, given.trust)
        return {"cancel": cancel, "sync": sync}[given.command](given.where)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
