"""The report's section on a search: trials, history and the importance of keys."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from analysis.__main__ import main
from analysis.report.content import Options
from analysis.serve import watch as watch_module
from analysis.serve.server import Server
from analysis.serve.watch import Watch
from launchers.search.record import SearchRecord, TrialRecord, read_record
from tests.support.browser import chromium, complaints, until
from tests.support.page import Page

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs"
HOSTILE = "</script><img src=http://127.0.0.1:9/x>"
RUNS = [f"point_button1/vesde-augmented/seed={seed}-aaaa000{seed}" for seed in range(4)]


def trial(number: int, state: str, gain: float | None, cost: float | None, kind: str) -> TrialRecord:
    return TrialRecord.model_validate({
        "number": number, "state": state, "return": gain, "cost": cost, "limit": None if cost is None else 4.0,
        "step": None if cost is None else 300, "params": {"guidance.rho": 10.0**-number, "guidance": kind},
        "runs": [RUNS[number]]})


TRIALS = [trial(0, "complete", 1.5, 3.0, "plain"), trial(1, "complete", 9.0, 4.5, HOSTILE),
          trial(2, "pruned", 0.25, 1.0, "plain"), trial(3, "running", None, None, "augmented")]
RECORD = SearchRecord(name="found", objectives="return", judged_by="deterministic", sampler="tpe", n_trials=6,
                      steps=1200, best=[0], importances={"guidance.rho": 0.75, "guidance": 0.25}, trials=TRIALS)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return the file of a search's sweep, beside its runs."""
    shutil.copytree(FIXTURE, tmp_path / "runs")
    file = tmp_path / "runs" / "sweeps" / "found.json"
    file.write_text(json.dumps({"name": "found", "runs": RUNS, "time": "2026-01-01T00:00:00+00:00"}))
    RECORD.write(file.with_suffix(""))
    return file


def written(sweep: Path, *arguments: str) -> str:
    out = sweep.parents[2] / "page.html"
    assert main(["report", str(sweep), *arguments, "--out", str(out)]) == 0
    return out.read_text()


def test_the_record_comes_back(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "found")
    assert read_record(tmp_path / "found") == RECORD
    trials = json.loads((tmp_path / "found" / "search.json").read_text())["trials"]
    assert [trial["return"] for trial in trials] == [1.5, 9.0, 0.25, None]
    assert [trial.feasible for trial in TRIALS] == [True, False, True, False]


def test_trials_importances_and_history(sweep: Path) -> None:
    text = written(sweep)
    page = Page(text)
    assert "4 of 6 trials (1 running, 2 complete, 1 pruned), 1,200 environment steps" in text
    assert page.tables["Importances of the searched keys"] == [["guidance.rho", "75%"], ["guidance", "25%"]]
    assert page.tables["Trials of the search"] == [
        ["0 (best)", "complete", "300", "1.5", "3", "4", "yes", "1", "plain", "1"],
        ["1", "complete", "300", "9", "4.5", "4", "no", "0.1", HOSTILE, "1"],
        ["2", "pruned", "300", "0.25", "1", "4", "yes", "0.01", "plain", "1"],
        ["3", "running", "–", "–", "–", "–", "–", "0.001", "augmented", "1"]]
    (figure,) = [figure for figure in page.data["figures"] if figure["key"] == "search/history"]
    assert {line["name"]: (line["x"], line["y"]) for line in figure["data"]} == {
        "feasible": ([0], [1.5]), "over the limit": ([1], [9.0]), "pruned": ([2], [0.25]),
        "best so far": ([0, 2], [1.5, 1.5])}
    assert HOSTILE not in text


def test_only_complete_trials_are_feasible_or_not(sweep: Path) -> None:
    """A failed trial, and one that is running, have results of a rung, which say less."""
    trials = [trial(0, "complete", 1.5, 3.0, "plain"), trial(1, "failed", 9.0, 1.0, "plain"),
              trial(2, "running", 8.0, 2.0, "plain"), trial(3, "running", 7.0, 6.0, "plain")]
    RECORD.model_copy(update={"trials": trials}).write(sweep.with_suffix(""))
    (figure,) = [figure for figure in Page(written(sweep)).data["figures"] if figure["key"] == "search/history"]
    assert {line["name"]: (line["x"], line["y"]) for line in figure["data"]} == {
        "feasible": ([0], [1.5]), "running": ([2, 3], [8.0, 7.0]), "failed": ([1], [9.0]),
        "best so far": ([0, 3], [1.5, 1.5])}
    assert "1 feasible, 2 running, 1 failed" in figure["alternative"]


def test_two_objectives_have_return_against_cost(sweep: Path) -> None:
    RECORD.model_copy(update={"objectives": "return_and_cost", "best": [0, 1]}).write(sweep.with_suffix(""))
    (figure,) = [figure for figure in Page(written(sweep)).data["figures"] if figure["key"].startswith("search/")]
    assert figure["key"] == "search/front"
    assert [(line["x"], line["y"]) for line in figure["data"]] == [([3.0], [1.5]), ([4.5], [9.0]), ([1.0], [0.25])]


def test_runs_that_stand_in_no_table_leave_a_sentence(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A search's runs, which differ in the searched keys, get a report without tables; another sweep's are refused."""
    config = sweep.parents[1] / RUNS[0] / "config.yaml"
    config.write_text(config.read_text().replace("rho: 1.0", "rho: 2.0"))
    (sweep.parents[1] / RUNS[0] / "meta.json").unlink()
    assert "There are no tables and figures" in written(sweep)
    (sweep.with_suffix("") / "search.json").unlink()
    assert main(["report", str(sweep), "--out", "x.html"]) == 2 and "differ in" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"name": "found", "trials": 3}'])
def test_a_damaged_record_is_none(sweep: Path, content: str) -> None:
    (sweep.with_suffix("") / "search.json").write_text(content)
    assert "Trials of the search" not in written(sweep)


def test_folders_outside_are_not_linked(sweep: Path) -> None:
    RECORD.model_copy(update={"trials": [TRIALS[0].model_copy(update={"runs": ["../../etc"]})]}).write(
        sweep.with_suffix(""))
    assert not [link for link in Page(written(sweep)).links if "etc" in link]


def test_a_served_page_follows_the_record(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written after the runs of a batch have ended, whose folders do not change any more."""
    monkeypatch.setattr(watch_module, "SHARE_OF_TIME", 1.0)  # so that it looks again at once
    watch = Watch([str(sweep)], sweep.parents[1], [], False, Options(), "found", seconds=0.0)
    before, tag = watch.data()
    assert watch.data() == (before, tag) and b"4 of 6 trials" in before
    RECORD.model_copy(update={"trials": TRIALS[:3]}).write(sweep.with_suffix(""))
    assert b"3 of 6 trials" in watch.data()[0]


@pytest.mark.needs("browser")
def test_a_browser_draws_the_history(sweep: Path, tmp_path: Path) -> None:
    written(sweep)
    with chromium(tmp_path / "profile") as opened:
        opened.get(f"file://{sweep.parents[2] / 'page.html'}")
        until(opened, "document.querySelector('#search .plot[data-drawn] .scatterlayer')")
        assert complaints(opened) == []


@pytest.mark.needs("browser")
def test_a_browser_follows_a_search(sweep: Path, tmp_path: Path) -> None:
    """Its sentence changes while the filter stays, and its figure comes with the first result."""
    first = RECORD.model_copy(update={"trials": TRIALS[3:], "best": [], "importances": {}})
    first.write(sweep.with_suffix(""))
    with Server(Watch([str(sweep)], sweep.parents[1], [], False, Options(), "found", seconds=0.2)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with chromium(tmp_path / "profile") as opened:
                opened.get(server.address)
                said = "document.querySelector('#search').textContent"
                until(opened, f"{said}.includes('1 of 6 trials')")
                words = opened.find_element(By.CSS_SELECTOR, "#search input[type=search]")
                words.send_keys("augmented")
                first.model_copy(update={"n_trials": 7}).write(sweep.with_suffix(""))
                until(opened, f"{said}.includes('1 of 7 trials')")
                assert words.get_attribute("value") == "augmented"
                RECORD.write(sweep.with_suffix(""))
                until(opened, "document.querySelector('#search .plot[data-drawn] .scatterlayer')")
                assert complaints(opened) == []
        finally:
            server.shutdown()
            thread.join()
