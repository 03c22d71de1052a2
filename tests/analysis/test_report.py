"""The report: one file, safe whatever the runs contain, and as a real browser shows it."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from algd.config.identity import identity
from analysis.__main__ import main
from tests.support.command import TINY, only_run, train_here

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs"
HOSTILE = "<script>document.title='taken over'</script><img src=http://127.0.0.1:9/x>\"'&"


class Page(html.parser.HTMLParser):
    """The tags, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "poster", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def written(out: Path, *arguments: str | Path) -> str:
    """The page that the command writes."""
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def fixture_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's page, where one run failed for a hostile reason and another has a hostile configuration."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(FIXTURE, folder / "runs")
    failed = folder / "runs" / "point_button1" / "vesde-pid" / "seed=1-cccc0001" / "status.json"
    failed.write_text(json.dumps(json.loads(failed.read_text()) | {"reason": HOSTILE}))
    for guidance in ("augmented", "plain"):
        for path in (folder / "runs" / "safety_point_goal1" / f"vesde-{guidance}").glob("*/config.yaml"):
            config = yaml.safe_load(path.read_text())
            config["env"]["name"] = HOSTILE
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
    assert "script" not in page.tags and "link" not in page.tags
    assert page.addresses and all(one.startswith(("data:image/png;base64,", "data:video/mp4;base64,"))
                                  for one in page.addresses)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.split(",")[1])))
                for one in page.addresses if one.startswith("data:image")]
    # Two families of return and cost; λ, the constraint and one level of curvature in one.
    assert len(pictures) == 7 and all(np.asarray(one.convert("L")).std() > 5 for one in pictures)
    (video,) = [one for one in page.addresses if one.startswith("data:video")]
    assert base64.b64decode(video.split(",")[1]) == b"not really a video"
    assert "large.mp4 is too large for this page (8.0 MB)" in page.text


def test_what_the_page_says(fixture_page: Path) -> None:
    text = re.sub(r"\s+", " ", Page(fixture_page.read_text()).text)
    assert "24 runs: 1 failed , 19 finished , 3 running , 1 starting , 1 not started" in text
    assert "Sweep fixture-0a1b2c3d, started 2026-01-05" in text
    for said in ("22.33 [10.91, 33.75]", "1/3 [0.06, 0.79]; 1 failed; 1 without a result", "15.40 †",
                 "run.py -m experiment=fixture", "run.py env=point_button1 guidance=plain seed=4", "0123abc",
                 "torch 2.13.0, numpy 2.3.5", "guidance.rho", "Interquartile mean", HOSTILE):
        assert said in text, said
    # The reason of the failure, whole, in its own section.
    assert HOSTILE in text[text.index("What failed"):text.index("Configurations")]


@pytest.mark.needs("browser")
def test_a_browser_shows_it(fixture_page: Path, tmp_path: Path) -> None:
    """Chromium renders the page: nothing hostile ran, the pictures are decoded, and something is to be seen."""
    def chromium(*arguments: str) -> str:
        result = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000", *arguments,
             fixture_page.as_uri()], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    dom = chromium("--dump-dom")
    assert re.findall(r"<title>(.*?)</title>", dom) == ["fixture"]
    assert "<script" not in dom and dom.count("<h2>") == 8
    chromium(f"--screenshot={tmp_path / 'page.png'}")
    seen = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert seen.shape == (3000, 1200, 3)
    assert (seen.min(axis=2) < 100).mean() > 0.01  # text
    # Lines of the two algorithms' colours, as they are in no text: the pictures were decoded and drawn.
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(seen - colour).max(axis=2) < 12).sum() > 500


def test_landscapes_of_a_real_run(tmp_path: Path) -> None:
    """A run that was really trained: its landscape is drawn, unless it is not wanted."""
    train_here(*TINY, "env=toy", "initial_steps=30", "total_steps=60", "eval.every=60", "eval.episodes=1",
               "snapshots=1", f"runs_dir={tmp_path / 'runs'}")
    name = only_run(tmp_path / "runs").name
    text = Page(written(tmp_path / "a.html", tmp_path / "runs")).text
    assert f"toy_vesde-augmented_{name}" in text and "None of the runs has networks" not in text
    text = Page(written(tmp_path / "b.html", tmp_path / "runs", "--landscapes", "0")).text
    assert f"toy_vesde-augmented_{name}" not in text and "None of the runs has networks" in text


def test_the_same_rules_as_for_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FIXTURE), "--columns", "guidance.rho", "--out", str(tmp_path / "a.html")]) == 2
    assert "differ in" in capsys.readouterr().err and not (tmp_path / "a.html").exists()
    assert main(["report", str(FIXTURE), "--out", str(tmp_path)]) == 2
    assert "it cannot be written" in capsys.readouterr().err
