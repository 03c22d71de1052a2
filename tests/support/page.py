"""Parsing the content of an HTML page."""

import html.parser
import json


class Page(html.parser.HTMLParser):
    """The tags, addresses, scripts, text and tables of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}  # rows of each table's body, by the table's name
        self._lines: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "poster", "data", "srcset", "action")]
        self.links += [value or "" for name, value in attrs if name == "href"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "table":
            self._lines = self.tables[dict(attrs).get("aria-label") or ""] = []
        elif tag == "tr":
            self._lines.append([])
        elif tag == "td":
            self._lines[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False
        elif tag == "thead":
            self._lines.clear()

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            attributes, before = self.scripts.pop()
            self.scripts.append((attributes, before + data))
        else:
            self.text += data + "\n"
            if self._in_cell:
                self._lines[-1][-1] += data

    @property
    def data(self) -> dict:
        ((_, text),) = [script for script in self.scripts if script[0].get("type") == "application/json"]
        return json.loads(text)
