"""What a mirror reads from a run's folder; each row is passed on once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algd.budget import Budget
from algd.errors import UsageError
from algd.logging.follower import Ending, Follower, follow, follow_later
from algd.logging.sent import Sent
from algd.logging.tables import Table, read_config, summary

CONFIG = "env: {limit: 2.0, limit_kind: episode, horizon: 50}\neval: {episodes: 2}\n"
EVALS = "step,sampler,source,episode,seed,return,cost,discounted_cost,length\n"


class Recorder:
    """A destination that records what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[int, dict[str, float]]] = []
        self.videos: list[tuple[int, str]] = []
        self.warned: list[tuple[int, list[str]]] = []
        self.state = ""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.got.append((step, dict(values)))

    def video(self, step: int, path: Path) -> None:
        self.videos.append((step, path.name))

    def warnings(self, step: int, texts: list[str]) -> None:
        self.warned.append((step, texts))

    def flush(self) -> None:
        pass

    def close(self, state: str, status: Mapping[str, Any]) -> None:
        self.state = state

    def steps(self, name: str) -> list[int]:
        return [step for step, values in self.got if name in values]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    table = Table(tmp_path / "metrics.csv")
    assert table.read() == (False, [])
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.5\n2,")
    assert table.read() == (False, [{"step": "1", "loss": "2.5"}])
    assert table.read() == (False, [])
    with table.path.open("a") as handle:
        handle.write("7\n")
    assert table.read() == (False, [{"step": "2", "loss": "7"}])


@pytest.mark.parametrize("replaced", [False, True])
def test_cut_file_is_read_again_from_the_top(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,2\n2,3\n3,4\n")
    table = Table(path)
    table.read()
    if replaced:  # A new, longer file of the old name, as after an atomic rewrite.
        (tmp_path / "new").write_text("step,loss\n1,2\n2,3\n3,4\n4,5\n")
        (tmp_path / "new").rename(path)
        assert table.read() == (True, [{"step": str(n), "loss": str(n + 1)} for n in (1, 2, 3, 4)])
    else:
        path.write_text("step,loss\n1,2\n")
        assert table.read() == (True, [{"step": "1", "loss": "2"}])


def test_journal_survives_a_restart_a_torn_line_and_a_loss(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    sent = Sent(journal)
    sent.identity = "mine"
    for step in (1, 2, 3):
        sent.add("metrics.csv", step)
        sent.save()
    sent.add("evals.csv", 3, "train", "stochastic")
    sent.save()
    with journal.open("a") as handle:
        handle.write('["metrics.csv", 4')
    again = Sent(journal)
    assert (again.identity, again.records) == ("mine", sent.records)
    assert again.last_step("metrics.csv") == 3 and again.has("evals.csv", 3, "train", "stochastic")
    again.add("metrics.csv", 5)
    again.save()
    assert Sent(journal).records == again.records

    again.keep(2)
    again.save()
    kept = Sent(journal)
    assert kept.records == [("metrics.csv", 1), ("metrics.csv", 2)] and kept.last_step("metrics.csv") == 2
    assert not kept.has("evals.csv", 3, "train", "stochastic") and kept.last_step("episodes.csv") < -1e9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.booleans()), min_size=1, max_size=8))
def test_each_step_is_handed_over_once_whatever_is_cut(tmp_path_factory: pytest.TempPathFactory,
                                                       plan: list[tuple[int, int, bool]]) -> None:
    """For any sequence of growing, cutting and restarting with a new process."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(CONFIG)
    recorder, sent, highest, rows = Recorder(), Sent(folder / "journal.jsonl"), 0, 0
    follower = Follower(folder, sent, recorder)
    for grown, cut, restarted in plan:
        rows += grown
        highest = max(highest, rows)
        write(folder, rows)
        follower.send()
        rows = min(rows, cut)
        write(folder, rows)
        if restarted:
            sent.save()
            sent = Sent(folder / "journal.jsonl")
            follower = Follower(folder, sent, recorder)
    assert recorder.steps("train/loss") == list(range(1, highest + 1))
    assert recorder.steps("eval/deterministic/return") == list(range(1, highest + 1))
    assert len(sent.records) == len(recorder.got)


def write(folder: Path, rows: int) -> None:
    steps = range(1, rows + 1)
    (folder / "metrics.csv").write_text("step,loss\n" + "".join(f"{step},{step / 8}\n" for step in steps))
    (folder / "evals.csv").write_text(EVALS + "".join(
        f"{step},deterministic,train,{episode},0,1,1,1,9\n" for step in steps for episode in range(2)))


def test_evaluation_is_summed_up_when_it_is_whole(folder: Path) -> None:
    recorder = Recorder()
    follower = Follower(folder, Sent(folder / "journal.jsonl"), recorder)
    path = folder / "evals.csv"

    def grow(lines: str) -> list[int]:
        with path.open("a") as handle:
            handle.write(lines)
        follower.send()
        return recorder.steps("eval/deterministic/return")

    path.write_text(EVALS)
    assert grow("10,deterministic,train,0,0,1,1,1,9\n10,stochastic,train,0,0,1,1,1,9\n") == []
    assert grow("10,deterministic,train,1,1,2,1,1,9\n") == [10]
    assert recorder.steps("eval/stochastic/return") == []
    assert grow("20,deterministic,train,0,0,1,1,1,9\n") == [10]
    assert recorder.steps("eval/stochastic/return") == [10]  # another evaluation has begun

    # An evaluation that a kill cut short is not summarised: the resumed run repeats it.
    follower.send(Ending("interrupted"))
    assert recorder.steps("eval/deterministic/return") == [10]
    follower.send(Ending("finished"))
    assert recorder.steps("eval/deterministic/return") == [10, 20]


def test_later_evaluations_have_names_of_their_own(folder: Path) -> None:
    (folder / "evals.csv").write_text(EVALS + "50,stochastic,extra,0,0,4,1,1,9\n50,stochastic,extra,1,0,6,1,1,9\n")
    recorder = Recorder()
    Follower(folder, Sent(folder / "journal.jsonl"), recorder).send(Ending("finished"))
    ((step, values),) = recorder.got
    assert step == 50 and values["eval/extra/stochastic/return"] == 5 and values["eval/extra/stochastic/episodes"] == 2


@pytest.mark.parametrize(("kind", "share", "feasible"), [("episode", 0.5, 0.0), ("discounted", 0.25, 1.0)])
def test_summary_holds_cost_against_the_budget_in_its_kind(kind: str, share: float, feasible: float) -> None:
    rows = [{"return": "1", "cost": cost, "discounted_cost": discounted, "length": "9"}
            for cost, discounted in (("2", "1"), ("10", "9"), ("12", "3"), ("0", "0"))]
    values = summary(rows, Budget(limit=5.0, kind=kind, horizon=9))
    assert (values["cost"], values["discounted_cost"]) == (6.0, 3.25)
    assert (values["share_over_limit"], values["feasible"]) == (share, feasible)
    assert "feasible" not in summary(rows, None)


def test_empty_cells_are_left_out(folder: Path) -> None:
    (folder / "metrics.csv").write_text("step,loss,lam\n5,,0.5\n6,nan,\n")
    recorder = Recorder()
    Follower(folder, Sent(folder / "journal.jsonl"), recorder).send()
    assert recorder.got[0] == (5, {"train/lam": 0.5})
    assert list(recorder.got[1][1]) == ["train/loss"]


def test_video_is_sent_once_it_is_settled_at_the_step_in_its_name(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "step=40-stochastic.mp4").write_bytes(b"film")
    (folder / "videos" / "notes.txt").write_text("no film")
    recorder = Recorder()
    follower = Follower(folder, Sent(folder / "journal.jsonl"), recorder)
    follower.send()
    assert recorder.videos == []  # it may still grow
    follower.send(Ending("finished"))
    follower.send(Ending("finished"))
    assert recorder.videos == [(40, "step=40-stochastic.mp4")]


def test_small_numbers_in_the_config_stay_numbers(folder: Path) -> None:
    (folder / "config.yaml").write_text("rate: 1.0e-05\nnames: [a, b]\nnothing: null\n")
    assert read_config(folder) == {"rate": 1e-05, "names": ["a", "b"], "nothing": None}


def test_second_mirror_of_a_folder_waits_and_then_refuses(folder: Path) -> None:
    """The first mirror is kept running by opening the second within it."""
    def open_first(at: Path, sent: Sent, report: object) -> Recorder:
        with pytest.raises(UsageError, match="another mirror process"):
            follow(at, at / "room", lambda *_: Recorder(), lambda _: Ending("finished"), print, 0.0, None)
        return recorder

    recorder = Recorder()
    follow(folder, folder / "room", open_first, lambda _: Ending("finished"), print, 0.0, None)
    assert recorder.state == "finished"


def test_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} is not a run's folder"):
        follow_later(tmp_path, tmp_path / "room", lambda *_: Recorder())


@pytest.mark.parametrize(("file", "content", "says"), [
    ("metrics.csv", b"step,loss\n1\n", "zip"), ("metrics.csv", b"step,loss\n1,low\n", "low"),
    ("metrics.csv", b"step,loss\n1.5,2\n", "1.5"), ("metrics.csv", b"stop,loss\n1,2\n", "no column step"),
    ("episodes.csv", b"step,return\n1,\xff\n", "utf-8"),
    ("evals.csv", b"step,sampler\n1,x\n", "no column source, cost"),
    ("config.yaml", b"a: [", "config.yaml"), ("config.yaml", b"\xff", "config.yaml"),
    ("room/journal.jsonl", b"garbage\n", "without it the run is sent from the start"),
    ("room/journal.jsonl", b"{}\n", "without it"), ("room/journal.jsonl", b'{"identity": "a"}\n3\n', "without it"),
    ("room/journal.jsonl", b"\xff\n", "without it")])
def test_damage_is_named(folder: Path, file: str, content: bytes, says: str) -> None:
    (folder / "room").mkdir()
    (folder / file).write_bytes(content)
    with pytest.raises(UsageError, match=says) as refused:
        follow_later(folder, folder / "room", lambda *_: Recorder())
    assert file in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_with_a_link_out_of_it_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A video from somewhere else would be uploaded, a lock elsewhere emptied."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "precious.mp4"
    elsewhere.write_text("precious")
    for place in ("videos/step=1.mp4", "wandb/mirror.lock"):
        (folder / place).parent.mkdir()
        (folder / place).symlink_to(elsewhere)
        with pytest.raises(UsageError, match="link out of the run's folder"):
            follow_later(folder, folder / "wandb", lambda *_: Recorder())
        (folder / place).unlink()
    assert elsewhere.read_text() == "precious"


def test_a_curve_has_a_bounded_number_of_points_over_cuts_and_restarts(folder: Path) -> None:
    """A million steps become the means of windows of 100, each sent once despite cuts and repeated rows."""
    (folder / "config.yaml").write_text(CONFIG + "total_steps: 1000000\n")
    header = "step,episode,seed,return,cost,discounted_cost,length,simulator_error\n"
    recorder, sent = Recorder(), Sent(folder / "journal.jsonl")
    follower = Follower(folder, sent, recorder)
    for grown, restarted in ((40, False), (37, False), (300, True), (290, True), (1000, False)):
        # An episode every 16 steps; its return is its number, and odd ones lack a cost.
        (folder / "episodes.csv").write_text(header + "".join(
            f"{16 * n},{n},0,{n},{n if n % 2 == 0 else ''},0,16,0\n" for n in range(1, grown + 1)))
        follower.send()
        if restarted:
            sent.save()
            sent = Sent(folder / "journal.jsonl")
            follower = Follower(folder, sent, recorder)
    follower.send(Ending("finished"))
    windows: dict[int, list[int]] = {}
    for n in range(1, 1001):
        windows.setdefault(16 * n // 100, []).append(n)
    assert [step for step, _ in recorder.got] == [16 * episodes[-1] for episodes in windows.values()]
    for (_, values), episodes in zip(recorder.got, windows.values(), strict=True):
        assert values["episode/return"] == sum(episodes) / len(episodes)
        even = [n for n in episodes if n % 2 == 0]
        assert values["episode/cost"] == sum(even) / len(even)
    assert len(recorder.got) == 161


def test_a_hundred_thousand_episodes_are_at_most_ten_thousand_records(folder: Path) -> None:
    (folder / "config.yaml").write_text(CONFIG + "total_steps: 1600000\n")
    (folder / "episodes.csv").write_text("step,episode,seed,return,cost,discounted_cost,length\n" + "".join(
        f"{16 * n},{n},0,1,1,1,16\n" for n in range(1, 100_001)))
    recorder, sent = Recorder(), Sent(folder / "journal.jsonl")
    Follower(folder, sent, recorder).send(Ending("finished"))
    sent.save()
    assert 9_990 <= len(recorder.got) == len(sent.records) <= 10_001
    assert (folder / "journal.jsonl").stat().st_size < 500_000


def test_warnings_are_handed_over_as_they_change(folder: Path) -> None:
    recorder = Recorder()
    follower = Follower(folder, Sent(folder / "journal.jsonl"), recorder)
    for step, texts in ((0, []), (10, ["λ rises"]), (20, ["λ rises"]), (30, ["λ rises", "Q grows"])):
        (folder / "status.json").write_text(json.dumps({"state": "running", "step": step, "warnings": texts}))
        follower.send()
    assert recorder.warned == [(10, ["λ rises"]), (30, ["λ rises", "Q grows"])]


def test_an_evaluation_tells_what_the_simulator_ended_and_what_was_predicted(folder: Path) -> None:
    header = EVALS.strip() + ",simulator_error,predicted_cost\n"
    (folder / "evals.csv").write_text(header + "5,stochastic,train,0,0,4,1,1,9,0,2.5\n"
                                      "5,stochastic,train,1,0,0,0,0,0,1,\n")
    recorder = Recorder()
    Follower(folder, Sent(folder / "journal.jsonl"), recorder).send(Ending("finished"))
    ((step, values),) = recorder.got
    assert step == 5 and values["eval/stochastic/simulator_error"] == 0.5 and values["eval/stochastic/return"] == 2
    assert values["eval/stochastic/predicted_cost"] == 2.5 and values["eval/stochastic/episodes"] == 2
