"""What the kept rules are worth on pairs that they were neither proposed from nor chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from realigner.discover.candidate import Votes, tally
from realigner.discover.select import right
from realigner.evaluate.statistics import Interval, ratio_interval
from realigner.records import Pair, prompt_key

FLOOR = 0.70
"""The lower end of the 95 % interval of held-out reconstruction by content rules must reach this; below it, what was
found is not presented as the old policy. A coin has 0.5."""

LEAST_KEPT = 0.50
"""The same end for the share of preferred held-out responses that keep the policy, each judged alone: what condemns
most of what was preferred is not the policy by which it was preferred."""


@dataclass(frozen=True)
class RuleFigures:
    """One rule on the held-out pairs, each with its 95 % interval; resampled by prompt."""

    accuracy: Interval | None
    """Right, of the pairs that it tells apart."""
    relevance: Interval | None
    """Share of the pairs that it tells apart."""
    value: Interval | None
    """2(accuracy − ½) · relevance: the mean vote, from −1 to 1."""
    support: int
    oppose: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def by_prompt(values: Any, pairs: Sequence[Pair]) -> Any:
    """Return the sum of the values of each prompt's pairs, prompts in the order of their first pair."""
    places: dict[str, int] = {}
    groups = [places.setdefault(prompt_key(pair.prompt), len(places)) for pair in pairs]
    return np.bincount(groups, weights=np.asarray(values, dtype=float), minlength=len(places))


def share(values: Any, pairs: Sequence[Pair], seed: int) -> Interval | None:
    """Return the mean of one value a pair, with an interval that resamples prompts whole."""
    return ratio_interval(by_prompt(values, pairs), by_prompt(np.ones(len(pairs)), pairs), seed)


def figures(votes: Votes, pairs: Sequence[Pair], seed: int) -> RuleFigures:
    """Return accuracy, relevance and value of one rule."""
    told = [pair for pair, vote in zip(pairs, votes, strict=True) if vote]
    support, oppose = tally(votes)
    return RuleFigures(
        share(votes[votes != 0] > 0, told, seed),
        share(votes != 0, pairs, seed),
        share(votes, pairs, seed),
        support,
        oppose,
    )


def reconstruction(margins: Any, pairs: Sequence[Pair], seed: int) -> Interval | None:
    """Return the share of pairs whose old preference the margins give back; a half where they tell nothing."""
    return share(right(margins), pairs, seed)


def best_direction(proposing: Votes) -> int:
    """Return the sign that makes a baseline right more often on the pairs it may look at."""
    support, oppose = tally(proposing)
    return 1 if support >= oppose else -1
