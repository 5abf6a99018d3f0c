"""What a part of the stage `measure` found: figures by stable names, tables, sources, warnings, and the rows behind.

One part is one JSON file `evidence/PART.json`, with a parquet file of its rows beside it; `evidence/index.json` says
which parts belong to the run as it is now. Reading needs nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from realigner.atomic import hash_of, write_text, writing
from realigner.errors import RunDirError
from realigner.evaluate.statistics import Interval
from realigner.manifest import finite

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
FOLDER = "evidence"
INDEX = f"{FOLDER}/index.json"


class Figure(Interval):
    """A figure of a part: an interval, and what else is known of it."""

    unit: NotRequired[str]
    """`share`, `nats`, `points`, …"""
    seed: NotRequired[int]
    """Of the resampling."""
    p: NotRequired[float]
    p_method: NotRequired[str]
    p_holm: NotRequired[float]
    """p corrected for the number of figures in its family."""
    margin: NotRequired[float]
    """The non-inferiority margin that `non_inferior` was decided by."""
    non_inferior: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the report shows it. A cell is a text, a number, a `Figure` or None (not measured)."""

    id: str
    """Dotted and stable, e.g. `utility.tasks`: the name of its CSV file."""
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Material that a part was measured on."""

    name: str
    sha256: str
    n: int
    """Items of it that were used."""
    origin: str
    """Where it came from: a path, or what it is."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a part returns. `run_measure` adds key, settings and time, and writes it down."""

    figures: Mapping[str, Figure]
    """By dotted, lower-case, stable names: what a gate file names."""
    tables: tuple[Table, ...] = ()
    sources: tuple[Source, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: pa.Table | None = None
    """One row an item, so that every figure can be traced."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More, in plain JSON values: identities of judges, what asking took."""


def columns(**titles: str) -> tuple[Column, ...]:
    """Return the columns of a table from `key="Title"`, in order."""
    return tuple(Column(key, title) for key, title in titles.items())


def write_evidence(
    folder: Path, part: str, found: Evidence, *, key: str, seconds: float, settings: Mapping[str, Any]
) -> None:
    """Write `PART.json`, and `PART.parquet` where there are rows, the rows first."""
    rows = None
    if found.rows is not None:
        import pyarrow.parquet as pq

        rows = f"{FOLDER}/{part}.parquet"
        with writing(folder / f"{part}.parquet") as path:
            pq.write_table(found.rows, path)
    content = {
        "schema": SCHEMA,
        "part": part,
        "key": key,
        "seconds": round(seconds, 3),
        "settings": dict(settings),
        "sources": [{"name": s.name, "sha256": s.sha256, "n": s.n, "origin": s.origin} for s in found.sources],
        "figures": dict(found.figures),
        "tables": [
            {
                "id": table.id,
                "title": table.title,
                "note": table.note,
                "columns": [{"key": column.key, "title": column.title} for column in table.columns],
                "rows": [dict(row) for row in table.rows],
            }
            for table in found.tables
        ],
        "warnings": list(found.warnings),
        "facts": dict(found.facts),
        "rows": rows,
        "rows_hash": None if rows is None else hash_of(folder / f"{part}.parquet"),
    }
    write_text(
        folder / f"{part}.json", json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def stored_part(folder: Path, part: str) -> dict[str, Any] | None:
    """Return what is stored of a part, whole, or None: not there, damaged, of another schema, or without its rows."""
    try:
        content: dict[str, Any] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        whole = content["schema"] == SCHEMA and content["part"] == part
        rows = content["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    beside = folder / f"{part}.parquet"
    if not whole or (rows is not None and (not beside.is_file() or hash_of(beside) != content["rows_hash"])):
        return None
    return content


def read_evidence(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the parts of a run directory by name, in their order; empty where none was asked for.

    Raises:
        RunDirError: a part that the index names is gone or damaged.
    """
    index = directory / INDEX
    if not index.is_file():
        return {}
    try:
        names = [str(part["part"]) for part in json.loads(index.read_text(encoding="utf-8"))["parts"]]
    except (ValueError, KeyError, TypeError):
        raise _damaged(index, directory) from None
    found = {}
    for name in names:
        content = stored_part(directory / FOLDER, name)
        if content is None:
            raise _damaged(directory / FOLDER / f"{name}.json", directory)
        found[name] = content
    return found


def _damaged(path: Path, directory: Path) -> RunDirError:
    return RunDirError(f"{path}", "it is gone or damaged", f"Measure it again: realigner measure {directory} --redo")
