"""Full and read-only file systems: the run stops with one sentence, loses nothing, and continues when it can."""

import errno
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from launchers.snapshot import PACKAGES, code_files
from tests.soak import campaigns
from tests.support.command import ROOT, TINY, only_run, outcome, train_here

RUN = [*TINY, "env=toy", "initial_steps=40", "total_steps=150", "checkpoint.every=20", "eval.every=60",
       "eval.episodes=1", "log_every=50", "snapshots=2"]
# A file system in a mount namespace: first too small, then read-only, then large enough.
SCRIPT = """
set -e
mount -t tmpfs -o size=240k tmpfs "$1"
code=0; "$3" run.py "${@:4}" || code=$?
echo "first exit code $code"
df "$1" | tail -1
mount -o remount,ro "$1"
code=0; "$3" run.py "${@:4}" || code=$?
echo "second exit code $code"
mount -o remount,rw,size=60m "$1"
code=0; "$3" run.py "${@:4}" || code=$?
echo "third exit code $code"
cp -r "$1/." "$2"
"""


@pytest.mark.needs("namespaces")
def test_no_room_and_read_only(tmp_path: Path) -> None:
    mounted, kept = tmp_path / "mounted", tmp_path / "kept"
    mounted.mkdir(), kept.mkdir()
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "bash", str(mounted), str(kept),
         sys.executable, *RUN, f"runs_dir={mounted}"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for line in ("first exit code 1", "second exit code 1", "third exit code 0"):
        assert line in process.stdout, process.stderr
    assert process.stderr.count("No space left on device; once that is fixed the same command goes on, ") == 1
    assert process.stderr.count("lock cannot be used: Read-only file system; once that is fixed") == 1
    assert "Traceback" not in process.stderr
    assert "going on from step" in process.stderr
    train_here(*RUN, f"runs_dir={tmp_path / 'twin'}")
    assert outcome(only_run(kept)) == outcome(only_run(tmp_path / "twin"))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_no_room_at_any_operation(error: int) -> None:
    """The file system refuses one operation, or all from one on, or ends a write in the middle, at a sample of all
    operations (`python -m tests.soak` tests each)."""
    chance = random.Random(error)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        ground = campaigns.ground(campaigns.SMALL, Path(folder))
        points = [fault for fault in campaigns.failures(ground) if fault.error == error]
        chance.shuffle(points)
        kinds = {(ground.twin.operations[fault.at - 1].function, fault.lasting, bool(fault.share)): fault
                 for fault in points}
        assert len(kinds) >= 6
        trials = [campaigns.fail_at(ground, fault) for fault in chance.sample(list(kinds.values()), 6)]
    assert [trial.problem for trial in trials if trial.problem] == []
    assert any(trial.outcome.startswith("one sentence") for trial in trials)


SWEEP = """
set -e
mount -t tmpfs -o size=$2k tmpfs "$1"
code=0; "$3" run.py -m "${@:4}" || code=$?
echo "first exit code $code"
mount -o remount,size=60m "$1"
code=0; "$3" run.py -m "${@:4}" || code=$?
echo "second exit code $code"
"""


@pytest.mark.needs("namespaces")
def test_no_room_for_a_sweep(tmp_path: Path) -> None:
    """With room for the code's copy but not for two runs, the runs fail, the sweep reports it, and later continues."""
    room = sum(-(-path.stat().st_size // 4096) * 4 for name in PACKAGES for path in code_files(ROOT / name)) + 300
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SWEEP, "bash", str(tmp_path), str(room),
         sys.executable, *RUN, "seed=0,1", "hydra.launcher.jobs=1", f"runs_dir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "first exit code 1" in process.stdout and "second exit code 0" in process.stdout, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    assert "No space left on device" in process.stderr and "2 runs: 2 finished" in process.stderr


ANALYSIS = """
mount -t tmpfs -o size=16k tmpfs "$1"
echo earlier | tee "$1/return_paper.png" > "$1/report.html"
"$2" -m analysis curves "${@:3}" --quantities return --out "$1" > "$1.out"; echo "curves exit code $?"
"$2" -m analysis report "${@:3}" --out "$1/report.html"; echo "report exit code $?"
"$2" -m analysis table "${@:3}" > /dev/full; echo "table exit code $?"
cat "$1/return_paper.png" "$1/report.html"
ls -A "$1"
"""


@pytest.mark.needs("namespaces")
def test_no_room_for_an_analysis(tmp_path: Path) -> None:
    """What an earlier command wrote stays, and each says in one sentence what it could not write."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", ANALYSIS, "bash", str(mounted),
         sys.executable, "tests/fixtures/runs", "--where", "env=point_button1"], cwd=ROOT, capture_output=True,
        text=True)
    assert process.stdout.splitlines() == [
        "curves exit code 1", "report exit code 2", "table exit code 1", "earlier", "earlier", "report.html",
        "return_paper.png"], process.stderr
    assert "Traceback" not in process.stderr
    # On a new machine matplotlib says, too, that it builds its font cache.
    assert [line for line in process.stderr.splitlines() if "font cache" not in line] == [
        f"error: {mounted / 'return_paper.png'} could not be written: No space left on device",
        f"error: --out {mounted / 'report.html'}: it cannot be written (No space left on device)",
        "error: a file could not be written: No space left on device"]
