"""Every table of a page as CSV and JSON: read from the page itself, so that none is missing and none says otherwise.

A number on the page carries itself unrounded (`<data value>`), a figure its interval too; a cell of text is that
text. In CSV a figure is three columns, and an apostrophe stands before a text that a spreadsheet would take for a
formula.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from realigner.atomic import write_text

Cell = str | float | dict[str, float | None] | None
_THIN = "\u202f"
_COUNT = re.compile(rf"[0-9]{{1,3}}(?:{_THIN}[0-9]{{3}})*")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_INTERVAL = ("", ", low", ", high")


@dataclass
class PageTable:
    """A table of the page."""

    id: str
    title: str = ""
    columns: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: a figure is `{value, low, high}`."""
        return {"id": self.id, "title": self.title, "columns": self.columns, "rows": self.rows}


def page_tables(html: str) -> list[PageTable]:
    """Return the tables of a page that `render_report` or `render_comparison` made, in order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.tables


def write_tables(directory: Path, html: str, *whole: PageTable) -> list[str]:
    """Write `NAME.csv` and `NAME.json` for each table of a page; return the names of the files.

    Args:
        directory: where to.
        html: the page.
        whole: tables of which the page holds the beginning only; they are written in its place.
    """
    names = []
    for shown in page_tables(html):
        table = next((table for table in whole if table.id == shown.id), shown)
        content = json.dumps(table.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for suffix, text in ((".csv", csv_of(table)), (".json", content)):
            write_text(directory / f"{table.id}{suffix}", text)
            names.append(f"{table.id}{suffix}")
    return names


def csv_of(table: PageTable) -> str:
    """Return a table as CSV. Numbers are unrounded; no cell can be taken for a formula."""
    width = max([len(table.columns), *(len(row) for row in table.rows)])
    split = [any(isinstance(row[at], dict) for row in table.rows if at < len(row)) for at in range(width)]
    names = [*table.columns, *[""] * (width - len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    head = [
        [f"{name}{end}" for end in _INTERVAL] if parted else [name] for name, parted in zip(names, split, strict=True)
    ]
    writer.writerow([inert(name) for some in head for name in some])
    for row in table.rows:
        cells = [*row, *[None] * (width - len(row))]
        line = [_parted(cell) if parted else [cell] for cell, parted in zip(cells, split, strict=True)]
        writer.writerow([inert(cell) if isinstance(cell, str) else cell for some in line for cell in some])
    return out.getvalue()


def inert(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe stands before what could begin one."""
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def _parted(cell: Any) -> list[Any]:
    return [cell.get(key) for key in ("value", "low", "high")] if isinstance(cell, Mapping) else [cell, None, None]


class _Reader(HTMLParser):
    """Reads our own pages, whose tables have no nested tables and no cell that spans rows."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[PageTable] = []
        self._section = "page"
        self._table: PageTable | None = None
        self._in = ""
        self._head = False
        self._group = ""
        self._continues = False
        self._row: list[Cell] = []
        self._is_group = False
        self._text: list[str] = []
        self._figure: dict[str, float | None] | None = None
        self._value: float | None = None
        self._shown: list[str] | None = None
        """The words inside <data>, while it is open and after."""
        self._in_data = self._in_note = False
        self._without_notes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "section":
            self._section = str(found.get("id") or "page")
        if tag == "table":
            used = [table.id for table in self.tables]
            name = (
                re.sub(r"[^a-z0-9_]+", "-", (found.get("data-table") or self._section).lower()).strip("-")[:60]
                or "table"
            )
            number = sum(
                other == name or re.fullmatch(rf"{re.escape(name)}-[0-9]+", other) is not None for other in used
            )
            self._table = PageTable(f"{name}-{number + 1}" if number else name)
            self._group, self._continues = "", "data-continues" in found
        if self._table is None:
            return
        if tag == "thead":
            self._head = True
        elif tag == "tr":
            self._row = []
        elif tag in ("caption", "th", "td"):
            self._in, self._text, self._without_notes = tag, [], []
            self._figure, self._value, self._shown = None, None, None
            self._is_group = found.get("scope") == "rowgroup"
        elif tag == "br" and self._in:
            self._text.append(" ")
        elif tag == "span" and "range" in str(found.get("class")).split():
            self._in_note = True  # a remark under a number
        elif tag == "data":
            self._value, self._shown, self._in_data = _float(found.get("value")), [], True
            if "data-low" in found:
                self._figure = {
                    "value": self._value,
                    **{end: _float(found.get(f"data-{end}")) for end in ("low", "high")},
                }

    def handle_endtag(self, tag: str) -> None:
        if self._table is None:
            return
        if tag == "caption":
            self._table.title = self._words()
        elif tag in ("th", "td"):
            self._cell()
        elif tag == "thead":
            self._head = False
        elif tag == "tr" and self._row:
            self._table.rows.append(self._row)
        elif tag == "table":
            self._finish(self._table)
            self._table = None
        elif tag == "data":
            self._in_data = False
        elif tag == "span":
            self._in_note = False
        if tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self._text.append(data)
            if not self._in_note:
                self._without_notes.append(data)
        if self._in_data and self._shown is not None:
            self._shown.append(data)

    def _cell(self) -> None:
        assert self._table is not None
        words = self._words()
        if self._head:
            self._table.columns.append(words)
        elif self._is_group:
            self._group = words
        else:
            if not self._row and self._group:
                self._row.append(self._group)
            is_number = self._value is not None and "".join(self._shown or []) == "".join(self._without_notes).strip()
            self._row.append(self._figure or (self._value if is_number else _plain(words)))

    def _finish(self, table: PageTable) -> None:
        if self._group:
            table.columns.insert(0, "group")
        if self._continues:  # the folded rest of the table before
            self.tables[-1].rows += table.rows
        else:
            self.tables.append(table)

    def _words(self) -> str:
        return " ".join("".join(self._text).split(" ")).replace("\n", " ").strip(" ")


def _plain(words: str) -> Cell:
    """Return a count as a number, a cell without a figure as nothing, anything else as the text it is."""
    if _COUNT.fullmatch(words):
        return int(words.replace(_THIN, ""))
    return None if words in ("", "–", "not measured") else words


def _float(text: str | None) -> float | None:
    return float(text) if text else None
