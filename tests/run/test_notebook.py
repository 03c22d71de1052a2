"""The notebook runs from the first cell to the last, and shows what it claims."""

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "notebook.py").write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    done = subprocess.run([sys.executable, "notebook.py"], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "LoadedAgent(vesde-augmented on toy, seed 0, step 300, λ = " in done.stdout
    assert "Tables(1 run; rows: 24 evals, " in done.stdout
    assert done.stdout.count("deterministic") == 3
    assert "the observation has shape (5,); of env=toy one is (3,), and a batch of B is (B, 3)" in done.stdout


def test_its_outputs_are_kept() -> None:
    """Its stored outputs have two figures, no error and no path of the machine."""
    outputs = [output for cell in json.loads(NOTEBOOK.read_text())["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert all(output["output_type"] != "error" for output in outputs)
    assert not any(str(Path.home()) in json.dumps(output) or "/tmp/" in json.dumps(output) for output in outputs)
