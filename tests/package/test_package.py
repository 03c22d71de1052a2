"""The wheel, installed without the checkout: `algd` works from any folder, with its configurations."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

import algd
from algd.storage.provenance import start_record
from tests.support.command import ROOT, TINY

SOURCES = ("algd", "analysis", "launchers", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment, with this environment's packages, and return its programs' folder."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")],
                   check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith(f"algd-{algd.__version__}-")
    venv.create(folder / "venv", with_pip=False)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    subprocess.run([*pip, "--python", str(folder / "venv" / "bin" / "python"), "install", "--no-deps", "--no-index",
                    str(wheel)], check=True, capture_output=True, text=True)
    # The dependencies, but not the checkout, which an editable install names in *.pth files.
    others = [path for path in {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *sys.path}
              if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(others))
    return folder / "venv" / "bin"


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)


def test_it_is_the_wheel_that_is_imported(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "python", "-c", "import algd, launchers, analysis, hydra_plugins.algd_launchers as plugins;"
                "print(algd.__file__, launchers.__file__, analysis.__file__, plugins.__file__)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.parent)) for path in done.stdout.split())


def test_every_configuration_is_in_it(installed: Path) -> None:
    (conf,) = installed.parent.glob("lib/python*/site-packages/algd/conf")
    files = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(conf) for path in conf.rglob("*.yaml")} == files


def test_every_file_beside_the_code_is_in_it(installed: Path) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    files = [path.relative_to(ROOT) for name in ("algd", "analysis", "launchers") for path in (ROOT / name).rglob("*.*")
             if path.suffix in (".c", ".h", ".css", ".js", ".html", ".json", ".yaml")]
    assert len(files) >= 1 and [path for path in files if not (site / path).exists()] == []


def test_the_command_trains_sweeps_and_refuses(installed: Path, tmp_path: Path) -> None:
    """In an empty folder the command trains a sweep with the launcher's plugin, and refuses a wrong key."""
    done = call(installed / "algd", "-m", *TINY, "env=toy", "initial_steps=30", "total_steps=40", "eval.episodes=1",
                "seed=0,1", "runs_dir=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("toy/*/*/status.json"))) == 2
    wrong = [call(*command, "total_stepz=3", cwd=tmp_path)
             for command in ([installed / "algd"], [installed / "python", "-m", "algd"])]
    assert [(done.returncode, done.stderr) for done in wrong] == [(2, wrong[0].stderr)] * 2
    assert wrong[0].stderr.startswith("error: total_stepz is not a key of the configuration; did you mean total_steps")
    table = call(installed / "python", "-m", "analysis", "table", "runs", cwd=tmp_path)
    assert table.returncode == 0 and "vesde" in table.stdout, table.stderr


def test_one_version() -> None:
    """Package, citation, newest section of the changelog and the record of a run have the same version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    record = start_record(1, "cpu")["versions"]["algd"]
    assert {citation["version"], changes[0], record} == {algd.__version__}
