"""Sheets: what people are shown and fill in, as JSONL or CSV. The judge's verdict is not in them."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.audit.records import Answer, AuditItem
from realigner.audit.truth import HUMAN
from realigner.errors import AuditError
from realigner.records import Label, prompt_text

COLUMNS = ("audit", "item", "prompt", "response", "label", "rules", "note", "annotator")
NEEDED = ("audit", "item", "label")
REMEDY = "Fill in the sheet as it was written; only label, rules, note and annotator are yours"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""Characters that JSON leaves as they are and that some tools take for the end of a line."""
_DELIMITERS = (",", ";", "\t")


def write_sheets(items: Sequence[AuditItem], audit: str, stem: Path) -> tuple[Path, Path]:
    """Write `STEM.jsonl` and `STEM.csv`, one row for each question; return their paths.

    Raises:
        AuditError: one of them is there already: it may hold answers.
    """
    paths = stem.with_name(f"{stem.name}.jsonl"), stem.with_name(f"{stem.name}.csv")
    for path in paths:
        if path.exists():
            raise AuditError(f"{path}", "it is there, and may hold answers", "Name another file with --out, or move it")
    rows = [_row(item, audit) for item in items]
    lines = [json.dumps({**row, "rules": []}, ensure_ascii=False).translate(_LINE_ENDS) for row in rows]
    write_text(paths[0], "".join(f"{line}\n" for line in lines))
    table = StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    # The mark tells spreadsheets that the file is UTF-8.
    write_text(paths[1], "\ufeff" + table.getvalue())
    return paths


def read_sheet(path: Path, audit: str, items: Sequence[AuditItem]) -> list[Answer]:
    """Return the answers of a sheet; rows without a label are left out. The file's name stands for its annotator.

    Raises:
        AuditError: the file cannot be read, belongs to another audit, or its texts were changed; it names the row.
    """
    known = {item.id: item for item in items}
    answers = []
    for place, row in _rows(path):
        if row["audit"] != audit:
            raise AuditError(
                f"{place}: audit {row['audit'] or '(empty)'}", f"this audit is {audit}", "Give the sheets of this audit"
            )
        item = known.get(row["item"])
        if item is None:
            raise AuditError(f"{place}: item {row['item'] or '(empty)'}", "this audit did not ask about it", REMEDY)
        _refuse_changed(place, row, item)
        answer = _answer(place, row, path)
        if answer is not None:
            answers.append(answer)
    return answers


def audit_of(path: Path) -> str:
    """Return the audit that the first row of a sheet belongs to; empty for a sheet without rows.

    Raises:
        AuditError: the file cannot be read.
    """
    return next((row["audit"] for _, row in _rows(path)), "")


def _row(item: AuditItem, audit: str) -> dict[str, str]:
    shown = {"audit": audit, "item": item.id, "prompt": prompt_text(item.prompt), "response": item.response}
    return dict.fromkeys(COLUMNS, "") | shown


def _cell(text: str) -> str:
    """Return text for a spreadsheet: nothing in it is a formula, and control characters are spelt out."""
    safe = "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" else c for c in text)
    return f"'{safe}" if safe.startswith(_FORMULA) else safe


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) with every column as text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise AuditError(f"sheet {path}", "no such file", "Check the path") from None
    except (UnicodeDecodeError, OSError) as error:
        raise AuditError(
            f"sheet {path}", f"it cannot be read as UTF-8 text ({error})", "Save it as CSV in UTF-8, or as JSONL"
        ) from None
    rows = _json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    for place, row in rows:
        missing = [name for name in NEEDED if name not in row]
        if missing:
            raise AuditError(f"{place}: no {', '.join(missing)}", f"a sheet has {', '.join(COLUMNS)}", REMEDY)
        yield place, {name: _text(place, name, row.get(name)) for name in COLUMNS if name in row}


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"sheet {path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise AuditError(place, "it is no JSON object", "Mend the line")
        yield place, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    head = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=head.count)  # spreadsheets of some languages write semicolons
    csv.field_size_limit(2**30)
    try:
        for number, row in enumerate(csv.DictReader(StringIO(text, newline=""), delimiter=delimiter), start=2):
            yield f"sheet {path}, row {number}", {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise AuditError(f"sheet {path}", f"it is no CSV ({error})", REMEDY) from None


def _text(place: str, name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "rules" and isinstance(value, list) and all(isinstance(rule, str) for rule in value):
        return " ".join(value)
    if not isinstance(value, str):
        raise AuditError(f"{place}: {name} = {value!r}", "it must be text", REMEDY)
    return value if name in ("prompt", "response", "note") else value.strip()


def _refuse_changed(place: str, row: dict[str, str], item: AuditItem) -> None:
    """Refuse an answer to another text than was drawn. White space may differ: spreadsheets change it."""
    for name, text in (("prompt", prompt_text(item.prompt)), ("response", item.response)):
        if name in row and _bare(row[name]) != _bare(text):
            raise AuditError(
                f"{place}: the {name} of item {item.id} was changed", "an answer must be about what was drawn", REMEDY
            )


def _bare(text: str) -> str:
    return " ".join(_cell(text).lstrip("'").split())


def _answer(place: str, row: dict[str, str], path: Path) -> Answer | None:
    rules = tuple(dict.fromkeys(re.findall(r"[^\s,;]+", row.get("rules", ""))))
    label = re.sub(r"[\s-]+", "_", row["label"].lower())
    if not label:
        if rules:
            raise AuditError(
                f"{place}: item {row['item']} names the rules {', '.join(rules)} and has no label",
                "an answer has a label",
                "Write compliant, non_compliant or unsure, or empty its rules",
            )
        return None
    if label not in [human.value for human in HUMAN]:
        raise AuditError(
            f"{place}: label '{row['label']}'", "people say compliant, non_compliant or unsure", "Correct the label"
        )
    return Answer(row["item"], row.get("annotator") or path.stem, Label(label), rules, row.get("note", ""))
