"""What people answer, by kind of task: one reader for the page's forms and for files of answers made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from realigner.review.items import NONE_GOOD, TIE, Item
from realigner.review.study import Task
from realigner.review.wording import Wording

LABELS = ("compliant", "non_compliant", "unsure")
LONGEST_NOTE = 4_000
LONGEST_TEXT = 20_000
"""Characters of a correction."""

Fields = Mapping[str, Sequence[str]]
"""Values by field name, as a form sends them; a field may have several."""


class AnswerFault(Exception):
    """An answer is incomplete or out of range; `field` says where, the text says it to the annotator."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on one response."""

    label: str
    rules: tuple[str, ...] = ()
    """The rules that it breaks, in the policy's order; empty where none was named."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A vote."""

    choice: int | str
    """The number of the response in the item's file, counted from 1; or `tie` or `none_good`."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A correction, or the statement that none can be given."""

    text: str
    skip: bool = False
    note: str = ""


Value = Judged | Choice | Corrected
VALUES: Mapping[str, type[Value]] = {
    "audit": Judged,
    "undecided": Judged,
    "preference": Choice,
    "correction": Corrected,
}


def dump_value(value: Value) -> str:
    """Return a value as canonical JSON: equal values give equal text."""
    return json.dumps(asdict(value), sort_keys=True, ensure_ascii=False)


def load_value(kind: str, text: str) -> Value:
    """Return what `dump_value` wrote."""
    content: dict[str, Any] = json.loads(text)
    if "rules" in content:
        content["rules"] = tuple(content["rules"])
    return VALUES[kind](**content)


def same_answer(one: Value, other: Value) -> bool:
    """Say whether two answers say the same, whatever their notes and rules."""
    if isinstance(one, Judged) and isinstance(other, Judged):
        return one.label == other.label
    if isinstance(one, Choice) and isinstance(other, Choice):
        return one.choice == other.choice
    return one == other


def read_value(task: Task, item: Item, wording: Wording | None, fields: Fields) -> Value:
    """Return the answer that the fields hold.

    Args:
        task: what is asked.
        item: about what.
        wording: the policy, whose rules may be named.
        fields: `label`, `rules`, `note`; or `choice`, `note`; or `text`, `skip`, `note`.

    Raises:
        AnswerFault: something is missing or out of range.
    """
    note = _text(_one(fields, "note"), "note", LONGEST_NOTE)
    if task.kind == "preference":
        return Choice(_choice(task, item, _one(fields, "choice")), note)
    if task.kind == "correction":
        return _corrected(item, fields, note)
    label = _one(fields, "label")
    if label not in LABELS:
        raise AnswerFault("label", "Choose one of the verdicts.")
    known = wording.rule_ids if wording else ()
    named = [rule for rule in fields.get("rules", ()) if rule]
    unknown = next((rule for rule in named if rule not in known), None)
    if unknown is not None:
        raise AnswerFault("rules", f"The policy has no rule “{unknown[:80]}”.")
    if named and label != "non_compliant":
        raise AnswerFault("rules", "A rule can be named as broken only by the verdict non-compliant.")
    return Judged(label, tuple(rule for rule in known if rule in named), note)


def _choice(task: Task, item: Item, given: str) -> int | str:
    allowed = [TIE] * task.settings.ties + [NONE_GOOD] * task.settings.none_good
    if given in allowed:
        return given
    if given.isascii() and given.isdigit() and len(given) == 1 and 1 <= int(given) <= len(item.texts):
        return int(given)
    raise AnswerFault("choice", "Choose one of the answers.")


def _corrected(item: Item, fields: Fields, note: str) -> Corrected:
    text = _text(_one(fields, "text"), "text", LONGEST_TEXT)
    if _one(fields, "skip") == "yes":
        if text:
            raise AnswerFault("skip", "Either write an answer, or say that none can be given.")
        return Corrected("", True, note)
    if not text:
        raise AnswerFault("text", "Write an answer, or say that none can be given.")
    if text in [response.strip() for response in item.texts]:
        raise AnswerFault("text", "This is one of the two responses as it stands; change what breaks the policy.")
    return Corrected(text, False, note)


def _one(fields: Fields, name: str) -> str:
    values = fields.get(name, ())
    return values[0] if values else ""


def _text(given: str, field: str, longest: int) -> str:
    """Return text with the line breaks of this system, without outer white space."""
    text = given.replace("\r\n", "\n").replace("\r", "\n").strip()
    if len(text) > longest:
        raise AnswerFault(field, f"This has {len(text):,} characters; at most {longest:,} can be kept.")
    if "\0" in text:
        raise AnswerFault(field, "This holds a NUL character, which cannot be kept.")
    return text
