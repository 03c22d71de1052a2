"""A disk that fills up: the run stops with one sentence, loses nothing, and goes on when there is room."""

import subprocess
import sys
from pathlib import Path

from tests.command import ROOT, TINY, only_run, outcome, train_here

RUN = [*TINY, "env=toy", "initial_steps=40", "total_steps=300", "checkpoint.every=20", "eval.every=100",
       "eval.episodes=1", "log_every=50", "snapshots=2"]
# A file system of its own, in a namespace of its own, that is first too small and then large enough.
SCRIPT = """
set -e
mount -t tmpfs -o size=300k tmpfs "$1"
code=0; "$3" run.py "${@:4}" || code=$?
echo "first exit code $code"
df "$1" | tail -1
mount -o remount,size=60m "$1"
code=0; "$3" run.py "${@:4}" || code=$?
echo "second exit code $code"
cp -r "$1/." "$2"
"""


def test_no_room(tmp_path: Path) -> None:
    mounted, kept = tmp_path / "mounted", tmp_path / "kept"
    mounted.mkdir(), kept.mkdir()
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "bash", str(mounted), str(kept),
         sys.executable, *RUN, f"runs_dir={mounted}"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "first exit code 1" in process.stdout and "second exit code 0" in process.stdout, process.stderr
    assert process.stderr.count("No space left on device; once there is room again") == 1
    assert "Traceback" not in process.stderr
    assert "going on from step" in process.stderr
    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    assert outcome(only_run(kept)) == outcome(only_run(tmp_path / "twin"))
