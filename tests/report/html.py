"""A strict reader of the page: tags must balance, ids must be unique."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Page:
    """What was read: links, ids, text; of the table of results its rows as (text, data-v) cells, and its headings."""

    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    rows: list[list[tuple[str, str | None]]] = field(default_factory=list)
    groups: list[list[tuple[str, str | None]]] = field(default_factory=list)
    text: str = ""
    pictures: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Fills a `Page`; raises `AssertionError` where the markup is wrong."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page, self._open = Page(), list[str]()
        self._cell: list[str] | None = None
        self._value: str | None = None
        self._results = False
        self._row = self.page.rows

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        self._note(tag, found)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._results = found.get("id") == "result-table"
        if tag == "tr" and self._results:
            self._row = self.page.groups if found.get("class") == "group" else self.page.rows
            self._row.append([])
        if tag in ("td", "th"):
            self._cell, self._value = [], found.get("data-v")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def _note(self, tag: str, found: dict[str, str | None]) -> None:
        self.page.links += [
            str(found[name]) for name in ("href", "src", "xlink:href", "action", "data") if found.get(name)
        ]
        self.page.ids += [str(found["id"])] if "id" in found else []
        if tag == "svg":
            assert found.get("role") == "img", "a picture without role"
            self.page.pictures.append(found.get("aria-label") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> does not match at line {self.getpos()}"
        if tag in ("td", "th"):
            if self._results:
                self._row[-1].append((" ".join("".join(self._cell or []).split()), self._value))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not self._open or self._open[-1] not in ("style", "script"):
            self.page.text += data


def read(text: str) -> Page:
    """Returns the page; raises `AssertionError` where tags do not balance or an id is there twice."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader._open, f"left open: {reader._open}"
    assert len(set(reader.page.ids)) == len(reader.page.ids), "an id is there twice"
    return reader.page
