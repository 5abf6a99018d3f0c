"""From the history to figures that need no un-blinding: progress, time, prevalence, agreement, self-consistency.

What counts is the answer that was given blind: the last one of a step before its judge's verdict was looked at. What
is said after that is kept, counted and shown as such, and changes no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from realigner.audit.alpha import RESAMPLES, Alpha, nominal_alpha
from realigner.evaluate.statistics import Interval, mean_interval, proportion
from realigner.review.answers import LABELS, Choice, Corrected, Judged, Value, same_answer
from realigner.review.history import Entry
from realigner.review.items import NONE_GOOD, TIE
from realigner.review.store import Store
from realigner.review.study import Task

SEED = 0
"""Of every bootstrap here."""
SKIPPED, WRITTEN = "no answer can be given", "corrected"


@dataclass(frozen=True, slots=True)
class Counted:
    """The answers of a task that count, by occasion, and what was said too late to count."""

    first: tuple[Entry, ...]
    again: tuple[Entry, ...]
    """Of items that were shown to the same person a second time."""
    after_reveal: int
    """Answers and withdrawals after a look at the judge's verdict."""
    withdrawn: int


@dataclass(frozen=True, slots=True)
class PersonProgress:
    """How far one person is in one task."""

    annotator: str
    name: str
    answered: int
    again: int
    """Repetitions answered."""
    median_seconds: float | None
    total_seconds: float
    """From page to answer, summed; a page that was left open counts in full."""
    last: float | None
    """Unix time of the last answer."""


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What there is to know of a task while it is under way."""

    task: str
    kind: str
    title: str
    items: int
    given: int
    """Answers, each item's up to what is wanted of it."""
    wanted: int
    complete: int
    """Items that have all their answers."""
    people: tuple[PersonProgress, ...]
    prevalence: dict[str, int]
    """Answers by what they say; votes by the number of the response, which tells nothing of the systems."""
    raw: Interval | None
    """Share of pairs of answers to one item that agree, each item counting alike."""
    alpha: Alpha | None
    consistency: Interval | None
    """Share of repeated items that were answered alike both times."""
    places: dict[str, int]
    """Votes by the place on the page: without a bias, each place gets about the same."""
    after_reveal: int
    withdrawn: int

    @property
    def named(self) -> dict[str, int]:
        """Answers by what they say, without votes for a numbered response: a number means another one in each item."""
        return {name: count for name, count in self.prevalence.items() if not name.isdecimal()}


def counted(entries: Iterable[Entry]) -> Counted:
    """Return the answers that count, each person's in order."""
    current: dict[tuple[str, str, int], Entry] = {}
    revealed: set[tuple[str, str]] = set()
    late = withdrawn = 0
    for entry in entries:
        if entry.action == "reveal":
            revealed.add((entry.annotator, entry.item))
        elif (entry.annotator, entry.item) in revealed:
            late += 1
        elif entry.action == "withdraw":
            withdrawn += 1
            current.pop((entry.annotator, entry.item, entry.occasion), None)
        else:
            current[entry.annotator, entry.item, entry.occasion] = entry
    first, again = (tuple(e for e in current.values() if e.occasion == occasion) for occasion in (1, 2))
    return Counted(first, again, late, withdrawn)


def category(value: Value | None) -> str:
    """Return what an answer says, as one word to count by."""
    if isinstance(value, Judged):
        return value.label
    if isinstance(value, Choice):
        return str(value.choice)
    return SKIPPED if isinstance(value, Corrected) and value.skip else WRITTEN


def task_figures(store: Store, task: Task, resamples: int = RESAMPLES) -> TaskFigures:
    """Return the figures of a task as it stands.

    Args:
        store: of the answers.
        task: which.
        resamples: of the bootstrap of α.
    """
    found = counted(store.history(task))
    wanted = store.wanted(task)
    by_item = Counter(entry.item for entry in found.first)
    table = label_counts(found.first, _categories(task))
    return TaskFigures(
        task=task.id,
        kind=task.kind,
        title=task.settings.title,
        items=len(task.items),
        given=sum(min(by_item[name], count) for name, count in wanted.items()),
        wanted=sum(wanted.values()),
        complete=sum(by_item[name] >= count for name, count in wanted.items()),
        people=_people(store, found),
        prevalence=dict(Counter(category(entry.value) for entry in found.first).most_common()),
        raw=raw_agreement(table),
        alpha=nominal_alpha(table, SEED, resamples) if task.kind != "correction" else None,
        consistency=_consistency(found),
        places=_places(task, found.first),
        after_reveal=found.after_reveal,
        withdrawn=found.withdrawn,
    )


def label_counts(entries: Iterable[Entry], categories: Sequence[str]) -> list[list[int]]:
    """Return items × categories: how many people said what, in the order of the items' first answers."""
    votes: dict[str, Counter[str]] = {}
    for entry in entries:
        votes.setdefault(entry.item, Counter())[category(entry.value)] += 1
    return [[counts[name] for name in categories] for counts in votes.values()]


def raw_agreement(table: Sequence[Sequence[int]]) -> Interval | None:
    """Return the share of pairs of answers to one item that are equal, with its bootstrap interval over items."""
    shares = []
    for row in table:
        n = sum(row)
        if n >= 2:
            shares.append(sum(count * (count - 1) for count in row) / (n * (n - 1)))
    return mean_interval(shares, SEED)


def _categories(task: Task) -> tuple[str, ...]:
    if task.kind == "preference":
        most = max(len(item.texts) for item in task.items)
        return (*(str(number) for number in range(1, most + 1)), TIE, NONE_GOOD)
    return (WRITTEN, SKIPPED) if task.kind == "correction" else LABELS


def _people(store: Store, found: Counted) -> tuple[PersonProgress, ...]:
    people = []
    for person in store.annotators():
        first, again = ([e for e in part if e.annotator == person.id] for part in (found.first, found.again))
        if not first and not again:
            continue
        seconds = [entry.seconds for entry in (*first, *again) if entry.seconds is not None]
        people.append(
            PersonProgress(
                person.id,
                person.name,
                len(first),
                len(again),
                median(seconds) if seconds else None,
                sum(seconds),
                max(entry.at for entry in (*first, *again)),
            )
        )
    return tuple(people)


def _consistency(found: Counted) -> Interval | None:
    before = {(entry.annotator, entry.item): entry.value for entry in found.first}
    pairs = [(before[e.annotator, e.item], e.value) for e in found.again if (e.annotator, e.item) in before]
    return proportion(sum(same_answer(one, other) for one, other in pairs if one and other), len(pairs))


def _places(task: Task, entries: Iterable[Entry]) -> dict[str, int]:
    if task.kind != "preference":
        return {}
    most = max(len(item.texts) for item in task.items)
    places = Counter(
        entry.places.index(entry.value.choice) + 1
        for entry in entries
        if isinstance(entry.value, Choice) and entry.value.choice in entry.places
    )
    return {str(place): places[place] for place in range(1, most + 1)}
