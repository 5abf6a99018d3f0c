"""The parts of the evidence that the stage `measure` wrote: `evidence/PART.json`, read as it may be: there or not.

Any part is shown without a template of its own: its tables as they are, its figures as two kinds of pictures (shares
before and after, changes with their margin). So a new part is seen in the report, in tables, gates and card at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from realigner.atomic import hash_of
from realigner.report.interval import BeforeAfter, Figure, read_figure
from realigner.report.plots import change_plot, interval_plot, share_bar
from realigner.report.reproduce import flat
from realigner.report.rundir import NotMeasured, RunFiles, items, mapping, number, part, texts

FOLDER = "evidence"
INDEX = f"{FOLDER}/index.json"
PARTS = {
    "win_rate": "Win rate",
    "stress": "Attacks",
    "over_refusal": "Refusal of harmless requests",
    "utility": "Benchmarks of capability",
    "values": "Value probes",
    "inside": "Inside view",
}
"""Name of a part, and first word of its figures -> what a person calls it."""
MOST_ROWS, MOST_DRAWN = 300, 24
_NAME = re.compile(r"[a-z_]{1,40}")

Cell = str | float | Figure | None


@dataclass(frozen=True)
class Column:
    """A column of a part's table."""

    title: str
    is_number: bool
    """Whether its cells are numbers, which stand on the right."""


@dataclass(frozen=True)
class PartTable:
    """A table as the part made it."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    rows_left_out: int


@dataclass(frozen=True)
class Source:
    """Data that a part read."""

    name: str
    sha256: str
    n: int | None
    origin: str


@dataclass(frozen=True)
class Evidence:
    """What one part found."""

    part: str
    figures: Mapping[str, Figure]
    tables: tuple[PartTable, ...]
    warnings: tuple[str, ...]
    sources: tuple[Source, ...]
    seconds: float | None
    rows_file: str
    """Where each item stands; empty where it is not recorded."""
    settings: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any]
    plots: tuple[tuple[str, str], ...] = ()
    """(heading, picture)."""


def read_evidence(run: RunFiles, name: str, *, draw: bool = False) -> Evidence:
    """Return what a part found.

    Args:
        run: the run directory.
        name: of the part, see `PARTS`.
        draw: make its pictures too.

    Raises:
        NotMeasured: the recipe did not ask for it, it has not been measured yet, or its file cannot be used.
    """
    if name not in recorded_parts(run):
        asked = part(lambda r: r.recipe("evaluate", name), run).value is not None
        raise NotMeasured(
            "the stage 'measure' has not been finished"
            if asked
            else f"the recipe does not ask for it (evaluate.{name})"
        )
    file = f"{FOLDER}/{name}.json"
    content = run.json(file)
    if hash_of(run.path / file) != recorded_parts(run)[name]:
        raise NotMeasured(f"{file} is not what the stage 'measure' wrote")
    figures = {
        str(key): figure
        for key, value in mapping(content.get("figures")).items()
        if (figure := read_figure(value)) is not None
    }
    return Evidence(
        part=name,
        figures=figures,
        tables=tuple(_table(mapping(table), place) for place, table in enumerate(items(content.get("tables")))),
        warnings=tuple(texts(content.get("warnings"))),
        sources=tuple(_source(mapping(source)) for source in items(content.get("sources"))),
        seconds=number(content.get("seconds")),
        rows_file=str(content.get("rows") or ""),
        settings=tuple(flat(mapping(content.get("settings")), "")),
        facts=mapping(content.get("facts")),
        plots=tuple(_plots(name, figures)) if draw else (),
    )


def changes_in(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Return the figures of a part that say how far something moved: those beyond a drift where it has them."""
    own = {name: figure for name, figure in figures.items() if name.endswith(".beyond_drift")}
    return own or {name: figure for name, figure in figures.items() if name.endswith((".diff", ".change", ".shift"))}


def recorded_parts(run: RunFiles) -> dict[str, str]:
    """Return the parts that belong to the run as it is now, in the order of measuring, each with its file's hash."""
    try:
        found = [mapping(entry) for entry in items(run.json(INDEX).get("parts"))]
    except NotMeasured:
        return {}
    return {name: str(entry.get("hash")) for entry in found if _NAME.fullmatch(name := str(entry.get("part")))}


def _table(content: Mapping[str, Any], place: int) -> PartTable:
    columns = [mapping(column) for column in items(content.get("columns"))]
    keys = [str(column.get("key", "")) for column in columns]
    rows = [mapping(row) for row in items(content.get("rows"))]
    cells = [tuple(_cell(row.get(key)) for key in keys) for row in rows[:MOST_ROWS]]
    return PartTable(
        id=str(content.get("id") or f"table-{place}"),
        title=str(content.get("title") or "Figures"),
        note=str(content.get("note") or ""),
        columns=tuple(
            Column(str(column.get("title", key)), any(isinstance(row[at], float | Figure) for row in cells))
            for at, (column, key) in enumerate(zip(columns, keys, strict=True))
        ),
        rows=tuple(cells),
        rows_left_out=max(0, len(rows) - MOST_ROWS),
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, Mapping):
        return read_figure(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    return found if found is not None else None if value is None else str(value)


def _source(content: Mapping[str, Any]) -> Source:
    n = number(content.get("n"))
    return Source(
        name=str(content.get("name") or "not recorded"),
        sha256=str(content.get("sha256") or "not recorded"),
        n=None if n is None else int(n),
        origin=str(content.get("origin") or ""),
    )


def _plots(part: str, figures: Mapping[str, Figure]) -> Iterator[tuple[str, str]]:
    """Yield a picture of the shares before and after, and one of the changes, where there are any."""
    split = {name.rpartition(".")[2]: figure for name, figure in figures.items() if name.count(".") == 1}
    if {"wins", "ties", "losses"} <= split.keys():
        words = {"wins": "won by after", "ties": "tie", "losses": "won by before", "invalid": "could not be read"}
        shown = [(words[key], split[key].interval.value) for key in words if key in split]
        yield "Win, tie, loss", share_bar(f"{part}-split", shown, f"{part}: win, tie, loss")
    shares = []
    sides = (name for name in figures if name.endswith((".before", ".after")) and name.count(".") == 2)
    for name in dict.fromkeys(name.rpartition(".")[0] for name in sides):
        before, after = figures.get(f"{name}.before"), figures.get(f"{name}.after")
        if before is not None and after is not None and before.unit == after.unit == "share":
            shares.append((_label(name, part), BeforeAfter(before.interval, after.interval)))
    if shares:
        heading = "Before and after" if len(shares) <= MOST_DRAWN else f"The first {MOST_DRAWN} of {len(shares)}"
        yield heading, interval_plot(f"{part}-shares", shares[:MOST_DRAWN], f"{part}: before and after")
    changes: dict[str, list[tuple[str, Figure]]] = {}
    for name, figure in changes_in(figures).items():
        changes.setdefault(figure.unit, []).append((_label(name.rpartition(".")[0], part), figure))
    for place, (unit, rows) in enumerate(changes.items()):
        drawn = rows
        if len(rows) > MOST_DRAWN:
            drawn = sorted(rows, key=lambda row: -abs(row[1].interval.value))[:MOST_DRAWN]
        heading = "Change" if drawn is rows else f"The {MOST_DRAWN} largest of {len(rows)} changes"
        yield heading, change_plot(f"{part}-changes-{place}", drawn, f"{part}: change", unit)


def _label(name: str, part: str) -> str:
    return name.removeprefix(f"{part}.").replace("_", " ").replace(".", ": ") or part
