"""A candidate and what became of it, and what became of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from realigner.corrections.checks import Fate
from realigner.corrections.journal import Draft
from realigner.records import Label, Pair, Verdict


@dataclass(slots=True)
class Candidate:
    """One proposed answer, and what became of it."""

    pair: Pair
    number: int
    """From 0, within the pair."""
    draft: Draft
    known: bool
    """Whether the journal had it."""
    text: str = ""
    """Cleaned; what would be used."""
    fate: Fate = Fate.ACCEPTED
    why: str = ""
    verdict: Verdict | None = None
    second: Verdict | None = None
    chosen: bool = False
    """Whether it is its pair's correction."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the whole provenance of a candidate."""
        return {
            "id": self.pair.id,
            "candidate": self.number,
            "fate": self.fate.value,
            "why": self.why,
            "chosen": self.chosen,
            "text": self.text,
            "judge": None if self.verdict is None else self.verdict.label.value,
            "reason": "" if self.verdict is None else self.verdict.reason,
            "second_judge": None if self.second is None else self.second.label.value,
            "second_reason": "" if self.second is None else self.second.reason,
            "model": self.draft.model,
            "seed": self.draft.seed,
            "finish": self.draft.finish,
            "input_tokens": self.draft.input_tokens,
            "output_tokens": self.draft.output_tokens,
            "from_journal": self.known,
        }


@dataclass(slots=True)
class CorrectionTally:
    """What became of the pairs and of the candidates."""

    pairs: int = 0
    corrected: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    written: int = 0
    """Candidates written now."""
    known: int = 0
    """Candidates that the journal had."""
    input_tokens: int = 0
    """Of the writer, now; estimated where it does not say."""
    output_tokens: int = 0
    both: Counter[tuple[Label, Label]] = field(default_factory=Counter)
    """Candidates by the labels of the first and the second judge."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "pairs": self.pairs,
            "corrected": self.corrected,
            "dual_npo": self.pairs - self.corrected,
            "candidates": {fate.value: self.fates[fate] for fate in Fate},
            "written": self.written,
            "from_journal": self.known,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "judges": [[a.value, b.value, count] for (a, b), count in sorted(self.both.items())],
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        if not self.pairs:
            return ["corrections: no pair needed a candidate"]
        left = self.pairs - self.corrected
        fates = ", ".join(f"{fate.value} {count:,}" for fate, count in self.fates.most_common())
        return [
            f"corrections: {self.corrected:,} of {self.pairs:,} PUNISH pairs have an accepted one; "
            f"{left:,} {'falls' if left == 1 else 'fall'} back to dual NPO",
            f"candidates: {self.written:,} written, {self.known:,} from the journal: {fates}",
        ]
