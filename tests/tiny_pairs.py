"""Random rows, encoded pairs and triaged pairs for the tests of scoring and impact."""

from __future__ import annotations

import random
from typing import Any

from tiny import VOCAB_SIZE

from realigner.model.rows import Row
from realigner.records import Direction, Label, Message, Outcome, Pair, TriagedPair, Verdict

CONFLICTS = {
    Direction.REJECTED_OVER_CHOSEN: Outcome.INVERT,
    Direction.SUPPRESS_BOTH: Outcome.PUNISH,
    Direction.CORRECTION_OVER_CHOSEN: Outcome.PUNISH,
    Direction.CORRECTION_OVER_BOTH: Outcome.PUNISH,
}
DIRECTIONS = {
    Outcome.INVERT: Direction.REJECTED_OVER_CHOSEN,
    Outcome.PUNISH: Direction.SUPPRESS_BOTH,
    Outcome.CONFIRM: Direction.RETAIN,
    Outcome.NEUTRAL: Direction.RETAIN,
    Outcome.UNDECIDED: Direction.NONE,
}
WORDS = [
    "bread",
    "water",
    "salt",
    "flour",
    "time",
    "story",
    "doctor",
    "question",
    "answer",
    "weather",
    "people",
    "help",
]


def random_rows(count: int, seed: int = 0, vocab: int = VOCAB_SIZE, shortest: int = 4, longest: int = 40) -> list[Row]:
    """Return rows of very different lengths; the first is the shortest, the last the longest."""
    draw = random.Random(seed)
    lengths = [shortest, *(draw.randint(shortest, longest) for _ in range(count - 2)), longest]
    rows = []
    for length in lengths:
        ids = tuple(draw.randrange(vocab) for _ in range(length))
        rows.append(Row(ids, draw.randint(1, length - 1)))
    return rows


def random_pair(seed: int, direction: Direction, vocab: int = VOCAB_SIZE, longest: int = 30) -> dict[str, Any]:
    """Return an encoded conflict: three responses of different lengths to one prompt."""
    draw = random.Random(seed)
    prompt = [draw.randrange(vocab) for _ in range(draw.randint(1, 8))]
    example: dict[str, Any] = {"id": f"pair-{seed}", "outcome": str(CONFLICTS[direction]), "direction": str(direction)}
    for name in ("chosen", "rejected", "correction"):
        ids = prompt + [draw.randrange(vocab) for _ in range(draw.randint(1, longest - len(prompt)))]
        example |= {f"{name}_ids": ids, f"{name}_start": len(prompt), f"{name}_logp": None}
    return example


def random_conflicts(count: int, vocab: int = VOCAB_SIZE) -> list[dict[str, Any]]:
    """Return encoded conflicts of all directions in turn."""
    directions = list(CONFLICTS) * count
    return [random_pair(seed, directions[seed], vocab) for seed in range(count)]


def triaged(
    number: int,
    outcome: Outcome,
    *,
    correction: str | None = None,
    prompt: str | None = None,
    pair_id: str | None = None,
) -> TriagedPair:
    """Return a triaged pair whose texts depend on its number and outcome."""
    words = [WORDS[(number * (k + 3) + k) % len(WORDS)] for k in range(12)]
    yes, no = Verdict(Label.COMPLIANT), Verdict(Label.NON_COMPLIANT)
    pair = Pair(
        id=pair_id or f"{outcome.lower()}-{number}",
        prompt=(Message(role="user", content=prompt or f"What about {words[0]} {number} {outcome}?"),),
        chosen=" ".join(words[: 2 + number % 5]) + f" {number}",
        rejected="I am sorry, " + " ".join(words[5 : 6 + (number * 3) % 4]),
        source=f"test:{number}",
    )
    direction = Direction.CORRECTION_OVER_CHOSEN if correction else DIRECTIONS[outcome]
    return TriagedPair(
        pair=pair,
        split="train",
        chosen_verdict=yes if outcome.is_retained else no,
        rejected_verdict=yes if outcome in (Outcome.INVERT, Outcome.NEUTRAL) else no,
        outcome=outcome,
        direction=direction,
        correction=correction,
    )


def population(**counts: int) -> list[TriagedPair]:
    """Return so many pairs of each outcome, mixed: `population(INVERT=10, CONFIRM=8)`."""
    pairs = [triaged(i, Outcome(name)) for name, count in counts.items() for i in range(count)]
    random.Random(0).shuffle(pairs)
    return pairs
