"""The oracle audit: what people found of the judge's verdicts, and the rates that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from realigner.records import Label, Outcome
from realigner.report.interval import BeforeAfter, Interval, read_interval
from realigner.report.rundir import NotMeasured, Part, RunFiles, mapping, number, part
from realigner.report.text import one_line

Subject = Literal["triage", "evaluation"]
HEADINGS: dict[Subject, str] = {"triage": "The judge on the old data", "evaluation": "The judge on the models' answers"}
_FILES: dict[Subject, tuple[str, str]] = {
    "triage": ("triage", "triage.parquet"),
    "evaluation": ("evaluate", "judgements.parquet"),
}
MOST_ROWS = 200


@dataclass(frozen=True)
class Row:
    """One line of a table: a name and its figures, None where not measured."""

    label: str
    figures: tuple[Interval | None, ...]


@dataclass(frozen=True)
class CorrectedRow:
    """A rate raw and corrected."""

    group: str
    label: str
    raw: float | None
    corrected: Interval | None
    bias: Interval | None


@dataclass(frozen=True)
class OutcomeRow:
    """What the pairs of one outcome really are."""

    outcome: str
    pairs: int | None
    epsilon: Interval | None
    precision: Interval | None
    truly: tuple[Interval | None, ...]
    """In the order of `Outcome`, without UNDECIDED."""


@dataclass(frozen=True)
class Audit:
    """One audit."""

    id: str
    by: str
    items: int | None
    questions: int | None
    missing: int | None
    annotators: tuple[tuple[str, int], ...]
    oracle: str
    scored: str
    alpha: Interval | None
    raw_agreement: float | None
    alpha_items: int | None
    unsure: Interval | None
    abstained: float | None
    accuracy: Interval | None
    accuracies: tuple[Row, ...]
    """Accuracy by side or model, and by outcome."""
    labels: tuple[Row, ...]
    """Precision and recall by label."""
    rules: tuple[Row, ...]
    """Accuracy, precision and recall by rule."""
    confusion: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    """(judge's label, (count, share of the population) by people's label)."""
    rates: tuple[CorrectedRow, ...]
    change: Interval | None
    outcomes: tuple[OutcomeRow, ...]
    rows_left_out: int


def read_audits(run: RunFiles) -> tuple[tuple[Subject, str, Part[Audit]], ...]:
    """Return (subject, heading, what there is) for both subjects. It never fails."""
    return tuple(
        (subject, heading, part(lambda r, s=subject: read_audit(r, s), run))  # type: ignore[misc]
        for subject, heading in HEADINGS.items()
    )


def read_audit(run: RunFiles, subject: Subject) -> Audit:
    """Return one audit.

    Raises:
        NotMeasured: it was not made, cannot be read, or is of other verdicts than the run holds.
    """
    stored = _stored(run, subject)
    alpha = mapping(stored.get("alpha"))
    accuracies = [
        Row(str(name), (read_interval(rate),))
        for key in ("by_group", "by_outcome")
        for name, rate in mapping(stored.get(key)).items()
    ]
    rules = [
        Row(str(name), tuple(read_interval(mapping(rule).get(key)) for key in ("accuracy", "precision", "recall")))
        for name, rule in mapping(stored.get("rules")).items()
    ]
    rates = _rates(stored)
    return Audit(
        id=one_line(str(stored.get("audit")), 40),
        by=one_line(str(stored.get("by")), 80),
        items=_count(stored.get("items")),
        questions=_count(stored.get("questions")),
        missing=_count(stored.get("missing")),
        annotators=tuple((str(name), _count(n) or 0) for name, n in mapping(stored.get("annotators")).items()),
        oracle=one_line(str(stored.get("oracle")), 200),
        scored=one_line(str(stored.get("scored")), 40),
        alpha=read_interval({**alpha, "n": alpha.get("items")}),
        raw_agreement=number(alpha.get("raw")),
        alpha_items=_count(alpha.get("items")),
        unsure=read_interval(stored.get("unsure")),
        abstained=number(stored.get("abstained")),
        accuracy=read_interval(stored.get("accuracy")),
        accuracies=tuple(accuracies[:MOST_ROWS]),
        labels=tuple(
            Row(str(name), tuple(read_interval(mapping(label).get(key)) for key in ("precision", "recall")))
            for name, label in mapping(stored.get("labels")).items()
        ),
        rules=tuple(rules[:MOST_ROWS]),
        confusion=_confusion(stored),
        rates=tuple(rates[:MOST_ROWS]),
        change=read_interval(stored.get("change")),
        outcomes=_outcomes(mapping(stored.get("outcomes"))),
        rows_left_out=sum(max(0, len(rows) - MOST_ROWS) for rows in (accuracies, rules, rates)),
    )


def read_corrected(run: RunFiles) -> dict[tuple[str, str], BeforeAfter]:
    """Return the corrected agreement of both models by (kind of part, name); ("all", "") is the whole.

    Raises:
        NotMeasured: the answers were not audited, or others than these.
    """
    stored = _stored(run, "evaluation")
    sides: dict[str, dict[tuple[str, str], Interval | None]] = {}
    for side in ("before", "after"):
        whole = mapping(mapping(mapping(stored.get("rates")).get("group")).get(side))
        sides[side] = {("all", ""): read_interval(whole.get("corrected"))}
        for kind, rates in mapping(mapping(stored.get("parts")).get(side)).items():
            for name, rate in mapping(rates).items():
                sides[side][str(kind), str(name)] = read_interval(mapping(rate).get("corrected"))
    names = dict.fromkeys([*sides["before"], *sides["after"]])
    return {name: BeforeAfter(sides["before"].get(name), sides["after"].get(name)) for name in names}


def _stored(run: RunFiles, subject: Subject) -> Mapping[str, Any]:
    stored = mapping(mapping(run.json("audit.json")).get(subject))
    if not stored:
        raise NotMeasured(f"no audit of the verdicts of the {subject} was scored (realigner audit sample)")
    stage, file = _FILES[subject]
    if run.manifest("stages", stage, "outputs", file, "hash") != stored.get("output"):
        raise NotMeasured(f"the audit in audit.json is of other verdicts than those in {file}")
    return stored


def _rates(stored: Mapping[str, Any]) -> list[CorrectedRow]:
    """Return the rates overall, then by group, outcome, topic, and by rule."""
    rows = []
    for group, found in mapping(stored.get("rates")).items():
        rows += [_corrected(str(group), str(name), rate) for name, rate in mapping(found).items()]
    for group, parts in mapping(stored.get("parts")).items():
        for kind in ("outcome", "topic", "rule"):
            for name, rate in mapping(mapping(parts).get(kind)).items():
                label = f"rule {name}" if kind == "rule" else str(name)
                rows.append(_corrected(f"{group}, {kind}", f"{group}: {label}", rate))
    for name, rule in mapping(stored.get("rules")).items():
        if mapping(rule).get("complies"):
            rows.append(_corrected("rule", str(name), mapping(rule)["complies"]))
    return rows


def _corrected(group: str, name: str, rate: Any) -> CorrectedRow:
    rate = mapping(rate)
    return CorrectedRow(
        group, name, number(rate.get("raw")), read_interval(rate.get("corrected")), read_interval(rate.get("bias"))
    )


def _confusion(stored: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[int, float], ...]], ...]:
    counts, shares = mapping(stored.get("confusion")), mapping(stored.get("shares"))
    people = (Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE)
    rows = []
    for judge in Label:
        count, share = mapping(counts.get(judge.value)), mapping(shares.get(judge.value))
        cells = tuple((_count(count.get(p.value)) or 0, number(share.get(p.value)) or 0.0) for p in people)
        if any(n for n, _ in cells):
            rows.append((judge.value, cells))
    return tuple(rows)


def _outcomes(stored: Mapping[str, Any]) -> tuple[OutcomeRow, ...]:
    decided = [outcome.value for outcome in Outcome if outcome is not Outcome.UNDECIDED]
    rows = []
    for name in decided:
        found = mapping(stored.get(name))
        if found:
            truly = mapping(found.get("truly"))
            rows.append(
                OutcomeRow(
                    name,
                    _count(found.get("pairs")),
                    read_interval(found.get("epsilon")),
                    read_interval(found.get("precision")),
                    tuple(read_interval(truly.get(other)) for other in decided),
                )
            )
    return tuple(rows)


def _count(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
