"""Return against cost: which cells no other beats in both."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from algd.errors import UsageError
from analysis.results.cells import Cell
from analysis.results.style import LIMIT, STYLE, WIDTH, look
from analysis.statistics.aggregates import pareto_front


def pareto(cells: Sequence[Cell]) -> list[Cell]:
    """The evaluated cells that no other beats in mean cost and mean return, by rising cost."""
    known = [(cell, cell.mean_cost.value, cell.mean_return.value) for cell in cells
             if cell.mean_cost is not None and cell.mean_return is not None]
    front = pareto_front([cost for _, cost, _ in known], [gain for _, _, gain in known])
    return [known[index][0] for index in front]


def draw_pareto(cells: Sequence[Cell], keys: Sequence[str]) -> Figure:
    """Return against cost of every evaluated cell of one task, with intervals, the front, and each budget beside it.

    Args:
        cells: of one row.
        keys: of their columns; env.limit is written beside the points, the others tell colours apart.

    Raises:
        UsageError: no cell was evaluated.
    """
    evaluated = [cell for cell in cells if cell.mean_cost is not None and cell.mean_return is not None]
    if not evaluated:
        raise UsageError("return against budget: none of the runs has an evaluation")
    others = [index for index, key in enumerate(keys) if key != "env.limit"]
    algorithms = sorted({tuple(cell.column[index] for index in others) for cell in evaluated})
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
        handles: dict[str, Any] = {}
        for cell in evaluated:
            gain, cost = cell.mean_return, cell.mean_cost
            assert gain is not None and cost is not None
            algorithm = tuple(cell.column[index] for index in others)
            tone = look(algorithm, [keys[index] for index in others], algorithms)["color"]
            spread: dict[str, Any] = {f"{side}err": [[one.value - one.low], [one.high - one.value]]
                                      for side, one in (("x", cost), ("y", gain))
                                      if one.low is not None and one.high is not None}
            drawn = axis.errorbar(cost.value, gain.value, fmt="o", color=tone, markersize=3.5, elinewidth=0.5,
                                  markerfacecolor=tone if cell.feasible else "white", **spread)
            handles.setdefault(", ".join(algorithm), drawn)
            if cell.limit is not None:
                axis.annotate(f"≤ {cell.limit:g}", (cost.value, gain.value), (3, 3), textcoords="offset points",
                              fontsize=5.5, color=tone)
                axis.axvline(cell.limit, zorder=0, **(LIMIT | {"alpha": 0.5}))
        front = pareto(evaluated)
        axis.plot([cell.mean_cost.value for cell in front if cell.mean_cost],
                  [cell.mean_return.value for cell in front if cell.mean_return], color="0.5", linewidth=0.8, zorder=0)
        axis.set(xlabel="cost (hollow: above its limit; limits dashed)", ylabel="return",
                 title=", ".join(evaluated[0].row))
        figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=2,
                      frameon=False)
    return figure
