"""Prompts from a file, for models that are compared without a run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realigner.data.rows import InvalidRow, Row, shorten
from realigner.data.sources import open_rows
from realigner.errors import DataError, did_you_mean
from realigner.recipe import DataSettings
from realigner.records import Message, Prompt, prompt_key, user_prompt

COLUMNS = ("prompt", "goal", "question", "instruction", "text")
"""Where a prompt is looked for, in this order and in any case, if no column is named."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt, and what it is about."""

    prompt: Prompt
    topic: str | None
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The whole row."""


def read_prompts(path: Path, column: str | None = None, topic: str | None = None) -> list[ReadPrompt]:
    """Read prompts of JSONL (also .gz), Parquet or CSV with a header; each distinct prompt once, in its order.

    A prompt is a text, or a list of `{role, content}` that ends with a user turn.

    Args:
        path: the file.
        column: where the prompt stands. Default: the first there is of prompt, goal, question, instruction, text.
        topic: the column that says what a prompt is about.

    Raises:
        DataError: the file, a column or a row cannot be used; it names the place.
    """
    found: dict[str, ReadPrompt] = {}
    rows = (
        _csv_rows(path) if path.suffix.lower() == ".csv" and path.is_file() else open_rows(DataSettings(path=str(path)))
    )
    for row in rows:
        columns = _columns(row)
        name = _named(row, columns, column) if column else _guessed(row, columns)
        about = None if topic is None else columns[_named(row, columns, topic)]
        read = ReadPrompt(prompt_of(row, columns[name]), None if about is None else str(about), row.source, columns)
        found.setdefault(prompt_key(read.prompt), read)
    if not found:
        raise DataError(f"prompts {path}", "it has no row", "Give a file with prompts")
    return list(found.values())


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, columns in enumerate(csv.DictReader(file), start=2):
                yield Row(f"{path}, row {number}", {str(name): value for name, value in columns.items() if name})
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"prompts {path}", f"it cannot be read as CSV ({error})", "Save it as CSV in UTF-8") from None


def _columns(row: Row) -> Mapping[str, Any]:
    if isinstance(row.columns, InvalidRow):
        raise DataError(f"{row.source}: {row.columns.reason} ({row.columns.found})", row.columns.rule, "Mend the row")
    return row.columns


def _named(row: Row, columns: Mapping[str, Any], name: str) -> str:
    if name not in columns:
        raise DataError(
            f"{row.source}: no column '{name}'",
            f"its columns are {', '.join(columns)}",
            f"Name one of them.{did_you_mean(name, columns)}",
        )
    return name


def _guessed(row: Row, columns: Iterable[str]) -> str:
    by_name = {name.lower(): name for name in columns}
    found = next((by_name[name] for name in COLUMNS if name in by_name), None)
    if found is None:
        raise DataError(
            f"{row.source}: no column {', '.join(COLUMNS)}",
            f"its columns are {', '.join(by_name.values())}",
            "Name the one that holds the prompt with --column",
        )
    return found


def prompt_of(row: Row, value: Any) -> Prompt:
    """Return a prompt, given as a text or as messages that end with a user turn.

    Raises:
        DataError: it is neither.
    """
    if is_text(value):
        return user_prompt(value)
    turns = value if isinstance(value, list | tuple) else ()
    whole = all(
        isinstance(turn, Mapping) and turn.get("role") in ROLES and is_text(turn.get("content")) for turn in turns
    )
    if not turns or not whole or turns[-1]["role"] != "user":
        raise DataError(
            f"{row.source}: the prompt is {shorten(value)}",
            "a prompt is valid Unicode text that is not empty, or a list of {role, content} that ends with a user turn",
            "Mend the row",
        )
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)


def is_text(value: Any) -> bool:
    """Say whether a value is text that is not empty, and that a file can hold."""
    # Half of a surrogate pair can come out of JSON, and no file could hold it later.
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)
