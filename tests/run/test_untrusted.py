"""Files from others are data: loading, showing and continuing them executes, leaks and overwrites nothing."""

import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import algd
from algd.config.identity import identity
from algd.errors import UsageError
from algd.storage.files import sealed, unsealed
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main as analysis_main
from analysis.runs.find import find_runs
from analysis.runs.read import read_run
from analysis.runs.select import flat
from launchers.__main__ import main as launchers_main
from launchers.sweeps import load_sweep
from tests.analysis.run_folders import config, simple
from tests.support.command import TINY, compose, only_run, train_here
from tests.support.page import Page
from tests.support.slurm_cluster import running_cluster

RUN = [*TINY, "env=toy", "initial_steps=20", "total_steps=60", "checkpoint.every=20", "eval.every=30",
       "eval.episodes=2", "snapshots=2", "log_every=20"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder as its owner left it."""
    runs = tmp_path_factory.mktemp("original")
    train_here(*RUN, f"runs_dir={runs}")
    return only_run(runs)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a copy of it to be tampered with, at the same place below a runs_dir."""
    copy = tmp_path / "runs" / "toy" / "vesde-augmented" / original.name
    shutil.copytree(original, copy)
    return copy


class Command:
    """An object whose unpickling executes a command."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self.mark}'",)


def checkpoint_of(folder: Path) -> Path:
    (found,) = [path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
    return found


def replace_in_checkpoint(folder: Path, name: str, content: bytes) -> None:
    """Replace a checkpoint's file and correct all checksums, as an attacker would."""
    place = checkpoint_of(folder)
    (place / name).write_bytes(content)
    manifest = unsealed((place / "manifest.json").read_bytes())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (place / "manifest.json").write_bytes(sealed(manifest))


def tampered_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration, and its identity in meta.json."""
    content = yaml.safe_load((folder / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    meta = unsealed((folder / "meta.json").read_bytes()) | {"identity": identity(content)}
    (folder / "meta.json").write_bytes(sealed(meta))


def refused(path: Path) -> str:
    """Return the one-sentence error of loading."""
    with pytest.raises(UsageError) as caught:
        algd.load(path)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable(), said
    return said


# --- pickles and bombs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
@pytest.mark.parametrize("place", ["state.safetensors", "state.json", "snapshot"])
def test_pickles_are_never_opened(folder: Path, tmp_path: Path, kind: str, place: str) -> None:
    mark, evil = tmp_path / "executed", io.BytesIO()
    (pickle.dump if kind == "pickle" else torch.save)(Command(mark), evil)
    if place == "snapshot":
        path = sorted((folder / "snapshots").iterdir())[-1]
        path.write_bytes(evil.getvalue())
        assert "is not a snapshot" in refused(path)
    else:
        replace_in_checkpoint(folder, place, evil.getvalue())
        assert "has no checkpoint that can be loaded" in refused(folder)
    assert not mark.exists()


def header(length: int, text: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + text


BOMBS = {
    "a header of exabytes": header(2**62),
    "a header longer than the file": header(10**6, b"{}"),
    "a header that is no JSON": header(4, b"\xff\xfe{}"),
    "a nested header": header(200_000, b"[" * 200_000),
    "a tensor of exabytes": (lambda text: header(len(text), text))(json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()),
    "offsets outside the file": (lambda text: header(len(text), text))(json.dumps(
        {"x": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 10**9]}}).encode()),
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_tensor_files_that_lie_about_their_size(folder: Path, bomb: str) -> None:
    replace_in_checkpoint(folder, "state.safetensors", BOMBS[bomb])
    assert "has no checkpoint that can be loaded" in refused(folder)
    path = sorted((folder / "snapshots").iterdir())[-1]
    path.write_bytes(BOMBS[bomb])
    assert "is not a snapshot" in refused(path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"agent": 3}', b"[]", b"3", b'{"agent": {"model": [1]}}',
                                     b'{"agent": {"model": {"x": "tensor:/nothing"}}}', b'{"a": "tensor:x"}', b""])
def test_states_that_are_none(folder: Path, content: bytes) -> None:
    replace_in_checkpoint(folder, "state.json", content)
    assert "has no checkpoint that can be loaded" in refused(folder)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi",
                                                                                          strict=True))
YAML = {
    "an object": "x: !!python/object/apply:os.system [touch executed]\n",
    "an object of a name": "x: !!python/name:os.system ''\n",
    "a new object": "x: !!python/object/new:subprocess.Popen [[touch, executed]]\n",
    "laughs": LAUGHS,
    "merges": MERGES,
    "a reference to itself": "x: &x [*x]\n",
    "deep lists": "[" * 200_000,
    "deep lists that end": "x: " + "[" * 100_000 + "]" * 100_000,
    "deep groups": "x: " + "{a: " * 50_000,
    "deep dashes": "- " * 100_000,
    "megabytes": "x: '" + "y" * 2_000_000 + "'\n",
    "no text": "\xff\xfe\x00",
    "nothing": "",
    "a text": "seed",
    "a number": "3",
    "a list": "[1, 2]",
    "a key that is no text": "? [1, 2]\n: 3\n",
    "control characters": 'seed: "a\\0b"\n',
}


@pytest.mark.parametrize("kind", YAML)
def test_configurations_that_are_none(folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "config.yaml").write_bytes(YAML[kind].encode("latin-1"))
    assert "config.yaml" in refused(folder)
    with pytest.raises(UsageError, match="cannot be read as a run"):
        read_run(folder)
    assert not (tmp_path / "executed").exists()


# --- code in configurations ----------------------------------------------------------------------------------------


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of a configuration that sets a dotted key."""
    def change(content: dict[str, Any]) -> None:
        *path, last = place.split(".")
        node = content
        for part in path:
            node = node[part]
        node[last] = value

    return change


WRITE = {"_target_": "algd.storage.files.write_atomically", "path": "executed", "content": "x"}
CODE = {
    "a command": ("agent._target_", "os.system"),
    "a command as a policy": ("agent.policy", {"_target_": "os.system", "_partial_": True, "command": "touch x"}),
    "a command as a process": ("agent.policy.process", {"_target_": "os.system", "command": "touch executed"}),
    "a command as an environment": ("env", {"_target_": "os.system", "name": "toy", "command": "touch executed"}),
    "an own function that writes": ("env", WRITE | {"name": "toy"}),
    "an own function that ends the process": ("env._target_", "algd.cli.main.main"),
    "a study": ("guidance._target_", "analysis.studies.invariance.study.run"),
    "a method": ("agent._target_", "algd.algorithm.agent.Agent.load_state_dict"),
    "an import": ("agent._target_", "algd.algorithm.agent.torch.load"),
    "a command in a value": ("env.horizon", {"_target_": "os.system", "command": "touch executed"}),
    "a command in a list": ("agent.critic_hidden_sizes", [{"_target_": "os.system", "command": "touch executed"}]),
    "a command as the logger": ("logger", {"_target_": "os.system", "command": "touch executed"}),
    "arguments": ("agent._args_", [1]),
    "the environment": ("env.name", "${oc.env:WANDB_API_KEY}"),
    "the environment in a list": ("agent.critic_hidden_sizes", ["${oc.env:WANDB_API_KEY}"]),
    "a path": ("env.name", "../../../../escaped"),
    "a line end": ("agent.name", "a\nb"),
    "a terminal's order": ("agent.name", "a\x1b]0;x\x07b"),
}


@pytest.mark.parametrize("kind", CODE)
def test_configurations_name_no_code(folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    """Loading, evaluating, continuing and tabulating a run never execute what its configuration names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    tampered_config(folder, put(*CODE[kind]))
    said = refused(folder)
    assert CODE[kind][0].partition(".")[0] in said and "0123456789" not in said
    assert launchers_main(["retry", str(folder)]) == 2 or "nothing failed" in capsys.readouterr().err
    analysis_main(["table", str(folder)])
    assert "0123456789" not in "".join(capsys.readouterr())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_modules_are_imported_only_when_trusted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """env.id=module:Id-v0 imports a module only if the user who loads the run trusts it."""
    (tmp_path / "evil_module.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    other = compose("env=gymnasium", "env.id=evil_module:Corridor-v0", "env.horizon=10")["env"]
    tampered_config(folder, put("env", other))
    said = refused(folder)
    assert "to trust it: trusted=[evil_module] on the command line" in said and "trusted=['evil_module']) in" in said
    assert "evil_module" not in sys.modules and not (tmp_path / "executed").exists()
    with pytest.raises(UsageError, match="no environment of this name"):
        algd.load(folder, trusted=["evil_module"])
    assert (tmp_path / "executed").exists()


# --- links and paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["config.yaml", "evals.csv", "status.json", "checkpoints", "checkpoints/replay",
                                  "snapshots", "videos", "lock", "wandb/mirror.lock", "wandb/journal.jsonl"])
def test_links_out_of_a_folder(folder: Path, tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a link points to is not shown, written, loaded or deleted."""
    elsewhere = tmp_path / "elsewhere"
    place = folder / link
    if place.is_dir() or link == "videos":
        elsewhere.mkdir()
        (elsewhere / "precious.mp4").write_text("precious")
        shutil.rmtree(place, ignore_errors=True)
    else:
        elsewhere.write_text("precious: 1\n")
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
    place.symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()}
    assert "link out of the run's folder" in refused(folder)
    with pytest.raises(UsageError, match="link out of the run's folder"):
        train_here(*RUN, "total_steps=80", f"runs_dir={tmp_path / 'runs'}")
    assert analysis_main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 2
    assert "precious" not in capsys.readouterr().err.replace("precious.mp4", "")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()}
    assert after == before


def test_links_within_a_folder_and_to_it(folder: Path, tmp_path: Path) -> None:
    (folder / "snapshots" / "newest").symlink_to(sorted((folder / "snapshots").iterdir())[-1].name)
    (tmp_path / "shortcut").symlink_to(folder)
    (folder / "wandb").mkdir()
    (folder / "wandb" / "debug.log").symlink_to(tmp_path / "log")  # the client's own
    assert algd.load(tmp_path / "shortcut").step == 60


@pytest.mark.parametrize("runs", [["../../outside"], ["/etc"], ["toy/../../.."], ["a\nb"], [3], "toy", None, {"a": 1},
                                  ["toy\x1b[2J"]])
def test_sweeps_list_runs_below_their_folder(tmp_path: Path, runs: Any) -> None:
    file = tmp_path / "sweeps" / "s.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"name": "s", "runs": runs, "overrides": []}))
    with pytest.raises(UsageError):
        load_sweep(file)
    with pytest.raises(UsageError):
        find_runs([str(file)], tmp_path)


@pytest.mark.parametrize("submission", [{"job": "1; touch executed", "tasks": []}, {"job": "--help", "tasks": []}, {},
                                        {"job": "3", "tasks": 3}, {"job": "3", "tasks": [[3]]}, 3])
def test_sweeps_name_jobs_by_numbers(tmp_path: Path, submission: Any) -> None:
    """Job names must be numbers, since they become arguments of squeue and scancel."""
    file = tmp_path / "sweeps" / "s.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"name": "s", "runs": [], "overrides": [], "submissions": [submission]}))
    with pytest.raises(UsageError, match="not a sweep"):
        load_sweep(file)


# --- what is shown -------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script>&\"\\input{/etc/passwd}$x_1$#%|"


def runs_only_its_own(text: str) -> bool:
    """Return whether a report's scripts are only its data, the plotting library and the page's own script."""
    page = Page(text)
    (_, data), *programs = page.scripts
    return ([attributes for attributes, _ in page.scripts] == [{"type": "application/json", "id": "data"}, {}, {}]
            and "<" not in data and not any("alert('x')" in program for _, program in programs))


def test_names_are_escaped_wherever_they_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        simple(tmp_path / "runs" / str(seed), config(seed, guidance=HOSTILE, env=HOSTILE), 1, 2)
    out = tmp_path / "page.html"
    assert analysis_main(["report", str(tmp_path / "runs"), "--title", HOSTILE, "--out", str(out)]) == 0
    text = out.read_text()
    assert runs_only_its_own(text) and text.count("&lt;script&gt;") > 3 and "default-src &#39;none&#39;" in text
    capsys.readouterr()
    assert analysis_main(["table", str(tmp_path / "runs"), "--format", "latex"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("%")]
    assert all("\\input" not in line and "$x_1$" not in line for line in lines)
    assert any(r"\textbackslash{}input\{/etc/passwd\}\$x\_1\$\#\%" in line for line in lines)
    assert analysis_main(["table", str(tmp_path / "runs")]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") == table[0].replace(r"\|", "").count("|") for line in table[:5])


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+cmd()", "-2+3+cmd()", "@SUM(1)"])
def test_spreadsheets_get_no_formulas(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    simple(tmp_path / "runs", config(0, guidance=name, rho=-1.5), 1, 2)
    assert analysis_main(["table", str(tmp_path), "--columns", "guidance,guidance.rho", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["guidance"] == f"'{name}" and row["guidance.rho"] == "-1.5"


def test_lines_stay_lines() -> None:
    for text in ("a\nb", "a\rb", "a\x1b[31m", "a\x00", "a\u2028b", "\ud800"):
        with pytest.raises(ValueError, match="control characters"):
            flat({"agent": {"name": text}})


@pytest.mark.parametrize("change", [{"algo": HOSTILE}, {"algo": "a\nb"}, {"seed": "x"}, {"env_id": 3},
                                    {"algo_cfgs": []}, {"train_cfgs": {"total_steps": "many"}},
                                    {"lagrange_cfgs": {"cost_limit": "x"}}])
def test_foreign_runs_of_omnisafe(tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of OmniSafe are shown with their texts escaped, or refused with one sentence."""
    (tmp_path / "run").mkdir()
    content = {"seed": 0, "algo": "SACLag", "env_id": "SafetyPointGoal1-v0", "train_cfgs": {"total_steps": 1000},
               "algo_cfgs": {"gamma": 0.99}, "lagrange_cfgs": {"cost_limit": 25.0}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content | change))
    (tmp_path / "run" / "progress.csv").write_text(
        "Metrics/EpRet,Metrics/EpCost,Metrics/EpLen,TotalEnvSteps,Time/Total\n1,2,1000,1000,3\n")
    code = analysis_main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")])
    said = capsys.readouterr().err
    if code == 2:
        assert said.startswith("error: ") and said.count("\n") == 1
    else:
        assert code == 0 and runs_only_its_own((tmp_path / "page.html").read_text())
    assert code == (0 if change.get("algo") == HOSTILE else code)


# --- scripts -------------------------------------------------------------------------------------------------------

AWKWARD = "it's \"$(touch executed)\" `touch executed`; touch executed & λ"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield


@pytest.mark.needs("slurm")
def test_a_real_job_in_an_awkward_folder(slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of a path is executed by a shell when a sweep runs there."""
    from tests.support.command import run, status

    runs = tmp_path / AWKWARD
    run("-m", *RUN, "total_steps=30", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.name=s",
        "hydra.launcher.time=10", "hydra.launcher.poll_seconds=2", f"runs_dir={runs}",
        "hydra.launcher.setup=['export NOTE=\"a b\"']", "+hydra.launcher.sbatch.mail-user='x; touch executed'")
    assert [status(path.parent)["state"] for path in runs.glob("toy/*/*/config.yaml")] == ["finished"] * 2
    assert not list(tmp_path.rglob("executed")) and not Path("executed").exists()
    script = next((runs / "sweeps" / "s" / "slurm").glob("*.sh"))
    assert "#SBATCH --mail-user='x; touch executed'" in script.read_text()
    assert RunFolder(next(path.parent for path in runs.glob("toy/*/*/config.yaml"))).config()["runs_dir"] == str(runs)
