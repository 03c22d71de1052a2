"""The pages have no broken link or anchor, and the site builds without warnings and works offline."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.support.browser import chromium, complaints, until
from tests.support.command import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and the site give a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?) *#*$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


class Loads(HTMLParser):
    """The addresses that a page loads when it is opened."""

    def __init__(self, page: Path):
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "preconnect", "icon", "preload"):
            self.addresses.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
                          cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert [address for address in Loads(page).addresses if re.match(r"(https?:)?//", address)] == [], page


def test_the_reference_has_the_docstrings(site: Path) -> None:
    reference = (site / "reference" / "algorithm.html").read_text(encoding="utf-8")
    assert "algd.algorithm.lagrangian" in reference and "constraint_weight" in reference


def test_every_page_is_in_the_navigation() -> None:
    docs = ROOT / "docs"
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"- (?:[^:\n]+: )?([\w/]+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    index = (docs / "index.md").read_text(encoding="utf-8")
    reference = {page for page in listed if page.startswith("reference/") and page != "reference/index.md"}
    assert [page for page in listed if page not in reference | {"index.md"} and f"]({page})" not in index] == []


@pytest.mark.needs("browser")
def test_the_search_works_in_a_page_that_is_opened_from_a_file(site: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as driver:
        driver.get((site / "reference" / "index.html").as_uri())
        driver.execute_script("document.getElementById('__search').click()")
        driver.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys("multiplier")
        found = "[...document.querySelectorAll('.md-search-result__item a')].map(link => link.getAttribute('href'))"
        until(driver, f"{found}.length")
        assert any("glossary.html" in address for address in driver.execute_script(f"return {found}"))
        assert complaints(driver) == []


def test_every_picture_has_an_alternative_text() -> None:
    """Every picture has an alternative text of at least six words."""
    for page in PAGES:
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert len(text.split()) >= 6, f"{page.name}: {target}"
