"""python -m analysis <command>: tables, figures and reports of runs.

Each command imports what it needs, since imports such as torch are slow and most commands do not need them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from algd.cli.arguments import run_command
from algd.config.values import printable
from algd.errors import UsageError
from analysis.arguments import parser

if TYPE_CHECKING:
    from analysis.report.content import Options
    from analysis.results.cells import Cell
    from analysis.runs.gather import Gathered


def landscape(arguments: argparse.Namespace) -> int:
    """Draw the energies of a trained agent."""
    from analysis.results.landscape import pictures
    from analysis.results.style import write

    for figure, name in pictures(arguments.run, arguments.states, arguments.at, arguments.step, arguments.strip,
                                 arguments.against, arguments.axes, arguments.multiplier, arguments.paths):
        print(*write(figure, name, arguments.out), sep="\n")
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Print a table for each family of tasks."""
    from analysis.results.formats import render
    from analysis.results.table import tables

    gathered = _gathered(arguments)
    found = tables(gathered.runs, arguments.sampler, _keys(arguments.rows), _keys(arguments.columns), arguments.pool,
                   arguments.interval, arguments.bootstrap_seed, gathered.remarks, arguments.at_step,
                   arguments.safe_share)
    print(render(found, arguments.format, arguments.each_run))
    return 0


def curves(arguments: argparse.Namespace) -> int:
    """Draw learning curves: a figure for each family of tasks and quantity."""
    from analysis.results.cells import cells
    from analysis.results.curves import curvature_columns, draw, draw_curvature
    from analysis.results.style import write

    runs = _gathered(arguments).runs
    rows, columns = _keys(arguments.rows), _keys(arguments.columns)
    if not _keys(arguments.quantities):
        raise UsageError(f"--quantities {arguments.quantities}: names are needed, such as return,cost,lam")
    ranges = dict(arguments.range)
    if lost := ranges.keys() - set(_keys(arguments.quantities)) | ranges.keys() & {"curvature"}:
        raise UsageError(f"--range {min(lost)}: one of --quantities {arguments.quantities} is needed, except curvature")
    for family in sorted({run.family for run in runs}):
        members = [run for run in runs if run.family == family]
        found = cells(members, rows, columns, arguments.pool, arguments.interval, arguments.bootstrap_seed)
        for quantity in _keys(arguments.quantities):
            if quantity == "curvature":
                levels = sorted({name.split("_")[2] for name in curvature_columns(members)}) or ["raw"]
                for level in levels:
                    print(*write(draw_curvature(found, level), f"curvature_{level}_{family}", arguments.out), sep="\n")
                continue
            figure = draw(found, columns, quantity, arguments.smooth, arguments.raw, arguments.sampler,
                          ranges.get(quantity))
            print(*write(figure, f"{quantity}_{family}", arguments.out), sep="\n")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print comparisons of algorithms and draw their performance profiles."""
    from analysis.results.compare import compare as compared
    from analysis.results.compare import sides
    from analysis.results.comparison_text import as_json, markdown
    from analysis.results.profiles import draw_profile
    from analysis.results.style import write

    usual = parser().parse_args(["compare"])
    for option in ("first", "second", "within", "all_pairs", "format") if arguments.budgets else (
            "training", "columns", "safe_share"):
        if getattr(arguments, option) != getattr(usual, option):
            raise UsageError(f"compare: --{option.replace('_', '-')} has no effect "
                             f"{'with' if arguments.budgets else 'without'} --budgets")
    if arguments.budgets:
        return _budgets(arguments)
    if not arguments.first or not arguments.second:
        raise UsageError("compare: --first KEY=VALUE and --second KEY=VALUE are needed, or --budgets")
    gathered = _gathered(arguments)
    opposed = sides(gathered.runs, [arguments.first, *arguments.second], _keys(arguments.within))
    found = compared(opposed, arguments.bootstrap_seed, arguments.at_step, arguments.pool, arguments.all_pairs)
    print((as_json if arguments.format == "json" else markdown)(found, arguments.sampler, gathered.remarks))
    if arguments.out:
        for number, comparison in enumerate(found):
            for task in comparison.tasks:
                name = f"profile_{task.replace(', ', '_')}" + (f"_{number + 1}" if len(found) > 1 else "")
                figure = draw_profile(comparison, task, arguments.sampler, arguments.bootstrap_seed)
                print(*write(figure, name, arguments.out), sep="\n", file=sys.stderr)
    return 0


def _budgets(arguments: argparse.Namespace) -> int:
    """Draw return against cost over budgets."""
    from analysis.results.cells import cells
    from analysis.results.steps import check_step
    from analysis.results.style import write
    from analysis.results.tradeoff import draw_tradeoff

    runs, columns = _gathered(arguments).runs, tuple(dict.fromkeys([*_keys(arguments.columns), "env.limit"]))
    check_step(runs, arguments.at_step)
    for family in sorted({run.family for run in runs}):
        found = cells([run for run in runs if run.family == family], ("env",), columns, arguments.pool,
                      at_step=arguments.at_step, safe_share=arguments.safe_share)
        for row in dict.fromkeys(cell.row for cell in found):
            figure = draw_tradeoff([cell for cell in found if cell.row == row], columns, arguments.training,
                                   arguments.sampler)
            print(*write(figure, f"budgets_{row[0]}", arguments.out or Path("figures")), sep="\n")
    return 0


def scores(arguments: argparse.Namespace) -> int:
    """Print and draw normalised scores of algorithms over tasks."""
    from analysis.results.scores import draw_profiles, markdown, references, scored
    from analysis.results.style import write

    columns = _keys(arguments.columns)
    for family, found, remarks in _families(arguments, ("env",), columns):
        reference = references(found, arguments.unconstrained, arguments.zero_cost)
        over = scored(found, reference)
        print(markdown(over, reference, columns, found, arguments.unconstrained, arguments.zero_cost,
                       arguments.sampler, remarks))
        if arguments.out:
            figure = draw_profiles(over, columns, arguments.sampler, arguments.bootstrap_seed)
            print(*write(figure, f"profiles_{family}", arguments.out), sep="\n", file=sys.stderr)
    return 0


def efficiency(arguments: argparse.Namespace) -> int:
    """Print the sample efficiency of each family of tasks."""
    from analysis.results.efficiency import markdown, wanted_returns

    rows, columns = _keys(arguments.rows), _keys(arguments.columns)
    families = list(_families(arguments, rows, columns))
    wanted = wanted_returns(arguments.wanted, {run.env for _, found, _ in families for cell in found
                                               for run in cell.runs})
    print("\n\n".join(markdown(found, rows, columns, wanted, arguments.sampler, remarks)
                      for _, found, remarks in families))
    return 0


def _families(arguments: argparse.Namespace, rows: Sequence[str],
              columns: Sequence[str]) -> "Iterator[tuple[str, list[Cell], list[str]]]":
    """Yield each family of tasks with its cells and the remarks on omitted runs."""
    from analysis.results.cells import cells
    from analysis.results.steps import check_step

    gathered = _gathered(arguments)
    check_step(gathered.runs, arguments.at_step)
    for family in sorted({run.family for run in gathered.runs}):
        members = [run for run in gathered.runs if run.family == family]
        yield family, cells(members, rows, columns, arguments.pool, arguments.interval, arguments.bootstrap_seed,
                            arguments.at_step), gathered.remarks


def report(arguments: argparse.Namespace) -> int:
    """Write a report as one HTML page."""
    from analysis.report.page import write
    from analysis.runs.find import sweep_content

    gathered = _gathered(arguments)  # first, since it refuses a file that is not a sweep's
    sweep = sweep_content(arguments.folders, arguments.runs_dir)
    write(arguments.out, _title(arguments), gathered, _options(arguments), sweep)
    print(arguments.out)
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """Serve the report as a page that follows the runs, until interrupted."""
    from analysis.serve.server import Server
    from analysis.serve.watch import Watch

    if not arguments.folders:
        raise UsageError("name runs, folders or sweeps to show; `report` shows those of a W&B project")
    watch = Watch(arguments.folders, arguments.runs_dir, arguments.where, arguments.finished, _options(arguments),
                  _title(arguments), arguments.every)
    Server(watch, arguments.host, arguments.port).run()
    return 0


def _title(arguments: argparse.Namespace) -> str:
    return printable(arguments.title or " ".join([*arguments.folders, *filter(None, [arguments.wandb])]))


def _options(arguments: argparse.Namespace) -> "Options":
    from analysis.report.content import Options

    return Options(arguments.sampler, _keys(arguments.rows), _keys(arguments.columns), arguments.pool,
                   arguments.interval, arguments.bootstrap_seed, arguments.at_step, arguments.safe_share,
                   arguments.last, arguments.smooth, arguments.landscapes)


def export(arguments: argparse.Namespace) -> int:
    """Copy the small files of runs to a folder."""
    from analysis.runs.export import export as export_runs
    from analysis.runs.export import size
    from analysis.runs.find import find_runs

    found = find_runs(arguments.folders, arguments.runs_dir)
    copies = export_runs(found.folders, arguments.out, arguments.policies)
    print(*copies, sep="\n")
    print(f"{len(copies)} runs, {size(copies) / 1e6:.1f} MB", file=sys.stderr)
    return 0


def _gathered(arguments: argparse.Namespace) -> "Gathered":
    """Read the runs that the arguments select, and report on stderr those that were left out."""
    from analysis.runs.cache import RunCache, cache_file
    from analysis.runs.gather import gather

    with RunCache(cache_file() if arguments.cache else None) as cache:
        found = gather(arguments.folders, arguments.runs_dir, arguments.sampler, arguments.where, arguments.finished,
                       arguments.strict, arguments.wandb, cache.read, arguments.last)
    for reason in found.unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    print(*found.left_out, sep="\n", end="\n" * bool(found.left_out), file=sys.stderr)
    return found


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key for key in text.split(",") if key)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    command.__name__: command
    for command in (landscape, export, table, curves, compare, scores, efficiency, report, serve)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code, which is 2 for a user's error."""
    os.environ["MPLBACKEND"] = "Agg"  # figures become files, whatever display there is
    return run_command(lambda: _carry_out(parser().parse_args(arguments)))


def _carry_out(given: argparse.Namespace) -> int:
    return COMMANDS[given.command](given)


if __name__ == "__main__":
    sys.exit(main())
