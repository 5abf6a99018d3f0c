"""Documents of the benchmark tasks that are defined here, from local files in the forms in which they are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from realigner.errors import DataError
from realigner.evaluate.table_files import FileRow, read_all
from realigner.recipe_evaluate import UtilityTask
from realigner.records import text_hash

LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Document:
    """One question of a benchmark, with the fields that its task definition (`tasks/NAME.yaml`) reads."""

    id: str
    """A hash of what is asked: the same question has the same id in every file and order."""
    group: str
    """Documents of one group are examples for each other; empty where there are no groups."""
    fields: Mapping[str, Any]

    @property
    def texts(self) -> list[str]:
        """Every text that a model will be shown of it."""
        return [
            text
            for value in self.fields.values()
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str)
        ]


@dataclass(frozen=True, slots=True)
class Leaf:
    """Documents of one group: what is asked, and the examples that stand before each question."""

    name: str
    examples: tuple[Document, ...]
    asked: tuple[Document, ...]


def read_documents(task: UtilityTask) -> list[Document]:
    """Return the documents of a task's local file, in its order; a question that stands there twice counts once.

    Raises:
        DataError: the file or a row cannot be used; it names the place.
    """
    assert task.path is not None
    read = READERS[task.name]
    found: dict[str, Document] = {}
    for row in read_all(task.path):
        document = read(row)
        found.setdefault(document.id, document)
    return list(found.values())


def leaves(task: UtilityTask, documents: Sequence[Document], limit: int | None, seed: int) -> list[Leaf]:
    """Return the documents that are asked, by group, with their examples.

    The first `shots` documents of a group are its examples and are not asked. Of the others `limit` are drawn by a
    hash of their id and of the seed: the draw depends neither on the order of the file nor on other documents.

    Raises:
        DataError: a group has no more documents than examples are wanted.
    """
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.group, []).append(document)
    for name, group in groups.items():
        if len(group) <= task.shots:
            raise DataError(
                f"evaluate.utility: task {task.name} has {len(group)} documents{f' of {name}' if name else ''}",
                f"the first {task.shots} of a group are its examples (shots), and one more must be left to ask",
                "Give fewer shots, or a larger file",
            )
    rest = [document for group in groups.values() for document in group[task.shots :]]
    ranked = sorted(rest, key=lambda document: text_hash(str(seed), "utility", task.name, document.id))
    drawn = {document.id for document in ranked[:limit]}
    return [
        Leaf(f"{task.name}-{name}" if name else task.name, tuple(group[: task.shots]), asked)
        for name, group in groups.items()
        if (asked := tuple(document for document in group[task.shots :] if document.id in drawn))
    ]


def _mmlu(row: FileRow) -> Document:
    question, choices = row.text("question").strip(), _choices(row, row.value("choices"), 4)
    return _multiple(question, choices, _answer(row, row.value("answer"), choices), _group(row, "subject"))


def _hellaswag(row: FileRow) -> Document:
    if "ctx_a" in row.columns:  # as published: the title, two halves of the context, brackets of the video captions
        second = str(row.value("ctx_b") or "")
        title = row.text("activity_label")
        context = _plain_caption(f"{title}: {row.text('ctx_a')} {second[:1].upper()}{second[1:]}".strip())
        endings = [_plain_caption(ending) for ending in _choices(row, row.value("endings"), None)]
    else:
        context, endings = row.text("ctx"), _choices(row, row.value("endings"), None)
    return _multiple(context, endings, _answer(row, row.value("label"), endings), "")


def _gsm8k(row: FileRow) -> Document:
    question, answer = row.text("question").strip(), row.text("answer").strip()
    _, mark, number = answer.rpartition("####")
    if not mark or re.search(r"\d", number) is None:
        raise row.broken(f"the answer ends in {answer[-40:]!r}", "it must end in '#### ' and a number")
    fields = {"question": question, "answer": answer, "number": number.strip()}
    return Document(text_hash("gsm8k", question), "", fields)


def _gpqa(row: FileRow) -> Document:
    question = row.text("Question").strip()
    right = row.text("Correct Answer").strip()
    wrong = [row.text(f"Incorrect Answer {number}").strip() for number in (1, 2, 3)]
    if len({right, *wrong}) < 4:
        raise row.broken("two of its answers are equal", "the four answers must differ")
    choices = [right, *wrong]
    # The right one stands first in the file; drawn from the text, the order is the same in every run and for any seed.
    Random(text_hash("gpqa", question, *choices)).shuffle(choices)
    return _multiple(question, choices, choices.index(right), "")


READERS: dict[str, Callable[[FileRow], Document]] = {
    "gpqa": _gpqa,
    "gsm8k": _gsm8k,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
}
"""The tasks that are defined here."""


def _multiple(question: str, choices: list[str], answer: int, group: str) -> Document:
    fields = {"question": question, "choices": choices, "answer": answer}
    return Document(text_hash(group, question, *choices), group, fields)


def _choices(row: FileRow, value: Any, count: int | None) -> list[str]:
    choices = [str(choice) for choice in value] if isinstance(value, Iterable) and not isinstance(value, str) else []
    if len(choices) < 2 or (count is not None and len(choices) != count) or not all(map(str.strip, choices)):
        wanted = f"{count} texts" if count else "two texts or more"
        raise row.broken(f"its choices are {value!r}", f"they must be a list of {wanted}")
    return choices


def _answer(row: FileRow, value: Any, choices: Sequence[str]) -> int:
    """Return the place of the right choice, from a number, a number as text, or a letter."""
    text = str(value).strip()
    if text.isdecimal() and int(text) < len(choices):
        return int(text)
    if len(text) == 1 and text in LETTERS[: len(choices)]:
        return LETTERS.index(text)
    raise row.broken(f"its answer is {value!r}", f"it must be 0 to {len(choices) - 1}, or a letter")


def _group(row: FileRow, name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", str(row.columns.get(name) or "").strip().lower())


def _plain_caption(text: str) -> str:
    """Return a HellaSwag text without its marks of titles and steps."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r" {2,}", " ", re.sub(r"\[[^\]]*\]", "", text))
