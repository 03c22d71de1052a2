"""python -m analysis <command>: what run folders say, as tables and pictures."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from algd.errors import UsageError

Handler = Callable[[argparse.Namespace], int]
EXIT_USAGE, EXIT_PIPE = 2, 141


def landscape(arguments: argparse.Namespace) -> int:
    """Draw what `landscape` asks for."""
    # Here, not above: only this command needs torch and matplotlib.
    import matplotlib

    matplotlib.use("Agg")
    from analysis.landscape import pictures, write

    for figure, name in pictures(arguments.run, arguments.states, arguments.at, arguments.step, arguments.strip,
                                 arguments.against, arguments.axes, arguments.multiplier, arguments.paths):
        print(*write(figure, name, arguments.out), sep="\n")
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Print what `table` asks for."""
    from analysis.table import find_runs, markdown, read_run

    print(markdown([read_run(folder, arguments.sampler) for folder in find_runs(arguments.folders)],
                   arguments.sampler))
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


def _multiplier(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a finite number, at least 0, is needed")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What run folders say.")
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
    command.add_argument("--paths", type=_count, default=12, metavar="P", help="denoising paths drawn (default 12)")
    command.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR",
                         help="where the PNG and the PDF go (default figures)")

    command = add("table", table, "print return, cost and feasibility of runs as Markdown",
                  "python -m analysis table runs --sampler stochastic")
    command.add_argument("folders", nargs="+", metavar="FOLDERS",
                         help="runs, folders with runs in them, or patterns such as 'runs/toy/*'")
    command.add_argument("--sampler", choices=("deterministic", "stochastic"), default="deterministic",
                         help="of the evaluation episodes (default deterministic)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 2 for what the user can put right."""
    parsed = _parser().parse_args(arguments)
    try:
        code = parsed.handler(parsed)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read along has seen enough, such as `| head`; nothing more is to be written, not even at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
