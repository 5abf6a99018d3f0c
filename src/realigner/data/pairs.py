"""Rows in, pairs out: formats, identity, duplicates and what happens to what cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from realigner.data.formats import READERS, Columns, FormatName, check_columns, compare, detect_format
from realigner.data.rows import InvalidRow, Row, shorten
from realigner.data.seen import SeenIndex
from realigner.data.sources import open_rows
from realigner.data.tally import DataTally
from realigner.errors import DataError, did_you_mean
from realigner.recipe import DataSettings, FieldMap
from realigner.records import Pair, pair_key

logger = logging.getLogger(__name__)


def read_pairs(data: DataSettings | str | Path, tally: DataTally | None = None) -> Iterator[Pair]:
    """Stream the OLD preferences of a file, a directory or a hub data set.

    Memory does not grow with the data: rows are read one by one, and the index that finds duplicates lies on disk.
    The path is checked at once, the rows as they are asked for.

    Args:
        data: the data section of a recipe, or just its path with every option at its default.
        tally: filled while reading; complete when the iterator is exhausted.

    Raises:
        DataError: the source, a row or an id is unusable, or there is no usable pair at all.
    """
    settings = data if isinstance(data, DataSettings) else DataSettings(path=str(data))
    return _pairs(open_rows(settings), settings, tally)


def pairs_from_rows(
    rows: Iterable[Mapping[str, Any]],
    settings: DataSettings | None = None,
    tally: DataTally | None = None,
    source_name: str = "rows",
) -> Iterator[Pair]:
    """Like `read_pairs`, for rows that are at hand: a list of dicts, a `datasets.Dataset`, a generator.

    Of the settings, all but `path`, `config` and `split` apply. A pair's source is `source_name[row]`.
    """
    settings = settings or DataSettings(path=source_name)
    placed = (Row(f"{source_name}[{i}]", _as_columns(row)) for i, row in enumerate(rows))
    return _pairs(placed, settings, tally)


def _as_columns(row: object) -> Columns | InvalidRow:
    return row if isinstance(row, Mapping) else InvalidRow("not columns", f"it is a {type(row).__name__}")


def _pairs(rows: Iterable[Row], settings: DataSettings, tally: DataTally | None) -> Iterator[Pair]:
    tally = DataTally() if tally is None else tally
    read_before, valid_before = tally.read, tally.valid
    reader = _RowReader(settings)
    with SeenIndex() as seen:
        for row in rows:
            tally.read += 1
            try:
                pair = reader.pair(row)
            except InvalidRow as invalid:
                if settings.on_invalid == "error":
                    raise _refusal(row.source, invalid) from None
                tally.skip(invalid.reason, row.source)
                continue
            tally.format = reader.described
            if _is_new(pair, seen, settings, tally):
                tally.valid += 1
                yield pair
                if settings.limit is not None and tally.valid - valid_before >= settings.limit:
                    break
    if tally.read == read_before:
        raise DataError(f"data {settings.path}", "it has no row", "Check data.path and data.split")
    if tally.valid == valid_before:
        raise DataError(
            f"data {settings.path}: {tally.summary()}",
            "a run needs at least one usable pair",
            "Mend the rows, or say how they are to be read with data.format or data.fields",
        )
    if tally.skipped or tally.duplicates or tally.contradictory:
        logger.warning("%s: %s", settings.path, tally.summary())


class _RowReader:
    """Turns rows into pairs; finds the format once, from the first row that shows it."""

    def __init__(self, settings: DataSettings) -> None:
        if settings.fields is not None and settings.format == "pku-saferlhf":
            raise DataError(
                "data.fields beside data.format: pku-saferlhf",
                "a field map names prompt, chosen and rejected, which this format does not have",
                "Remove one of the two",
            )
        self._fields = settings.fields
        self._topic = settings.topic
        self._format: FormatName | None = None if settings.format == "auto" else settings.format
        self._columns_checked = False

    @property
    def described(self) -> str:
        """The format, and whether a field map came before it."""
        return f"{self._format}, by data.fields" if self._fields else str(self._format)

    def pair(self, row: Row) -> Pair:
        """Return the pair of a row.

        Raises:
            InvalidRow: this row has none.
            DataError: no row of this source can have one.
        """
        if isinstance(row.columns, InvalidRow):
            raise row.columns
        if not self._columns_checked:
            self._check_columns(row)
            self._columns_checked = True
        columns = row.columns if self._fields is None else _mapped(row.columns, self._fields)
        self._format = self._format or detect_format(columns)
        prompt, chosen, rejected = compare(READERS[self._format or "trl"](columns))
        own_id = _own_id(row.columns, self._fields)
        topic = None if self._topic is None else _at_or_none(row.columns, self._topic)
        return Pair(
            own_id or pair_key(prompt, chosen, rejected),
            prompt,
            chosen,
            rejected,
            row.source,
            None if topic is None else str(topic),
        )

    def _check_columns(self, row: Row) -> None:
        assert isinstance(row.columns, Mapping)
        named = {} if self._topic is None else {"topic": self._topic}
        if self._fields is None:
            check_columns(row.columns, self._format)
        else:
            named |= {f"fields.{name}": path for name, path in self._fields.model_dump(exclude_none=True).items()}
        for name, path in named.items():
            try:
                _at(row.columns, path)
            except KeyError as error:
                level = error.args[0]
                raise DataError(
                    f"{row.source}: data.{name} = '{path}'",
                    f"there is no such column; found: {', '.join(level)}",
                    f"Name a column, or a path such as meta.question.{did_you_mean(path.split('.')[-1], level)}",
                ) from None


def _mapped(columns: Columns, fields: FieldMap) -> dict[str, Any]:
    """Return the columns under TRL's names."""
    mapped = {}
    for name, path in fields.model_dump(exclude_none=True, exclude={"id"}).items():
        mapped[name] = _at_or_none(columns, path)
        if mapped[name] is None:
            raise InvalidRow("missing value", f"no value in {path}")
    return mapped


def _own_id(columns: Columns, fields: FieldMap | None) -> str | None:
    if fields is None or fields.id is None:
        return None
    value = _at_or_none(columns, fields.id)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InvalidRow("unusable id", f"{fields.id} is {shorten(value)}")
    return str(value)


def _at(columns: Columns, path: str) -> Any:
    """Return the value of a column, or inside nested columns by a dotted path; KeyError holds the names there."""
    if path in columns:
        return columns[path]
    value: Any = columns
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError([str(name) for name in value] if isinstance(value, Mapping) else list(columns))
        value = value[part]
    return value


def _at_or_none(columns: Columns, path: str) -> Any:
    try:
        return _at(columns, path)
    except KeyError:
        return None


def _is_new(pair: Pair, seen: SeenIndex, settings: DataSettings, tally: DataTally) -> bool:
    """Whether no earlier row holds the same pair; counts what was found, refuses an id given twice."""
    named = settings.fields is not None and settings.fields.id is not None
    content = pair_key(pair.prompt, pair.chosen, pair.rejected) if named else pair.id
    first = seen.add("pair", content, pair.source)
    if first is not None:
        if settings.duplicates == "error":
            raise DataError(
                f"{pair.source}: the same pair as {first}",
                "data.duplicates is error: prompt, chosen and rejected together may occur once",
                "Remove one of the two, or set data.duplicates: drop to leave repetitions out and count them",
            )
        tally.duplicate(pair.source, first)
        return False
    if named:
        first = seen.add("id", pair.id, pair.source)
        if first is not None:
            raise DataError(
                f"{pair.source}: id '{pair.id}' was given to {first}",
                "an id names one pair",
                "Make the ids unique, or remove data.fields.id to have them made from the content",
            )
    reverse = seen.find("pair", pair_key(pair.prompt, pair.rejected, pair.chosen))
    if reverse is not None:
        tally.contradiction(pair.source, reverse)
    return True


def _refusal(source: str, invalid: InvalidRow) -> DataError:
    return DataError(
        f"{source}: {invalid.reason} ({invalid.found})",
        invalid.rule,
        "Mend it, or set data.on_invalid: skip to leave such rows out and count them",
    )
