"""The page as HTML.

Whatever comes from runs (names, configurations, reasons of failure, commands) is text: the templates escape every value
that they are given, the figures' data is JSON that cannot end its script element, and the page's own policy lets a
browser execute the two scripts whose hashes it names, and nothing else.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from algd.errors import UsageError
from analysis.report.content import Content, Options, assemble
from analysis.report.grids import MEANING
from analysis.results.table import DETAILS, Table, details, grid
from analysis.runs.gather import Gathered

PARTS = ("overview", "trouble", "search", "runs", "tables", "comparisons", "curves", "landscapes", "videos",
         "configurations", "provenance", "methods")


def render(content: Content, refresh_seconds: float | None = None) -> str:
    """The whole page, which needs no other file and no network.

    Args:
        content: what it says.
        refresh_seconds: how often a live page asks for fresh data at the address "data" beside its own; None: never.
    """
    return _environment().get_template("page.html").render(
        content=content, parts=(sections := parts(content)), plotly=Markup(plotly()), script=Markup(_file("page.js")),
        style=Markup(_file("page.css")), policy=policy(refresh_seconds is not None),
        data=figures_data(content) | {"refresh": refresh_seconds, "versions": versions(sections)})


def write(out: Path, title: str, gathered: Gathered, options: Options, sweep: Mapping[str, Any] | None = None) -> None:
    """Write the page of runs to a file.

    Raises:
        UsageError: runs cannot stand in one table, or the file cannot be written.
    """
    def link(folder: Path) -> str:
        return quote(os.path.relpath(folder.resolve(), out.parent.resolve())) if folder.is_dir() else ""

    text = render(assemble(title, gathered, options, link, sweep))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {out}: it cannot be written ({error.strerror})") from error


def parts(content: Content) -> dict[str, Markup]:
    """The page's sections by name, as HTML."""
    macros: Any = _environment().get_template("parts.html").make_module(
        {"MEANING": MEANING, "DETAILS": DETAILS, "details": details, "table_html": _table_html})
    return {name: getattr(macros, name)(content) for name in PARTS}


def figures_data(content: Content) -> dict[str, Any]:
    """What the page's script draws."""
    return {"figures": [figure.as_json() for figure in content.figures]}


def versions(sections: Mapping[str, str]) -> dict[str, str]:
    """What tells whether a section is still the same."""
    return {name: _sha256(section) for name, section in sections.items()}


@cache
def policy(live: bool) -> str:
    """The content security policy: the page's own two scripts, and for a live one its own data."""
    scripts = " ".join(f"'sha256-{_sha256(script)}'" for script in (plotly(), _file("page.js")))
    return (f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
            f"media-src data:; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if live else ""))


@cache
def plotly() -> str:
    """plotly.js, as the package plotly brings it along."""
    script = get_plotlyjs()
    assert "</script" not in script.lower()
    return script


def as_json(value: Mapping[str, Any]) -> str:
    """JSON without NaN and infinities, which browsers do not read."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _table_html(table: Table) -> tuple[list[Markup], list[list[Markup]]]:
    """Header and lines of a table as `grid` writes them, escaped."""
    header, lines = grid(table, "[{}, {}]", ("<b>", "</b>"), " †", html.escape)
    return [Markup(text) for text in header], [[Markup(text) for text in line] for line in lines]


@cache
def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_function"] = lambda value, **_: as_json(value)
    return environment
