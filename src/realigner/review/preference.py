"""What blind votes say of the systems, once they are un-blinded: shares and win rates, clustered by item.

Votes on one item are not independent, items are: every interval resamples whole items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from realigner.audit.alpha import Alpha, nominal_alpha
from realigner.evaluate.statistics import Interval, ratio_interval
from realigner.review.answers import Choice
from realigner.review.figures import SEED, raw_agreement
from realigner.review.history import Entry
from realigner.review.items import NONE_GOOD, TIE

Systems = Mapping[str, Sequence[str]]
"""By item: the system behind each of its responses, in the order of the file."""


@dataclass(frozen=True, slots=True)
class SystemScore:
    """How often one system was chosen."""

    best: Interval
    """Share of all votes on items in which it took part, ties and "all are bad" included."""
    majority: int
    """Items of which it has more than half of the votes."""


@dataclass(frozen=True, slots=True)
class Duel:
    """Two systems in items that hold only these two."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    win_rate: Interval | None
    """(wins + ties / 2) / (wins + losses + ties) of the first; votes of "both are bad" are outside."""


@dataclass(frozen=True, slots=True)
class PreferenceScore:
    """What the votes say."""

    items: int
    """With a vote."""
    votes: int
    systems: dict[str, SystemScore]
    ties: Interval | None
    none_good: Interval | None
    duels: tuple[Duel, ...]
    no_majority: int
    """Items of which nothing has more than half of the votes."""
    raw: Interval | None
    alpha: Alpha | None
    """Over the systems' names, ties and "all are bad" as further categories."""


def preference_score(entries: Iterable[Entry], systems: Systems) -> PreferenceScore:
    """Return what the votes say of the systems.

    Args:
        entries: the votes that count, one for each person and item.
        systems: who is behind the responses of each item.
    """
    votes: dict[str, Counter[str]] = {}
    for entry in entries:
        if isinstance(entry.value, Choice):
            choice = entry.value.choice
            said = systems[entry.item][choice - 1] if isinstance(choice, int) else choice
            votes.setdefault(entry.item, Counter())[said] += 1
    names = sorted({name for item in votes for name in systems[item]})
    leading = {item: _majority(found) for item, found in votes.items()}
    table = [[found[name] for name in (*names, TIE, NONE_GOOD)] for found in votes.values()]
    return PreferenceScore(
        items=len(votes),
        votes=sum(found.total() for found in votes.values()),
        systems={name: _system(name, votes, systems, leading) for name in names},
        ties=_share(votes.values(), TIE),
        none_good=_share(votes.values(), NONE_GOOD),
        duels=tuple(duel for pair in combinations(names, 2) if (duel := _duel(*pair, votes, systems)) is not None),
        no_majority=sum(name is None for name in leading.values()),
        raw=raw_agreement(table),
        alpha=nominal_alpha(table, SEED),
    )


def _system(
    name: str, votes: Mapping[str, Counter[str]], systems: Systems, leading: Mapping[str, str | None]
) -> SystemScore:
    best = _share([found for item, found in votes.items() if name in systems[item]], name)
    assert best is not None  # it took part in an item with a vote
    return SystemScore(best, sum(leader == name for leader in leading.values()))


def _share(votes: Iterable[Counter[str]], name: str) -> Interval | None:
    votes = list(votes)
    return ratio_interval([found[name] for found in votes], [found.total() for found in votes], SEED)


def _duel(first: str, second: str, votes: Mapping[str, Counter[str]], systems: Systems) -> Duel | None:
    found = [counts for item, counts in votes.items() if set(systems[item]) == {first, second}]
    if not found:
        return None
    decided = [counts for counts in found if counts[first] + counts[second] + counts[TIE]]
    rate = ratio_interval(
        [counts[first] + counts[TIE] / 2 for counts in decided],
        [counts[first] + counts[second] + counts[TIE] for counts in decided],
        SEED,
    )
    wins, losses, ties, bad = (sum(counts[name] for counts in found) for name in (first, second, TIE, NONE_GOOD))
    return Duel(first, second, wins, losses, ties, bad, rate)


def _majority(votes: Counter[str]) -> str | None:
    name, count = votes.most_common(1)[0]
    return name if 2 * count > votes.total() else None
