"""Every figure of a run by its name: what a gate, a comparison, a card and the exported tables speak of.

Names are dotted, lower-case and stable: `agreement.after`, `kl`, `utility.mmlu.diff`. Those of the parts of `measure`
are the parts' own; the rest is read here from summary.json and audit.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from realigner.errors import InputError, did_you_mean
from realigner.report.audit import read_audit, read_corrected
from realigner.report.interval import BeforeAfter, Figure, Interval, read_figure
from realigner.report.parts import PARTS, read_evidence, recorded_parts
from realigner.report.rundir import NotMeasured, RunFiles, mapping, part
from realigner.report.tables import Cell, PageTable, page_tables

FIELDS = ("value", "lower", "upper", "n", "p", "p_holm")
"""What of a figure can be named: `agreement.after.lower`."""
CORE = (
    "agreement.before",
    "agreement.after",
    "agreement.change",
    "agreement.corrected",
    "agreement.corrected.before",
    "agreement.corrected.change",
    "audit.triage.accuracy",
    "audit.triage.alpha",
    "audit.evaluation.accuracy",
    "audit.evaluation.alpha",
    "kl",
    "perplexity.before",
    "perplexity.after",
)
"""Names that every run may have."""
FAMILIES = ("agreement.outcome.", "agreement.rule.", "agreement.topic.")
"""Beginnings of names that depend on the data and the policy; they go on with a name and before, after or change."""


class FigureError(InputError):
    """A figure is named that no run can have."""


def refuse_unknown(name: str) -> None:
    """Refuse the name of a figure that no run can have.

    Raises:
        FigureError: with the nearest name.
    """
    from realigner.evaluate.parts import PARTS as MEASURED

    family = name.partition(".")[0]
    known = {*PARTS, *(part.name for part in MEASURED)}
    if not (name in CORE or name.startswith(FAMILIES) or (family in known and name != family)):
        raise FigureError(
            f"figure '{name}'",
            f"figures are {', '.join(CORE)}, and what begins with {', '.join((*FAMILIES, *(f'{p}.' for p in PARTS)))}",
            f"The report's table of figures has their names.{did_you_mean(name, (*CORE, *PARTS))}",
        )


def read_figures(run: RunFiles) -> dict[str, Figure]:
    """Return every figure that the run has, by name. It never fails: what was not measured is not there."""
    return {name: figure for name, figure in _all(run) if figure is not None}


def why_missing(run: RunFiles, name: str, known: Mapping[str, Figure]) -> str:
    """Return in words why a run has no figure of this name, which `refuse_unknown` let pass."""
    family = name.partition(".")[0]
    if name in CORE:
        return _why_missing_core(run, name)
    if name.startswith(FAMILIES):
        return "the run has no figure of that outcome, rule or topic" + _near(name, known, FAMILIES)
    owner = "stress" if family == "over_refusal" and family not in recorded_parts(run) else family
    try:
        read_evidence(run, owner)
    except NotMeasured as reason:
        return str(reason)
    return f"'{owner}' was measured, but has no figure of that name" + _near(name, known, (f"{family}.",))


def _near(name: str, known: Mapping[str, Figure], beginnings: tuple[str, ...]) -> str:
    return did_you_mean(name, (other for other in known if other.startswith(beginnings))).replace(" Did", ". Did")


def field_of(figure: Figure, field: str) -> float | None:
    """Return a field of a figure; None where the figure does not have it."""
    found = figure.interval
    return {
        "value": found.value,
        "lower": found.low,
        "upper": found.high,
        "n": found.n,
        "p": figure.p,
        "p_holm": figure.p_holm,
    }[field]


def figures_tables(run: RunFiles, html: str) -> list[PageTable]:
    """Return the table of all figures as the page has it, but whole: the page holds the first ones only."""
    figures = read_figures(run)
    rows: list[list[Cell]] = []
    for name, figure in figures.items():
        found = figure.interval
        value: Cell = {"value": found.value, "low": found.low, "high": found.high}
        seen: list[Cell] = [figure.unit, found.n, figure.p, figure.p_holm, figure.margin, figure.seed, found.method]
        rows.append([name, value, *seen])
    return [PageTable(t.id, t.title, t.columns, rows) for t in page_tables(html) if t.id == "figures"]


def _all(run: RunFiles) -> Iterator[tuple[str, Figure | None]]:
    yield from _agreement(run)
    corrected = (part(read_corrected, run).value or {}).get(("all", ""), BeforeAfter(None, None))
    yield "agreement.corrected", _share(corrected.after)
    yield "agreement.corrected.before", _share(corrected.before)
    for subject in ("triage", "evaluation"):
        audit = part(lambda r, s=subject: read_audit(r, s), run).value  # type: ignore[misc]
        if audit is not None:
            yield f"audit.{subject}.accuracy", _share(audit.accuracy)
            yield f"audit.{subject}.alpha", None if audit.alpha is None else Figure(audit.alpha, "alpha")
            if subject == "evaluation":
                yield "agreement.corrected.change", _share(audit.change)
    yield "kl", read_figure(part(lambda r: r.summary("kl"), run).value, "nats per token")
    perplexity = mapping(part(lambda r: r.summary("perplexity"), run).value)
    for side in ("before", "after"):
        yield f"perplexity.{side}", read_figure(perplexity.get(side), "perplexity")
    for name in recorded_parts(run):
        evidence = part(lambda r, n=name: read_evidence(r, n), run).value  # type: ignore[misc]
        if evidence is not None:
            yield from evidence.figures.items()


def _agreement(run: RunFiles) -> Iterator[tuple[str, Figure | None]]:
    stored = mapping(part(lambda r: r.summary("agreement"), run).value)
    yield from _compared("agreement", stored)
    for kind in ("outcome", "rule", "topic"):
        for name, found in mapping(stored.get(f"by_{kind}")).items():
            word = str(name).lower() if kind == "outcome" else str(name)
            yield from _compared(f"agreement.{kind}.{word}", mapping(found))


def _compared(name: str, stored: Mapping[str, Any]) -> Iterator[tuple[str, Figure | None]]:
    for side in ("before", "after", "change"):
        yield f"{name}.{side}", read_figure(stored.get(side), "share")


def _share(interval: Interval | None) -> Figure | None:
    return None if interval is None else Figure(interval, "share")


def _why_missing_core(run: RunFiles, name: str) -> str:
    first = name.split(".")[0]
    if "corrected" in name:
        return part(read_corrected, run).missing or "the audit says nothing of it"
    if first == "audit":
        subject = name.split(".")[1]
        missing = part(lambda r: read_audit(r, subject), run).missing  # type: ignore[arg-type]
        return missing or "the audit says nothing of it"
    return part(lambda r: r.summary(*name.split(".")), run).missing or f"summary.json has no finite '{name}'"
