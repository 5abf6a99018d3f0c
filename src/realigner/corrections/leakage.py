"""Value leakage: what training on corrections may teach beside the policy, as far as counting can show it.

A correction is preferred to an old answer. If corrections are also longer, or open with a phrase of their writer, or
speak in the words of the policy, training learns that as well. So accepted corrections are compared with what the old
data already has of the right kind: the preferred answers of retained pairs, which comply with the new policy. And it is
said who wrote, who accepted, and how far two judges agree. None of this proves that a model leaks; it shows where to
look.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from realigner.corrections.shift import agreement, lengths, openings, word_shift
from realigner.corrections.similarity import words_of
from realigner.records import Label, TriagedPair

SAMPLE = 2000
"""Texts of each kind that are compared: a fair draw by the seed."""
LEAST = 20
"""Texts of each kind; below, nothing is compared."""


@dataclass
class LeakageSample:
    """Draws the texts to compare while triage streams: as many of each kind as `SAMPLE`, whatever the size of the data.

    Args:
        seed: of the draw.
    """

    seed: int
    corrections: list[str] = field(default_factory=list)
    retained: list[str] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def add(self, triaged: TriagedPair) -> None:
        """Look at one pair."""
        if triaged.correction is not None:
            self._keep(self.corrections, "corrections", triaged.correction)
        elif triaged.outcome.is_retained:
            self._keep(self.retained, "retained", triaged.pair.chosen)

    def _keep(self, sample: list[str], kind: str, text: str) -> None:
        self._seen[kind] += 1
        if len(sample) < SAMPLE:
            sample.append(text)
        elif (place := self._draw.randrange(self._seen[kind])) < SAMPLE:
            sample[place] = text


def leakage(
    sample: LeakageSample,
    *,
    writer: str | None,
    judge: str,
    second: str | None,
    both: Mapping[tuple[Label, Label], int],
    same_model: bool,
) -> dict[str, Any]:
    """Return the report as plain JSON types.

    Args:
        sample: texts of both kinds.
        writer: who wrote the candidates; None where all corrections came from a file.
        judge: who accepted.
        second: who had to accept as well.
        both: candidates by the labels of the first and the second judge.
        same_model: whether the writer is also one of the judges.
    """
    new, old = ([words_of(text) for text in texts] for texts in (sample.corrections, sample.retained))
    enough = min(len(new), len(old)) >= LEAST
    return {
        "writer": writer,
        "judge": judge,
        "second_judge": second,
        "writer_judges_itself": same_model,
        "agreement": agreement(both) if second is not None else None,
        "texts": {"corrections": len(new), "retained": len(old), "least": LEAST},
        "length": lengths([len(words) for words in new], [len(words) for words in old], sample.seed)
        if enough
        else None,
        "words": word_shift(new, old, sample.seed) if enough else None,
        "openings": openings(new, old) if enough else None,
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report for people, in a few lines."""
    out = [f"leakage: written by {report['writer'] or 'people (a file)'}, accepted by {report['judge']}"]
    if report["second_judge"]:
        found = report["agreement"]
        rate = "judged no candidate"
        if found["rate"] is not None:
            rate = f"agreed on {found['rate']:.1%} of {found['candidates']:,} candidates"
        kappa = "" if found["kappa"] is None else f", κ {found['kappa']:.2f}"
        out.append(f"leakage: second judge {report['second_judge']}; the judges {rate}{kappa}")
    if report["writer_judges_itself"]:
        out.append("leakage: WARNING: a judge is the model that wrote; it may like its own mistakes")
    if report["length"] is None:
        texts = report["texts"]
        out.append(
            f"leakage: {texts['corrections']} corrections and {texts['retained']} retained answers are too few to "
            f"compare (at least {texts['least']} of each)"
        )
        return out
    length, words = report["length"], report["words"]
    low, high = length["interval"]
    out.append(
        f"leakage: corrections have {length['corrections']['mean']:.0f} words on average, compliant retained answers "
        f"{length['retained']['mean']:.0f}; a correction is the longer one in {length['longer']:.0%} of draws "
        f"({low:.0%} to {high:.0%})"
    )
    common = ", ".join(repr(item["phrase"]) for item in words["more_in_corrections"][:5]) or "none"
    out.append(
        f"leakage: word frequencies differ by {words['divergence']:.3f} bits, {words['by_chance']:.3f} by chance; "
        f"commoner in corrections: {common}"
    )
    return out
