"""The package of docs/extending.md, examples/, used as by a reader: in a folder outside an unchanged checkout."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import algd
from analysis.__main__ import main as analysis_main
from tests.support.command import ROOT, outcome, status

SMALL = ["initial_steps=40", "total_steps=240", "eval.every=120", "eval.episodes=2", "checkpoint.every=60",
         "log_every=20", "snapshots=2", "logger=none"]
STUDY = ["--config-dir", "conf", "experiment=my_study", *SMALL, "seed=3"]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start python -m ... in this folder."""
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def said(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command and return its standard output and error."""
    process = started(folder, *arguments)
    output, errors = process.communicate()
    assert process.returncode == code, output + errors
    return output, errors


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy examples/ and run the study's sweep there with one seed."""
    folder = tmp_path_factory.mktemp("lab") / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    output, _ = said(folder, "algd", *STUDY, "hydra.launcher.jobs=2")
    assert json.loads(Path(folder, output.strip()).read_text())["experiment"] == "my_study"
    return folder


def run_of(lab: Path, guidance: str, runs: str = "runs") -> Path:
    (folder,) = (lab / runs / "ledge").glob(f"vesde-{guidance}/seed=3-*")
    return folder


def test_it_is_trained_by_the_sweep_from_a_copy_of_both(lab: Path) -> None:
    for guidance in ("softplus", "augmented"):
        assert status(run_of(lab, guidance))["state"] == "finished"
    (code,) = (path for path in (lab / "runs" / "sweeps" / "code").iterdir() if path.is_dir())
    assert (code / "my_lab" / "lagrangians.py").read_bytes() == (lab / "my_lab" / "lagrangians.py").read_bytes()


def test_it_resumes_to_the_same_bytes_and_says_which_code_it_was(lab: Path) -> None:
    """A run that is killed, and continued after the package was edited, ends equal; meta.json records both versions."""
    single = ["algd", *STUDY, "hydra.mode=RUN", "guidance=softplus", "runs_dir=killed"]
    process = started(lab, *single)
    until = time.monotonic() + 300
    while not list(lab.glob("killed/ledge/*/*/checkpoints/0*")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    package = lab / "my_lab" / "__init__.py"
    package.write_text(package.read_text() + "\n# edited\n")
    output, errors = said(lab, *single)
    folder = run_of(lab, "softplus", "killed")
    assert (lab / output.strip()).samefile(folder)
    assert outcome(folder) == outcome(run_of(lab, "softplus"))
    first, second = json.loads((folder / "meta.json").read_text())["starts"]
    assert set(first["trusted"]) == set(second["trusted"]) == {"my_lab"} and first["trusted"] != second["trusted"]
    assert f"the code of my_lab was {first['trusted']['my_lab']} at the last start" in errors
    swept = json.loads((run_of(lab, "softplus") / "meta.json").read_text())["starts"][0]
    assert swept["trusted"] == first["trusted"]  # the sweep's copy is the same code


def test_it_is_analysed(lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, curves and reports work without trusting the package; landscapes are left out with a note."""
    monkeypatch.chdir(lab)
    assert analysis_main(["table", "runs", "--format", "csv"]) == 0
    table = capsys.readouterr().out
    assert "softplus" in table and "augmented" in table
    assert analysis_main(["report", "runs", "--landscapes", "2", "--out", "without.html"]) == 0
    assert "my_lab" in capsys.readouterr().err
    said(lab, "analysis", "report", "runs", "--landscapes", "2", "--import", "my_lab", "--out", "with.html")
    drawn = [(lab / name).read_text().split('id="landscapes"')[1].split("</section>")[0].count("<img ")
             for name in ("without.html", "with.html")]
    assert drawn == [0, 2]


def test_it_is_checked_by_one_command(lab: Path) -> None:
    output, _ = said(lab, "algd", "check", "--config-dir", "conf", "trusted=[my_lab]", "env=ledge",
                     "guidance=softplus", "batch_size=16")
    lines = output.splitlines()
    assert lines[0] == "guidance=softplus agent=vesde env=ledge: built"
    assert [line.split()[:2] for line in lines[1:]] == [[name, "ok"] for name in (
        "environment", "dtype", "shape", "slope", "extremes", "policy", "learning", "resume", "speed")]


def test_the_callback_of_its_page_watches(lab: Path) -> None:
    """The class and the keys shown in docs/callbacks.md work."""
    page = (ROOT / "docs" / "callbacks.md").read_text()
    code = textwrap.dedent(page[page.index("    # my_lab/watch.py"):page.index("    python run.py")])
    (lab / "my_lab" / "watch.py").write_text(code)
    typed = shlex.split(next(line for line in page.splitlines() if line.startswith("    python run.py")))[2:]
    output, errors = said(lab, "algd", *typed, *SMALL, "agent=gaussian", "updates_per_step=1", "batch_size=16")
    assert "failed" not in errors
    states = (lab / output.strip() / "costly.txt").read_text()
    assert re.fullmatch(r"[0-9]+ states by step 240\n", states)


def test_without_trust_nothing_of_it_is_imported(lab: Path) -> None:
    _, errors = said(lab, "algd", "--config-dir", "conf", "env=ledge", code=2)
    assert errors.count("\n") == 1 and "trusted=[MODULE]" in errors
    loading = f"import algd; algd.load({str(run_of(lab, 'softplus'))!r})"
    process = subprocess.run([sys.executable, "-c", loading], cwd=lab, capture_output=True, text=True,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.returncode != 0 and "trusted=['my_lab']" in process.stderr.splitlines()[-1]


def test_it_is_loaded(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(lab))
    agent = algd.load(run_of(lab, "softplus"), trusted=["my_lab"])
    states = np.array([[-0.5], [0.0], [0.6]])
    assert agent.act(states).shape == (3, 1)
    # E = −Q + (2λ/ρ)(log(1 + exp(ρ(Qc − h))) − log 2), as in docs/extending.md.
    q, qc, excess = agent.q(states, [0.1]), agent.qc(states, [0.1]), 2.0 * (agent.qc(states, [0.1]) -
                                                                            agent.agent.guidance.threshold)
    assert qc.shape == (3,)
    np.testing.assert_allclose(agent.energy(states, [0.1]), -q + agent.multiplier * (
        np.log1p(np.exp(excess)) - np.log(2)), rtol=1e-4, atol=1e-5)


def test_a_rule_of_ones_own_as_the_page_has_it(tmp_path: Path) -> None:
    """The class, its YAML file and the command, checked and trained with fewer steps."""
    section = (ROOT / "docs" / "extending.md").read_text().split("## A rule for λ")[1]
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE)
              if block.strip()]
    rule, settings, command = blocks
    (tmp_path / "conf" / "guidance" / "dual").mkdir(parents=True)
    (tmp_path / "my_rules.py").write_text(rule)
    (tmp_path / "conf" / "guidance" / "dual" / "switch.yaml").write_text(settings)
    typed = [*shlex.split(command)[3:], "initial_steps=40", "total_steps=60", "eval.episodes=1", "updates_per_step=1",
             "batch_size=16", "log_every=20", "logger=none"]
    output, _ = said(tmp_path, "algd", "check", *typed)
    assert "FAILED" not in output
    said(tmp_path, "algd", *typed)
    (metrics,) = tmp_path.glob("runs/toy/*/*/metrics.csv")
    with metrics.open(newline="") as file:
        assert {0 <= float(row["lam"]) <= 2 for row in csv.DictReader(file)} == {True}
