"""`make test` on a machine with only Python, git and make: what is missing is skipped, and nothing fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.command import ROOT

OPTIONAL = re.compile(r"(.*-)?(cc|gcc|c89|c99|clang|chromium|pdflatex|unshare|sbatch|squeue|sacct|munge)(-.*)?")
AFFECTED = ["tests/analysis/test_latex.py", "tests/analysis/test_report.py", "tests/execution",
            "tests/run/test_disk_full.py", "tests/run/test_untrusted.py", "tests/launchers/test_slurm.py"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment whose PATH has links to all programs except optional ones."""
    folder = tmp_path_factory.mktemp("path")
    for directory in map(Path, ("/usr/local/bin", "/usr/bin", "/bin")):
        for program in directory.iterdir():
            if not OPTIONAL.fullmatch(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    kept = {name: value for name, value in os.environ.items()
            if name not in ("CC", needs.NEED_ALL) and not name.startswith("PYTEST_")}
    return kept | {"PATH": str(folder), "ALGD_CACHE": str(folder / "cache")}


def pytest_with(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "needs", "-p", "no:cacheprovider", *arguments],
                          cwd=ROOT, env=environment, capture_output=True, text=True)


def test_what_is_missing_is_skipped_with_its_packages(bare: dict[str, str]) -> None:
    done = pytest_with(bare, *AFFECTED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " failed" not in done.stdout and " passed" in done.stdout, "what needs nothing runs"
    for name in ("browser", "compiler", "latex", "namespaces", "slurm"):
        reason = re.escape(f"(Debian: {needs.NEEDS[name].packages})")
        assert re.search(rf"SKIPPED \[\d+\] .*{reason}", done.stdout), done.stdout


def test_where_everything_is_needed_it_fails(bare: dict[str, str]) -> None:
    done = pytest_with(bare | {needs.NEED_ALL: "1"}, "tests/analysis/test_latex.py")
    assert done.returncode == 1 and " skipped" not in done.stdout
    assert "missing: pdflatex (Debian: texlive-latex-base texlive-latex-recommended)" in done.stdout


def test_every_need_is_used_and_every_mark_names_one() -> None:
    marks = re.compile(r"pytest\.mark\.needs\(([^)]*)\)")
    named = {name for file in (ROOT / "tests").rglob("test_*.py") if file != Path(__file__)
             for found in marks.findall(file.read_text(encoding="utf-8")) for name in re.findall(r'"(\w+)"', found)}
    assert named == set(needs.NEEDS)


def test_ci_installs_the_packages() -> None:
    """.ci/run installs the packages of every requirement, so that nothing is skipped there."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    installed = set(re.search(r"packages=\((.*?)\)", script, re.DOTALL)[1].split())  # type: ignore[index]
    essential = {"util-linux", "mount"}
    for need in needs.NEEDS.values():
        packages = set(need.packages.split()) - essential
        assert packages <= installed, need.what
    assert f"{needs.NEED_ALL}=1" in script
