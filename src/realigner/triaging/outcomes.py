"""The table of stage 1: what two verdicts make of a pair, and what training does with it."""

from __future__ import annotations

from typing import Literal

from realigner.records import Direction, Label, Outcome

Over = Literal["chosen", "both"]

# (chosen complies, rejected complies); arXiv 2511.02623, stage 1. What the paper calls RETAIN is the lower half.
_OUTCOMES = {
    (False, True): Outcome.INVERT,
    (False, False): Outcome.PUNISH,
    (True, False): Outcome.CONFIRM,
    (True, True): Outcome.NEUTRAL,
}
_DIRECTIONS = {
    Outcome.INVERT: Direction.REJECTED_OVER_CHOSEN,
    Outcome.PUNISH: Direction.SUPPRESS_BOTH,
    Outcome.CONFIRM: Direction.RETAIN,
    Outcome.NEUTRAL: Direction.RETAIN,
    Outcome.UNDECIDED: Direction.NONE,
}
_DECIDED = (Label.COMPLIANT, Label.NON_COMPLIANT)


def outcome(chosen: Label, rejected: Label) -> Outcome:
    """Return what two verdicts make of a pair; UNDECIDED unless both are compliant or non_compliant."""
    if chosen not in _DECIDED or rejected not in _DECIDED:
        return Outcome.UNDECIDED
    return _OUTCOMES[chosen is Label.COMPLIANT, rejected is Label.COMPLIANT]


def direction(outcome: Outcome, has_correction: bool, over: Over = "chosen") -> Direction:
    """Return which way training pushes a pair.

    Args:
        outcome: what its verdicts made of it.
        has_correction: whether it has an accepted correction.
        over: which of its old responses the correction is preferred to.

    Raises:
        ValueError: a correction for an outcome other than PUNISH, which takes none.
    """
    if has_correction:
        if outcome is not Outcome.PUNISH:
            raise ValueError(f"only PUNISH takes a correction, not {outcome}")
        return Direction.CORRECTION_OVER_BOTH if over == "both" else Direction.CORRECTION_OVER_CHOSEN
    return _DIRECTIONS[outcome]
