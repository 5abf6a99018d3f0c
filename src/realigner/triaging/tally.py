"""What triage found, counted while it streams: by outcome, by split, by rule, and what became of corrections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from realigner.records import Label, Outcome, Split, TriagedPair, Verdict
from realigner.triaging.corrections import Refusal
from realigner.triaging.human import HumanTally

Side = Literal["chosen", "rejected"]
SPLITS: tuple[Split, ...] = ("train", "eval")
SIDES: tuple[Side, ...] = ("chosen", "rejected")


@dataclass(slots=True)
class TriageTally:
    """Counts; its size grows with the number of rules, not of pairs."""

    outcomes: Counter[tuple[Split, Outcome]] = field(default_factory=Counter)
    verdicts: Counter[tuple[Side, Label]] = field(default_factory=Counter)
    rules: Counter[tuple[str, Side, Label]] = field(default_factory=Counter)
    corrections_accepted: int = 0
    """Of those that were proposed by a file."""
    corrections_refused: Counter[Refusal] = field(default_factory=Counter)
    corrections_written: int = 0
    """Accepted corrections that a writer made."""
    human: HumanTally = field(default_factory=HumanTally)
    corrections_unknown: int = 0
    """Corrections whose id belongs to no pair; known when all pairs have been read."""

    def add(self, triaged: TriagedPair) -> None:
        """Count one pair and the verdicts on both its responses."""
        self.outcomes[triaged.split, triaged.outcome] += 1
        self.add_verdict("chosen", triaged.chosen_verdict)
        self.add_verdict("rejected", triaged.rejected_verdict)

    def add_verdict(self, side: Side, verdict: Verdict) -> None:
        """Count one verdict and those of its rules."""
        self.verdicts[side, verdict.label] += 1
        for rule in verdict.rules:
            self.rules[rule.rule, side, rule.label] += 1

    @property
    def pairs(self) -> int:
        """How many pairs were counted."""
        return self.outcomes.total()

    def count(self, outcome: Outcome, split: Split | None = None) -> int:
        """Return the pairs of an outcome, on one side of the split or on both."""
        return sum(self.outcomes[side, outcome] for side in SPLITS if split in (None, side))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types; every outcome, split, side and label is there, with 0 where nothing was found.

        Keys: `pairs`; `outcomes` {outcome: n}; `by_split` {split: {outcome: n}}; `verdicts` {side: {label: n}};
        `rules` {rule: {side: {label: n}}} in the policy's order; `corrections` {accepted: n, refused: {reason: n},
        written: n, unknown: n}; `human` {used: n, changed: n, other_text: n, unknown: n}.
        """
        names = dict.fromkeys(rule for rule, _, _ in self.rules)
        return {
            "pairs": self.pairs,
            "outcomes": {outcome.value: self.count(outcome) for outcome in Outcome},
            "by_split": {split: {outcome.value: self.count(outcome, split) for outcome in Outcome} for split in SPLITS},
            "verdicts": {side: {label.value: self.verdicts[side, label] for label in Label} for side in SIDES},
            "rules": {
                rule: {side: {label.value: self.rules[rule, side, label] for label in Label} for side in SIDES}
                for rule in names
            },
            "corrections": {
                "accepted": self.corrections_accepted,
                "refused": {reason.value: self.corrections_refused[reason] for reason in Refusal},
                "written": self.corrections_written,
                "unknown": self.corrections_unknown,
            },
            "human": self.human.as_dict(),
        }
