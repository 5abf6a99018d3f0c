"""Items: what is shown in one step, read from JSON Lines. One reader for each kind of task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realigner.errors import ReviewError
from realigner.records import Label, Message, Prompt, user_prompt
from realigner.review.wording import Wording
from realigner.strict_yaml import load_yaml, yaml_fault

LONGEST = 100_000
"""Characters of a text; a person reads no more in one step."""
TIE, NONE_GOOD = "tie", "none_good"
"""Votes for no response."""
MOST_RESPONSES = 9
"""Each has a digit as its key."""

Text = Annotated[str, Field(max_length=LONGEST)]


@dataclass(frozen=True, slots=True)
class Said:
    """What the judge said of a response."""

    label: str
    reason: str = ""
    rules: tuple[str, ...] = ()
    """The rules that it calls broken."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is shown in one step, and what stays hidden of it."""

    id: str
    prompt: Prompt
    texts: tuple[str, ...]
    """The response, the responses to choose from, or the chosen and the rejected response to correct."""
    sensitive: bool
    judge: tuple[Said, ...] = ()
    """One for each text, or none."""
    pair: str = ""
    """The pair of the run that it comes from."""
    side: str = ""
    """`chosen` or `rejected`, where the response is one of a pair's."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Turn(_Row):
    role: Literal["system", "user", "assistant"]
    content: Text


class _Said(_Row):
    label: Label
    reason: str = ""
    rules: tuple[str, ...] = ()

    def said(self) -> Said:
        return Said(self.label.value, self.reason, self.rules)


class _ItemRow(_Row):
    id: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Text | Annotated[tuple[_Turn, ...], Field(min_length=1)]
    sensitive: bool = False

    @property
    def turns(self) -> Prompt:
        if isinstance(self.prompt, str):
            return user_prompt(self.prompt)
        return tuple(Message(role=turn.role, content=turn.content) for turn in self.prompt)

    def item(self) -> Item:
        raise NotImplementedError


class _JudgedRow(_ItemRow):
    """An item of an audit, or of the undecided queue."""

    response: Text
    judge: _Said | None = None
    pair: str = ""
    side: Literal["", "chosen", "rejected"] = ""

    def item(self) -> Item:
        judge = (self.judge.said(),) if self.judge else ()
        return Item(self.id, self.turns, (self.response,), self.sensitive, judge, self.pair, self.side)


class _ChoiceRow(_ItemRow):
    """An item of a preference vote. The order of the responses means nothing; `key` says whose they are."""

    responses: Annotated[tuple[Text, ...], Field(min_length=2, max_length=MOST_RESPONSES)]

    def item(self) -> Item:
        return Item(self.id, self.turns, self.responses, self.sensitive)


class _CorrectionRow(_ItemRow):
    """A PUNISH pair to correct."""

    chosen: Text
    rejected: Text
    judge: tuple[_Said, _Said] | None = None
    pair: str = ""

    def item(self) -> Item:
        judge = tuple(said.said() for said in self.judge or ())
        return Item(self.id, self.turns, (self.chosen, self.rejected), self.sensitive, judge, self.pair or self.id)


ROWS: Mapping[str, type[_ItemRow]] = {
    "audit": _JudgedRow,
    "undecided": _JudgedRow,
    "preference": _ChoiceRow,
    "correction": _CorrectionRow,
}


def read_items(path: Path, kind: str) -> tuple[Item, ...]:
    """Read the items of a task, in order.

    Raises:
        ReviewError: a line is broken, an id is given twice, or there is no item; it names the line.
    """
    items: dict[str, Item] = {}
    for number, line in enumerate(_lines(path), start=1):
        given = f"{path.name}:{number}"
        try:
            item = ROWS[kind].model_validate(json.loads(line)).item()
        except ValueError as error:  # not JSON, or not such a row
            raise ReviewError(given, _fault(error, kind), "Mend the line; docs/review.md shows each kind") from None
        if item.id in items:
            raise ReviewError(f"{given}: id '{item.id}'", "an id is given once", "Rename one of the two")
        items[item.id] = item
    if not items:
        raise ReviewError(f"items {path.name}", "it has no line", "Give at least one item, or leave the task out")
    return tuple(items.values())


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ReviewError(f"{path.name}, byte {error.start}", "it is not UTF-8", "Save it as UTF-8") from None
    # Not splitlines: JSON strings may hold the other line separators of Unicode.
    return text.removesuffix("\n").split("\n") if text.strip() else []


def _fault(error: ValueError, kind: str) -> str:
    if not isinstance(error, ValidationError):
        return "each line must be one JSON object"
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"])) or "the line"
    if fault["type"] == "extra_forbidden":
        keys = ", ".join(ROWS[kind].model_fields)
        return f"{place}: unknown key; an item of kind {kind} has {keys}"
    return f"{place}: {fault['msg']}"


def read_wording(path: Path) -> Wording:
    """Read what annotators see of a policy file.

    Raises:
        ReviewError: it is no policy.
    """
    try:
        return Wording.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ReviewError(f"{path.name}, byte {error.start}", "it is not UTF-8", "Save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, problem = yaml_fault(error)
        raise ReviewError(f"policy {path.name}{line}", problem, "Correct it") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise ReviewError(f"policy {path.name}", f"{place}: {fault['msg']}", "Name a policy file") from None
