"""Reads a page of this package without a browser: its figures, tables, scripts and attributes."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Reader(HTMLParser):
    """What a page holds: figures by name, the rows of its tables, its scripts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.figures: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, list[list[dict[str, Any]]]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.seen: list[str] = []
        self._open: list[dict[str, Any]] = []
        self._table: str | None = None
        self._script: dict[str, str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in told.items()]
        if tag == "script":
            self._script = told
        elif tag == "table":
            self._table = told["id"]
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        if tag in ("td", "th", "span"):
            self._open.append({"tag": tag, "text": "", **told})

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None
        elif tag == "table":
            self._table = None
        if tag not in ("td", "th", "span"):
            return
        one = self._open.pop()
        if "data-figure" in one:
            assert one["data-figure"] not in self.figures, f"{one['data-figure']} is there twice"
            self.figures[one["data-figure"]] = one
        if tag != "span" and self._table:
            self.tables[self._table][-1].append(one)

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))
            return
        self.seen.append(data)
        for one in self._open:
            one["text"] += data

    @property
    def data(self) -> Any:
        return next(json.loads(text) for told, text in self.scripts if told.get("id") == "data")

    def value(self, name: str) -> float:
        """A figure in full; nan where the page says that it is not known."""
        return float(self.figures[name].get("data-value") or math.nan)

    def interval(self, name: str) -> float:
        return float(self.figures[name].get("data-interval") or math.nan)

    def column(self, table: str, label: str) -> dict[str, dict[str, Any]]:
        """The cells of a column, by the text of their row's header."""
        head, *rows = self.tables[table]
        place = [one["text"] for one in head].index(label)
        return {row[0]["text"].split()[0]: row[place] for row in rows}

    def cells(self, key: str) -> Iterator[tuple[str | None, str | None, Any]]:
        """(teacher, language, cell) of a mode of the matrix as scripts show it; none is what is
        over all of them."""
        mode = self.data["matrix"][key]
        names = [*self.data["teachers"], None]
        codes = [*(code for code, _, _ in self.data["codes"]), None]
        for name, row in zip(names, mode["cells"], strict=True):
            for code, cell in zip(codes, row, strict=True):
                yield name, code, cell
