"""Rows of benchmark files as they are published: JSONL (also .gz), Parquet, CSV and TSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realigner.data.rows import InvalidRow
from realigner.data.sources import open_rows
from realigner.errors import DataError, did_you_mean
from realigner.recipe import DataSettings

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file, and where it stands there."""

    place: str
    columns: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a column that must hold text.

        Raises:
            DataError: it is not there, is no text, or is empty.
        """
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise self.broken(f"column '{name}' holds {value!r}", "it must hold text")
        return value

    def value(self, name: str) -> Any:
        """Return a column that must be there.

        Raises:
            DataError: it is not.
        """
        if name not in self.columns:
            raise self.broken(
                f"no column '{name}'",
                f"its columns are {', '.join(map(str, self.columns))}.{did_you_mean(name, map(str, self.columns))}",
            )
        return self.columns[name]

    def broken(self, given: str, rule: str) -> DataError:
        """Return the error that says what is wrong with the row."""
        return DataError(f"{self.place}: {given}", rule, "Mend the row, or give the file in its published form")


def read_table(path: str | Path) -> Iterator[FileRow]:
    """Yield the rows of a file.

    Raises:
        DataError: it is not there, in no form that can be read, broken, or holds half of a surrogate pair.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"file {path}", "there is no such file", "Check the path; it is relative to the recipe")
    separator = SEPARATORS.get(path.suffix.lower())
    rows = _separated(path, separator) if separator else _other(path)
    for row in rows:
        for name, value in row.columns.items():
            if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                raise row.broken(f"column '{name}' holds half of a surrogate pair", "text must be valid Unicode")
        yield row


def read_all(path: str | Path) -> Sequence[FileRow]:
    """Return the rows of a file that must have some.

    Raises:
        DataError: as `read_table`, or there is none.
    """
    rows = list(read_table(path))
    if not rows:
        raise DataError(f"file {path}", "it has no row", "Give the file as it is published")
    return rows


def _separated(path: Path, separator: str) -> Iterator[FileRow]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, columns in enumerate(csv.DictReader(file, delimiter=separator), start=2):
                yield FileRow(f"{path}, row {number}", {str(name): value for name, value in columns.items() if name})
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"file {path}", f"it cannot be read as CSV ({error})", "Save it as CSV in UTF-8") from None


def _other(path: Path) -> Iterator[FileRow]:
    for row in open_rows(DataSettings(path=str(path))):
        if isinstance(row.columns, InvalidRow):
            raise DataError(f"{row.source}: {row.columns.reason} ({row.columns.found})", row.columns.rule, "Mend it")
        yield FileRow(row.source, row.columns)
