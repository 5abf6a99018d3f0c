"""Answers out to files, and answers that were made elsewhere in: JSONL keeps everything, CSV is for spreadsheets."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.errors import ReviewError, did_you_mean
from realigner.review.answers import AnswerFault, Choice, Corrected, Judged, Value, read_value
from realigner.review.figures import counted
from realigner.review.history import Annotator, Closed, Entry, Stale
from realigner.review.items import Item
from realigner.review.store import Store
from realigner.review.study import Task

VALUE = ("label", "rules", "choice", "text", "skip", "note")
COLUMNS = (
    *("task", "kind", "item", "annotator", "occasion", "number", "action", *VALUE),
    *("system", "places", "seconds", "at", "counts", "source", "study"),
)
SHEET = ("audit", "prompt", "response")
"""Further columns of the sheets of `realigner audit sample`, which may be imported as they are."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""Beginnings that a spreadsheet would take for a formula, and the mark that prevents it."""
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file."""

    answers: int
    """Written now."""
    known: int
    """That were there already."""
    empty: int
    """Rows without an answer."""


def entry_row(entry: Entry, task: Task, counts: bool) -> dict[str, Any]:
    """Return an entry of the history as one row; keys that its kind does not have are left out."""
    row: dict[str, Any] = {
        "task": entry.task,
        "kind": task.kind,
        "item": entry.item,
        "annotator": entry.annotator,
        "occasion": entry.occasion,
        "number": entry.number,
        "action": entry.action,
    }
    value = entry.value
    if isinstance(value, Judged):
        row |= {"label": value.label, "rules": list(value.rules), "note": value.note}
    elif isinstance(value, Choice):
        row |= {"choice": value.choice, "places": list(entry.places), "note": value.note}
    elif isinstance(value, Corrected):
        row |= {"text": value.text, "skip": value.skip, "note": value.note}
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds")
    seconds = entry.seconds if entry.seconds is None else round(entry.seconds, 1)
    return {**row, "seconds": seconds, "at": at, "counts": counts, "source": entry.source, "study": entry.study}


def export_rows(store: Store, tasks: Iterable[Task], history: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the answers that count, or with `history` everything that was done, in order."""
    for task in tasks:
        entries = list(store.history(task))
        found = counted(entries)
        counting = {entry.seq for entry in (*found.first, *found.again)}
        for entry in entries:
            if history or entry.seq in counting:
                yield entry_row(entry, task, entry.seq in counting)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as JSONL, or as CSV where the file's name ends so.

    Raises:
        ReviewError: the name ends in neither.
    """
    if path.suffix == ".csv":
        text = StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_text(path, "\ufeff" + text.getvalue())
    elif path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        raise ReviewError(f"{path}", "answers are written as .jsonl or .csv", "Name the file so")


def import_answers(store: Store, path: Path, *, task: str | None = None, annotator: str | None = None) -> Imported:
    """Take in answers that were made elsewhere: all of them, or none where one is wrong.

    The same file may be imported again: what is known is known. A person may not answer one item in two ways.

    Args:
        store: of the answers.
        path: JSONL or CSV with the columns of an export, or a filled-in sheet of an audit. `item` and the answer's
            own columns are needed.
        task: of rows that name none.
        annotator: of rows that name none; the file's name by default.

    Raises:
        ReviewError: a row is wrong, belongs to another study, or contradicts an answer; it is named.
    """
    name = annotator or path.stem
    try:
        return _import(store, path, task, name)
    except (Stale, Closed):
        rule = "one of these people answered on the page while their file was taken in, or the votes were ended"
        raise ReviewError(f"answers {path}", rule, "Import the file again: what is known is known") from None


def _import(store: Store, path: Path, task: str | None, name: str) -> Imported:
    found = [_row(store, place, row, task, name) for place, row in _rows(path)]
    rows = [row for row in found if row is not None]
    _refuse_contradictions(store, rows)
    _refuse_votes_after_the_end(store, rows)
    before = {chosen.task.id: len(list(store.history(chosen.task))) for chosen in rows}
    for row in rows:
        person = store.guest(row.annotator)
        step = store.add_step(row.task, person, row.item.id, row.occasion)
        if not step.answered or step.value != row.value:
            store.save(
                step,
                row.value,
                revision=step.revision,
                once=row.once,
                places=row.places,
                seconds=row.seconds,
                source=path.name,
                at=row.at,
            )
    after = {chosen.task.id: len(list(store.history(chosen.task))) for chosen in rows}
    written = sum(after.values()) - sum(before.values())
    return Imported(written, len(rows) - written, len(found) - len(rows))


def _refuse_votes_after_the_end(store: Store, rows: Sequence[_Answer]) -> None:
    """Refuse new votes once the systems are known; known ones may be given again."""
    if store.unblinded is None:
        return
    for row in rows:
        known = any(
            step.answered and (step.item, step.occasion) == (row.item.id, row.occasion)
            for step in store.steps(row.task, Annotator(Store.guest_id(row.annotator), ""))
        )
        if row.task.kind == "preference" and not known:
            raise ReviewError(
                f"{row.place}: a vote in task '{row.task.id}'",
                f"the study was un-blinded at {store.unblinded}, and takes no votes any more",
                "Leave votes out of the file",
            )


@dataclass(frozen=True, slots=True)
class _Answer:
    place: str
    task: Task
    item: Item
    annotator: str
    occasion: int
    value: Value
    places: tuple[int, ...]
    seconds: float | None
    at: float | None

    @property
    def once(self) -> str:
        """The same answer of a file is the same act, however often it is imported."""
        parts = (self.task.id, self.item.id, self.annotator, str(self.occasion), repr(self.value), str(self.at))
        return "file:" + hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]


def _row(store: Store, place: str, row: Mapping[str, Any], task: str | None, annotator: str) -> _Answer | None:
    """Return the answer of a row, or None where it holds none."""
    unknown = next((name for name in row if name not in (*COLUMNS, *SHEET)), None)
    if unknown is not None:
        hint = did_you_mean(unknown, COLUMNS)
        raise ReviewError(f"{place}: column '{unknown}'", f"the columns are {', '.join(COLUMNS)}", f"Rename it.{hint}")
    study = row.get("study") or store.study.hash
    if study != store.study.hash:
        rule = f"this study is {store.study.hash}"
        raise ReviewError(f"{place}: it answers study {study}", rule, "Import it into the study that it belongs to")
    fields = {name: _texts(row.get(name)) for name in VALUE}
    if row.get("action") not in (None, "", "answer") or row.get("counts") in (False, "False"):
        return None  # the history of an export: only what counts there counts here
    if not any(any(fields[name]) for name in ("label", "rules", "choice", "text")) and not _ticked(fields["skip"]):
        return None
    name = row.get("task") or task
    if not name:
        tasks = ", ".join(store.study.tasks)
        raise ReviewError(f"{place}: no task", f"the study's tasks are {tasks}", "Add a column task, or give --task")
    chosen = store.study.task(str(name))
    item = chosen.by_id.get(str(row.get("item")))
    if item is None:
        raise ReviewError(
            f"{place}: item '{row.get('item')}'", f"task '{chosen.id}' has no such item", "Give the item's id"
        )
    if row.get("audit") not in (None, "", chosen.settings.audit):
        rule = f"task '{chosen.id}' belongs to audit {chosen.settings.audit or '(none)'}"
        raise ReviewError(f"{place}: a sheet of audit {row['audit']}", rule, "Import the sheet of this study's audit")
    try:
        value = read_value(chosen, item, store.study.wording, _prepared(chosen, fields))
        occasion, seconds = _occasion(row.get("occasion")), _seconds(row.get("seconds"))
        places, at = _places(row.get("places"), item), _time(row.get("at"))
    except AnswerFault as fault:
        raise ReviewError(f"{place}: {fault.field}", str(fault).rstrip("."), "Mend the row") from None
    except ValueError as error:
        raise ReviewError(f"{place}", f"a number or time is wrong ({error})", "Mend the row") from None
    person = str(row.get("annotator") or annotator).strip()
    return _Answer(place, chosen, item, person, occasion, value, places, seconds, at)


def _prepared(task: Task, fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the fields as a form would send them: `Non-compliant` is a label, `True` ticks a box."""
    label = re.sub(r"[\s-]+", "_", fields["label"][0].strip().lower()) if fields["label"] else ""
    skip = ["yes"] if _ticked(fields["skip"]) else []
    rules = [rule for text in fields["rules"] for rule in re.findall(r"[^\s,;]+", text)]
    prepared = {**fields, "label": [label], "skip": skip, "rules": rules}
    if task.kind == "preference":
        prepared["choice"] = [text.strip().lower() for text in fields["choice"]]
    return prepared


def _ticked(texts: Sequence[str]) -> bool:
    return bool(texts) and texts[0].strip().lower() in ("yes", "true", "1")


def _refuse_contradictions(store: Store, rows: Sequence[_Answer]) -> None:
    """Refuse a file in which, or after which, a person would have answered an item in two ways."""
    said: dict[tuple[str, str, str, int], tuple[Value, str]] = {}
    for task in {row.task.id: row.task for row in rows}.values():
        for step in store.steps(task):
            if step.answered and step.value is not None:
                said[task.id, step.annotator, step.item, step.occasion] = step.value, "the study"
    for row in rows:
        key = (row.task.id, Store.guest_id(row.annotator), row.item.id, row.occasion)
        value, where = said.setdefault(key, (row.value, row.place))
        if value != row.value:
            raise ReviewError(
                f"{row.place}: '{row.annotator}' on item '{row.item.id}'",
                f"another answer of theirs is in {where}",
                "Keep one of the two",
            )


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row with its place."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ReviewError(f"answers {path}", "no such file", "Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReviewError(f"answers {path}", f"it cannot be read as UTF-8 ({error})", "Save it as UTF-8") from None
    if text.lstrip().startswith("{"):
        yield from _json_rows(path, text)
        return
    delimiter = max(_DELIMITERS, key=text.split("\n", 1)[0].count)  # spreadsheets of some languages write semicolons
    try:
        for number, row in enumerate(csv.DictReader(StringIO(text, newline=""), delimiter=delimiter), start=2):
            cells = {name: _plain(value) for name, value in row.items() if name is not None and value is not None}
            yield f"{path.name}, row {number}", cells
    except csv.Error as error:
        raise ReviewError(f"answers {path}", f"it is no CSV ({error})", "Save it as CSV in UTF-8") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ReviewError(f"{path.name}, line {number}", "each line is one JSON object", "Mend the line")
        yield f"{path.name}, line {number}", row


def _cell(value: Any) -> str:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    text = "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _texts(value: Any) -> list[str]:
    if value is None:
        return [""]
    if isinstance(value, list):
        return [str(part) for part in value] or [""]
    return [str(value)]


def _occasion(value: Any) -> int:
    occasion = int(value or 1)
    if occasion not in (1, 2):
        raise ValueError(f"occasion {occasion} is neither 1 nor 2")
    return occasion


def _seconds(value: Any) -> float | None:
    seconds = None if value in (None, "") else float(value)
    if seconds is not None and not 0 <= seconds < 1e9:
        raise ValueError(f"{value} seconds")
    return seconds


def _places(value: Any, item: Item) -> tuple[int, ...]:
    places = tuple(int(part) for text in _texts(value) for part in text.split())
    if places and sorted(places) != list(range(1, len(item.texts) + 1)):
        raise ValueError(f"places {' '.join(map(str, places))} are no order of {len(item.texts)} responses")
    return places


def _time(value: Any) -> float | None:
    return None if value in (None, "") else datetime.fromisoformat(str(value)).timestamp()
