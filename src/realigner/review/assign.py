"""Who is shown what, in which order: pure functions of a secret key, the annotator, and what was answered so far.

An order by keyed hash looks random to who does not know the key, differs from person to person, and needs not be
stored: the same key gives it again after a restart.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from realigner.review.study import Task

REPEAT_GAP = 20
"""A repeated item is at least so many steps, or half of what was done, behind."""


@dataclass(frozen=True, slots=True)
class Next:
    """The item of a new step; `occasion` is 2 where it is shown to the same person again."""

    item: str
    occasion: int


def draw(key: bytes, *parts: str) -> int:
    """Return a number below 2⁶⁴ that only who has the key can foretell: HMAC-SHA-256 over the parts."""
    text = b"".join(len(raw := part.encode()).to_bytes(4, "big") + raw for part in parts)
    return int.from_bytes(hmac.digest(key, text, "sha256")[:8], "big")


def shuffled(key: bytes, names: Collection[str], *parts: str) -> list[str]:
    """Return names in the order of their keyed hashes."""
    return sorted(names, key=lambda name: (draw(key, *parts, name), name))


def display_order(key: bytes, task: str, item: str, annotator: str, occasion: int, count: int) -> tuple[int, ...]:
    """Return which response stands in each place: numbers from 1 in the item's file, by place on the page."""
    numbers = [str(number) for number in range(1, count + 1)]
    return tuple(int(n) for n in shuffled(key, numbers, "responses", task, item, annotator, str(occasion)))


def quotas(key: bytes, task: Task) -> dict[str, int]:
    """Return how many people are to answer each item: `annotators` in the overlap, one elsewhere.

    The overlap has round(share · items) items, the ones whose keyed hashes are lowest.
    """
    names = [item.id for item in task.items]
    several = round(task.settings.overlap * len(names))
    in_overlap = set(shuffled(key, names, "overlap", task.id)[:several])
    return {name: task.settings.annotators if name in in_overlap else 1 for name in names}


def next_item(
    key: bytes,
    task: Task,
    annotator: str,
    wanted: Mapping[str, int],
    taken: Mapping[str, int],
    mine: Sequence[str],
    repeated: Collection[str],
    spoilt: Collection[str],
) -> Next | None:
    """Return the item of an annotator's next step, or None where nothing is left for them.

    Items that others have begun and that still want answers come first, so that agreement is known early; then by
    keyed hash. A repetition comes as soon as the share of repetitions falls behind.

    Args:
        key: of the study.
        task: of the step.
        annotator: whose step it is.
        wanted: how many people are to answer each item.
        taken: how many have answered it, or have it before them.
        mine: items that this annotator answered, in order, without repetitions.
        repeated: the ones that were shown twice already.
        spoilt: items that must not be repeated, for the judge's verdict was looked at.
    """
    new = [item.id for item in task.items if item.id not in set(mine) and taken.get(item.id, 0) < wanted[item.id]]
    due = int(task.settings.repeat * len(mine)) - len(repeated)
    gap = min(REPEAT_GAP, len(mine) // 2)
    old = [name for name in mine[: len(mine) - gap] if name not in repeated and name not in spoilt]
    if due > 0 and old:
        return Next(min(old, key=lambda name: draw(key, "repeat", task.id, annotator, name)), 2)
    if not new:
        return None
    best = min(new, key=lambda name: (taken.get(name, 0) == 0, draw(key, "items", task.id, annotator, name)))
    return Next(best, 1)
