"""Kills of a search: python -m tests.soak.search [--kills 50] [--seed 0] [--where FOLDER]

A search with Optuna, whose runs are real processes, is killed again and again and repeated each time. At the end its
trials, their results and all runs' tables and networks must be those of an undisturbed search. Exit code 0: they are.
The folders of a search that differs are kept.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.soak.campaigns import SMALL
from tests.soak.lives import Life, server, start
from tests.support.command import outcome

TRIALS = 12
SEARCH = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.batch=3", "hydra.sweeper.n_startup_trials=4",
          "hydra.sweeper.rungs=[12]", "hydra.launcher.jobs=2", "hydra.launcher.name=search", *SMALL,
          "guidance.rho=tag(log, interval(0.1, 10))",
          "guidance.dual.learning_rate=tag(log, interval(1e-4, 1e-2))"]
LONGEST_WAIT = 6.0  # seconds from a life's first sign to its kill, at most


def begin(runs: Path, scratch: Path, trials: int) -> Life:
    """Start the search's command, forked from a process that has imported everything; its runs are not forked."""
    scratch.mkdir(parents=True)
    process: BaseProcess = server().Process(target=_search, args=(
        [*SEARCH, f"hydra.sweeper.n_trials={trials}", f"runs_dir={runs}"], str(scratch)))
    start(process)
    return Life(process, scratch)


def _search(arguments: list[str], scratch: str) -> None:
    """Run the command, in the process."""
    for name, number in (("output.txt", 1), ("said.txt", 2)):
        os.dup2(os.open(os.path.join(scratch, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["run.py", *arguments]
    code: Any = 70
    try:
        from algd.cli.main import main

        code = main()
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code)


def kill(life: Life, runs: Path, chance: random.Random) -> str | None:
    """Kill a life at a random moment. Returns the place; None: it had ended by itself."""
    journal = runs / "sweeps" / "search.journal"
    before, lines = _lines(journal), chance.choice([0, 1, 1, 2, 3, 4, 6, 9])
    while _lines(journal) < before + lines:
        if life.wait(0.002):
            return None
    if lines == 0 or chance.random() < 0.3:
        place = "at a random time"
        if life.wait(chance.uniform(0, LONGEST_WAIT)):
            return None
    else:
        place = "as the journal grows"
        time.sleep(chance.choice([0.0, chance.uniform(0, 0.05)]))
    pid = life.process.pid
    assert pid is not None
    everything = chance.random() < 0.5
    if everything:
        os.kill(pid, signal.SIGSTOP)  # so that it starts no more runs while the others are listed
        for child in _children(pid):
            os.kill(child, signal.SIGKILL)
    life.kill()
    life.wait()
    return f"{place}, {'with its runs' if everything else 'and its runs continue'}"


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def _children(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    return [below for child in children for below in (child, *_children(child))]


def trials_of(runs: Path) -> list[dict[str, Any]]:
    """Return every trial as Optuna reads it from the journal, without times."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(runs / "sweeps" / "search.journal")))
    return [{"number": trial.number, "state": trial.state.name, "params": trial.params, "values": trial.values,
             "reports": trial.intermediate_values, "results": trial.user_attrs, "constraints": trial.constraints}
            for trial in optuna.load_study(study_name="search", storage=storage).get_trials(deepcopy=False)]


def outcomes_of(runs: Path) -> dict[str, dict[str, bytes]]:
    """Return every run's tables, snapshots and last checkpoint."""
    return {str(config.parent.relative_to(runs)): outcome(config.parent) for config in runs.glob("*/*/*/config.yaml")}


def problems_of(runs: Path, twin: Path) -> list[str]:
    """Return how a search differs from its twin, in a sentence each."""
    found, expected = trials_of(runs), trials_of(twin)
    problems = [f"trial {number} is {mine} and not {theirs}" for number, (mine, theirs)
                in enumerate(zip(found, expected, strict=False)) if mine != theirs]
    if len(found) != len(expected):
        problems.append(f"{len(found)} trials and not {len(expected)}")
    mine, theirs = outcomes_of(runs), outcomes_of(twin)
    problems += [f"{name} is a run of {'this one' if name in mine else 'the twin'} alone"
                 for name in mine.keys() ^ theirs.keys()]
    problems += [f"{name}: another {file}" for name in mine.keys() & theirs.keys()
                 for file in mine[name].keys() | theirs[name].keys() if mine[name].get(file) != theirs[name].get(file)]
    members = json.loads((runs / "sweeps" / "search.json").read_bytes())["runs"]
    if sorted(members) != sorted(theirs) or len(members) != len(expected):
        problems.append(f"the sweep's file lists {len(members)} runs")
    return problems


def campaign(kills: int, seed: int, where: Path, tell: Callable[[str], object],
             trials: int = TRIALS) -> tuple[Counter[str], list[str]]:
    """Kill searches until there were enough kills, and compare each with an undisturbed twin.

    Args:
        kills: number of kills.
        seed: seed of the moments.
        where: folder of the searches.
        tell: called with a line for each kill and search.
        trials: trials of a search.

    Returns:
        The number of kills by place, and the problems.
    """
    twin, chance = where / "twin", random.Random(seed)
    undisturbed = begin(twin, where / "lives" / "twin", trials)
    assert undisturbed.code == 0, undisturbed.said
    places: Counter[str] = Counter()
    problems: list[str] = []
    search = 0
    while places.total() < kills and not problems:
        search += 1
        runs, lives = where / f"search{search}", 0
        while True:
            lives += 1
            life = begin(runs, where / "lives" / f"{search}-{lives}", trials)
            place = kill(life, runs, chance) if places.total() < kills else None
            if place is None:
                break
            places[place] += 1
            tell(f"kill {places.total()}: {place}")
        life.wait()
        output = (life.folder / "output.txt").read_text()
        if life.code != 0 or "Traceback" in life.said:
            problems.append(f"search {search} ended with {life.code}: {life.said}")
        elif output != f"{runs / 'sweeps' / 'search.json'}\n":
            problems.append(f"search {search} wrote {output!r} to standard output")
        else:
            problems += [f"search {search}, of {lives} lives: {problem}" for problem in problems_of(runs, twin)]
        tell(f"search {search}: {lives} lives, {len(problems)} problems")
    return places, problems


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.search", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--where", type=Path, help="a folder for the searches (default: a temporary one)")
    given = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="search-", dir=given.where))
    places, problems = campaign(given.kills, given.seed, where, lambda line: print(line, file=sys.stderr, flush=True))
    for place, count in sorted(places.items()):
        print(f"{count:4} {place}")
    print(f"{places.total()} kills, {TRIALS} trials a search, {len(problems)} problems")
    for problem in problems:
        print(problem)
    if problems:
        print(f"the folders are kept in {where}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
