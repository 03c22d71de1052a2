"""The arguments of python -m analysis."""

import argparse
import importlib
from pathlib import Path

from algd.cli.arguments import Parser
from algd.config.trust import trust
from algd.errors import UsageError


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from {least} to {2**31 - 1} is needed")
    return number


def _count(text: str) -> int:
    return _whole(text, 1)


def _count_or_none(text: str) -> int:
    return _whole(text, 0)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a share from 0 to 1 is needed, such as 0.8")
    return share


def _multiplier(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a finite number, at least 0, is needed")
    return number


def _range(text: str) -> tuple[str, tuple[float, float]]:
    quantity, _, ends = text.partition("=")
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not quantity or not -float("inf") < low < high < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: QUANTITY=LOW:HIGH is needed, such as cost=0:100")
    return quantity, (low, high)


def _imported(text: str) -> str:
    try:
        importlib.import_module(text)
        trust([text])
    except (ImportError, TypeError, ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(f"{text}: this module cannot be imported ({error})") from error
    return text


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser; the parsed arguments have the command's name as `command`."""
    found = Parser(prog="python -m analysis", description="Tables, figures and reports of runs.")
    found.set_defaults(last=1)  # of the commands without --last
    commands = found.add_subparsers(required=True, metavar="command", dest="command")

    def add(name: str, what: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.",
                                      epilog=f"example: {example}",
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        return command

    command = add("landscape", "draw L beside L_A over the actions of a trained agent",
                  "python -m analysis landscape runs/toy/vesde-augmented/seed=0-1a2b3c4d --states 3\n"
                  "         python -m analysis landscape RUN --at 7 --strip\n"
                  "         python -m analysis landscape RUN --at 7 --against OTHER_RUN")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    command.add_argument("--states", type=_count, default=2, metavar="N",
                         help="states, evenly spaced in an episode of the deterministic policy (default 2)")
    command.add_argument("--at", type=int, nargs="+", metavar="T", help="these steps of that episode instead")
    command.add_argument("--step", type=int, metavar="S", help="the snapshot of this training step (default: the end)")
    command.add_argument("--strip", action="store_true", help="a figure for each state: up to five snapshots")
    command.add_argument("--against", type=Path, metavar="OTHER_RUN", help="another run at the same states")
    command.add_argument("--axes", type=int, nargs="+", metavar="I",
                         help="one or two dimensions of the action, from 0 (default: the first two)")
    command.add_argument("--multiplier", type=_multiplier, metavar="λ",
                         help="λ of all energies (default: each run's own at that step)")
    _add_import(command)
    command.add_argument("--paths", type=_count, default=12, metavar="P", help="denoising paths drawn (default 12)")
    command.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR",
                         help="the folder of the PNG and the PDF files (default figures)")

    command = add("export", "copy the small files of runs for publication, without information about the machine",
                  "python -m analysis export point_button1_short --out results")
    command.add_argument("folders", nargs="+", metavar="RUNS", help="runs, folders with runs in them, or sweeps")
    command.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR",
                         help="the folder in which sweeps are found by name (default runs)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the copies")
    command.add_argument("--policies", action="store_true",
                         help="also the policy of each newest snapshot, which algd.load loads as an agent that can act")

    command = add("table", "print return, cost and safety of runs as a table",
                  "python -m analysis table runs --where env=point_button1 --format latex\n"
                  "         python -m analysis table rho_ablation --rows env --columns guidance.rho")
    _add_choice(command)
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown",
                         help="of the output (default markdown)")
    command.add_argument("--each-run", action="store_true", help="Markdown: a table of the single runs too")

    command = add("curves", "draw return, cost and metrics against environment steps",
                  "python -m analysis curves runs --where env=point_button1 --quantities return,cost,lam --raw")
    _add_choice(command)
    _add_grouping(command)
    command.add_argument("--quantities", default="return,cost", metavar="NAMES",
                         help="return, cost, training_cost, critic_error, curvature, or columns of metrics.csv such "
                              "as lam, constraint (default return,cost)")
    command.add_argument("--smooth", type=_count, default=1, metavar="N",
                         help="average the last N values of each run, and note it in the figure (default 1: none)")
    command.add_argument("--raw", action="store_true", help="draw each seed too")
    command.add_argument("--range", type=_range, action="append", default=[], metavar="QUANTITY=LOW:HIGH",
                         help="ends of a quantity's axis, such as cost=0:100; the figure says how far values beyond "
                              "them reach; can be repeated (default: everything is shown)")
    command.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR",
                         help="the folder of the PNG and the PDF files (default figures)")

    command = add("compare", "compare algorithms over seeds and tasks, or returns over budgets",
                  "python -m analysis compare runs --first guidance=augmented --second guidance=plain --out figures\n"
                  "         python -m analysis compare runs --where env=point_button1 --budgets")
    _add_choice(command)
    _add_judging(command, safe_share=False)
    command.add_argument("--first", metavar="KEY=VALUE",
                         help="the runs of one side; several conditions in one text, separated by spaces")
    command.add_argument("--second", action="append", metavar="KEY=VALUE",
                         help="the runs of the other; can be repeated: the first against each, with p-values "
                              "corrected for the number of tests")
    command.add_argument("--all-pairs", action="store_true", help="all sides against each other")
    command.add_argument("--within", default="", metavar="KEYS",
                         help="compare the runs with each value of these keys apart, and test over all: within agent, "
                              "first and second differ in guidance alone")
    command.add_argument("--pool", action="store_true",
                         help="compare sides that differ in more than their conditions name, and list the differences")
    command.add_argument("--bootstrap-seed", type=_count_or_none, default=0, metavar="N",
                         help="seed of the resampling (default 0)")
    command.add_argument("--budgets", action="store_true",
                         help="instead: draw return against cost over the values of env.limit")
    _add_safe_share(command, "--budgets: ")
    command.add_argument("--training", action="store_true", help="--budgets: draw the path during training too")
    command.add_argument("--columns", default="agent,guidance", metavar="KEYS",
                         help="--budgets: keys that distinguish points, besides env.limit (default agent,guidance)")
    command.add_argument("--format", choices=("markdown", "json"), default="markdown",
                         help="of the output (default markdown)")
    command.add_argument("--out", type=Path, metavar="DIR",
                         help="draw performance profiles into this folder (--budgets: default figures)")

    command = add("scores", "compare algorithms over tasks, by scores between two references of each task",
                  "python -m analysis scores runs --unconstrained guidance=none --zero-cost 0 --out figures")
    _add_choice(command)
    _add_judging(command, safe_share=False)
    _add_grouping(command, rows=False)  # the rows are tasks
    command.add_argument("--unconstrained", required=True, metavar="KEY=VALUE",
                         help="the runs, on every task, whose mean return has the score 1; or a number")
    command.add_argument("--zero-cost", default="0", metavar="KEY=VALUE",
                         help="the runs whose mean return has the score 0; or a number (default 0, the "
                              "return of doing nothing on the navigation tasks)")
    command.add_argument("--out", type=Path, metavar="DIR", help="draw performance profiles into this folder")

    command = add("efficiency", "print how soon a return is reached within the limit, and training cost",
                  "python -m analysis efficiency runs --return 12.5\n"
                  "         python -m analysis efficiency runs --return point_button1=12.5 --return car_button2=20")
    _add_choice(command)
    _add_judging(command, last=False, safe_share=False)
    _add_grouping(command)
    command.add_argument("--return", dest="wanted", action="append", default=[], metavar="[TASK=]R",
                         help="the return to reach; can be repeated")

    command = add("report", "write one HTML file with the runs' state, tables, figures and landscapes",
                  "python -m analysis report guidance_ablation --out guidance_ablation.html")
    _add_choice(command)
    _add_page(command)
    _add_import(command)
    command.add_argument("--landscapes", type=_count_or_none, default=2, metavar="N",
                         help="algorithms whose landscape is drawn, with one state each; 0: none (default 2)")
    command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE",
                         help="the page (default report.html)")

    command = add("serve", "show the same page live, in a browser on this machine, while runs train",
                  "python -m analysis serve runs\n"
                  "         python -m analysis serve runs/sweeps/NAME.json --every 30 --port 8000")
    _add_selection(command)
    _add_page(command)
    command.set_defaults(landscapes=0, wandb=None)
    command.add_argument("--every", type=_count, default=5, metavar="SECONDS",
                         help="at least this long between two reads of the folders (default 5)")
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                         help="to listen on; any but loopback admits other machines (default 127.0.0.1)")
    command.add_argument("--port", type=_count_or_none, default=0, metavar="N", help="0: any free port (default 0)")
    return found


def _add_choice(command: argparse.ArgumentParser) -> None:
    """Add the options that select runs and say how they are read."""
    _add_selection(command)
    command.add_argument("--wandb", metavar="ENTITY/PROJECT", help="runs of a W&B project, instead of or besides RUNS")
    command.add_argument("--strict", action="store_true",
                         help="stop at a run that cannot be read (default: name it and continue)")
    command.add_argument("--no-cache", dest="cache", action="store_false",
                         help="read every file again, also of runs that have not changed since they were last read")


def _add_selection(command: argparse.ArgumentParser) -> None:
    """Add the options that select run folders."""
    command.add_argument("folders", nargs="*", metavar="RUNS",
                         help="runs, folders with runs in them, patterns such as 'runs/toy/*', sweeps' files, or names "
                              "of sweeps or their experiments")
    command.add_argument("--where", action="append", default=[], metavar="KEY=VALUE[,VALUE]",
                         help="only runs with this configuration, or in this state, as in state=finished,failed; "
                              "can be repeated, and all must hold")
    command.add_argument("--finished", action="store_true", help="only runs that are finished; others are named")
    command.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR",
                         help="the folder in which sweeps are found by name (default runs)")
    command.add_argument("--sampler", choices=("deterministic", "stochastic"), default="deterministic",
                         help="of the evaluation episodes (default deterministic)")


def _add_judging(command: argparse.ArgumentParser, last: bool = True, safe_share: bool = True) -> None:
    """Add the options for the evaluations that are used and the required share of safe seeds."""
    command.add_argument("--at-step", type=_count, metavar="N",
                         help="compare all runs at their evaluation at this step (default: the last of the finished "
                              "runs, or while there is none the last that all runs share)")
    if last:
        command.add_argument("--last", type=_count, default=1, metavar="N",
                             help="results are means over the last N evaluations up to that step (default 1)")
    if safe_share:
        _add_safe_share(command)


def _add_safe_share(command: argparse.ArgumentParser, only_with: str = "") -> None:
    """Add the option for the required share of safe seeds; `only_with` begins its help."""
    command.add_argument("--safe-share", type=_share, default=0.8, metavar="S",
                         help=f"{only_with}share of a cell's seeds that must be safe for it to be feasible "
                              "(default 0.8)")


def _add_grouping(command: argparse.ArgumentParser, rows: bool = True) -> None:
    """Add the options for grouping runs, and those for intervals."""
    if rows:
        command.add_argument("--rows", default="env", metavar="KEYS",
                             help="configuration keys of the rows (default env)")
    command.add_argument("--columns", default="agent,guidance", metavar="KEYS",
                         help="configuration keys of the columns (default agent,guidance)")
    command.add_argument("--pool", action="store_true",
                         help="combine runs that differ in more than the keys of rows and columns")
    command.add_argument("--interval", choices=("t", "percentile"), default="t",
                         help="bootstrap interval: with Student's t for few seeds, or of percentiles (default t)")
    command.add_argument("--bootstrap-seed", type=_count_or_none, default=0, metavar="N",
                         help="of the resampling (default 0)")


def _add_page(command: argparse.ArgumentParser) -> None:
    """Add the options for the content of a report."""
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--title", help="of the page (default: the runs as named)")
    command.add_argument("--smooth", type=_count, default=1, metavar="N",
                         help="curves average the last N values of each run, and note it (default 1: none)")


def _add_import(command: argparse.ArgumentParser) -> None:
    """Add the option for importing and trusting modules."""
    command.add_argument("--import", type=_imported, action="append", metavar="MODULE",
                         help="import this module first, which registers the runs' environment; can be repeated")
