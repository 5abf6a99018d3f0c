"""What wrong verdicts on single responses make of pairs: the outcome confusion that they induce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realigner.audit.cells import Domain, Seen
from realigner.audit.estimate import Rate, product_rate, weighted_rate
from realigner.records import Label, Outcome
from realigner.triaging.outcomes import outcome

DECIDED_OUTCOMES = (Outcome.INVERT, Outcome.PUNISH, Outcome.CONFIRM, Outcome.NEUTRAL)


@dataclass(frozen=True, slots=True)
class OutcomeScore:
    """What the pairs that triage gave one outcome really are."""

    pairs: int
    truly: Mapping[str, Rate]
    """The share of each true outcome, if the errors on the two sides of a pair are independent."""
    precision: Rate
    """The share of these pairs about which triage was right; the same assumption."""
    recall: Rate | None
    """Of the pairs that truly are of this outcome, the share that triage gave it; the same assumption."""
    epsilon: Rate | None
    """ε, the share of wrong verdicts on the responses of these pairs. It needs no assumption.

    For INVERT and CONFIRM it is the rate at which the preference is the wrong way round, if a pair whose responses are
    equals counts half: with e_w and e_l the error rates of the sides, P(both wrong) + ½ P(one wrong) = ½ (e_w + e_l),
    however the two depend on each other. The robust loss treats an equal pair so: both ways are equally wrong."""


def outcome_scores(seen: Seen) -> dict[str, OutcomeScore]:
    """Return the induced confusion by outcome; without outcomes of which either side was not seen.

    Models' answers are no pairs, and have none.
    """
    pairs, truly = {}, {}
    for judged in DECIDED_OUTCOMES:
        found = _truly(seen, judged.value)
        if found is not None:
            truly[judged.value] = found
            pairs[judged.value] = seen.size(Domain(outcome=judged.value, group="chosen"))
    total = sum(pairs.values())
    shares = {name: count / total for name, count in pairs.items()}
    scores = {}
    for name, found in truly.items():
        accuracy = seen.accuracy(Domain(outcome=name))
        epsilon = None if accuracy is None else accuracy.complement
        scores[name] = OutcomeScore(pairs[name], found, found[name], _recall(name, shares, truly), epsilon)
    return scores


def corrected_shares(scores: Mapping[str, OutcomeScore]) -> dict[str, Rate]:
    """Return the corrected share of each outcome among the decided pairs; independence is assumed as above."""
    total = sum(score.pairs for score in scores.values())
    found = {}
    for true in DECIDED_OUTCOMES:
        rate = weighted_rate(
            [score.pairs / total for score in scores.values()], [score.truly[true.value] for score in scores.values()]
        )
        if rate is not None:
            found[true.value] = rate
    return found


def _truly(seen: Seen, judged: str) -> dict[str, Rate] | None:
    """Return the shares of the true outcomes among the pairs of one outcome."""
    chosen = seen.rate(Domain(outcome=judged, group="chosen"))
    rejected = seen.rate(Domain(outcome=judged, group="rejected"))
    if chosen is None or rejected is None:
        return None
    sides = (Label.COMPLIANT, Label.NON_COMPLIANT)
    found = {
        outcome(c, r).value: product_rate(
            chosen if c is Label.COMPLIANT else chosen.complement,
            rejected if r is Label.COMPLIANT else rejected.complement,
        )
        for c in sides
        for r in sides
    }
    return {true.value: found[true.value] for true in DECIDED_OUTCOMES}


def _recall(name: str, shares: Mapping[str, float], truly: Mapping[str, Mapping[str, Rate]]) -> Rate | None:
    """Return kept / (kept + missed); its limits set both to theirs, so they are wide."""
    kept = weighted_rate([shares[name]], [truly[name][name]])
    others = [other for other in truly if other != name]
    missed = weighted_rate([shares[other] for other in others], [truly[other][name] for other in others])
    if kept is None or missed is None or kept.value + missed.value == 0:
        return None
    low = kept.low / (kept.low + missed.high) if kept.low else 0.0
    high = kept.high / (kept.high + missed.low) if kept.high else 1.0
    return Rate(
        kept.value / (kept.value + missed.value),
        low,
        high,
        kept.n + missed.n,
        min(kept.covered, missed.covered),
        kept.method,
    )
