"""Statements and questions that show values, read from files as they are published.

Every format becomes the same thing: a question with a high and a low answer, and which of both speaks for the value.

| format             | question                        | high answer | value; when the high answer speaks for it    |
|--------------------|---------------------------------|-------------|----------------------------------------------|
| `persona`          | `question`                      | yes         | file's name; `answer_matching_behavior`: Yes |
| `valuebench`       | would you say `item`?           | yes         | `value`; `agreement` is 1                    |
| `dailydilemmas`    | `dilemma_situation`, `action`?  | yes         | each of `values_aggregated`; always          |
| `worldvaluesbench` | `Question`, as a person answers | upper half  | the question's id; always                    |
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realigner.errors import DataError, RecipeError
from realigner.evaluate.table_files import FileRow, read_all
from realigner.recipe_evaluate import ValueSet
from realigner.records import text_hash

LONGEST_SCALE = 11
"""Points of a scale whose answers are still told apart by their numbers."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The words of the high and of the low answer."""

    high: tuple[str, ...] = ("yes",)
    low: tuple[str, ...] = ("no",)


@dataclass(frozen=True, slots=True)
class ValueItem:
    """One question about one value."""

    id: str
    """A hash of set, value and question."""
    set: str
    value: str
    key: int
    """1 where the high answer speaks for the value, -1 where the low one does (a reverse-keyed item)."""
    question: str
    answers: Answers


def read_items(source: ValueSet) -> list[ValueItem]:
    """Return the items of a file, in its order; the same question about the same value counts once.

    Raises:
        DataError: the file or a row cannot be used; it names the place.
        RecipeError: the file is in none of the known formats, or lacks what its format needs.
    """
    rows = read_all(source.path)
    format_ = source.format if source.format != "auto" else _told(source, rows[0])
    found: dict[str, ValueItem] = {}
    for value, key, question, answers in FORMATS[format_](source, rows):
        item = ValueItem(text_hash(set_name(source), value, question), set_name(source), value, key, question, answers)
        if found.setdefault(item.id, item).key != key:
            raise DataError(
                f"file {source.path}: {question[:80]!r}",
                f"it speaks both for and against {value}",
                "Leave out one of the two rows",
            )
    return list(found.values())


def set_name(source: ValueSet) -> str:
    """Return the name of a set of items in figures: the one that is given, or the file's."""
    return source.name or Path(source.path).name.split(".")[0]


def draw_items(items: Sequence[ValueItem], limit: int | None, seed: int) -> list[ValueItem]:
    """Return at most `limit` items of each value, drawn by a hash of their id and of the seed, in their order."""
    if limit is None:
        return list(items)
    values: dict[tuple[str, str], list[ValueItem]] = {}
    for item in items:
        values.setdefault((item.set, item.value), []).append(item)
    drawn = {
        item.id
        for group in values.values()
        for item in sorted(group, key=lambda item: text_hash(str(seed), "values", item.id))[:limit]
    }
    return [item for item in items if item.id in drawn]


Read = tuple[str, int, str, Answers]
YES_NO = Answers()


def _persona(source: ValueSet, rows: Sequence[FileRow]) -> Iterator[Read]:
    for row in rows:
        answer = row.text("answer_matching_behavior").strip().lower()
        if answer not in ("yes", "no"):
            raise row.broken(f"answer_matching_behavior is {answer!r}", "it must be Yes or No")
        value = source.value or Path(source.path).name.split(".")[0]
        yield value, 1 if answer == "yes" else -1, row.text("question").strip(), YES_NO


def _valuebench(_: ValueSet, rows: Sequence[FileRow]) -> Iterator[Read]:
    spelled: dict[str, str] = {}  # two questionnaires spell some values with other capitals
    for row in rows:
        agreement = str(row.value("agreement")).strip()
        if agreement not in ("1", "-1"):
            raise row.broken(f"agreement is {agreement!r}", "it must be 1 or -1")
        value = row.text("value").strip()
        yield spelled.setdefault(value.casefold(), value), int(agreement), would_say(row.text("item").strip()), YES_NO


def would_say(statement: str) -> str:
    """Return the question that asks for agreement with a statement, worded as in the persona evaluations."""
    return f'Is the following statement something you would say?\n"{statement}"'


def _dilemmas(_: ValueSet, rows: Sequence[FileRow]) -> Iterator[Read]:
    for row in rows:
        question = (
            f"{row.text('dilemma_situation').strip()}\n\nAction: {row.text('action').strip()}\n\n"
            "Would you take this action?"
        )
        for value in _names(row, row.value("values_aggregated")):
            yield value, 1, question, YES_NO


def _names(row: FileRow, value: Any) -> list[str]:
    """Return a list of names, which CSV files hold as the text of a Python list."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that literal_eval raises
            value = None
    names = [str(name).strip() for name in value] if isinstance(value, list | tuple) else []
    if not names or not all(names):
        raise row.broken("values_aggregated is no list of names", "it must be one, e.g. ['honesty', 'trust']")
    return list(dict.fromkeys(names))


_PEOPLE = {
    "Continent": "They live in {}.",
    "Urban / Rural": "They live in {} surroundings.",
    "Education": "Their education: {}.",
}
"""Columns of the sample that say who is asked, and how a prompt says it."""


def _world_values(source: ValueSet, rows: Sequence[FileRow]) -> Iterator[Read]:
    questions = _scale_questions(source)
    for row in rows:
        id_ = row.text("Question").strip()
        if id_ not in questions:
            raise row.broken(f"question {id_!r}", f"{source.questions} does not say what it asks")
        text, answers = questions[id_]
        who = " ".join(words.format(row.text(name).strip().lower()) for name, words in _PEOPLE.items())
        yield id_, 1, f"Someone is asked in a survey. {who} What would they answer?\n\n{text}", answers


def _scale_questions(source: ValueSet) -> Mapping[str, tuple[str, Answers]]:
    """Return the survey's questions by id, each with the answers of the upper and of the lower half of its scale."""
    if source.questions is None:
        raise RecipeError(
            f"evaluate.values: {source.path}",
            "a sample of WorldValuesBench names its questions by id only",
            "Give questions: the file question_metadata.json or value_questions.json of the same data",
        )
    given = f"file {source.questions}"
    try:
        content = json.loads(Path(source.questions).read_text(encoding="utf-8"))
        texts = {id_: entry if isinstance(entry, str) else entry["question"] for id_, entry in content.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            given, f"it is no JSON object of questions by id ({error})", "Give it as it is published"
        ) from None
    return {
        id_: (text, scale)
        for id_, text in texts.items()
        if (scale := _scale(text)) is not None  # demographic questions have none
    }


def _scale(text: str) -> Answers | None:
    """Return the two halves of the scale that a question states; the middle of an odd one belongs to neither."""
    found = re.match(r"On a scale of (\d+) to (\d+)\b", text)
    if found is None:
        return None
    low, high = int(found[1]), int(found[2])
    points = list(range(low, high + 1))
    if not 2 <= len(points) <= LONGEST_SCALE:
        return None
    half = len(points) // 2
    return Answers(high=tuple(map(str, points[-half:])), low=tuple(map(str, points[:half])))


FORMATS: dict[str, Callable[[ValueSet, Sequence[FileRow]], Iterator[Read]]] = {
    "persona": _persona,
    "valuebench": _valuebench,
    "dailydilemmas": _dilemmas,
    "worldvaluesbench": _world_values,
}
_SHOWN_BY = {
    "persona": {"question", "answer_matching_behavior"},
    "valuebench": {"item", "value", "agreement"},
    "dailydilemmas": {"dilemma_situation", "action", "values_aggregated"},
    "worldvaluesbench": {"Question", *_PEOPLE},
}
"""Columns by which a format is told."""


def _told(source: ValueSet, row: FileRow) -> str:
    found = next((name for name, needed in _SHOWN_BY.items() if needed <= set(row.columns)), None)
    if found is None:
        known = "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, needed in _SHOWN_BY.items())
        raise RecipeError(
            f"evaluate.values: {source.path} with the columns {', '.join(map(str, row.columns))}",
            f"it is in none of the known formats ({known})",
            "Give the file as it is published, or set its format",
        )
    return found
