"""The LaTeX table compiles with pdflatex without changes."""

import subprocess
from pathlib import Path

import pytest

from tests.analysis.run_folders import config, simple, text_of


@pytest.mark.needs("latex")
def test_the_table_compiles_as_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It compiles with names of special characters, cells over the limit, an interval and a single seed."""
    runs = tmp_path / "runs"
    for number, name in enumerate(["a&b_c", "50%#{}", r"~^\$", "ρ≤λ"]):
        simple(runs / f"one-{number}", config(0, name, "toy_1"), number, number * 3)
    for seed in range(3):
        simple(runs / f"three-{seed}", config(seed, "three"), 1 / 3 + seed, 100)
    table = text_of(capsys, runs, "--format", "latex", "--rows", "env", "--columns", "agent,guidance")
    (tmp_path / "paper.tex").write_text("\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
                                        f"{table}\n\\end{{document}}\n", encoding="utf-8")
    result = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path,
                            capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "Undefined control sequence" not in result.stdout
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
