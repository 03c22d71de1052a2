"""python -m analysis <command>: what run folders say, as tables and pictures.

Longer than other files, since all commands and their arguments stand here together.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algd.cli.arguments import Parser
from algd.config.trust import trust
from algd.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from analysis.report.content import Options
    from analysis.results.cells import Cell
    from analysis.runs.gather import Gathered

Handler = Callable[[argparse.Namespace], int]


def landscape(arguments: argparse.Namespace) -> int:
    """Draw what `landscape` asks for."""
    # Here, not above: only this command needs torch and matplotlib.
    import matplotlib

    matplotlib.use("Agg")
    from analysis.results.landscape import pictures
    from analysis.results.style import write

    for figure, name in pictures(arguments.run, arguments.states, arguments.at, arguments.step, arguments.strip,
                                 arguments.against, arguments.axes, arguments.multiplier, arguments.paths):
        print(*write(figure, name, arguments.out), sep="\n")
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Print what `table` asks for."""
    from analysis.results.formats import render
    from analysis.results.table import tables

    gathered = _gathered(arguments)
    found = tables(gathered.runs, arguments.sampler, _keys(arguments.rows), _keys(arguments.columns), arguments.pool,
                   arguments.interval, arguments.bootstrap_seed, gathered.remarks, arguments.at_step,
                   arguments.safe_share)
    print(render(found, arguments.format, arguments.each_run))
    return 0


def curves(arguments: argparse.Namespace) -> int:
    """Draw what `curves` asks for: a figure for each family of tasks and quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from analysis.results.cells import cells
    from analysis.results.curves import curvature_columns, draw, draw_curvature
    from analysis.results.style import write

    runs = _gathered(arguments).runs
    rows, columns = _keys(arguments.rows), _keys(arguments.columns)
    if not _keys(arguments.quantities):
        raise UsageError(f"--quantities {arguments.quantities}: names are needed, such as return,cost,lam")
    for family in sorted({run.family for run in runs}):
        members = [run for run in runs if run.family == family]
        found = cells(members, rows, columns, arguments.pool, arguments.interval, arguments.bootstrap_seed)
        for quantity in _keys(arguments.quantities):
            if quantity == "curvature":
                levels = sorted({name.split("_")[2] for name in curvature_columns(members)}) or ["raw"]
                for level in levels:
                    print(*write(draw_curvature(found, level), f"curvature_{level}_{family}", arguments.out), sep="\n")
                continue
            figure = draw(found, columns, quantity, arguments.smooth, arguments.raw, arguments.sampler)
            print(*write(figure, f"{quantity}_{family}", arguments.out), sep="\n")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print and draw what `compare` asks for."""
    import matplotlib

    matplotlib.use("Agg")
    from analysis.results.compare import compare as compared
    from analysis.results.compare import sides
    from analysis.results.comparison_text import as_json, markdown
    from analysis.results.profiles import draw_profile
    from analysis.results.style import write

    if arguments.budgets:
        return _budgets(arguments)
    if not arguments.first or not arguments.second:
        raise UsageError("compare: --first KEY=VALUE and --second KEY=VALUE are needed, or --budgets")
    gathered = _gathered(arguments)
    found = compared(sides(gathered.runs, [arguments.first, *arguments.second]), arguments.bootstrap_seed,
                     arguments.at_step, arguments.pool, arguments.all_pairs)
    print((as_json if arguments.format == "json" else markdown)(found, gathered.remarks))
    if arguments.out:
        for number, comparison in enumerate(found):
            for task in comparison.tasks:
                name = f"profile_{task}" + (f"_{number + 1}" if len(found) > 1 else "")
                print(*write(draw_profile(comparison, task, arguments.bootstrap_seed), name, arguments.out), sep="\n",
                      file=sys.stderr)
    return 0


def _budgets(arguments: argparse.Namespace) -> int:
    """Draw what `compare --budgets` asks for."""
    from analysis.results.cells import cells
    from analysis.results.style import write
    from analysis.results.tradeoff import draw_tradeoff

    runs, columns = _gathered(arguments).runs, tuple(dict.fromkeys([*_keys(arguments.columns), "env.limit"]))
    for family in sorted({run.family for run in runs}):
        found = cells([run for run in runs if run.family == family], ("env",), columns, at_step=arguments.at_step,
                      safe_share=arguments.safe_share)
        for row in dict.fromkeys(cell.row for cell in found):
            figure = draw_tradeoff([cell for cell in found if cell.row == row], columns, arguments.training,
                                   arguments.sampler)
            print(*write(figure, f"budgets_{row[0]}", arguments.out or Path("figures")), sep="\n")
    return 0


def scores(arguments: argparse.Namespace) -> int:
    """Print and draw what `scores` asks for: algorithms over tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from analysis.results.scores import draw_profiles, markdown, references, scored
    from analysis.results.style import write

    columns = _keys(arguments.columns)
    for family, found, remarks in _families(arguments, ("env",), columns):
        reference = references(found, arguments.unconstrained, arguments.zero_cost)
        over = scored(found, reference)
        print(markdown(over, reference, columns, found, arguments.unconstrained, arguments.zero_cost, remarks))
        if arguments.out:
            print(*write(draw_profiles(over, columns, arguments.bootstrap_seed), f"profiles_{family}", arguments.out),
                  sep="\n", file=sys.stderr)
    return 0


def efficiency(arguments: argparse.Namespace) -> int:
    """Print what `efficiency` asks for."""
    from analysis.results.efficiency import markdown, wanted_returns

    rows, columns, wanted = _keys(arguments.rows), _keys(arguments.columns), wanted_returns(arguments.wanted)
    print("\n\n".join(markdown(found, rows, columns, wanted, remarks)
                      for _, found, remarks in _families(arguments, rows, columns)))
    return 0


def _families(arguments: argparse.Namespace, rows: Sequence[str],
              columns: Sequence[str]) -> "Iterator[tuple[str, list[Cell], list[str]]]":
    """The cells of each family of tasks, and what is to be said of runs that are not among them."""
    from analysis.results.cells import cells
    from analysis.results.steps import check_step

    gathered = _gathered(arguments)
    check_step(gathered.runs, arguments.at_step)
    for family in sorted({run.family for run in gathered.runs}):
        members = [run for run in gathered.runs if run.family == family]
        yield family, cells(members, rows, columns, arguments.pool, arguments.interval, arguments.bootstrap_seed,
                            arguments.at_step, arguments.safe_share), gathered.remarks


def report(arguments: argparse.Namespace) -> int:
    """Write the page that `report` asks for."""
    import matplotlib

    matplotlib.use("Agg")
    from analysis.report.page import write
    from analysis.runs.find import sweep_content

    sweep = sweep_content(arguments.folders, arguments.runs_dir)
    write(arguments.out, _title(arguments), _gathered(arguments), _options(arguments), sweep)
    print(arguments.out)
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """Show the page that `serve` asks for, until somebody ends it."""
    import matplotlib

    matplotlib.use("Agg")
    from analysis.serve.server import Server
    from analysis.serve.watch import Watch

    if not arguments.folders or arguments.wandb:
        raise UsageError("name runs, folders or sweeps to show; `report` shows those of a W&B project")
    watch = Watch(arguments.folders, arguments.runs_dir, arguments.where, arguments.finished, _options(arguments),
                  _title(arguments), arguments.every)
    Server(watch, arguments.host, arguments.port).run()
    return 0


def _title(arguments: argparse.Namespace) -> str:
    return arguments.title or " ".join([*arguments.folders, *filter(None, [arguments.wandb])])


def _options(arguments: argparse.Namespace) -> "Options":
    from analysis.report.content import Options

    return Options(arguments.sampler, _keys(arguments.rows), _keys(arguments.columns), arguments.pool,
                   arguments.interval, arguments.bootstrap_seed, arguments.at_step, arguments.safe_share,
                   arguments.smooth, arguments.landscapes)


def export(arguments: argparse.Namespace) -> int:
    """Copy the small files of the runs that `export` asks for."""
    from analysis.runs.export import export as export_runs
    from analysis.runs.export import size
    from analysis.runs.find import find_runs

    found = find_runs(arguments.folders, arguments.runs_dir)
    copies = export_runs(found.folders, arguments.out)
    print(*copies, sep="\n")
    print(f"{len(copies)} runs, {size(copies) / 1e6:.1f} MB", file=sys.stderr)
    return 0


def _gathered(arguments: argparse.Namespace) -> "Gathered":
    """What the arguments name and do not filter out; what cannot be read is said at once, whatever is printed then."""
    from analysis.runs.cache import RunCache, cache_file
    from analysis.runs.gather import gather

    with RunCache(cache_file() if arguments.cache else None) as cache:
        found = gather(arguments.folders, arguments.runs_dir, arguments.sampler, arguments.where, arguments.finished,
                       arguments.strict, arguments.wandb, cache.read)
    for reason in found.unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    print(*found.left_out, sep="\n", end="\n" * bool(found.left_out), file=sys.stderr)
    return found


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key for key in text.split(",") if key)


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


def _imported(text: str) -> str:
    try:
        importlib.import_module(text)
        trust([text])
    except (ImportError, TypeError, ValueError, UsageError) as error:
        raise argparse.ArgumentTypeError(f"{text}: this module cannot be imported ({error})") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis", description="What run folders say.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, handler: Handler, what: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.",
                                      epilog=f"example: {example}",
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.set_defaults(handler=handler)
        return command

    command = add("landscape", landscape, "draw L beside L_A over the actions of a trained agent",
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
                         help="where the PNG and the PDF go (default figures)")

    command = add("export", export, "copy the small files of runs, without what tells of the machine, to publish them",
                  "python -m analysis export point_button1_short --out results")
    command.add_argument("folders", nargs="+", metavar="RUNS", help="runs, folders with runs in them, or sweeps")
    command.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR",
                         help="where sweeps are looked up by name (default runs)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the copies go")

    command = add("table", table, "print return, cost and safety of runs as a table",
                  "python -m analysis table runs --where env=point_button1 --format latex\n"
                  "         python -m analysis table rho_ablation --rows env --columns guidance.rho")
    _add_choice(command)
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown",
                         help="of the output (default markdown)")
    command.add_argument("--each-run", action="store_true", help="Markdown: a table of the single runs too")

    command = add("curves", curves, "draw return, cost and metrics against environment steps",
                  "python -m analysis curves runs --where env=point_button1 --quantities return,cost,lam --raw")
    _add_choice(command)
    _add_grouping(command)
    command.add_argument("--quantities", default="return,cost", metavar="NAMES",
                         help="return, cost, training_cost, curvature, or columns of metrics.csv such as lam, "
                              "constraint (default return,cost)")
    command.add_argument("--smooth", type=_count, default=1, metavar="N",
                         help="average the last N values of each run, and say so in the figure (default 1: do not)")
    command.add_argument("--raw", action="store_true", help="draw each seed too")
    command.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR",
                         help="where the PNG and the PDF go (default figures)")

    command = add("compare", compare, "compare algorithms over seeds and tasks, or returns over budgets",
                  "python -m analysis compare runs --first guidance=augmented --second guidance=plain --out figures\n"
                  "         python -m analysis compare runs --where env=point_button1 --budgets")
    _add_choice(command)
    _add_judging(command)
    command.add_argument("--first", metavar="KEY=VALUE", help="the runs of one side; several conditions: one text")
    command.add_argument("--second", action="append", metavar="KEY=VALUE",
                         help="the runs of the other; can be repeated: the first against each, with p-values that "
                              "allow for all of them")
    command.add_argument("--all-pairs", action="store_true", help="all sides against each other")
    command.add_argument("--pool", action="store_true",
                         help="compare sides that differ in more than their conditions name, and list in what")
    command.add_argument("--bootstrap-seed", type=_count_or_none, default=0, metavar="N",
                         help="of what is drawn at random (default 0)")
    command.add_argument("--budgets", action="store_true",
                         help="instead: draw return against cost over the values of env.limit")
    command.add_argument("--training", action="store_true", help="--budgets: draw the way there too")
    command.add_argument("--columns", default="agent,guidance", metavar="KEYS",
                         help="--budgets: what tells points apart beside env.limit (default agent,guidance)")
    command.add_argument("--format", choices=("markdown", "json"), default="markdown",
                         help="of the output (default markdown)")
    command.add_argument("--out", type=Path, metavar="DIR",
                         help="draw performance profiles into this folder (--budgets: default figures)")

    command = add("scores", scores, "compare algorithms over tasks, by scores between two references of each task",
                  "python -m analysis scores runs --unconstrained guidance=none --zero-cost 0 --out figures")
    _add_choice(command)
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--unconstrained", required=True, metavar="KEY=VALUE",
                         help="the runs, on every task, whose mean return has the score 1; or a number")
    command.add_argument("--zero-cost", default="0", metavar="KEY=VALUE",
                         help="the runs whose mean return has the score 0; or a number (default 0, what doing "
                              "nothing earns on the navigation tasks)")
    command.add_argument("--out", type=Path, metavar="DIR", help="draw performance profiles into this folder")

    command = add("efficiency", efficiency, "print how soon a return is reached within the limit, and training cost",
                  "python -m analysis efficiency runs --return 12.5\n"
                  "         python -m analysis efficiency runs --return point_button1=12.5 --return car_goal2=20")
    _add_choice(command)
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--return", dest="wanted", action="append", default=[], metavar="[TASK=]R",
                         help="the return that is to be reached; can be repeated")

    command = add("report", report, "write one HTML file with the runs' state, tables, figures and landscapes",
                  "python -m analysis report guidance_ablation --out guidance_ablation.html")
    _add_page(command)
    _add_import(command)
    command.add_argument("--landscapes", type=_count_or_none, default=2, metavar="N",
                         help="algorithms whose landscape is drawn, with one state each; 0: none (default 2)")
    command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE",
                         help="the page (default report.html)")

    command = add("serve", serve, "show the same page live, in a browser on this machine, while runs train",
                  "python -m analysis serve runs\n"
                  "         python -m analysis serve runs/sweeps/NAME.json --every 30 --port 8000")
    _add_page(command)
    command.set_defaults(landscapes=0)
    command.add_argument("--every", type=_count, default=5, metavar="SECONDS",
                         help="between two looks at the folders, at least (default 5)")
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                         help="to listen on; any but loopback's lets other machines in (default 127.0.0.1)")
    command.add_argument("--port", type=_count_or_none, default=0, metavar="N", help="0: any that is free (default 0)")
    return parser


def _add_choice(command: argparse.ArgumentParser) -> None:
    """Which runs."""
    command.add_argument("folders", nargs="*", metavar="RUNS",
                         help="runs, folders with runs in them, patterns such as 'runs/toy/*', sweeps' files, or names "
                              "of sweeps or their experiments")
    command.add_argument("--wandb", metavar="ENTITY/PROJECT", help="runs of a W&B project, instead or beside")
    command.add_argument("--where", action="append", default=[], metavar="KEY=VALUE[,VALUE]",
                         help="only runs with this configuration, or in this state, as in state=finished,failed; "
                              "can be repeated")
    command.add_argument("--finished", action="store_true", help="only runs that are finished; others are named")
    command.add_argument("--strict", action="store_true",
                         help="stop at a run that cannot be read (default: name it and go on)")
    command.add_argument("--no-cache", dest="cache", action="store_false",
                         help="read every file anew, also of runs that have not changed since they were last read")
    command.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR",
                         help="where sweeps are looked up by name (default runs)")
    command.add_argument("--sampler", choices=("deterministic", "stochastic"), default="deterministic",
                         help="of the evaluation episodes (default deterministic)")


def _add_judging(command: argparse.ArgumentParser) -> None:
    """Which evaluation counts, and what is safe enough."""
    command.add_argument("--at-step", type=_count, metavar="N",
                         help="judge all runs by their evaluation at this step (default: the last of the finished "
                              "runs, or while there is none the last that all runs share)")
    command.add_argument("--safe-share", type=_share, default=0.8, metavar="S",
                         help="share of a cell's seeds that must be safe for it to be feasible (default 0.8)")


def _add_grouping(command: argparse.ArgumentParser) -> None:
    """What stands together, and the intervals over it."""
    command.add_argument("--rows", default="env", metavar="KEYS", help="configuration keys of the rows (default env)")
    command.add_argument("--columns", default="agent,guidance", metavar="KEYS",
                         help="configuration keys of the columns (default agent,guidance)")
    command.add_argument("--pool", action="store_true",
                         help="put runs together that differ in more than the keys of rows and columns")
    _add_intervals(command)


def _add_page(command: argparse.ArgumentParser) -> None:
    """What a page shows."""
    _add_choice(command)
    _add_judging(command)
    _add_grouping(command)
    command.add_argument("--title", help="of the page (default: the runs as named)")
    command.add_argument("--smooth", type=_count, default=1, metavar="N",
                         help="curves average the last N values of each run, and say so (default 1: they do not)")


def _add_import(command: argparse.ArgumentParser) -> None:
    """What may be executed."""
    command.add_argument("--import", type=_imported, action="append", metavar="MODULE",
                         help="import this module first, which registers the runs' environment; can be repeated")


def _add_intervals(command: argparse.ArgumentParser) -> None:
    """How intervals are made."""
    command.add_argument("--interval", choices=("t", "percentile"), default="t",
                         help="bootstrap interval: with Student's t for few seeds, or of percentiles (default t)")
    command.add_argument("--bootstrap-seed", type=_count_or_none, default=0, metavar="N",
                         help="of the resampling (default 0)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 2 for what the user can put right."""
    try:
        parsed = _parser().parse_args(arguments)
        code = parsed.handler(parsed)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read along has seen enough, such as `| head`; nothing more is to be written, not even at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE


if __name__ == "__main__":
    sys.exit(main())
