"""python -m launchers: show the states of runs and act on them, on any machine that has their folders.

    status [WHERE ...]     a table, joined with SLURM's information; --watch, --json
    retry [WHERE ...]      run again what failed, was lost or was interrupted, with its sweep's settings and the current
                           code; --exclude NODE avoids a SLURM node
    cancel WHERE ...       stop running ones with a checkpoint, and remove waiting ones from the queue
    logs RUN [-f]          the output of a run
    sync [WHERE ...]       upload offline W&B runs

WHERE is a run's folder, a folder above runs (default: runs), or a sweep's file, runs/sweeps/NAME.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from algd.cli.arguments import Parser, run_command
from algd.storage.sweep_file import SWEEPS
from launchers.commands import cancel, logs, retry, status, sync


def parser() -> Parser:
    """Return the command-line parser; its result holds the command's name as `command`."""
    parser = Parser(prog="python -m launchers", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    where: dict[str, argparse.ArgumentParser] = {}
    for name, text in (("status", "show states of runs"), ("retry", "run again what failed"), ("cancel", "stop runs"),
                       ("sync", "upload offline W&B runs")):
        where[name] = commands.add_parser(name, help=text)
        where[name].add_argument("where", nargs="+" if name == "cancel" else "*", type=Path, default=[Path("runs")],
                                 help=f"run folders, folders above runs, or {SWEEPS}/NAME.json")
    where["status"].add_argument("--watch", action="store_true", help="repeat until all have ended")
    where["status"].add_argument("--json", action="store_true", help="as JSON")
    where["retry"].add_argument("--trust", action="append", default=[], metavar="MODULE",
                                help="a module whose code the runs' configurations may name; can be repeated")
    where["retry"].add_argument("--exclude", action="append", default=[], metavar="NODE",
                                help="a SLURM node to avoid; can be repeated")
    where["retry"].add_argument("--on-end", metavar="COMMAND",
                                help="run with the summary when all have ended, as hydra.launcher.on_end")
    where["retry"].add_argument("--setup", action="store_true",
                                help="allow the lines of the shell that the sweeps' files have as hydra.launcher.setup")
    log = commands.add_parser("logs", help="the output of a run")
    log.add_argument("run", type=Path, help="the run's folder")
    log.add_argument("-f", "--follow", action="store_true", help="continue until the run has ended")
    log.add_argument("-n", "--lines", type=int, default=30, help="how many lines from the end")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: _carry_out(parser().parse_args(arguments)))


def _carry_out(given: argparse.Namespace) -> int:
    if given.command == "status":
        return status(given.where, given.watch, given.json)
    if given.command == "retry":
        exclude = [node for listed in given.exclude for node in listed.split(",")]
        return retry(given.where, given.trust, exclude, given.on_end, given.setup)
    if given.command == "logs":
        return logs(given.run, given.follow, given.lines)
    return {"cancel": cancel, "sync": sync}[given.command](given.where)


if __name__ == "__main__":
    sys.exit(main())
