"""A study's rows as tables: means with intervals over seeds, paired where arms are compared.

Intervals over seeds are Student's t at 95 %. Every comparison of two arms takes the seeds that both have, and every
table of arms the seeds that all of them have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

CELLS, ROWS = "cells", "rows.jsonl"
Row = dict[str, Any]
"""A cell's results, as the study stored them."""
Reading = Callable[[Row], float | None]


def read_rows(directory: Path) -> dict[str, Row]:
    """Return the rows of a study by cell: those collected in `rows.jsonl`, and `cells/<key>.json` made since."""
    collected, rows = directory / ROWS, {}
    if collected.exists():
        with collected.open(encoding="utf-8") as file:
            rows = {row["key"]: row for row in map(json.loads, filter(str.strip, file))}
    for path in sorted((directory / CELLS).glob("*.json")):
        if path.stem not in rows:
            rows[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return rows


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with the half-width of its 95 % t interval; None for a single seed."""

    value: float
    half: float | None
    n: int

    def show(self, scale: float = 100.0, digits: int = 1) -> str:
        """Return `71.2 ± 1.3`, or `71.2 (1 seed)`."""
        text = f"{self.value * scale:.{digits}f}"
        return f"{text} ± {self.half * scale:.{digits}f}" if self.half is not None else f"{text} (1 seed)"


def mean_of(values: Sequence[float]) -> Mean | None:
    """Return the mean over seeds; None of nothing."""
    from scipy.stats import t

    n = len(values)
    if not n:
        return None
    mean = sum(values) / n
    if n == 1:
        return Mean(mean, None, 1)
    spread = sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return Mean(mean, float(t.ppf(0.975, n - 1)) * spread / sqrt(n), n)


def mean_over_seeds(values: Iterable[tuple[int, float]]) -> Mean | None:
    """Return the mean over seeds of values of a seed each; a seed with several, of shifts say, counts by their mean."""
    by_seed: dict[int, list[float]] = {}
    for seed, value in values:
        by_seed.setdefault(seed, []).append(value)
    return mean_of([sum(own) / len(own) for own in by_seed.values()])


@dataclass(frozen=True)
class Wins:
    """Answers of one arm against another's to the same prompts, by the ground-truth order."""

    won: int
    tied: int
    lost: int
    over_seeds: Mean | None = None
    """The rate of each seed, as a mean with its interval."""

    @property
    def rate(self) -> float | None:
        """Wins among the answers that differ; None where none does."""
        return self.won / (self.won + self.lost) if self.won + self.lost else None

    def show(self) -> str:
        """Return `83.1 ± 2.0 % (ties 60.2 %)`; the interval is over seeds, around the mean of their rates."""
        total = self.won + self.tied + self.lost
        ties = f"(ties {100 * self.tied / total:.1f} %)" if total else ""
        if self.over_seeds is None:
            return f"– {ties}".strip()
        half = self.over_seeds.half
        interval = "" if half is None else f" ± {100 * half:.1f}"
        return f"{100 * self.over_seeds.value:.1f}{interval} % {ties}"


def wins(ours: Sequence[Row], theirs: Sequence[Row]) -> Wins:
    """Compare two arms' answers, prompt by prompt, over the shifts and seeds that both have."""
    other = {_place(row): row for row in theirs if "ranks" in row}
    by_seed: dict[int, list[int]] = {}
    for row in ours:
        if "ranks" not in row or _place(row) not in other:
            continue
        counts = by_seed.setdefault(row["seed"], [0, 0, 0])
        for a, b in zip(row["ranks"], other[_place(row)]["ranks"], strict=True):
            counts[(a == b) + 2 * (a < b)] += 1
    won, tied, lost = (sum(counts[i] for counts in by_seed.values()) for i in range(3))
    rates = [won_here / (won_here + lost_here) for won_here, _, lost_here in by_seed.values() if won_here + lost_here]
    return Wins(won, tied, lost, mean_of(rates))


def difference(ours: Sequence[Row], theirs: Sequence[Row], read: Reading) -> Mean | None:
    """Return the paired difference of a reading over the shifts and seeds that both have; a seed is one unit."""
    other = {_place(row): read(row) for row in theirs}
    found = [(row["seed"], read(row), other.get(_place(row))) for row in ours]
    return mean_over_seeds((seed, a - b) for seed, a, b in found if a is not None and b is not None)


def _place(row: Row) -> tuple[str, int]:
    return row["shift"], row["seed"]


def agreement(row: Row) -> float | None:
    """Return target agreement; a training that diverged has none and counts as 0."""
    return 0.0 if "diverged" in row else row.get("agreement")


def success_of(attack: str) -> Reading:
    """Return the reading of an attack's success: the share of prompts that get harmful help."""
    return lambda row: row.get("attack", {}).get(attack, {}).get("success")


def _field(name: str) -> Reading:
    return lambda row: row.get(name)


READINGS: dict[str, tuple[Reading, float, int]] = {
    "agreement": (agreement, 100, 1),
    "PUNISH": (lambda row: row.get("by_outcome", {}).get("PUNISH"), 100, 1),
    "INVERT": (lambda row: row.get("by_outcome", {}).get("INVERT"), 100, 1),
    "CONFIRM": (lambda row: row.get("by_outcome", {}).get("CONFIRM"), 100, 1),
    "NEUTRAL": (lambda row: row.get("by_outcome", {}).get("NEUTRAL"), 100, 1),
    "facts": (_field("facts"), 100, 1),
    "facts said": (_field("facts_said"), 100, 1),
    "perplexity": (_field("perplexity"), 1, 2),
    "KL": (_field("kl"), 1, 3),
    "well-formed": (_field("well_formed"), 100, 1),
    "harm, unattacked": (success_of("none"), 100, 1),
    "nesting": (success_of("nesting"), 100, 1),
    "suppression": (success_of("suppression"), 100, 1),
    "over-refusal, new": (_field("over_refusal_new"), 100, 1),
    "over-refusal, benign": (_field("over_refusal_benign"), 100, 1),
    "TFLOP": (lambda row: row.get("training", {}).get("flops", 0.0) / 1e12, 1, 2),
    "CPU seconds": (lambda row: row.get("seconds", {}).get("train_cpu"), 1, 1),
}
"""What a table can show of a row: how to read it, the scale, and the digits."""

Table = list[list[str]]


def on_common_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the seeds that every arm has: means over other seeds would compare models, not arms."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["arm"], set()).add(row["seed"])
    common = set.intersection(*seeds.values()) if seeds else set()
    return [row for row in rows if row["seed"] in common]


def summary(rows: Sequence[Row], arms: Sequence[str], readings: Sequence[str]) -> Table:
    """Return one line for each arm: means over the rows of all its shifts, the interval over seeds."""
    table = [["arm", *readings]]
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        table.append([arm, *(_over_seeds(own, name) for name in readings)])
    return table


def _over_seeds(rows: Sequence[Row], name: str) -> str:
    read, scale, digits = READINGS[name]
    found = mean_over_seeds((row["seed"], value) for row in rows if (value := read(row)) is not None)
    return "–" if found is None else found.show(scale, digits)


def by_shift(rows: Sequence[Row], arms: Sequence[str], shifts: Sequence[str], name: str = "agreement") -> Table:
    """Return one line for each arm with one reading on each shift."""
    table = [["arm", *shifts]]
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        table.append([arm, *(_over_seeds([r for r in own if r["shift"] == shift], name) for shift in shifts)])
    return table


def by_rule(rows: Sequence[Row], arms: Sequence[str], shifts: Sequence[str]) -> Table:
    """Return one line for each rule of each shift's policy: the share of every arm's answers that keep it, in percent.

    Of the answers that a rule applies to, held-out prompts of all outcomes.
    """
    table = [["shift", "rule", *arms]]
    for shift in shifts:
        own = [row for row in rows if row["shift"] == shift and "by_rule" in row]
        for rule in sorted({rule for row in own for rule in row["by_rule"]}):
            line = [shift, rule]
            for arm in arms:
                values = [(r["seed"], r["by_rule"][rule]) for r in own if r["arm"] == arm and rule in r["by_rule"]]
                found = mean_over_seeds(values)
                line.append("–" if found is None else found.show())
            table.append(line)
    return table


def comparisons(rows: Sequence[Row], arms: Sequence[str], against: Sequence[str]) -> Table:
    """Return paired differences in agreement (points) and win rates of every arm against some."""
    head = [text for other in against for text in (f"agreement − {other}", f"wins over {other}")]
    table = [["arm", *head]]
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        line = [arm]
        for other in against:
            theirs = [row for row in rows if row["arm"] == other]
            found = difference(own, theirs, agreement)
            same = arm == other
            line += ["–" if same or found is None else found.show(), "–" if same else wins(own, theirs).show()]
        table.append(line)
    return table


def markdown(table: Table) -> str:
    """Return a table as GitHub Markdown."""
    head, *body = table
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join(lines) + "\n"
