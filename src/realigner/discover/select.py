"""Which candidates are kept: more for than against, relevant, not length in disguise, and each adds reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from realigner.discover.candidate import Alone, Candidate, Votes, tally

RELEVANCE_FLOOR = 0.01
"""Share of the pairs that a rule must tell apart."""
LEAST_VOTES = 10
"""Pairs that it must tell apart, however many there are."""
CHANCE = 0.05
"""One-sided. A single rule must have more for it than against it beyond this chance; what it ADDS to the reconstruction
of the validation pairs must be beyond this chance for all candidates together (Bonferroni)."""
MOST_RULES = 30
"""Rules that are kept at most: a policy is to be read."""


@dataclass(frozen=True)
class Kept:
    """A kept rule with its weight in the reconstruction."""

    candidate: Candidate
    weight: float
    """log(accuracy / (1 − accuracy)) on the pairs it was proposed from, with one vote added to either side."""
    with_length: str
    """What is known about it and length: `clear`, or `cannot be told from length`."""


def passes(votes: Votes) -> bool:
    """Return whether a rule has more for it than against it, beyond chance, and is relevant."""
    support, oppose = tally(votes)
    told = support + oppose
    enough = told >= max(LEAST_VOTES, RELEVANCE_FLOOR * len(votes))
    return enough and (support - oppose) / sqrt(told) >= NormalDist().inv_cdf(1 - CHANCE)


def length_alone(votes: Votes, length: Votes) -> str:
    """Return whether a rule is length under another name: `clear`, `cannot be told from length` or `length`.

    Pairs that the rule tells apart are taken in two groups: the response that the rule prefers is the longer one, or
    the shorter one. A rule that says more than length does is right in more than half of BOTH groups on average; one
    that only follows length is right in one group as often as it is wrong in the other. Beyond chance, one-sided.
    """
    accuracies, variances = [], []
    for sign in (1, -1):
        group = votes[(votes * length * sign) > 0]
        # votes × length is 1 where the response that the rule prefers is the longer one.
        if len(group) < LEAST_VOTES:
            return "cannot be told from length"
        accuracy = tally(group)[0] / len(group)
        accuracies.append(accuracy)
        variances.append(accuracy * (1 - accuracy) / len(group))
    above, error = sum(accuracies) / 2 - 0.5, sqrt(sum(variances)) / 2
    return "clear" if above > NormalDist().inv_cdf(1 - CHANCE) * error else "length"


def weight_of(votes: Votes) -> float:
    """Return how much a rule's vote counts: the log-odds of its being right, smoothed by one vote on either side."""
    support, oppose = tally(votes)
    return log((support + 1) / (oppose + 1))


def margin(weights: Sequence[float], votes: Sequence[Votes], size: int) -> Any:
    """Return Σ weight · vote of each pair: positive where the rules prefer what the old data preferred."""
    total = np.zeros(size)
    for weight, vote in zip(weights, votes, strict=True):
        total += weight * vote
    return total


def right(margins: Any) -> Any:
    """Return how right each pair is reconstructed: 1, 0, or a half where the rules tell nothing (a fair coin)."""
    return np.where(np.abs(margins) < 1e-12, 0.5, (margins > 0).astype(float))


def select(
    candidates: Sequence[Candidate],
    proposing: Sequence[Votes],
    validating: Sequence[Votes],
    condemned: Sequence[float],
    length: Votes,
    alone: Sequence[Alone],
) -> list[Kept]:
    """Return the rules that are kept, in the order in which they were: each adds reconstruction beyond chance.

    Rules of content are chosen by what the POLICY that they make up gives back, each response judged alone and
    condemned by any violation: that is how the policy will be used. A sum of votes would not do, as a rule that
    condemns nearly all responses votes only where the two differ, and costs a sum nothing.
    Form comes after content, by the sum of weighted votes: it is kept only for what no content explains.

    Of those that add as much as the best within one standard error, a named feature comes before a phrase, and then the
    one that condemns the fewest preferred responses: what was preferred was right under the old policy.

    Args:
        candidates: what was proposed.
        proposing: their votes on the pairs that they were proposed from; weights come from these.
        validating: their votes on other pairs, by which they are chosen.
        condemned: share of the preferred responses that each condemns, judging them alone.
        length: on the proposing pairs, 1 where the preferred response is the longer one.
        alone: what each condemns among the validating pairs.
    """
    pool: list[tuple[int, str]] = []
    for place, candidate in enumerate(candidates):
        if not (passes(proposing[place]) and tally(validating[place])[0] > tally(validating[place])[1]):
            continue
        relation = "clear" if candidate.kind == "form" else length_alone(proposing[place], length)
        if relation != "length":
            pool.append((place, relation))
    needed = NormalDist().inv_cdf(1 - CHANCE / max(1, len(pool)))
    size = len(validating[0]) if len(validating) else 0
    kept: list[Kept] = []
    policy = Alone(np.zeros(size, dtype=bool), np.zeros(size, dtype=bool))
    margins = np.zeros(size)

    def told_with(place: int) -> Any:
        """What is told of each validating pair with one more rule: by the policy, or (form) by the weighted votes."""
        if candidates[place].kind == "content":
            return (policy | alone[place]).votes
        return margins + weight_of(proposing[place]) * validating[place]

    for kind in ("content", "form"):
        left = [item for item in pool if candidates[item[0]].kind == kind]
        while left and len(kept) < MOST_RULES:
            now = right(policy.votes if kind == "content" else margins)
            changes = [right(told_with(place)) - now for place, _ in left]
            ranks = [(candidates[place].of_phrase, condemned[place]) for place, _ in left]
            best = _best(changes, ranks, needed)
            if best is None:
                break
            place, relation = left.pop(best)
            weight = weight_of(proposing[place])
            policy = policy | alone[place] if kind == "content" else policy
            margins = margins + weight * validating[place]
            kept.append(Kept(candidates[place], weight, relation))
    return kept


def _best(changes: Sequence[Any], ranks: Sequence[tuple[bool, float]], needed: float) -> int | None:
    """Return which change of the reconstruction adds most beyond chance; of those near it, the first by rank."""
    found: list[tuple[float, float, int]] = []
    for place, change in enumerate(changes):
        added, spread = float(change.sum()), sqrt(float((change**2).sum()))
        if spread and added / spread >= needed:
            found.append((added, spread, place))
    if not found:
        return None
    most, error, _ = max(found, key=lambda entry: entry[0])
    near = [entry for entry in found if entry[0] >= most - error]
    return min(near, key=lambda entry: (*ranks[entry[2]], -entry[0]))[2]
