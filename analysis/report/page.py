"""Render a report as HTML.

Text from runs (names, configurations, reasons of failures, commands) is untrusted. The templates escape every value,
the figures' JSON cannot end its script element, and the content security policy allows only the two scripts whose
hashes it contains.
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
from algd.storage.files import write_atomically
from analysis.report.content import Content, Options, assemble
from analysis.report.grids import MEANING
from analysis.results.table import Table, details, grid
from analysis.runs.gather import Gathered

PARTS = ("overview", "trouble", "search", "runs", "tables", "comparisons", "curves", "landscapes", "videos",
         "configurations", "provenance", "methods")


def render(content: Content, refresh_seconds: float | None = None) -> str:
    """Return the whole page, which needs no other file and no network.

    Args:
        content: the page's content.
        refresh_seconds: how often a live page requests fresh data at the relative address "data"; None: never.
    """
    return _environment().get_template("page.html").render(
        content=content, parts=(sections := parts(content)), plotly=Markup(plotly()), script=Markup(_file("page.js")),
        style=Markup(_file("page.css")), policy=policy(refresh_seconds is not None),
        data=figures_data(content) | {"refresh": refresh_seconds, "versions": versions(sections)})


def write(out: Path, title: str, gathered: Gathered, options: Options, sweep: Mapping[str, Any] | None = None) -> None:
    """Write the report of runs to a file.

    Raises:
        UsageError: the runs cannot share a table, or the file cannot be written.
    """
    def link(folder: Path) -> str:
        # As bytes, since a name need not be UTF-8.
        return quote(os.fsencode(os.path.relpath(folder.resolve(), out.parent.resolve()))) if folder.is_dir() else ""

    page = render(assemble(title, gathered, options, link, sweep)).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_file():
            out.write_bytes(page)  # a pipe or a device
        else:
            write_atomically(out.resolve(), page)
    except OSError as error:
        raise UsageError(f"--out {out}: it cannot be written ({error.strerror})") from error


def parts(content: Content) -> dict[str, Markup]:
    """Return the page's sections as HTML, by name."""
    macros: Any = _environment().get_template("parts.html").make_module(
        {"MEANING": MEANING, "details": details, "table_html": _table_html})
    return {name: getattr(macros, name)(content) for name in PARTS}


def figures_data(content: Content) -> dict[str, Any]:
    """Return the figures' data for the page's script."""
    return {"figures": [figure.as_json() for figure in content.figures]}


def versions(sections: Mapping[str, str]) -> dict[str, str]:
    """Return a hash of each section, by which the page sees whether it changed."""
    return {name: _sha256(section) for name, section in sections.items()}


@cache
def policy(live: bool) -> str:
    """Return the content security policy: only the page's two scripts, and on a live page its own data."""
    scripts = " ".join(f"'sha256-{_sha256(script)}'" for script in (plotly(), _file("page.js")))
    return (f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
            f"media-src data:; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if live else ""))


@cache
def plotly() -> str:
    """Return plotly.js from the package plotly."""
    script = get_plotlyjs()
    assert "</script" not in script.lower()
    return script


def as_json(value: Mapping[str, Any]) -> str:
    """Return JSON; NaN and infinities, which browsers cannot read, are errors."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _table_html(table: Table) -> tuple[list[Markup], list[list[Markup]]]:
    """Return a table's header and lines from `grid`, HTML-escaped."""
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
