"""The landscape that guides a trained agent: L beside L_A over two action dimensions, with denoising paths on it.

Both energies are drawn on the same critics at the same λ and on the same colours. The states come from one episode of
the agent's deterministic policy; actions that are not on the axes stay at the policy's deterministic action.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from algd.algorithm.agent import Agent
from algd.algorithm.curvature import ENERGIES, UNPENALISED_RHO, both_energies
from algd.algorithm.policies.diffusion import DiffusionPolicy
from algd.algorithm.rng import RandomGenerator
from algd.errors import UsageError
from algd.run.evaluation import Actor
from algd.run.loading import LoadedAgent, load
from algd.seeding import episode_seed, stream
from algd.storage.run_folder import RunFolder

Floats = NDArray[np.float64]
RESOLUTION = 81  # grid points a dimension
ARROWS = 11  # arrows of the gradient field a dimension
STRIP = 5  # snapshots that fit on a page
WIDTH = 3.4  # inches, one column of a paper
SYMBOLS = {"plain": r"$L$", "augmented": r"$L_A$"}
GUIDES = {"plain": "plain", "pid": "plain", "augmented": "augmented"}
PATHS, MEAN, BOUNDARY = "#0072B2", "#D55E00", "#CC79A7"
# From white to a grey on which the colours above and black can still be told apart.
COLOURS = LinearSegmentedColormap.from_list("landscape", ["#FFFFFF", "#808080"])
STEEPER = 4.0  # how many times the range of the shallower energy the colours cover at most
HEIGHT = "energy above\nthe lowest (reward)"
STYLE: Any = {
    "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "figure.dpi": 100, "savefig.dpi": 250, "pdf.fonttype": 42,
    "hatch.linewidth": 0.5, "hatch.color": BOUNDARY,
}


@dataclass(frozen=True)
class Landscape:
    """Both energies at one state, as functions of one or two action dimensions.

    D is the number of drawn dimensions, n the grid points of each, all in the environment's action units.

    Attributes:
        agent_name, seed, step: of the run, and the step that the networks are from.
        state_number: step of the episode that the state is from.
        dimensions: the drawn dimensions of the action, from 0.
        axes: D arrays (n,), the grid.
        energies: "plain" and "augmented", each (n,) or (n, n), indexed [first dimension, second].
        gradients: the same with a last axis D.
        risk: Qc on the grid.
        threshold, lam, rho: h, λ and ρ.
        paths: (P, K + 1, D), squashed latents x_K … x_0 of stochastic denoising; K = 0 for a Gaussian policy.
        mean_path: (K + 1, D), of the deterministic one; it ends at the deterministic action.
        guide: the energy that trained the policy; None: neither of the two.
    """

    agent_name: str
    seed: int
    step: int
    state_number: int
    dimensions: tuple[int, ...]
    axes: list[Floats]
    energies: dict[str, Floats]
    gradients: dict[str, Floats]
    risk: Floats
    threshold: float
    lam: float
    rho: float
    paths: Floats
    mean_path: Floats
    guide: str | None


def episode(loaded: LoadedAgent, number: int = 0) -> Floats:
    """The raw observations (T, s) at which the deterministic policy acts in one whole episode.

    Args:
        number: tells episodes apart; its seed follows from it and the run's.
    """
    task, act = loaded.task, Actor(loaded.agent, loaded.task, None)
    observation, _ = task.reset(seed=episode_seed(loaded.config["seed"], "landscape", number))
    observations, over = [], False
    while not over:
        observations.append(observation)
        observation, _, terminated, truncated, _ = task.step(act(observation))
        over = terminated or truncated
    return np.asarray(observations, dtype=float)


def spaced(length: int, count: int) -> list[int]:
    """`count` different steps of an episode of this length, evenly spaced inside it; all steps if it is shorter."""
    return sorted({int(step) for step in np.linspace(0, length - 1, count + 2)[1:-1].round()})


def denoising_paths(agent: Agent, observation: Tensor, count: int, seed: int) -> tuple[Floats, Floats]:
    """Actions along `count` stochastic denoising paths, (P, K + 1, d), and along the deterministic one, (K + 1, d).

    A policy that does not denoise has paths of one action.

    Args:
        observation: (1, s), normalised.
        seed: of the noise.
    """
    policy, many = agent.policy, observation.expand(count, -1)
    with torch.no_grad():
        if isinstance(policy, DiffusionPolicy):
            normals = policy.draw(count, RandomGenerator(seed))
            stochastic = torch.stack([policy.squash(x) for x in policy.chain(many, normals)], dim=1)
            # Without noise the stochastic process is the deterministic one.
            mean = torch.cat([policy.squash(x) for x in policy.chain(observation, torch.zeros_like(normals[:, :1]))])
        else:
            stochastic = policy.sample(many, policy.draw(count, RandomGenerator(seed))).action.unsqueeze(1)
            mean = policy.deterministic(observation)
    return stochastic.double().numpy(), mean.double().numpy()


def survey(loaded: LoadedAgent, observation: Floats, state_number: int = 0, dimensions: Sequence[int] = (0, 1),
           lam: float | None = None, paths: int = 12) -> Landscape:
    """Both energies and the policy at one state.

    Args:
        loaded: the agent, on the CPU.
        observation: (s,), raw.
        state_number: see Landscape.
        dimensions: one or two of the action's dimensions.
        lam: λ of both energies; None: the agent's own.
        paths: number of stochastic denoising paths.
    """
    agent, space, chosen = loaded.agent, loaded.task.action_space, list(dimensions)
    state = loaded.observations(observation[None])
    seed = stream(loaded.config["seed"], "landscape paths", state_number)
    stochastic, mean = denoising_paths(agent, state, paths, seed)
    axes = [np.linspace(space.low[i], space.high[i], RESOLUTION, dtype=float) for i in chosen]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    actions = np.broadcast_to(mean[-1], (*mesh.shape[:-1], mean.shape[1])).copy()
    actions[..., chosen] = mesh
    flat = torch.as_tensor(actions.reshape(1, -1, mean.shape[1]), dtype=torch.float32)
    energies, gradients = {}, {}
    for name, energy in both_energies(agent, lam).items():
        values, slopes = energy.value_and_gradient(state, flat)
        energies[name] = values.double().numpy().reshape(mesh.shape[:-1])
        gradients[name] = slopes.double().numpy().reshape(actions.shape)[..., chosen]
    with torch.no_grad():
        risk = agent.energy.risk(state, flat).double().numpy().reshape(mesh.shape[:-1])
    guidance, config = agent.guidance, loaded.config
    kind = config["guidance"]["_target_"].rpartition(".")[2]
    return Landscape(
        agent_name=f"{config['agent']['name']}-{config['guidance']['name']}", seed=config["seed"], step=loaded.step,
        state_number=state_number, dimensions=tuple(chosen), axes=axes, energies=energies, gradients=gradients,
        risk=risk, threshold=guidance.threshold, lam=float(guidance.multiplier) if lam is None else lam,
        rho=guidance.penalty or UNPENALISED_RHO, paths=stochastic[..., chosen], mean_path=mean[:, chosen],
        guide=None if config["guidance"].get("level") == "batch" and kind == "augmented" else GUIDES.get(kind))


# --- which networks and states -------------------------------------------------------------------------------------


def snapshots(run: Path) -> dict[int, Path]:
    """The run's snapshots by step, in order.

    Raises:
        UsageError: there is none.
    """
    folder = RunFolder(run)
    found = {int(path.stem.removeprefix("step=")): path for path in sorted(folder.snapshots.glob("step=*.safetensors"))}
    if not found:
        raise UsageError(f"{run} has no snapshots (the key `snapshots` of a run says how many are kept)")
    return found


def at_step(run: Path, step: int | None) -> LoadedAgent:
    """The agent of a run's snapshot at this step; None: its newest checkpoint.

    Raises:
        UsageError: there is no such snapshot.
    """
    if step is None:
        return load(run)
    there = snapshots(run)
    if step not in there:
        raise UsageError(f"{run} has no snapshot of step {step}; there are {', '.join(map(str, there))}")
    return load(there[step])


def _dimensions(loaded: LoadedAgent, wanted: Sequence[int] | None) -> list[int]:
    """The dimensions to draw: those asked for, else the first two, or the only one."""
    size = loaded.task.action_space.shape[0]
    chosen = list(wanted) if wanted else list(range(min(size, 2)))
    if len(set(chosen)) != len(chosen) or len(chosen) > 2 or not all(0 <= i < size for i in chosen):
        raise UsageError(f"--axes {' '.join(map(str, chosen))}: one or two different numbers from 0 to {size - 1} "
                         f"are needed, since the actions have {size} dimension{'s' * (size != 1)}")
    return chosen


def _chosen_states(observations: Floats, count: int, at: Sequence[int] | None) -> list[int]:
    """The steps of the episode that are drawn."""
    length = len(observations)
    if wrong := [step for step in at or () if not 0 <= step < length]:
        raise UsageError(f"--at {wrong[0]}: the episode has steps 0 to {length - 1}")
    return list(at) if at else spaced(length, count)


def pictures(run: Path, states: int = 2, at: Sequence[int] | None = None, step: int | None = None,
             strip: bool = False, against: Path | None = None, axes: Sequence[int] | None = None,
             lam: float | None = None, paths: int = 12) -> Iterator[tuple[Figure, str]]:
    """The figures that `python -m analysis landscape` writes, each with its file's name without ending.

    One figure with a row for each state; with `strip` one for each state with a row for each snapshot; with `against`
    one for all states, with a row for each run.

    Args:
        run: the run's folder.
        states: number of states, evenly spaced in an episode.
        at: steps of the episode, in place of `states`.
        step: the snapshot's; None: the newest checkpoint.
        strip: snapshots below one another, up to five.
        against: another run, drawn at the same states.
        axes: one or two dimensions of the action, from 0.
        lam: λ of both energies; None: each agent's own.
        paths: stochastic denoising paths a panel.

    Raises:
        UsageError: a run, snapshot, state or dimension that is not there; runs of different tasks.
    """
    if strip and (step is not None or against is not None):
        raise UsageError("--strip shows all steps of one run: it goes neither with --step nor with --against")
    loaded = at_step(run, step)
    chosen = _dimensions(loaded, axes)
    others = [load(path) for path in spread(list(snapshots(run).values()), STRIP)] if strip else \
        [comparable(at_step(against, step), loaded)] if against else []
    observations = episode(loaded)
    numbers = _chosen_states(observations, states, at)

    def rows(agents: Sequence[LoadedAgent], numbers: Sequence[int]) -> list[Landscape]:
        return [survey(one, observations[number], number, chosen, lam, paths) for number in numbers for one in agents]

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
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    return [items[i] for i in sorted({int(i) for i in np.linspace(0, len(items) - 1, count).round()})]


def _short(run: Path) -> str:
    """The run in a file's name: <agent>-<guidance>_seed=<seed>-<hash>."""
    return "_".join(run.resolve().parts[-2:])


def comparable(other: LoadedAgent, loaded: LoadedAgent) -> LoadedAgent:
    """The other agent, if it knows the same states and actions.

    Raises:
        UsageError: it was trained on another task.
    """
    names = [one.config["env"]["name"] for one in (other, loaded)]
    spaces = [(one.task.observation_space.shape, one.task.action_space) for one in (other, loaded)]
    if names[0] != names[1] or spaces[0] != spaces[1]:
        raise UsageError(f"{other.folder.path} was trained on env={names[0]}, but {loaded.folder.path} on "
                         f"env={names[1]}: both runs must have the same states and actions")
    return other


# --- drawing -------------------------------------------------------------------------------------------------------


def draw(landscapes: Sequence[Landscape]) -> Figure:
    """L beside L_A, a row for each landscape; what all rows have in common is in the heading."""
    first, flat = landscapes[0], len(landscapes[0].axes) == 1
    facts = [_facts(one) for one in landscapes]
    common = [fact for fact in facts[0] if all(fact in others for others in facts)]
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(len(landscapes), len(ENERGIES), sharex=True, sharey=not flat, squeeze=False,
                                    figsize=(WIDTH, 1.2 * len(landscapes) + 0.9), layout="constrained")
        for number, (one, row) in enumerate(zip(landscapes, axes, strict=True)):
            heights = {name: values - values.min() for name, values in one.energies.items()}
            top = _top(heights)
            for axis, energy in zip(row, ENERGIES, strict=True):
                (_line if flat else _plane)(axis, one, energy, heights[energy], top)
                if number == 0 or landscapes[number - 1].guide != one.guide:
                    axis.set_title(SYMBOLS[energy] + (" (guides)" if one.guide == energy else ""), pad=3)
            quantity = HEIGHT if flat else f"action {one.dimensions[1] + 1} (env. units)"
            own = [fact for fact in facts[number] if fact not in common]
            row[0].set_ylabel("\n".join([*(own if len(landscapes) > 1 else []), quantity]))
            if not flat:
                over = max(height.max() for height in heights.values()) > top
                bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=row, fraction=0.06, pad=0.02,
                                      extend="max" if over else "neither")
                bar.locator = MaxNLocator(4)
                bar.set_label(HEIGHT)
        for axis in axes[-1]:
            axis.set_xlabel(f"action {first.dimensions[0] + 1} (env. units)")
        figure.legend(handles=_legend(first, flat), loc="outside lower center", ncols=2, frameon=False,
                      handlelength=1.8, columnspacing=1.0)
        figure.suptitle(", ".join(common), fontsize=7)
    return figure


def _facts(one: Landscape) -> list[str]:
    """What there is to say about a landscape."""
    return [f"{one.agent_name}, seed {one.seed}", f"step {one.step}", f"λ = {one.lam:.3g}", f"ρ = {one.rho:g}",
            f"state {one.state_number}"]


def _top(heights: dict[str, Floats]) -> float:
    """Where the scale of both energies ends: at the higher one's top, but at most at STEEPER times the lower one's."""
    tops = [max(float(height.max()), 1e-12) for height in heights.values()]
    return min(max(tops), STEEPER * min(tops))


def _plane(axis: Axes, one: Landscape, energy: str, height: Floats, top: float) -> None:
    """One energy over two dimensions."""
    x, y = one.axes
    axis.pcolormesh(x, y, height.T, vmin=0, vmax=top, cmap=COLOURS, shading="gouraud", rasterized=True)
    # The lines follow this panel's own range, so that a shallow landscape shows its shape beside a steep one.
    axis.contour(x, y, height.T, levels=10, colors="0.4", linewidths=0.3)
    some = np.linspace(0, len(x) - 1, ARROWS + 2).round().astype(int)[1:-1]
    downhill = -one.gradients[energy][np.ix_(some, some)]
    downhill /= np.linalg.norm(downhill, axis=-1, keepdims=True) + 1e-12
    axis.quiver(x[some], y[some], downhill[..., 0].T, downhill[..., 1].T, color="0.25", pivot="mid", angles="xy",
                scale=ARROWS * 1.7, width=0.005, headwidth=4, headlength=4, headaxislength=3.5)
    if one.risk.max() > one.threshold:
        axis.contourf(x, y, one.risk.T, levels=[one.threshold, np.inf], colors="none", hatches=["////"])
    if one.risk.min() < one.threshold < one.risk.max():
        axis.contour(x, y, one.risk.T, levels=[one.threshold], colors=BOUNDARY, linewidths=1.5)
    for path in one.paths:
        axis.plot(*path.T, color=PATHS, linewidth=0.6)
    axis.plot(*one.paths[:, -1].T, "o", color=PATHS, markersize=2.6, markeredgecolor="white", markeredgewidth=0.3,
              clip_on=False, zorder=3)
    axis.plot(*one.mean_path.T, color=MEAN, linewidth=1.2)
    axis.plot(*one.mean_path[-1], "*", color=MEAN, markersize=6, markeredgecolor="black", markeredgewidth=0.4,
              clip_on=False, zorder=4)
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))


def _line(axis: Axes, one: Landscape, energy: str, height: Floats, top: float) -> None:
    """One energy over one dimension, with the denoising paths from the top (level K) to the bottom (level 0)."""
    (x,) = one.axes
    axis.fill_between(x, 0, 1, where=one.risk > one.threshold, transform=axis.get_xaxis_transform(), color="0.87",
                      linewidth=0)
    axis.plot(x, height, color="black", linewidth=1.4)
    axis.set(xlim=(x[0], x[-1]), ylim=(-0.05 * top, 1.05 * top))
    levels = axis.twinx()
    steps = np.arange(len(one.mean_path))[::-1]
    for path in one.paths:
        levels.plot(path[:, 0], steps, color=PATHS, linewidth=0.5)
    levels.plot(one.paths[:, -1, 0], np.zeros(len(one.paths)), "|", color=PATHS, markersize=6)
    levels.plot(one.mean_path[:, 0], steps, color=MEAN, linewidth=1.2)
    levels.plot(one.mean_path[-1:, 0], [0], "*", color=MEAN, markersize=6, markeredgecolor="black",
                markeredgewidth=0.4, clip_on=False)
    levels.set_ylim(-0.05 * max(steps[0], 1), 1.05 * max(steps[0], 1))
    levels.set_yticks(steps if energy == ENERGIES[-1] else [])
    if energy == ENERGIES[-1]:
        levels.set_ylabel("noise level of the paths")


def _legend(one: Landscape, flat: bool) -> list[Any]:
    """What the marks are."""
    walks = "denoising, " if len(one.mean_path) > 1 else ""
    samples = Line2D([], [], color=PATHS, marker="|" if flat else "o", markersize=4 if flat else 2.6, linewidth=0.8,
                     label=f"{walks}{len(one.paths)} samples")
    mean = Line2D([], [], color=MEAN, marker="*", linewidth=1.2, markeredgecolor="black", markeredgewidth=0.4,
                  label=f"{walks}deterministic")
    budget = f"$h$ = {one.threshold:.3g}"
    if flat:
        return [Line2D([], [], color="black", label="energy"), Patch(color="0.87", label=f"$Q_c$ > {budget}"),
                samples, mean]
    return [Line2D([], [], color="0.25", marker=r"$\rightarrow$", linewidth=0, label=r"direction of $-\nabla$ energy"),
            Patch(facecolor="white", edgecolor=BOUNDARY, hatch="////", label=f"$Q_c$ > {budget}, and its edge"),
            samples, mean]


def write(figure: Figure, name: str, out: Path) -> list[Path]:
    """The figure as PNG and PDF in a folder, which is made if it is not there. Returns the files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: this folder cannot be made ({error.strerror})") from error
    files = [out / f"{name}.{ending}" for ending in ("png", "pdf")]
    with matplotlib.rc_context(STYLE):
        for file in files:
            # No dates: the same networks make the same file.
            figure.savefig(file, metadata={"Software": None} if file.suffix == ".png" else {"CreationDate": None})
    plt.close(figure)
    return files
