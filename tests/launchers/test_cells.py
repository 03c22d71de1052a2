"""Studies whose cells are not a full grid: each cell with every combination of the swept values."""

from pathlib import Path

import pytest
from hydra_plugins.algd_launchers import with_cells

from algd.errors import UsageError
from tests.support.command import TINY, run

CELLS = {"a": ["agent=vesde", "guidance=plain"], "b": ["agent=gaussian"]}


def test_cells_vary_fastest() -> None:
    assert with_cells([["seed=0"], ["seed=1"]], CELLS) == [
        ["seed=0", "agent=vesde", "guidance=plain"], ["seed=0", "agent=gaussian"],
        ["seed=1", "agent=vesde", "guidance=plain"], ["seed=1", "agent=gaussian"]]


def test_without_cells_a_grid_stays_as_it_is() -> None:
    assert with_cells([["seed=0"], ["seed=1"]], {}) == [["seed=0"], ["seed=1"]]


def test_a_key_that_a_cell_sets_cannot_be_swept() -> None:
    with pytest.raises(UsageError, match="agent: the study's cell a sets it already, to vesde"):
        with_cells([["agent=ddpm"]], CELLS)


def test_a_study_with_cells_runs_each_of_them(tmp_path: Path) -> None:
    run("-m", *TINY, "env=toy", "seed=0,1", "initial_steps=16", "total_steps=4", "eval.every=4", "eval.episodes=1",
        "snapshots=0", f"runs_dir={tmp_path}",
        "hydra.sweeper.cells={first:['agent=vesde'],second:['agent=gaussian','guidance=plain']}")
    assert sorted(path.parent.name for path in (tmp_path / "toy").glob("*/*")) == \
        ["gaussian-plain"] * 2 + ["vesde-augmented"] * 2
