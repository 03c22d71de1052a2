"""Time variants in separate processes that take turns, so that a busy machine slows all alike.

A benchmark module has a function `prepare(name)` that returns the function to time; its main passes the names to
`take_turns`, and `--worker NAME` calls `serve`.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence


class Worker:
    """A process that repeats one variant on request.

    Args:
        module: the module, run as `python -m module --worker name`.
        name: the variant.
        more: further arguments of the module.

    Attributes:
        seconds: seconds per repetition, one value per measurement.
        said: the line that the variant printed when it was ready.
    """

    def __init__(self, module: str, name: str, more: Sequence[str] = ()):
        self.name, self.seconds = name, list[float]()
        self._process = subprocess.Popen([sys.executable, "-m", module, "--worker", name, *more], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.said = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with exit code {self._process.wait()}")
        return line.strip()

    def time(self, count: int) -> None:
        """Make a measurement of `count` repetitions."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._answer()) / count)

    @property
    def median(self) -> float:
        """Median seconds per repetition."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """Least seconds per repetition, the least disturbed measurement on a busy machine."""
        return min(self.seconds)

    def ratio_to(self, reference: "Worker") -> float:
        """Return how many times as long the reference takes: the median of the rounds' ratios."""
        return statistics.median(theirs / ours for theirs, ours in zip(reference.seconds, self.seconds, strict=True))

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def take_turns(module: str, names: Sequence[str], rounds: int, count: int, burn_in: int,
               more: Sequence[str] = ()) -> dict[str, Worker]:
    """Measure the variants: `burn_in` repetitions each that do not count, then `count` each in every round."""
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            workers[name] = Worker(module, name, more)
            workers[name].time(burn_in)
            workers[name].seconds.clear()
        for _ in range(rounds):
            for worker in workers.values():
                worker.time(count)
    finally:
        for worker in workers.values():
            worker.stop()
    return workers


def serve(once: Callable[[], object], said: str = "", finish: Callable[[], object] | None = None,
          clock: Callable[[], float] = time.perf_counter) -> None:
    """Serve as a `Worker`'s process: for each count on standard input, print the seconds of so many repetitions.

    `finish` waits for work that the repetitions have only launched. With `time.process_time` as the clock, time in
    which other processes use the core does not count; this suits single-threaded work.
    """
    print(said, flush=True)
    for line in sys.stdin:
        start = clock()
        for _ in range(int(line)):
            once()
        if finish is not None:
            finish()
        print(clock() - start, flush=True)
