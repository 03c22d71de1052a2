"""What a sweep does with a member, for every state of its folder and SLURM task."""

from pathlib import Path

import pytest

from algd.errors import UsageError
from algd.storage.lock import Lock
from algd.storage.run_folder import RunFolder
from launchers.launch import list_members
from launchers.members import Plan, begin_afresh, plan_of, refuse_fresh, triage
from launchers.settings import LocalSettings
from launchers.states import RunState, read_state
from launchers.sweeps import Member, Sweep

NEW, FAILED, LOST = RunState("new"), RunState("failed", step=5), RunState("lost", step=5)
DONE, SHORT = RunState("finished", step=100), RunState("finished", step=50)
HELD, INTERRUPTED = RunState("running", held=True, step=5), RunState("interrupted", step=5)
ASKED = {"total_steps": 100, "fresh": False, "eval": {"video": False}}
# (folder's state, SLURM's task) ↦ (plan by default, with fresh=true, with retry_failed=false, with both)
TABLE = {
    (NEW, None): ("start", "start", "start", "start"),
    (INTERRUPTED, None): ("resume", "start", "resume", "start"),
    (LOST, None): ("resume", "start", "resume", "start"),
    (RunState("unknown"), None): ("resume", "start", "resume", "start"),
    (FAILED, None): ("retry", "start", "leave", "start"),
    (SHORT, None): ("extend", "start", "extend", "start"),
    (DONE, None): ("skip", "start", "skip", "start"),
    (HELD, None): ("wait", "refuse", "wait", "refuse"),
    (NEW, "12_3"): ("wait", "refuse", "wait", "refuse"),
    (FAILED, "12_3"): ("wait", "refuse", "wait", "refuse"),
    (HELD, "12_3"): ("wait", "refuse", "wait", "refuse"),
    (DONE, "12_3"): ("skip", "refuse", "skip", "refuse"),
}


@pytest.mark.parametrize(("state", "task"), TABLE)
def test_every_way_in_which_a_member_can_stand(state: RunState, task: str | None) -> None:
    found = tuple(plan_of(Member(Path("runs/toy/a-b/seed=0-1"), ASKED | {"fresh": fresh}), state, retry, task)
                  for retry in (True, False) for fresh in (False, True))
    assert found == TABLE[state, task]


def test_nothing_begins_if_one_member_cannot_begin_anew(tmp_path: Path) -> None:
    """With fresh=true, if one member is in SLURM's queue, no folder at all is moved aside."""
    members = [Member(tmp_path / "toy" / "a-b" / f"seed={seed}-1", ASKED | {"fresh": True})
               for seed in (0, 1)]
    planned = triage(members, True, {members[1].folder: "12_3"})
    assert [each.plan for each in planned] == [Plan.STARTED, Plan.REFUSED]
    with pytest.raises(UsageError, match=r"fresh=true: .*seed=1-1 is submitted as 12_3; cancel it first"):
        refuse_fresh(planned)


def test_begin_afresh_once(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "a-b" / "seed=0-1"
    folder.mkdir(parents=True)
    member = begin_afresh(Member(folder, {"fresh": True}, ("seed=0",)))
    assert member == Member(folder, {"fresh": False}, ("seed=0",)) and not folder.exists()
    assert folder.with_name("seed=0-1.old-1").is_dir() and begin_afresh(member) is member


def test_a_finished_run_that_is_in_use_does_not_begin_anew(tmp_path: Path) -> None:
    """As while it is evaluated: its folder would be moved from under the process."""
    RunFolder(tmp_path).write_status({"state": "finished", "step": 100})
    member = Member(tmp_path, ASKED | {"fresh": True})
    lock = Lock(tmp_path / "lock")
    assert plan_of(member, read_state(tmp_path), True) is Plan.REFUSED
    with pytest.raises(UsageError, match=r"fresh=true: .* right now; cancel it first"):
        begin_afresh(member)
    assert plan_of(Member(tmp_path, ASKED), read_state(tmp_path), True) is Plan.SKIPPED
    lock.release()
    assert plan_of(member, read_state(tmp_path), True) is Plan.STARTED


def test_a_listing_says_which_folders_fresh_moves_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ASKED | {"fresh": True, "updates_per_step": 1, "threads": 1, "device": "cpu"}
    old, new = (Member(tmp_path / "toy" / "a-b" / f"seed={seed}-1", config, (f"seed={seed}",)) for seed in (0, 1))
    old.folder.mkdir(parents=True)
    RunFolder(old.folder).write_status({"state": "finished", "step": 100})
    list_members(Sweep(tmp_path / "sweeps" / "s.json", [], []), [old, new], LocalSettings())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [
        f"finished start 0/100 {old.folder} seed=0 (fresh=true: the folder will be moved aside)",
        f"new start 0/100 {new.folder} seed=1"]


def test_a_member_that_asks_for_a_video_is_not_done_without_it(tmp_path: Path) -> None:
    member = Member(tmp_path, ASKED | {"eval": {"video": True}})
    assert plan_of(member, DONE, True) is Plan.EXTENDED
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "step100.mp4").touch()
    assert plan_of(member, DONE, True) is Plan.SKIPPED


def test_what_cannot_be_done_is_refused_before_anything_begins(tmp_path: Path) -> None:
    """A total_steps below the steps taken, and a finished run whose results are gone."""
    folder = tmp_path / "toy" / "a-b" / "seed=0-1"
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.write_status({"state": "interrupted", "step": 150})
    with pytest.raises(UsageError, match="seed=0-1: total_steps=100: this unfinished run is at step 150 already"):
        triage([Member(folder, ASKED)], True)
    run.write_status({"state": "finished", "step": 100})
    with pytest.raises(UsageError, match=r"seed=0-1: this run is finished, but .*checkpoints has no checkpoint"):
        triage([Member(folder, ASKED)], True)
    (run.checkpoints / "000001").mkdir(parents=True)
    (run.checkpoints / "000001" / "state.json").touch()
    with pytest.raises(UsageError, match=r"but .*episodes\.csv is gone"):
        triage([Member(folder, ASKED)], True)
    for table in (run.episodes, run.evals):
        table.touch()
    assert [(each.plan, each.sentence()) for each in triage([Member(folder, ASKED)], True)] == [
        (Plan.SKIPPED, f"already finished at step 100: {folder}")]
    run.write_status({"state": "finished", "step": 150})
    (beyond,) = triage([Member(folder, ASKED)], True)
    assert beyond.sentence() == f"already finished at step 150, more than total_steps=100: {folder}"
