"""All campaigns in full: python -m tests.soak [--minutes 80] [--jobs 2] [--only NAME] [--out docs/soak.md]

Exit code 0: every trial kept every promise. Problems are printed with what is needed to repeat them, and their folders
are kept.
"""

import argparse
import csv
import itertools
import os
import platform
import random
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

from algd.storage.provenance import processor
from tests.soak import campaigns as c
from tests.soak.campaigns import Trial
from tests.soak.long import Course, long_run

Task = Callable[[], Trial]
Tasks = Callable[[Path, str], Iterator[Task]]
LIMIT_OF_GROWTH = 2_000_000  # bytes, by the allocator, in the last third of a long run
LONG_EPISODES, LONG_UPDATED = 100_000, 10_000


@dataclass
class Campaign:
    """A kind of fault.

    Attributes:
        name: name in `--only` and in the results.
        what: description in the results.
        share: share of the time; unused time goes to the other campaigns.
        tasks: returns the trials, from a folder and a seed; endless, or until everything has been tried.
        at_once: maximum number of trials at once; None: the number of jobs.
    """

    name: str
    what: str
    share: float
    tasks: Tasks
    at_once: int | None = None


@dataclass
class Result:
    """The result of a campaign."""

    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False

    @property
    def faults(self) -> int:
        return sum(trial.faults for trial in self.trials)

    @property
    def problems(self) -> list[str]:
        return [trial.problem for trial in self.trials if trial.problem]


def shuffled(items: Iterable[object], seed: str) -> list:
    """Return the items in random order, so that the trials there is time for are a sample of all."""
    items = list(items)
    random.Random(seed).shuffle(items)
    return items


def every_kill(folder: Path, seed: str) -> Iterator[Task]:
    ground = c.ground(c.SMALL, folder)
    for fault in shuffled(c.kills_at_operations(ground), seed):
        yield partial(c.kill_at, ground, fault)


def every_kill_of_an_extension(keep_replay: bool) -> Tasks:
    def tasks(folder: Path, seed: str) -> Iterator[Task]:
        first = c.ground([*c.SMALL, f"checkpoint.keep_replay={str(keep_replay).lower()}"], folder / "first")
        ground = c.extended(first, folder / "extended", 40)
        for fault in shuffled(c.kills_at_operations(ground), seed):
            yield partial(c.kill_at, ground, fault)

    return tasks


def two_kills(folder: Path, seed: str) -> Iterator[Task]:
    ground = c.ground(c.SMALL, folder)
    points = c.kills_at_operations(ground)
    for number in itertools.count():
        chance = random.Random(f"{seed} {number}")
        yield partial(c.kill_at, ground, chance.choice(points), chance.randint(1, len(ground.twin.operations)))


def again_and_again(arguments: list[str], trial: Callable[..., Trial], *more: int) -> Tasks:
    """Yield endless trials, each with its own random numbers."""
    def tasks(folder: Path, seed: str) -> Iterator[Task]:
        ground = c.ground(arguments, folder)
        for number in itertools.count():
            yield partial(trial, ground, random.Random(f"{seed} {number}"), *more)

    return tasks


def every_failure(folder: Path, seed: str) -> Iterator[Task]:
    ground = c.ground(c.SMALL, folder)
    for fault in shuffled(c.failures(ground), seed):
        yield partial(c.fail_at, ground, fault)


def every_damage(finished: bool) -> Tasks:
    def tasks(folder: Path, seed: str) -> Iterator[Task]:
        ground = c.ground(c.SMALL, folder)
        wreck = c.wreck(ground, None if finished else c.late(ground))
        for file, kind, where in shuffled(c.damages(wreck, random.Random(seed), flips=10), seed):
            yield partial(c.damage, wreck, file, kind, where)

    return tasks


def clocks(folder: Path, seed: str) -> Iterator[Task]:
    ground = c.ground(c.SMALL, folder)
    for fault in shuffled(c.kills_at_operations(ground), seed):
        yield partial(c.clock_jumps, ground, fault)


def long_runs(folder: Path, seed: str) -> Iterator[Task]:
    yield partial(one_long_run, LONG_EPISODES, 0, folder / "acting")
    yield partial(one_long_run, LONG_UPDATED, 1, folder / "updating")


def one_long_run(episodes: int, updates: int, folder: Path) -> Trial:
    """Run a long run as a trial; the allowed growth is that of the allocator, not of episodes."""
    course = long_run(episodes, updates, folder)
    problem = None
    if course.growth > LIMIT_OF_GROWTH or course.open_files[0] != course.open_files[1]:
        problem = f"memory grew by {course.growth} bytes in the last third, open files: {course.open_files}"
    return Trial(f"{episodes} episodes with {updates} updates each", 0, problem, described(course))


def described(course: Course) -> str:
    return (f"{course.memory[-1] / 1e6:.1f} MB in the end, {course.growth / 1e6:+.3f} MB in the last third, "
            f"{course.open_files[1]} open files, {course.said / 1e3:.1f} kB on the console, "
            f"{course.folder / 1e3:.0f} kB in the folder beside the tables, {course.seconds:.0f} s")


CAMPAIGNS = [
    Campaign("kill", "SIGKILL before every operation on a file, and twice in the middle of every write", 4, every_kill),
    Campaign("kill-extension", "the same while a finished run is extended without its replay", 2,
             every_kill_of_an_extension(keep_replay=False)),
    Campaign("kill-exact-extension", "the same with the replay kept", 2, every_kill_of_an_extension(keep_replay=True)),
    Campaign("kill-twice", "SIGKILL at a random operation, and at another after the restart", 2, two_kills),
    Campaign("kill-times", "SIGKILL at up to five random times, ALGD on the toy", 2,
             again_and_again(c.TOY, c.kill_at_times, 5)),
    Campaign("kill-signs", "SIGKILL when an unfinished file or a growing table is seen from outside", 1,
             again_and_again(c.TOY, c.kill_at_signs)),
    Campaign("kill-point", "SIGKILL at up to three random times, ALGD on point_button1", 4,
             again_and_again(c.POINT, c.kill_at_times, 3)),
    Campaign("no-room", "the file system refuses at every operation: full, over quota, read-only, input/output error",
             5, every_failure),
    Campaign("damage", "every file of a run that was killed: truncated, emptied, deleted, ten flipped bits, another "
             "run's", 3, every_damage(finished=False)),
    Campaign("damage-finished", "every file of a finished run, likewise", 1, every_damage(finished=True)),
    Campaign("together", "the same command started three times at once", 1, again_and_again(c.SMALL, c.together, 3), 1),
    Campaign("take-over", "the process that holds a run is killed while another looks", 1,
             again_and_again(c.SMALL, c.take_over)),
    Campaign("read", "started five times and killed four times, while three processes read the folder", 1,
             again_and_again(c.SMALL, c.watched, 4), 1),
    Campaign("clock", "the system's clock jumps a day back or forth whenever it is read, and SIGKILL", 1, clocks),
    Campaign("long", "1e5 episodes of one step, and 1e4 with an update each", 4, long_runs),
]


def conduct(campaign: Campaign, folder: Path, seed: int, jobs: int, seconds: float) -> Result:
    """Run trials until all are done or the time is up, and wait for those that have begun."""
    result, begun = Result(), time.monotonic()
    tasks = campaign.tasks(folder, f"{seed} {campaign.name}")
    limit = min(jobs, campaign.at_once or jobs)
    with ThreadPoolExecutor(limit) as pool:
        running: set[Future[Trial]] = set()
        while True:
            while len(running) < limit and not result.complete and time.monotonic() - begun < seconds:
                task = next(tasks, None)
                if task is None:
                    result.complete = True
                else:
                    running.add(pool.submit(task))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                trial = future.result() if error is None else Trial(
                    "the harness itself", 0, "".join(traceback.format_exception(error)))
                result.trials.append(trial)
                if trial.problem:
                    print(f"\n{campaign.name}: {trial.place}: {trial.problem}\n", file=sys.stderr, flush=True)
    result.seconds = time.monotonic() - begun
    return result


Row = tuple[str | int | float, ...]
CAMPAIGN_COLUMNS = ("campaign", "trials", "complete", "faults", "problems", "minutes")
PLACE_COLUMNS = ("campaign", "place", "outcome", "count")


def campaign_rows(results: dict[str, Result]) -> list[Row]:
    """Return the rows of docs/soak/campaigns.csv, one per campaign."""
    return [(name, len(result.trials), int(result.complete), result.faults, len(result.problems),
             round(result.seconds / 60, 1)) for name, result in results.items()]


def place_rows(results: dict[str, Result]) -> list[Row]:
    """Return the rows of docs/soak/places.csv: numbers of faults (or of trials without any) by place and outcome."""
    rows: list[Row] = []
    for name, result in results.items():
        places = Counter[tuple[str, str]]()
        for trial in result.trials:
            places[trial.place, trial.outcome if not trial.problem else "PROBLEM"] += max(trial.faults, 1)
        rows += [(name, place, outcome, count) for (place, outcome), count in sorted(places.items())]
    return rows


def page(results: dict[str, Result], command: str, seconds: float, data: str = "soak") -> str:
    """Return docs/soak.md: the results in short, with links to the folder of the data."""
    what = {campaign.name: campaign.what for campaign in CAMPAIGNS}
    campaigns, places = campaign_rows(results), place_rows(results)
    rows: list[Row] = [("campaign", "what it does", "trials", "faults", "problems", "minutes")]
    rows += [(f"`{name}`", what[str(name)], f"{trials}{' (all there are)' * bool(complete)}", faults, problems, minutes)
             for name, trials, complete, faults, problems, minutes in campaigns]
    totals = [sum(int(row[column]) for row in campaigns) for column in (1, 3, 4)]
    rows.append(("all", "", *totals, f"{seconds / 60:.1f}"))
    outcomes = Counter[tuple[str, str]]()
    for name, _, outcome, count in places:
        outcomes[str(name), str(outcome)] += int(count)
    lines = [HEAD.format(command=command, data=data, minutes=seconds / 60, **machine())]
    lines += ["## Campaigns", "", *as_table(rows), ""]
    lines += ["## How they ended", "", *as_table([("campaign", "outcome", "count"), *(
        (f"`{name}`", outcome, count) for (name, outcome), count in outcomes.items())])]
    problems = [(name, problem) for name, result in results.items() for problem in result.problems]
    if problems:
        lines += ["", "## Problems", "", *(f"    {name}: {problem}" for name, problem in problems)]
    return "\n".join(lines) + "\n"


def write(out: Path, results: dict[str, Result], command: str, seconds: float) -> None:
    """Write the page, and its data to a folder of the same name beside it."""
    data = out.with_suffix("")
    data.mkdir(exist_ok=True)
    for name, columns, rows in (("campaigns.csv", CAMPAIGN_COLUMNS, campaign_rows(results)),
                                ("places.csv", PLACE_COLUMNS, place_rows(results))):
        with (data / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    out.write_text(page(results, command, seconds, data.name), encoding="utf-8")


HEAD = """# Soak test: the last results

    {command}

{minutes:.0f} minutes on {processor}, {cores} of its cores, {system}; Python {python}, torch {torch},
NumPy {numpy}, gymnasium {gymnasium}, MuJoCo {mujoco}. The command writes this page and its data:
[campaigns.csv]({data}/campaigns.csv), and [places.csv]({data}/places.csv), which counts the outcomes of faults by the
place where they were injected (a trial that ended before its fault counts as one).

A *trial* starts a real command in a process of its own, injects one or more real faults into it, and starts it again
until it ends. Then the last checkpoint, the snapshots and every table are compared byte for byte with those of its
*twin*, the same run without a fault. A *problem* is a difference without a message, a traceback, or an exit code that
is not promised.
"""


def machine() -> dict[str, object]:
    """Return hardware and versions."""
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "gymnasium", "mujoco")}
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version()} | versions


def as_table(rows: list[Row]) -> list[str]:
    """Format rows as a Markdown table; the first is the header."""
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=80, help="that all campaigns have together (default 80)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)),
                        help="trials at once (default: one a core)")
    parser.add_argument("--only", action="append", choices=[campaign.name for campaign in CAMPAIGNS],
                        help="this campaign; can be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    parser.add_argument("--out", type=Path,
                        help="the page to write, with its data in a folder beside it (default: print the page)")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None,
                        help="the file system for the runs (default: in memory, where there is one)")
    given = parser.parse_args()
    chosen = [campaign for campaign in CAMPAIGNS if not given.only or campaign.name in given.only]
    begun, results = time.monotonic(), {}
    top = Path(tempfile.mkdtemp(prefix="soak-", dir=given.where))
    for number, campaign in enumerate(chosen):
        left = given.minutes * 60 - (time.monotonic() - begun)
        seconds = left * campaign.share / sum(later.share for later in chosen[number:])
        result = results[campaign.name] = conduct(campaign, top / campaign.name, given.seed, given.jobs, seconds)
        print(f"{campaign.name}: {len(result.trials)} trials{' (all there are)' * result.complete}, {result.faults} "
              f"faults, {len(result.problems)} problems, {result.seconds:.0f} s", file=sys.stderr, flush=True)
        if not result.problems:
            shutil.rmtree(top / campaign.name, ignore_errors=True)
    command, seconds = shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]), time.monotonic() - begun
    if given.out:
        write(given.out, results, command, seconds)
    else:
        print(page(results, command, seconds))
    if any(result.problems for result in results.values()):
        print(f"there were problems; the folders are kept in {top}", file=sys.stderr)
        return 1
    shutil.rmtree(top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
