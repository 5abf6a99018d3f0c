"""Agreement with the policy and utility, before and after, every figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from realigner.records import Outcome
from realigner.report.audit import read_corrected
from realigner.report.changes import Kind, read_changes
from realigner.report.interval import BeforeAfter, Interval, read_before_after, read_interval
from realigner.report.plots import interval_plot
from realigner.report.rundir import NotMeasured, Part, RunFiles, mapping, part
from realigner.report.text import one_line

MOST_ROWS_DRAWN = 24
MOST_ROWS = 300
NOTHING = BeforeAfter(None, None)
OVERALL, ALL = "Overall", "All held-out prompts"
KINDS = {"outcome": "By outcome of the old pair", "topic": "By topic", "rule": "By rule"}
"""Parts of the agreement: key in summary.json and audit.json, and heading."""


@dataclass(frozen=True)
class AgreementRow:
    """One line of the agreement table."""

    group: str
    label: str
    figures: BeforeAfter
    corrected: BeforeAfter = NOTHING
    """The same figures corrected by the audit of the answers."""


@dataclass(frozen=True)
class Agreement:
    """The agreement table and its plots."""

    groups: tuple[tuple[str, tuple[AgreementRow, ...]], ...]
    """(heading, rows), in order."""
    plots: tuple[tuple[str, str], ...]
    """(heading, picture)."""
    is_corrected: bool
    """Whether the answers were audited."""
    rows_not_drawn: int
    rows_left_out: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class ChangeTable:
    """How many prompts' verdicts moved which way, by the outcome of the pair they come from."""

    rows: tuple[tuple[str, tuple[int, ...], int], ...]
    """(outcome or "All", counts in the order of `kinds` and their sum, how many of these had no clear verdict)."""
    kinds: tuple[Kind, ...]
    left_out: int


@dataclass(frozen=True)
class Utility:
    """What the change cost elsewhere."""

    kl: Interval | None
    perplexity: BeforeAfter


def read_agreement_table(run: RunFiles) -> Agreement:
    """Return agreement overall, by outcome class and by rule.

    Raises:
        NotMeasured: summary.json holds no figure of agreement.
    """
    stored = mapping(run.summary("agreement"))
    corrected = part(read_corrected, run).value or {}
    rows = [AgreementRow(OVERALL, ALL, read_before_after(stored), corrected.get(("all", ""), NOTHING))]
    known = [str(outcome) for outcome in Outcome]
    for kind, heading in KINDS.items():
        found = mapping(stored.get(f"by_{kind}"))
        names = [str(name) for name in found]
        if kind == "outcome":
            names.sort(key=lambda name: (known.index(name) if name in known else len(known), name))
        for name in names:
            figures = read_before_after(found[name])
            rows.append(AgreementRow(heading, name, figures, corrected.get((kind, name), NOTHING)))
    measured = [row for row in rows if row.figures.before or row.figures.after]
    if not measured:
        raise NotMeasured("summary.json holds no figure of agreement")
    intervals = [i for row in measured for i in (row.figures.before, row.figures.after) if i]
    rules = [row for row in rows if row.group == KINDS["rule"]]
    first = [row for row in rows if row.group in (OVERALL, KINDS["outcome"])]
    plots = [_plot("agreement-outcomes", first, "Overall and by outcome class")]
    if rules:
        plots.append(_plot("agreement-rules", rules[:MOST_ROWS_DRAWN], "By rule"))
    return Agreement(
        groups=tuple((group, tuple(found)) for group, found in groupby(rows[:MOST_ROWS], lambda row: row.group)),
        plots=tuple(plots),
        is_corrected=bool(corrected),
        rows_not_drawn=max(0, len(rules) - MOST_ROWS_DRAWN),
        rows_left_out=max(0, len(rows) - MOST_ROWS),
        methods=tuple(sorted({interval.method for interval in intervals})),
    )


def read_change_table(run: RunFiles) -> ChangeTable:
    """Return how the verdicts moved.

    Raises:
        NotMeasured: there are no rows to match.
    """
    changes = read_changes(run)
    kinds = tuple(Kind)
    found = {change.outcome for change in changes.rows}
    names = [str(outcome) for outcome in Outcome if outcome in found]
    names += sorted(found - set(names))
    parts = [*((name, changes.of(name)) for name in names), ("All", changes)]
    rows = tuple((name, (*(some.counts[kind] for kind in kinds), len(some.rows)), some.unclear) for name, some in parts)
    return ChangeTable(rows, kinds, changes.left_out)


def read_utility(run: RunFiles) -> Utility:
    """Return KL and perplexity.

    Raises:
        NotMeasured: summary.json has neither.
    """
    kl: Part[Interval | None] = part(lambda r: read_interval(r.summary("kl")), run)
    perplexity = part(lambda r: read_before_after(r.summary("perplexity")), run)
    figures = perplexity.value or BeforeAfter(None, None)
    if kl.value is None and figures.before is None and figures.after is None:
        raise NotMeasured(kl.missing or "summary.json holds neither KL nor perplexity")
    return Utility(kl.value, figures)


def _plot(name: str, rows: list[AgreementRow], heading: str) -> tuple[str, str]:
    labelled = [(one_line(row.label, 48), row.figures) for row in rows]
    return heading, interval_plot(name, labelled, f"Policy agreement: {heading.lower()}")
