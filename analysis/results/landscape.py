"""Energy landscapes of trained agents: choice of snapshots, states and action dimensions.

`survey` computes L and L_A over one or two action dimensions, and `landscape_figure` draws them side by side.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from algd.errors import UsageError
from algd.run.loaded_agent import LoadedAgent
from algd.run.loading import load
from algd.storage.run_folder import RunFolder
from algd.storage.snapshots import snapshots_of
from analysis.results.landscape_figure import draw
from analysis.results.survey import Floats, Landscape, episode, survey

STRIP = 5  # number of snapshots that fit on a page


def snapshots(run: Path) -> dict[int, Path]:
    """Return the run's snapshots by step, in increasing order.

    Raises:
        UsageError: there is none.
    """
    found = snapshots_of(RunFolder(run).snapshots)
    if not found:
        raise UsageError(f"{run} has no snapshots (the key `snapshots` of a run says how many are kept)")
    return found


def at_step(run: Path, step: int | None) -> LoadedAgent:
    """Load the agent from a run's snapshot at this step; None: from its newest checkpoint.

    Raises:
        UsageError: there is no such snapshot.
    """
    if step is None:
        return load(run)
    there = snapshots(run)
    if step not in there:
        raise UsageError(f"{run} has no snapshot of step {step}; there are {', '.join(map(str, there))}")
    return load(there[step])


def spaced(length: int, count: int) -> list[int]:
    """Return at most `count` distinct steps, evenly spaced in the interior of an episode of this length."""
    return sorted({int(step) for step in np.linspace(0, length - 1, count + 2)[1:-1].round()})


def _dimensions(loaded: LoadedAgent, wanted: Sequence[int] | None) -> list[int]:
    """Return the action dimensions to draw: those requested, else the first two or the only one."""
    size = loaded.task.action_space.shape[0]
    chosen = list(wanted) if wanted else list(range(min(size, 2)))
    if len(set(chosen)) != len(chosen) or len(chosen) > 2 or not all(0 <= i < size for i in chosen):
        raise UsageError(f"--axes {' '.join(map(str, chosen))}: one or two different numbers from 0 to {size - 1} "
                         f"are needed, since the actions have {size} dimension{'s' * (size != 1)}")
    return chosen


def _chosen_states(observations: Floats, count: int, at: Sequence[int] | None) -> list[int]:
    """Return the steps of the episode whose states are drawn."""
    length = len(observations)
    if wrong := [step for step in at or () if not 0 <= step < length]:
        raise UsageError(f"--at {wrong[0]}: the episode has steps 0 to {length - 1}")
    return list(at) if at else spaced(length, count)


def pictures(run: Path, states: int = 2, at: Sequence[int] | None = None, step: int | None = None,
             strip: bool = False, against: Path | None = None, axes: Sequence[int] | None = None,
             lam: float | None = None, paths: int = 12) -> Iterator[tuple[Figure, str]]:
    """Yield the figures of `python -m analysis landscape`, each with its file name without extension.

    There is one figure with a row for each state; with `strip` a figure for each state with a row for each snapshot;
    with `against` one figure with a row for each state and run.

    Args:
        run: the run's folder.
        states: number of states, evenly spaced in an episode.
        at: steps of the episode, instead of `states`.
        step: step of the snapshot; None: the newest checkpoint.
        strip: whether to draw up to five snapshots.
        against: another run, drawn at the same states.
        axes: one or two dimensions of the action, from 0.
        lam: λ of both energies; None: each agent's own.
        paths: number of stochastic denoising paths per panel.

    Raises:
        UsageError: a run, snapshot, state or dimension does not exist; the runs have different tasks.
    """
    if strip and (step is not None or against is not None):
        raise UsageError("--strip shows all steps of one run: it cannot be combined with --step or --against")
    loaded = at_step(run, step)
    chosen = _dimensions(loaded, axes)
    others = [load(path) for path in spread(list(snapshots(run).values()), STRIP)] if strip else \
        [comparable(at_step(against, step), loaded)] if against else []
    observations = episode(loaded)
    numbers = _chosen_states(observations, states, at)

    def rows(agents: Sequence[LoadedAgent], numbers: Sequence[int]) -> list[Landscape]:
        return [survey(agent, observations[number], number, chosen, lam, paths)
                for number in numbers for agent in agents]

    name = f"landscape_{run.resolve().parent.parent.name}_{_short(run)}"
    name += "" if step is None else f"_step={step}"
    if strip:
        for number in numbers:
            yield draw(rows(others, [number])), f"{name}_strip_at={number}"
    elif against:
        yield draw(rows([loaded, *others], numbers)), f"{name}_against_{_short(against)}"
    else:
        yield draw(rows([loaded], numbers)), name


def spread(items: Sequence[Path], count: int) -> list[Path]:
    """Return at most `count` of the items, evenly spaced, including the first and the last."""
    return [items[i] for i in sorted({int(i) for i in np.linspace(0, len(items) - 1, count).round()})]


def _short(run: Path) -> str:
    """Return a run's name for use in a file name: <agent>-<guidance>_seed=<seed>-<hash>."""
    return "_".join(run.resolve().parts[-2:])


def comparable(other: LoadedAgent, loaded: LoadedAgent) -> LoadedAgent:
    """Return the other agent if it has the same states and actions.

    Raises:
        UsageError: it was trained on another task.
    """
    names = [agent.config["env"]["name"] for agent in (other, loaded)]
    spaces = [(agent.task.observation_space.shape, agent.task.action_space) for agent in (other, loaded)]
    if names[0] != names[1] or spaces[0] != spaces[1]:
        raise UsageError(f"{other.folder.path} was trained on env={names[0]}, but {loaded.folder.path} on "
                         f"env={names[1]}: both runs must have the same states and actions")
    return other
