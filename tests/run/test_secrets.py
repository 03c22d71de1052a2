"""Secrets are never written: keys are planted, and all files are searched for them."""

import base64
import gzip
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from algd.cli import main as cli
from algd.errors import UsageError
from algd.secrets import redacted
from algd.storage.provenance import safe_command
from algd.storage.run_folder import RunFolder
from analysis.__main__ import main as analysis_main
from tests.support.command import ROOT, TINY, compose, only_run, run
from tests.support.wandb_server import WandbServer

KEY, NETRC = "9e107d9d372bb6826bd81d3542a419d6deadbeef", "5f4dcc3b5aa765d61d8327deb882cf99cafebabe"
TOKEN = "tok-4f1c0b5a2e77"
SHORT = [*TINY, "env=toy", "initial_steps=20", "total_steps=60", "checkpoint.every=30", "eval.every=30",
         "eval.episodes=2", "snapshots=2", "log_every=20"]


def spellings(secret: str) -> Iterator[bytes]:
    """Yield the secret as plain text and as it occurs in headers, addresses and archives."""
    yield from (secret.encode(), urllib.parse.quote(secret).encode(), secret.encode("utf-16-le"))
    for user in ("", "api:", "user:"):
        # Base64 encodes a text in three ways, by what precedes it; its last digits depend on what follows.
        for shift in range(3):
            spelled = base64.b64encode(b"\0" * shift + (user + secret).encode())
            yield spelled[4 * (shift > 0) + 4 * (shift > 1):-4]


def find_secrets(top: Path) -> list[str]:
    """Return the files below a folder that contain a planted secret in name or content."""
    found = []
    for path in top.rglob("*"):
        contents = [str(path).encode()]
        if path.is_file():
            contents.append(path.read_bytes())
            if contents[-1][:2] == b"\x1f\x8b":
                contents.append(gzip.decompress(contents[-1]))
        for secret in (KEY, TOKEN, NETRC):
            if any(one in content for one in spellings(secret) for content in contents):
                found.append(f"{secret} in {path}")
    return found


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plant secrets in a home with a netrc and in the environment; return the folder for everything else."""
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    place.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine 127.0.0.1\n  login user\n  password {NETRC}\n")
    netrc.chmod(0o600)
    for name, value in {"HOME": str(home), "NETRC": str(netrc), "MY_SERVICE_TOKEN": TOKEN, "WANDB_DIR": str(place),
                        "WANDB_CACHE_DIR": str(place / "cache"), "WANDB_CONFIG_DIR": str(place / "config"),
                        "WANDB_DATA_DIR": str(place / "data"), "TMPDIR": str(place)}.items():
        monkeypatch.setenv(name, value)
    return place


def test_the_search_finds_them(tmp_path: Path) -> None:
    """The search finds each encoding, in files, archives and names."""
    for number, one in enumerate(spellings(KEY)):
        (tmp_path / f"{number}").write_bytes(b"before" + one + b"after")
    (tmp_path / "archive.gz").write_bytes(gzip.compress(TOKEN.encode()))
    (tmp_path / f"{NETRC}.txt").touch()
    (tmp_path / "header").write_bytes(base64.b64encode(f"api:{KEY}:x".encode()))
    assert len(find_secrets(tmp_path)) == len(list(spellings(KEY))) + 3


def test_a_run_offline_its_evaluation_and_its_report(planted: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said = run(*SHORT, "logger=wandb", f"runs_dir={planted / 'runs'}")
    folder = only_run(planted / "runs")
    said += run("mode=eval", f"run={folder}", "eval.episodes=1")
    for command in (["table", "--each-run"], ["table", "--format", "latex"],
                    ["curves", "--out", str(planted / "figures")],
                    ["report", "--landscapes", "0", "--out", str(planted / "report.html")]):
        assert analysis_main([*command, str(folder)]) == 0
    (planted / "said").write_text(said + "".join(capsys.readouterr()))
    assert list((folder / "wandb").glob("offline-run-*/*.wandb")) and (planted / "report.html").exists()
    assert find_secrets(planted) == []


def test_a_run_online(planted: Path) -> None:
    """The netrc's key is sent to the server as a header, and occurs nowhere else."""
    with WandbServer() as server:
        netrc = Path(os.environ["NETRC"])
        netrc.write_text(netrc.read_text().replace("127.0.0.1", server.url.removeprefix("http://")))
        said = run(*SHORT, "logger=wandb", "logger.mode=online", f"runs_dir={planted / 'runs'}",
                   WANDB_BASE_URL=server.url)
        (planted / "sent").write_text(repr([vars(sent) for sent in server.runs.values()]))
        histories = [len(sent.history) for sent in server.runs.values()]
    (planted / "said").write_text(said)
    (status,) = (planted / "runs").glob("*/*/*/status.json")
    warnings = [line for line in said.splitlines() if line.startswith("warning") and "too few" not in line]
    assert warnings == [] and json.loads(status.read_text())["state"] == "finished"
    assert sum(histories) > 10
    assert find_secrets(planted) == []


def test_a_sweep(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in its file, copy of the code, logs or output, nor in the output of `launchers status`."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said = run("-m", *SHORT, "seed=0,1", "hydra.launcher.jobs=2", "hydra.launcher.name=s",
               f"runs_dir={planted / 'runs'}")
    done = subprocess.run([sys.executable, "-m", "launchers", "status", str(planted / "runs")], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    (planted / "said").write_text(said + done.stdout + done.stderr)
    assert (planted / "runs" / "sweeps" / "s.json").exists() and list((planted / "runs" / "sweeps" / "code").iterdir())
    assert find_secrets(planted) == []


@pytest.mark.parametrize("override", [
    "env.name=${oc.env:MY_SERVICE_TOKEN}", f"agent.name={TOKEN}", f"agent.name=a-{TOKEN}-b",
    f"logger.project={TOKEN}", f"logger.tags=[{TOKEN}]", f"runs_dir={TOKEN}"])
def test_a_configuration_takes_no_secret(planted: Path, monkeypatch: pytest.MonkeyPatch, override: str,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """A secret in a configuration, typed or interpolated, is refused, and the error does not repeat it."""
    monkeypatch.chdir(planted)
    logger = "logger=wandb" if "logger." in override else "logger=none"
    monkeypatch.setattr(sys, "argv", ["run.py", *SHORT, logger, override])
    assert cli.main() == 2
    assert TOKEN not in "".join(capsys.readouterr())
    assert list(planted.iterdir()) == []


def test_keys_of_environments_are_no_arguments(planted: Path) -> None:
    for name in ("api_key", "apikey", "token", "access_key", "password", "my.secret", "auth_token"):
        with pytest.raises(UsageError, match="an environment variable is the place for it") as caught:
            compose("env=gymnasium", "env.id=Pendulum-v1", f"+env.kwargs.{name}={KEY}", "logger=none")
        assert KEY not in str(caught.value)
    assert compose("env=gymnasium", "env.id=Pendulum-v1", "+env.kwargs.keyboard=3", "logger=none")


def test_commands_reasons_and_changes_without_them(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are removed from command lines, failure reasons and diffs."""
    assert safe_command(["run.py", f"x={TOKEN}", "my_key=abc"]) == "run.py 'x=***' 'my_key=***'"
    (planted / "run").mkdir()
    folder = RunFolder(planted / "run")
    folder.write_status({"state": "failed", "reason": f"ConnectionError: 401 for {TOKEN}"})
    assert folder.status()["reason"] == "ConnectionError: 401 for ***"
    monkeypatch.setenv("ANOTHER_PASSWORD", f"{TOKEN}-and-more")
    assert redacted(f"+{TOKEN}-and-more {TOKEN}") == "+*** ***"
    assert find_secrets(planted) == [] and os.environ["MY_SERVICE_TOKEN"] == TOKEN
