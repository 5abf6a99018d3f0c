"""A few of the pairs that a new policy moves, drawn by hash and not by hand, for people to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from heapq import heappush, heapreplace
from typing import Any, TextIO

from realigner.records import Outcome, TriagedPair, Verdict, text_hash

EACH, MOST_RULES = 6, 20
"""Pairs kept of each rule behind a move, and rules that get any."""
LONGEST = 4000
"""Characters kept of a text."""


class Examples:
    """Keeps, for each rule, the pairs whose ids have the smallest hashes. Its size does not grow with the pairs."""

    def __init__(self) -> None:
        self._by_rule: dict[str, list[tuple[int, dict[str, Any]]]] = {}

    def add(self, item: TriagedPair, new: tuple[Verdict, Verdict], now: Outcome, rules: Sequence[str]) -> None:
        """Look at one pair that moved, with its verdicts now and the rules behind the move."""
        rank = -int(text_hash("migrate", item.pair.id), 16)  # the heap's first is the largest, and goes first
        for rule in rules:
            kept = self._by_rule.setdefault(rule, []) if len(self._by_rule) < MOST_RULES else self._by_rule.get(rule)
            if kept is None or (len(kept) == EACH and rank <= kept[0][0]):
                continue
            entry = (rank, _row(item, new, now, rule))
            if len(kept) < EACH:
                heappush(kept, entry)
            else:
                heapreplace(kept, entry)

    def write(self, lines: TextIO) -> None:
        """Write them, by rule in the order in which rules were met."""
        for entries in self._by_rule.values():
            for _, row in sorted(entries, key=lambda entry: -entry[0]):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _row(item: TriagedPair, new: tuple[Verdict, Verdict], now: Outcome, rule: str) -> dict[str, Any]:
    pair, was = item.pair, (item.chosen_verdict, item.rejected_verdict)
    sides = zip(("chosen", "rejected"), (pair.chosen, pair.rejected), was, new, strict=True)
    return {
        "rule": rule,
        "id": pair.id,
        "from": item.outcome.value,
        "to": now.value,
        "prompt": pair.prompt[-1]["content"][:LONGEST],
        "earlier_turns": len(pair.prompt) - 1,
        "sides": [
            {
                "side": side,
                "text": text[:LONGEST],
                "left_out": max(0, len(text) - LONGEST),
                "was": before.label.value,
                "is": after.label.value,
                "reason": after.reason[:600],
            }
            for side, text, before, after in sides
        ],
    }
