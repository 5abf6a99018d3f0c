"""Corrections that a writer made: what became of the candidates, who wrote and who accepted, and what may leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from realigner.report.interval import Interval
from realigner.report.rundir import NotMeasured, RunFiles, items, mapping, number

LEAKAGE = "leakage.json"
MOST = 10


@dataclass(frozen=True)
class Phrase:
    """Words, and the share of texts of each kind that hold them or begin with them."""

    words: str
    corrections: float | None
    retained: float | None


@dataclass(frozen=True)
class Written:
    """The section's content; None where a figure is not there."""

    pairs: int
    corrected: int
    dual_npo: int
    fates: tuple[tuple[str, int], ...]
    writer: str
    judge: str
    second: str
    judges_itself: bool
    agreement: Interval | None
    kappa: float | None
    texts: tuple[int, int]
    """Corrections and retained answers that were compared."""
    means: tuple[float | None, float | None]
    """Words of a correction, words of a retained answer."""
    longer: Interval | None
    divergence: float | None
    by_chance: float | None
    phrases: tuple[Phrase, ...]
    openings: tuple[Phrase, ...]


def read_written(run: RunFiles) -> Written:
    """Return what triage recorded of written corrections.

    Raises:
        NotMeasured: no writer was asked.
    """
    facts = mapping(run.facts("triage").get("corrections_written"))
    if not facts:
        raise NotMeasured("no writer was asked for corrections")
    report = run.json(LEAKAGE)
    length, words = mapping(report.get("length")), mapping(report.get("words"))
    agreement, texts = mapping(report.get("agreement")), mapping(report.get("texts"))
    fates = ((str(name), _count(count)) for name, count in mapping(facts.get("candidates")).items())
    return Written(
        pairs=_count(facts.get("pairs")),
        corrected=_count(facts.get("corrected")),
        dual_npo=_count(facts.get("dual_npo")),
        fates=tuple(sorted(((name, count) for name, count in fates if count), key=lambda fate: -fate[1])),
        writer=str(report.get("writer") or "people (a file)"),
        judge=str(report.get("judge") or "not recorded"),
        second=str(report.get("second_judge") or ""),
        judges_itself=report.get("writer_judges_itself") is True,
        agreement=_interval(agreement.get("rate"), agreement.get("interval"), agreement.get("candidates"), "Wilson"),
        kappa=number(agreement.get("kappa")),
        texts=(_count(texts.get("corrections")), _count(texts.get("retained"))),
        means=(_mean(length.get("corrections")), _mean(length.get("retained"))),
        longer=_interval(length.get("longer"), length.get("interval"), texts.get("corrections"), "bootstrap"),
        divergence=number(words.get("divergence")),
        by_chance=number(words.get("by_chance")),
        phrases=_phrases(words.get("more_in_corrections"), "phrase", "share_in_others"),
        openings=_phrases(report.get("openings"), "opening", "share_in_retained"),
    )


def _phrases(content: Any, name: str, other: str) -> tuple[Phrase, ...]:
    found = [mapping(item) for item in items(content)[:MOST]]
    return tuple(Phrase(str(item.get(name, "")), number(item.get("share")), number(item.get(other))) for item in found)


def _interval(value: Any, bounds: Any, n: Any, method: str) -> Interval | None:
    middle, ends = number(value), [number(bound) for bound in items(bounds)]
    if middle is None:
        return None
    low, high = ends if len(ends) == 2 else (None, None)
    return Interval(middle, low, high, _count(n), method)


def _mean(content: Any) -> float | None:
    return number(mapping(content).get("mean")) if isinstance(content, Mapping) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
