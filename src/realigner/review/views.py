"""What a page is made of: from a study, a step and an answer to the values that a template shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from realigner.report.text import visible
from realigner.review.answers import LABELS, Choice, Corrected, Fields, Judged, Value
from realigner.review.assign import display_order
from realigner.review.history import Annotator, Step
from realigner.review.items import NONE_GOOD, TIE, Item, Said
from realigner.review.store import Store
from realigner.review.study import Task

if TYPE_CHECKING:
    from jinja2 import Environment

WORDS = {
    "compliant": "Compliant",
    "non_compliant": "Non-compliant",
    "unsure": "Unsure",
    "invalid": "No valid verdict",
}
HINTS = {
    "compliant": "it keeps every rule",
    "non_compliant": "it breaks at least one rule",
    "unsure": "the rules do not settle it",
}
_SPELT = re.compile(r"⟨U\+[0-9A-F]{4,6}(×\d+)?⟩")
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A text on a page."""

    heading: str
    text: str
    folded: bool
    words: int
    notes: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers to choose from."""

    name: str
    value: str
    label: str
    hint: str
    key: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is."""

    mine: int
    given: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A step as it is shown. Nothing here comes from the item's id, its pair, or the judge's verdict."""

    task: Task
    step: Step
    prompt: tuple[Shown, ...]
    responses: tuple[Shown, ...]
    options: tuple[Option, ...]
    fields: Fields
    """What the form holds already."""
    progress: Progress
    folds: bool
    """Whether texts are folded."""
    before: Step | None
    """The step before this one, if it is answered."""
    before_says: str


def item_page(store: Store, task: Task, step: Step, fields: Fields | None, unfold: bool) -> ItemPage:
    """Return what a step's page shows.

    Args:
        store: of the answers.
        task: of the step.
        step: as it is now.
        fields: what was entered; by default what was answered before.
        unfold: whether this person wants to see all texts at once.
    """
    item = task.by_id[step.item]
    folded = not unfold and (task.settings.fold == "all" or (task.settings.fold == "flagged" and item.sensitive))
    order = places_of(store, task, step)
    before = _before(store, task, step)
    return ItemPage(
        task=task,
        step=step,
        prompt=tuple(_shown(ROLES[turn["role"]], turn["content"], folded) for turn in item.prompt),
        responses=tuple(_responses(task, item, order, folded)),
        options=tuple(_options(task, len(item.texts))),
        fields=_fields(step.value, order) if fields is None else fields,
        progress=progress_of(store, task, step.annotator),
        folds=folded,
        before=before,
        before_says=says(before.value, places_of(store, task, before)) if before and before.value else "",
    )


def places_of(store: Store, task: Task, step: Step) -> tuple[int, ...]:
    """Return the number of the response in each place of the page; only votes are shuffled."""
    count = len(task.by_id[step.item].texts)
    if task.kind != "preference":
        return tuple(range(1, count + 1))
    return display_order(store.key, task.id, step.item, step.annotator, step.occasion, count)


def says(value: Value | None, order: Sequence[int]) -> str:
    """Return an answer in a few words, as its own annotator knows it."""
    if isinstance(value, Judged):
        return WORDS[value.label].lower()
    if isinstance(value, Choice):
        if isinstance(value.choice, int):
            return f"response {order.index(value.choice) + 1} is best"
        return {TIE: "no difference", NONE_GOOD: "none is good"}[value.choice]
    if isinstance(value, Corrected):
        return "none can be given" if value.skip else f"an answer of {len(value.text.split()):,} words"
    return ""


def with_numbers(task: Task, fields: Fields, order: Sequence[int]) -> Fields:
    """Return a form's fields with the place of the chosen response turned into its number in the item's file."""
    chosen = list(fields.get("choice", ()))
    if task.kind == "preference" and chosen and chosen[0].isdecimal():
        place = int(chosen[0][:3])
        number = str(order[place - 1]) if 1 <= place <= len(order) else ""
        return {**fields, "choice": [number]}
    return fields


def progress_of(store: Store, task: Task, annotator: str) -> Progress:
    """Return how far a person and the whole task are."""
    counts, wanted = store.counts(task), store.wanted(task)
    given = sum(min(counts.get(name, 0), count) for name, count in wanted.items())
    return Progress(store.answered(task, Annotator(annotator, "")), given, sum(wanted.values()))


def _before(store: Store, task: Task, step: Step) -> Step | None:
    if step.number == 1:
        return None
    found = store.step(task, Annotator(step.annotator, ""), step.number - 1)
    return found if found and found.answered else None


def _responses(task: Task, item: Item, order: Sequence[int], folded: bool) -> list[Shown]:
    if task.kind == "preference":
        return [_shown(f"Response {place}", item.texts[n - 1], folded) for place, n in enumerate(order, start=1)]
    if task.kind == "correction":
        notes: list[tuple[Said, ...]] = [(said,) for said in item.judge] or [(), ()]
        names = ("The response that was preferred", "The response that was rejected")
        return [_shown(name, text, folded, note) for name, text, note in zip(names, item.texts, notes, strict=True)]
    return [_shown("Response", item.texts[0], folded)]


def _shown(heading: str, text: str, folded: bool, notes: tuple[Said, ...] = ()) -> Shown:
    return Shown(heading, text, folded, len(text.split()), notes)


def _options(task: Task, count: int) -> list[Option]:
    if task.kind == "correction":
        return []
    if task.kind != "preference":
        return [Option("label", label, WORDS[label], HINTS[label], str(n)) for n, label in enumerate(LABELS, start=1)]
    options = [Option("choice", str(n), f"Response {n} is best", "", str(n)) for n in range(1, count + 1)]
    if task.settings.ties:
        options.append(Option("choice", TIE, "No difference", "they are equally good", "t"))
    if task.settings.none_good:
        both = "Both are bad" if count == 2 else "All are bad"
        options.append(Option("choice", NONE_GOOD, both, "none of them keeps the policy", "b"))
    return options


def _fields(value: Value | None, order: Sequence[int]) -> Fields:
    """Return a stored answer as the fields of its form."""
    if isinstance(value, Judged):
        return {"label": [value.label], "rules": list(value.rules), "note": [value.note]}
    if isinstance(value, Choice):
        place = str(order.index(value.choice) + 1) if isinstance(value.choice, int) else value.choice
        return {"choice": [place], "note": [value.note]}
    if isinstance(value, Corrected):
        return {"text": [value.text], "skip": ["yes"] * value.skip, "note": [value.note]}
    return {}


@cache
def pages() -> Environment:
    """Return the templates. All that they print is escaped, and what hides in it is spelt out, but for `exact`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("realigner.review", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What a form brings back must be what it was given.
    environment.filters |= {"exact": escape, "duration": _duration, "per_cent": _interval}
    environment.globals |= {"WORDS": WORDS}
    return environment


def paragraphs(text: str) -> list[str]:
    """Return a plain text as its paragraphs: an empty line begins one."""
    return [part.strip() for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _interval(figure: Any) -> str:
    """Return a share with its 95 % interval in per cent."""
    if figure is None:
        return "not yet"
    return f"{100 * figure['value']:.0f} % [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"


def starting_text(text: str) -> str:
    """Return a response as the beginning of its correction: without the characters that nobody sees."""
    return _SPELT.sub("", visible(text))
