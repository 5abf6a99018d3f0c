"""Where every pair went: read, judged into an outcome, trained one way or left out. Laid out as a flow diagram.

The diagram is HTML boxes with text, joined by SVG bands that stretch with the page, so that its letters have the
same size on a phone and on a wide screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from realigner.records import Direction, Outcome
from realigner.report.rundir import NotMeasured, RunFiles, mapping
from realigner.report.tallies import read_data_tally

SCALE = 260.0
"""Height in CSS pixels that stands for all pairs."""
GAP, SMALLEST_BAR = 10.0, 2.0
SLOT = {"outcome": 48.0, "end": 64.0}
"""Smallest height of a box, so that its text fits."""

MEANINGS = {
    Outcome.INVERT: "the old choice breaks the new policy, the rejected response complies",
    Outcome.PUNISH: "both responses break the new policy",
    Outcome.CONFIRM: "the old choice complies, the rejected response does not",
    Outcome.NEUTRAL: "both responses comply",
    Outcome.UNDECIDED: "no clear verdict on one side or both",
}
ENDS = {
    Direction.REJECTED_OVER_CHOSEN: ("Reversed", "rejected over chosen"),
    Direction.SUPPRESS_BOTH: ("Suppressed", "both made less likely"),
    Direction.CORRECTION_OVER_CHOSEN: ("Corrected", "correction over chosen"),
    Direction.CORRECTION_OVER_BOTH: ("Corrected", "correction over both"),
    Direction.RETAIN: ("Retained", "held to the reference"),
    Direction.NONE: ("Not trained", "for human review"),
}
HELD_OUT = "held_out"
_HELD_OUT_END = ("Held out", "for evaluation")
LEFT_OUT = "LEFT OUT"

Counts = Mapping[tuple[str, str], int]
"""(outcome, end) -> pairs; an end is a direction, `held_out`, or empty where it is not recorded."""


@dataclass(frozen=True)
class Box:
    """One box of the diagram. Lengths are CSS pixels."""

    name: str
    note: str
    count: int
    ink: str
    top: float
    height: float
    bar_top: float
    bar: float


@dataclass(frozen=True)
class Band:
    """A band between two columns, as an SVG path over a width of 100."""

    path: str
    ink: str


@dataclass(frozen=True)
class Flow:
    """The diagram and its table."""

    total: int
    source: Box
    outcomes: tuple[Box, ...]
    ends: tuple[Box, ...]
    left: tuple[Band, ...]
    right: tuple[Band, ...]
    height: float
    table: tuple[tuple[str, str, int, tuple[tuple[str, int], ...]], ...]
    """Outcome, its meaning, pairs, and (treatment, pairs)."""
    gold: int | None
    """Pairs in the gold batch, which are shown with their outcome but not trained on; None where not recorded."""


def read_flow(run: RunFiles) -> Flow:
    """Return the flow of pairs.

    Raises:
        NotMeasured: neither triage.parquet nor the counts of summary.json are there.
    """
    counts = read_counts(run)
    return lay_out(counts, _left_out(run), _gold(run))


def read_counts(run: RunFiles) -> Counts:
    """Count pairs by outcome and treatment from the rows, or by outcome alone from the summary."""
    try:
        return _count_rows(run)
    except NotMeasured as reason:
        try:
            stored = mapping(run.summary("counts"))
        except NotMeasured:
            raise reason from None
        return {(str(name), ""): int(count) for name, count in stored.items() if isinstance(count, int) and count}


def lay_out(counts: Counts, left_out: int, gold: int | None) -> Flow:
    """Place boxes and bands. `left_out` rows were read but never became pairs."""
    total = sum(counts.values()) + left_out
    if total == 0:
        raise NotMeasured("no pair was read")
    scale = SCALE / total
    by_outcome = _sums(counts, 0, [*Outcome])
    by_end = {end: n for end, n in _sums(counts, 1, [*Direction, HELD_OUT]).items() if end}
    names = [(name, name, n, name.lower()) for name, n in by_outcome.items()]
    if left_out:
        names.append((LEFT_OUT, LEFT_OUT, left_out, "muted"))
    ends = [(end, *_end_text(end), n) for end, n in by_end.items()]
    height = max(
        _column_height([n for *_, n, _ in names], SLOT["outcome"], scale),
        _column_height([n for *_, n in ends], SLOT["end"], scale),
    )
    outcomes = _stack([(key, note, n, ink) for key, note, n, ink in names], SLOT["outcome"], scale, height)
    placed_ends = _stack([(title, note, n, "ink") for _, title, note, n in ends], SLOT["end"], scale, height)
    bars = sum(box.bar for box in outcomes)
    source = Box("read", "", total, "ink", (height - bars) / 2, bars, (height - bars) / 2, bars)
    ends_by_key = dict(zip(by_end, placed_ends, strict=True))
    return Flow(
        total=total,
        source=source,
        outcomes=outcomes,
        ends=placed_ends,
        left=_left_bands(source, outcomes),
        right=_right_bands({box.name: box for box in outcomes}, ends_by_key, counts),
        height=height,
        table=_table(by_outcome, counts, left_out),
        gold=gold,
    )


def _count_rows(run: RunFiles) -> Counter[tuple[str, str]]:
    import pyarrow as pa

    counts: Counter[tuple[str, str]] = Counter()
    columns = ["outcome", "direction", "split"]
    for batch in run.batches("triage.parquet", columns):
        groups = pa.Table.from_batches([batch]).group_by(columns).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            end = HELD_OUT if row["split"] == "eval" else str(row["direction"])
            counts[str(row["outcome"]), end] += row["count_all"]
    return counts


def _left_out(run: RunFiles) -> int:
    try:
        tally = read_data_tally(run)
    except NotMeasured:
        return 0
    return tally.duplicates + sum(tally.skipped.values())


def _gold(run: RunFiles) -> int | None:
    try:
        held_out = mapping(run.facts("weigh").get("gold")).get("ids_held_out")
    except NotMeasured:
        return None
    return len(held_out) if isinstance(held_out, list) else None


def _sums(counts: Counts, place: int, order: Sequence[str]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for key, n in counts.items():
        sums[key[place]] += n
    known = [str(name) for name in order]
    return {name: sums[name] for name in [*known, *sorted(set(sums) - set(known))] if sums[name]}


def _end_text(end: str) -> tuple[str, str]:
    if end == HELD_OUT:
        return _HELD_OUT_END
    return ENDS.get(Direction(end), (end, "")) if end in [*Direction] else (end, "")


def _bar(count: int, scale: float) -> float:
    return max(SMALLEST_BAR, count * scale)


def _column_height(counts: Sequence[int], slot: float, scale: float) -> float:
    return sum(max(slot, _bar(count, scale)) + GAP for count in counts) - GAP if counts else 0.0


def _stack(boxes: Sequence[tuple[str, str, int, str]], slot: float, scale: float, height: float) -> tuple[Box, ...]:
    top = (height - _column_height([count for _, _, count, _ in boxes], slot, scale)) / 2
    placed = []
    for name, note, count, ink in boxes:
        bar = _bar(count, scale)
        tall = max(slot, bar)
        placed.append(Box(name, note, count, ink, top, tall, top + (tall - bar) / 2, bar))
        top += tall + GAP
    return tuple(placed)


def _left_bands(source: Box, outcomes: Sequence[Box]) -> tuple[Band, ...]:
    bands, y = [], source.bar_top
    for box in outcomes:
        bands.append(_band(y, box.bar_top, box.bar, box.bar, box.ink))
        y += box.bar
    return tuple(bands)


def _right_bands(outcomes: Mapping[str, Box], ends: Mapping[str, Box], counts: Counts) -> tuple[Band, ...]:
    bands = []
    leaves = {name: box.bar_top for name, box in outcomes.items()}
    arrives = {name: box.bar_top for name, box in ends.items()}
    for outcome, start in outcomes.items():
        for end, finish in ends.items():
            count = counts.get((outcome, end), 0)
            if not count:
                continue
            # Bars have a smallest height, so a band takes its share of the bar at each side.
            begin, stop = start.bar * count / start.count, finish.bar * count / finish.count
            bands.append(_band(leaves[outcome], arrives[end], begin, stop, start.ink))
            leaves[outcome] += begin
            arrives[end] += stop
    return tuple(bands)


def _band(y0: float, y1: float, height0: float, height1: float, ink: str) -> Band:
    a, b, c, d = (f"{y:.1f}" for y in (y0, y1, y1 + height1, y0 + height0))
    return Band(f"M0 {a}C50 {a} 50 {b} 100 {b}V{c}C50 {c} 50 {d} 0 {d}Z", ink)


def _table(
    by_outcome: Mapping[str, int], counts: Counts, left_out: int
) -> tuple[tuple[str, str, int, tuple[tuple[str, int], ...]], ...]:
    rows = []
    for name, total in by_outcome.items():
        meaning = MEANINGS[Outcome(name)] if name in [*Outcome] else ""
        treatments = [
            (": ".join(filter(None, _end_text(end))), n) for (o, end), n in counts.items() if o == name and end
        ]
        rows.append((name, meaning, total, tuple(sorted(treatments, key=lambda item: (-item[1], item[0])))))
    if left_out:
        rows.append((LEFT_OUT, "unusable or repeated rows; see Data and text", left_out, ()))
    return tuple(rows)
