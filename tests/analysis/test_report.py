"""The report: a single file, safe whatever runs contain, tested in a browser."""

import base64
import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from algd.config.identity import identity
from analysis.__main__ import main
from analysis.report.page import plotly, policy
from tests.analysis.run_folders import config, make_run, simple
from tests.support.browser import chromium, complaints, until
from tests.support.command import TINY, only_run, train_here
from tests.support.page import Page

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs"
HOSTILE = ("</script><script>document.title='taken over'</script><img src=http://127.0.0.1:9/x>"
           "<a href=http://127.0.0.1:9/>\"'&")


def written(out: Path, *arguments: str | Path) -> str:
    """Return the page that the command writes."""
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return out.read_text()


def changed(folder: Path, **more: object) -> None:
    """Change keys of a run's status.json."""
    file = folder / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


@pytest.fixture(scope="module")
def fixture_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the fixture's report, with one failure reason, one warning and one configuration that contain HTML."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(FIXTURE, folder / "runs")
    changed(folder / "runs" / "point_button1" / "vesde-pid" / "seed=1-cccc0001", reason=HOSTILE)
    changed(folder / "runs" / "point_button1" / "vesde-plain" / "seed=0-bbbb0000", warnings=[HOSTILE, "Qc diverges"])
    for guidance in ("augmented", "plain"):
        for path in (folder / "runs" / "safety_point_goal1" / f"vesde-{guidance}").glob("*/config.yaml"):
            config = yaml.safe_load(path.read_text())
            config["env"]["name"] = HOSTILE
            config["guidance"]["name"] = f"{guidance}{HOSTILE}"
            path.write_text(yaml.safe_dump(config))
            meta = path.with_name("meta.json")
            meta.write_text(json.dumps(json.loads(meta.read_text()) | {"identity": identity(config)}))
    videos = folder / "runs" / "point_button1" / "vesde-augmented" / "seed=0-aaaa0000" / "videos"
    videos.mkdir()
    (videos / "step300.mp4").write_bytes(b"not really a video")
    (videos / "large.mp4").write_bytes(b"0" * 8_000_001)
    written(folder / "page.html", "fixture", "--runs-dir", folder / "runs")
    return folder / "page.html"


def test_everything_is_in_the_file_and_nothing_is_fetched(fixture_page: Path) -> None:
    page = Page(fixture_page.read_text())
    assert "link" not in page.tags and "iframe" not in page.tags
    assert page.sources and all(one.startswith(("data:image/png;base64,", "data:video/mp4;base64,"))
                                for one in page.sources)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.split(",")[1])))
                for one in page.sources if one.startswith("data:image")]
    # Return, cost and training cost of two families; λ, the constraint and one level of curvature of one.
    assert len(pictures) == 9 and all(np.asarray(one.convert("L")).std() > 5 for one in pictures)
    (video,) = [one for one in page.sources if one.startswith("data:video")]
    assert base64.b64decode(video.split(",")[1]) == b"not really a video"
    assert "large.mp4 is too large for this page (8.0 MB)" in page.text


def test_links_lead_to_the_runs_folders(fixture_page: Path) -> None:
    links = {one for one in Page(fixture_page.read_text()).links if not one.startswith("#")}
    folders = {(fixture_page.parent / unquote(one)).resolve() for one in links}
    assert folders == {path.parent for path in (fixture_page.parent / "runs").glob("*/*/*/config.yaml")}


def test_only_the_pages_own_scripts_may_run(fixture_page: Path) -> None:
    text = fixture_page.read_text()
    page = Page(text)
    (allowed,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)
    assert html.unescape(allowed) == policy(live=False)
    assert "unsafe-eval" not in allowed
    assert "script-src &#39;sha256-" in allowed and "default-src &#39;none&#39;" in allowed
    assert [attributes for attributes, _ in page.scripts] == [{"type": "application/json", "id": "data"}, {}, {}]
    assert page.scripts[1][1] == plotly()
    assert "taken over" not in page.scripts[2][1]
    # The name with HTML is in the data, as text that cannot end its element.
    assert "taken over" in json.dumps(page.data) and "<" not in page.scripts[0][1]


def test_the_figures_are_what_the_library_takes(fixture_page: Path) -> None:
    figures = {figure["key"]: figure for figure in Page(fixture_page.read_text()).data["figures"]}
    # Return, cost, training cost and trade-off; for point_button1 also λ and the constraint.
    assert len(figures) == 4 + 6 + 4
    for figure in figures.values():
        go.Figure(data=figure["data"], layout=figure["layout"])  # raises if a trace has unknown properties
    traces = figures["paper/point_button1/return"]["data"]
    kinds = [trace["meta"]["kind"] for trace in traces]
    assert kinds == sorted(kinds, key=["band", "seed", "line"].index)
    lines = {trace["name"]: trace for trace in traces if trace["meta"]["kind"] == "line"}
    assert lines["vesde, augmented"]["y"][-1] == 22.333  # as in the table
    assert lines["vesde, augmented"]["customdata"] == [5] * 4
    seeds = [trace for trace in traces if trace["meta"]["kind"] == "seed" and trace["name"].startswith("vesde, plain")]
    assert [trace["meta"]["seed"] for trace in seeds] == [0, 1, 2, 3, 4]
    # For greyscale, by dashes and markers.
    looks = {(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in lines.values()}
    assert len(looks) == len(lines)
    assert "vesde, augmented 22.33 (5 of 5 runs)" in figures["paper/point_button1/return"]["alternative"]


def test_what_the_page_says(fixture_page: Path) -> None:
    text = re.sub(r"\s+", " ", Page(fixture_page.read_text()).text)
    assert "25 runs: 3 running , 1 starting , 1 failed , 1 waiting , 19 finished" in text
    assert "Sweep fixture-0a1b2c3d, started 2026-01-05" in text
    for said in ("22.33 [10.91, 33.75]", "1/3 [0.06, 0.79]; 1 failed; 1 without a result", "15.40 †",
                 "run.py -m experiment=fixture", "run.py env=point_button1 guidance=plain seed=4", "0123abc",
                 "torch 2.13.0, numpy 2.3.5", "guidance.rho", "Interquartile mean",
                 "agent=vesde guidance=augmented against agent=vesde guidance=plain", "p after Holm", HOSTILE):
        assert said in text, said
    # Failure reason and warnings, complete, in a section of their own.
    trouble = text[text.index("What failed"):text.index("Runs", text.index("What failed"))]
    assert trouble.count(HOSTILE) == 2 and "warning: Qc diverges" in trouble


def test_what_a_slurm_task_said_before_its_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tasks printed is shown also if SLURM cannot be asked, but not the target of a link."""
    shutil.copytree(FIXTURE, runs := tmp_path / "runs")
    stalled = sorted((runs / "point_button1" / "vesde-pid").glob("seed=*"))[:2]
    for folder in stalled:
        for path in folder.iterdir():
            if path.name != "config.yaml":
                path.unlink()
    content = {"runs": [str(folder.relative_to(runs)) for folder in stalled], "overrides": [[], []],
               "submissions": [{"job": "7", "tasks": [[str(folder.relative_to(runs))] for folder in stalled]}]}
    (runs / "sweeps" / "s.json").write_text(json.dumps(content))
    (outputs := runs / "sweeps" / "s" / "slurm").mkdir(parents=True)
    (outputs / "7_0_0_log.out").write_text("n2 cannot run this task: setup: module load x: exit code 1\n")
    (tmp_path / "private").write_text("nobody else's business")
    (outputs / "7_1_0_log.out").symlink_to(tmp_path / "private")
    monkeypatch.setenv("PATH", "/nowhere")
    text = re.sub(r"\s+", " ", Page(written(tmp_path / "page.html", runs)).text)
    trouble = text[text.index("What failed"):text.index("Runs", text.index("What failed"))]
    assert "n2 cannot run this task: setup: module load x: exit code 1" in trouble and "waiting" in trouble
    assert "nobody else's business" not in text


def test_how_long_until_the_constraint_is_heard(tmp_path: Path) -> None:
    """For each configuration with a constraint the page says whether its runs are long enough, checked by hand."""
    for arguments in (["guidance=none"], ["guidance=plain", "agent.cost_discount=0.9", "agent.target_interval=1"]):
        train_here(*TINY, *arguments, "env=toy", "initial_steps=20", "total_steps=20", "updates_per_step=2",
                   "eval.episodes=1", f"runs_dir={tmp_path / 'runs'}")
    text = re.sub(r"\s+", " ", Page(written(tmp_path / "page.html", tmp_path / "runs")).text)
    # 40 updates; 1 / 0.005 · 10 for the critics; 1 / 3e-4 for λ; 2.5 times the slower one.
    assert "toy vesde-plain 1 40 2,000 3,333 0 8,333 no" in text and "toy vesde-none 1 40" not in text


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser: Chrome, fixture_page: Path) -> Chrome:
    """Return a browser with the page, freshly loaded."""
    browser.get(fixture_page.as_uri())
    assert browser.title == "fixture"
    return browser


def plot(driver: Chrome, key: str) -> str:
    """Return JavaScript for a figure's element, after the figure was drawn."""
    element = f"document.querySelector('[data-figure=\"{key}\"]')"
    driver.execute_script(f"{element}.scrollIntoView({{block: 'center'}})")
    until(driver, f"{element}._fullLayout !== undefined && {element}.querySelector('.main-svg') !== null")
    return element


def column(driver: Chrome, name: str) -> list[str]:
    """Return the visible entries of a column of the table of runs."""
    return driver.execute_script("""
        const table = document.querySelector("#runs table");
        const place = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === arguments[0]);
        const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
        return shown.map((row) => row.cells[place].textContent)""", name)


@pytest.mark.needs("browser")
def test_nothing_hostile_runs(opened: Chrome) -> None:
    for place in range(opened.execute_script("return document.querySelectorAll('.plot').length")):
        element = f"document.querySelectorAll('.plot')[{place}]"
        opened.execute_script(f"{element}.scrollIntoView()")
        until(opened, f"{element}.querySelector('.main-svg') !== null")
    assert opened.title == "fixture"
    assert not opened.find_elements(By.CSS_SELECTOR, "a[href*='127.0.0.1'], img[src^=http]")
    # SVG contains links of its own, which the library would create from tags in a text.
    assert opened.execute_script("return document.querySelectorAll('svg a').length") == 0
    assert complaints(opened) == []


@pytest.mark.needs("browser")
def test_sorting(opened: Chrome) -> None:
    button = opened.find_element(By.XPATH, "//section[@id='runs']//button[text()='return']")
    button.click()
    up = column(opened, "return")
    numbers = [float(text) for text in up if text != "–"]
    assert numbers == sorted(numbers) and len(numbers) == 23 and up[len(numbers):] == ["–"] * 2
    button.click()
    assert column(opened, "return") == [*(f"{number:.2f}" for number in numbers[::-1]), "–", "–"]
    assert opened.find_element(By.CSS_SELECTOR, "#runs th[aria-sort=descending]").text.startswith("return")
    opened.find_element(By.XPATH, "//section[@id='runs']//button[text()='feasible']").click()
    words = column(opened, "feasible")
    assert words == [*sorted(word for word in words if word != "–"), "–", "–"]


@pytest.mark.needs("browser")
@pytest.mark.parametrize("ordered", [
    ["−1.50", "-0.30", "0.00", "0.47 (0.00 … 1.40)", "3.73 (0.00 … 7.90)", "16.20", "1050", "–"],
    ["-5.00 [-9.00, -1.00]", "-3.00 [-4.00, 1.00]", "2.00 [1.00, 3.00]"], ["< 0.001", "1e-02", "0.25", "1"],
    ["0/3 [0.00, 0.56]", "2/3 [0.21, 0.94]", "10/10"], ["9%", "80% (75% … 85%)", "100%"], ["0, 1, 2", "3, 4", "10"],
    ["400", "3000", "> 40000"], ["5e0f0000", "2026-01-02", "2026-01-10"], ["2 of 4 (1 unfinished)", "3", "–"]])
def test_cells_sort_by_the_number_that_they_begin_with(opened: Chrome, ordered: list[str]) -> None:
    """Whether an interval, a range or a count follows it or not."""
    table = "document.querySelector('#tables table.sortable')"
    opened.execute_script(f"""
        const lines = arguments[0].map((text) => {{
            const line = {table}.tBodies[0].rows[0].cloneNode(true);
            line.cells[3].textContent = text;
            return line;
        }});
        {table}.tBodies[0].replaceChildren(...lines)""", ordered[1::2] + ordered[::2])
    button, column = f"{table}.tHead.rows[0].cells[3].querySelector('button')", "(line) => line.cells[3].textContent"
    there = f"{button}.click(); return [...{table}.tBodies[0].rows].map({column})"
    assert opened.execute_script(there) == ordered
    assert opened.execute_script(there) == [*(text for text in ordered[::-1] if text != "–"),
                                            *(text for text in ordered if text == "–")]


@pytest.mark.needs("browser")
def test_filtering(opened: Chrome) -> None:
    words = opened.find_element(By.CSS_SELECTOR, "#runs input[type=search]")
    words.send_keys("car_button1 -plain")
    assert set(column(opened, "task")) == {"car_button1"} and set(column(opened, "guidance")) == {"augmented"}
    assert opened.find_element(By.CSS_SELECTOR, "#runs output").text == "3 of 25"
    words.clear()
    words.send_keys(" ")
    chosen = opened.find_element(By.CSS_SELECTOR, "#runs select[aria-label=state]")
    chosen.find_element(By.CSS_SELECTOR, "option[value=failed]").click()
    assert column(opened, "state") == ["failed"]


@pytest.mark.needs("browser")
def test_zooming(opened: Chrome) -> None:
    """Dragging in one figure zooms all figures of the task, and a double click undoes it."""
    other, first = (plot(opened, f"paper/point_button1/{name}") for name in ("cost", "return"))
    whole = opened.execute_script(f"return {first}._fullLayout.xaxis.range")
    area = opened.execute_script(f"return {first}.querySelector('.nsewdrag')")
    drag = ActionChains(opened).move_to_element_with_offset(area, -80, 0).click_and_hold()
    drag.move_by_offset(60, 2).move_by_offset(60, 0).release().perform()
    until(opened, f"{first}._fullLayout.xaxis.range[0] > {whole[0]} + 1")
    low, high = opened.execute_script(f"return {first}._fullLayout.xaxis.range")
    assert whole[0] < low < high < whole[1]
    until(opened, f"{other}._fullLayout.xaxis.range[0] === {low} && {other}._fullLayout.xaxis.range[1] === {high}")
    ActionChains(opened).move_to_element(area).double_click().perform()
    for element in (first, other):
        until(opened, f"Math.abs({element}._fullLayout.xaxis.range[0] - {whole[0]}) < 1e-6")


@pytest.mark.needs("browser")
def test_switching_cells_and_seeds(opened: Chrome) -> None:
    figure = plot(opened, "paper/point_button1/return")

    def shown() -> list[list]:
        return opened.execute_script(f"""return {figure}._fullData.filter((one) => one.visible === true)
            .map(({{meta}}) => [meta.kind, meta.column, meta.seed ?? null])""")

    def switch(name: str, value: str) -> None:
        box = f".family:first-of-type form input[name={name}][value='{value}']"
        before = shown()
        opened.execute_script("document.querySelector(arguments[0]).click()", box)
        until(opened, f"JSON.stringify({figure}._fullData.filter((one) => one.visible === true)"
                      ".map(({meta}) => [meta.kind, meta.column, meta.seed ?? null])) !== arguments[0]",
              json.dumps(before, separators=(",", ":")))

    assert {kind for kind, _, _ in shown()} == {"band", "line"}
    switch("kind", "seed")
    assert sorted(seed for kind, place, seed in shown() if kind == "seed" and place == 0) == [0, 1, 2, 3, 4]
    switch("seed", "3")
    assert not [one for one in shown() if one[2] == 3]
    lines = [one for one in shown() if one[0] == "line"]
    switch("column", "0")
    assert [one for one in shown() if one[0] == "line"] == [one for one in lines if one[1] != 0]
    assert not [one for one in shown() if one[1] == 0]
    # The mean is that of all seeds, whichever are shown.
    assert opened.execute_script(f"return {figure}._fullData.filter((one) => one.name === 'vesde, plain' && "
                                 "one.meta.kind === 'line').map((one) => one.customdata[0])") == [5]


@pytest.mark.needs("browser")
def test_a_click_on_a_point_shows_its_run(opened: Chrome) -> None:
    figure = plot(opened, "paper/point_button1/trade-off")
    point = opened.execute_script(f"return {figure}.querySelector('.scatterlayer .trace .point')")
    ActionChains(opened).move_to_element(point).pause(0.3).click().perform()
    row = until(opened, "document.querySelector('tr.chosen') && document.querySelector('tr.chosen').textContent")
    assert "point_button1/vesde-" in row


@pytest.mark.needs("browser")
def test_print_has_the_pictures_and_no_switches(opened: Chrome) -> None:
    def displayed(selector: str) -> set[bool]:
        return {element.is_displayed() for element in opened.find_elements(By.CSS_SELECTOR, selector)}

    assert displayed("figure.printed") == {False} and displayed("figure.interactive") == {True}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert displayed("figure.printed") == {True} and displayed("figure.interactive") == {False}
        assert displayed("form.switches") == {False}
        assert opened.execute_script("return [...document.images].every((one) => one.naturalWidth > 300)")
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.needs("browser")
def test_without_scripts_the_pictures_are_shown(browser: Chrome, fixture_page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(fixture_page.as_uri())
        assert all(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, "figure.printed"))
        assert not any(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, "figure.interactive"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.needs("browser")
def test_a_phone_need_not_scroll_sideways(browser: Chrome, fixture_page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True})
    try:
        browser.get(fixture_page.as_uri())
        plot(browser, "paper/point_button1/return")
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# --- landscapes ----------------------------------------------------------------------------------------------------


def test_landscapes_of_a_real_run(tmp_path: Path) -> None:
    """The landscape of a trained run is in the report, unless it is switched off."""
    train_here(*TINY, "env=toy", "initial_steps=30", "total_steps=60", "eval.every=60", "eval.episodes=1",
               "snapshots=1", f"runs_dir={tmp_path / 'runs'}")
    name = only_run(tmp_path / "runs").name
    text = Page(written(tmp_path / "a.html", tmp_path / "runs")).text
    assert f"toy_vesde-augmented_{name}" in text and "None of the runs has networks" not in text
    text = Page(written(tmp_path / "b.html", tmp_path / "runs", "--landscapes", "0")).text
    assert f"toy_vesde-augmented_{name}" not in text and "None of the runs has networks" in text


def test_a_sweep_of_which_only_the_runs_are_known(tmp_path: Path) -> None:
    """A file written by hand needs no more."""
    folder = simple(tmp_path / "toy" / "vesde-plain" / "seed=0", config(0), 1, 1)
    file = tmp_path / "sweeps" / "mine.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"runs": [str(folder.relative_to(tmp_path))]}))
    assert "Sweep mine.\n" in Page(written(tmp_path / "a.html", file)).text
    file.write_text(json.dumps(json.loads(file.read_text()) | {"time": "yesterday"}))
    assert "Sweep mine, started yesterday.\n" in Page(written(tmp_path / "a.html", file)).text


def test_a_column_without_a_result_is_not_compared(tmp_path: Path) -> None:
    """The others are."""
    for seed in range(3):
        for name in ("augmented", "plain"):
            simple(tmp_path / "runs" / f"{name}{seed}", config(seed, name), 1, 1)
    make_run(tmp_path / "runs" / "late", config(0, "pid"), state="running")
    text = Page(written(tmp_path / "a.html", tmp_path / "runs", "--landscapes", "0")).text
    assert "agent=vesde guidance=augmented against agent=vesde guidance=plain" in text
    assert "Not compared, since it has no result: agent=vesde guidance=pid." in text


def test_the_same_rules_as_for_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FIXTURE), "--columns", "guidance.rho", "--out", str(tmp_path / "a.html")]) == 2
    assert "differ in" in capsys.readouterr().err and not (tmp_path / "a.html").exists()
    assert main(["report", str(FIXTURE), "--out", str(tmp_path)]) == 2
    assert "it cannot be written" in capsys.readouterr().err
