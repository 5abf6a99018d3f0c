"""Reading verdicts that were made elsewhere: JSON Lines, each fault named by its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realigner.data.rows import InvalidRow
from realigner.data.sources import json_lines
from realigner.errors import DataError, OracleError, did_you_mean
from realigner.records import Label, Message, Prompt, prompt_text, user_prompt


def shorten(text: str, width: int = 80) -> str:
    """Return a text quoted, and cut to a width."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def lines_of(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (place, columns) of each line."""
    lines = []
    try:
        for row in json_lines(path):
            if isinstance(row.columns, InvalidRow):
                invalid = row.columns
                raise OracleError(f"{row.source}: {invalid.reason} ({invalid.found})", invalid.rule, "Mend the line")
            lines.append((row.source, row.columns))
    except DataError as error:
        raise OracleError(error.given, error.rule, error.remedy) from None
    return lines


def read_prompt(value: Any, source: str) -> str:
    """Return a prompt, given as a text or as messages, as `prompt_text` gives it."""
    return prompt_text(read_messages(value, source))


def read_messages(value: Any, source: str) -> Prompt:
    """Return a prompt, given as a text or as messages; a text is one user turn."""
    if not isinstance(value, list):
        return user_prompt(read_text(value, "prompt", source))
    for turn in value:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise refusal(source, "prompt", turn, "a text, or a list of messages with role and content")
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)


def read_label(value: Any, source: str) -> Label:
    """Return a label."""
    try:
        return Label(value)
    except ValueError:
        hint = did_you_mean(str(value), Label)
        raise refusal(source, "label", value, f"one of {', '.join(Label)}", hint) from None


def read_text(value: Any, key: str, source: str) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise refusal(source, key, value, "a text")
    return value


def check_keys(columns: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], source: str) -> None:
    """Refuse unknown keys and missing ones."""
    for key in columns:
        if key not in known:
            rule = f"a line has the keys {', '.join(known)}"
            raise OracleError(f"{source}: unknown key '{key}'", rule, f"Remove it.{did_you_mean(key, known)}")
    for key in needed:
        if key not in columns:
            rule = f"a line has at least the keys {', '.join(needed)}"
            raise OracleError(f"{source}: no key '{key}'", rule, "Add it")


def refusal(source: str, key: str, value: Any, wanted: str, hint: str = "") -> OracleError:
    """Return the error for a value of the wrong kind."""
    return OracleError(f"{source}: {key} is {shorten(str(value))}", f"it must be {wanted}", f"Correct it.{hint}")
