"""The impact weights: their distribution per class, and the ways in which they can go wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from realigner.report.plots import weight_histogram
from realigner.report.rundir import NotMeasured, RunFiles, mapping, number, part, texts

LOUD_CLAMPED, LOUD_LENGTH = 0.5, 0.5
"""A class that loses more than half its pairs, or whose scores follow length, is pointed at."""


@dataclass
class Drawn:
    """The weights of one class as read from the rows."""

    positive: list[float] = field(default_factory=list)
    clamped: int = 0


@dataclass(frozen=True)
class ClassRow:
    """One class of conflicts. What the run did not record is None."""

    outcome: str
    n: int
    clamped_share: float
    mean: float | None
    max: float | None
    effective_sample_size: float | None
    length_correlation: float | None
    plot: str

    @property
    def loses_most(self) -> bool:
        """Whether more than half of the class is not trained on."""
        return self.clamped_share > LOUD_CLAMPED

    @property
    def follows_length(self) -> bool:
        """Whether scores and lengths are strongly correlated."""
        return self.length_correlation is not None and abs(self.length_correlation) > LOUD_LENGTH


@dataclass(frozen=True)
class WeightFacts:
    """Settings, classes and warnings."""

    settings: tuple[tuple[str, str], ...]
    uniform: bool
    classes: tuple[ClassRow, ...]
    warnings: tuple[str, ...]


def read_weights(run: RunFiles) -> WeightFacts:
    """Return the weights' diagnostics.

    Raises:
        NotMeasured: neither weights.parquet nor the facts of the stage `weigh` are there.
    """
    recorded = part(lambda r: r.facts("weigh"), run)
    drawn = part(read_drawn, run)
    if recorded.value is None and drawn.value is None:
        raise NotMeasured(drawn.missing)
    facts: dict[str, Any] = recorded.value or {}
    stored = mapping(facts.get("classes"))
    rows = drawn.value or {}
    uniform = facts.get("weighting") == "uniform"
    classes = [
        _class_row(f"weights-{place}", str(name), mapping(stored.get(name)), rows.get(str(name)), uniform)
        for place, name in enumerate({**stored, **rows})
    ]
    gold = mapping(facts.get("gold"))
    settings = [(key, facts.get(key)) for key in ("weighting", "score", "preconditioner", "normalize", "per_class")]
    settings += [("gold batch", gold.get("kind")), ("gold pairs", gold.get("size"))]
    settings += [("scored by", _scoring(mapping(facts.get("scoring"))))]
    return WeightFacts(
        settings=tuple((key.replace("_", " "), _word(value)) for key, value in settings if value is not None),
        uniform=uniform,
        classes=tuple(row for row in classes if row is not None),
        warnings=tuple(texts(facts.get("warnings"))),
    )


def read_drawn(run: RunFiles) -> dict[str, Drawn]:
    """Read outcome, weight and clamped of every conflict.

    Raises:
        NotMeasured: weights.parquet is not there or holds no row.
    """
    classes: dict[str, Drawn] = defaultdict(Drawn)
    for batch in run.batches("weights.parquet", ["outcome", "weight", "clamped"]):
        columns = (batch.column(name).to_pylist() for name in ("outcome", "weight", "clamped"))
        for outcome, weight, clamped in zip(*columns, strict=True):
            if clamped:
                classes[str(outcome)].clamped += 1
            elif number(weight) is not None:
                classes[str(outcome)].positive.append(weight)
    if not classes:
        raise NotMeasured("weights.parquet holds no row")
    return dict(classes)


def _class_row(plot_name: str, outcome: str, stored: Any, drawn: Drawn | None, uniform: bool) -> ClassRow | None:
    n, share = number(stored.get("n")), number(stored.get("clamped_share"))
    if drawn is not None:
        n = n if n is not None else len(drawn.positive) + drawn.clamped
        share = share if share is not None else drawn.clamped / n
    if n is None or share is None:
        return None
    ink = {"INVERT": "invert", "PUNISH": "punish"}.get(outcome, "ink")
    plot = ""
    if drawn is not None and not uniform:
        plot = weight_histogram(plot_name, drawn.positive, drawn.clamped, ink, f"Impact weights of the class {outcome}")
    return ClassRow(
        outcome=outcome,
        n=int(n),
        clamped_share=share,
        mean=number(stored.get("mean")),
        max=number(stored.get("max")),
        effective_sample_size=number(stored.get("effective_sample_size")),
        length_correlation=number(stored.get("length_correlation")),
        plot=plot,
    )


def _scoring(found: Mapping[str, Any]) -> str | None:
    """Return in words how the scores were computed and how far off they were where that was measured."""
    error = number(found.get("relative_error"))
    if error is None:
        return None
    name = {"exact": "forward-mode derivative", "difference": "central difference"}.get(str(found.get("method")))
    rows = f"relative error {error:.1g} on {found.get('rows')} responses"
    return "a gradient per response" if name is None else f"{name}, {found.get('layout')} rows, {rows}"


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
