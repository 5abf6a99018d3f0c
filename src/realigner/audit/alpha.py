"""Agreement between annotators: Krippendorff's α for nominal labels, with a bootstrap over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's α: 1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement."""

    value: float
    low: float
    high: float
    items: int
    """Items that at least two people labelled; α rests on these alone."""
    raw: float
    """Share of the pairs of labels on one item that are equal, each item counting alike."""
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def nominal_alpha(counts: Sequence[Sequence[int]], seed: int, resamples: int = RESAMPLES) -> Alpha | None:
    """Return α of how often each item was given each label, with the 95 % percentile interval over items.

    None where fewer than two items have two labels, or where all labels are the same: α is not defined then (nothing
    varies that people could agree upon beyond chance). Resamples in which nothing varies are left out.

    Args:
        counts: items × labels; a missing answer is simply not counted. Items of fewer than two answers are ignored.
        seed: of the bootstrap.
        resamples: how many.
    """
    table = np.asarray(counts, dtype=float)
    table = table[table.sum(axis=1) >= 2] if table.size else table.reshape(0, 2)
    if len(table) < 2:
        return None
    value = _alpha(table)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    found = [_alpha(table[rng.integers(len(table), size=len(table))]) for _ in range(resamples)]
    kept = np.array([alpha for alpha in found if alpha is not None])
    low, high = np.percentile(kept, [2.5, 97.5])
    left_out = resamples - len(kept)
    method = f"percentile bootstrap over items, {resamples} resamples, seed {seed}"
    if left_out:
        method += f", {left_out} without variation left out"
    n = table.sum(axis=1)
    raw = float(((table * (table - 1)).sum(axis=1) / (n * (n - 1))).mean())
    return Alpha(value, float(low), float(high), len(table), raw, method)


def _alpha(table: np.ndarray[Any, Any]) -> float | None:
    from krippendorff import alpha

    if (table.sum(axis=0) > 0).sum() < 2:
        return None
    return float(alpha(value_counts=table, level_of_measurement="nominal"))
