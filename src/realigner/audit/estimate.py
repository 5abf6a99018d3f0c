"""Rates of a population from a stratified sample, each with a 95 % interval. Pure arithmetic; Wilson by statsmodels.

The population is cut into cells inside which every member had the same chance to be drawn, and inside which the judge
said the same. Within cells of one verdict the prediction-powered difference estimator (arXiv 2301.09633),
raw + Σ W_h mean(human − judge), is the stratified mean Σ W_h mean(human); so one formula serves accuracy, precision,
ε and the correction of every rate.

The interval is Wilson's at the effective sample size n* = p(1−p)/V, as is usual for rates from complex surveys
(compared with others in Franco et al. 2019, Journal of Survey Statistics and Methodology 7:334). V is the variance of
the stratified estimate: Σ W_h² p_h(1−p_h)/n_h (1 − n_h/N_h). In n* every p_h is taken as (hits + 1)/(seen + 2), so that
a cell without any error, which is no cell without errors, still adds its part. One cell alone gives Wilson's interval
for n/(1 − n/N); a population that was looked at whole gives an interval of no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

LEVEL = 0.95
METHOD = "stratified, Wilson at the effective sample size"
PRODUCT = "product of the limits of its factors"
JOINED = "limits joined by MOVER"


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of the population, and what was seen of a simple random sample of it."""

    size: int
    """Members in the population, at least `seen`."""
    seen: int
    """Members whose truth is known."""
    hits: int
    """Of these, the ones that have the property."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in [0, 1] (a difference of shares: [−1, 1]) with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Members whose truth is known and that it rests on."""
    covered: float = 1.0
    """Share of the population that it speaks of; the rest lies in cells of which no member's truth is known."""
    method: str = METHOD

    @property
    def complement(self) -> Rate:
        """1 − rate."""
        return Rate(1 - self.value, 1 - self.high, 1 - self.low, self.n, self.covered, self.method)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def wilson(hits: int, seen: int) -> Rate | None:
    """Return a share with its 95 % Wilson interval; None for seen = 0."""
    if seen == 0:
        return None
    return Rate(hits / seen, *wilson_limits(hits / seen, seen), seen, method="Wilson")


def mean_rate(cells: Sequence[Cell], *, beyond: int = 0) -> Rate | None:
    """Return the share of the population that has the property; None where no member's truth is known.

    Cells without a known member are left out and told in `covered`.

    Args:
        cells: they make up the population.
        beyond: above 0, the population is itself a sample of something larger, and the rate of that is wanted
            (two-phase sampling: prompts were drawn, then answers audited). The interval then includes the first draw.
            The number says how many members came with each draw (answers to a prompt): such members are taken to be
            all alike, which is the widest that they can make it.
    """
    known = _known(cells)
    if not known:
        return None
    size, seen, hits = _columns(known)
    share = size / size.sum()
    value = float(share @ (hits / seen))
    smoothed = (hits + 1) / (seen + 2)
    near = float(share @ smoothed)
    variance = float((share**2 * _variance(smoothed, seen, size)).sum())
    if beyond:
        variance += near * (1 - near) * beyond / float(size.sum())
    return Rate(value, *_interval(value, near, variance), int(seen.sum()), _covered(cells))


def ratio_rate(cells: Sequence[Cell], on_top: Sequence[bool]) -> Rate | None:
    """Return the part of the members having the property that lies in the cells `on_top` (recall is such a ratio).

    The variance is that of the ratio linearised: Σ c_h² p_h(1−p_h)/n_h over (Σ W p)², with c = W(1−r) in the cells of
    the numerator and −W r in the others. None where nobody who has the property was seen.

    Args:
        cells: they make up the population.
        on_top: for each cell, whether it counts in the numerator.
    """
    known = _known(cells)
    size, seen, hits = _columns(known)
    if not hits.sum():
        return None
    top = np.array([flag for cell, flag in zip(cells, on_top, strict=True) if cell.seen], dtype=bool)
    share = size / size.sum()
    having = share * hits / seen
    value = float(having[top].sum() / having.sum())
    smoothed = (hits + 1) / (seen + 2)
    total = float(share @ smoothed)
    near = float((share * smoothed)[top].sum()) / total
    factor = share * np.where(top, 1 - near, -near)
    variance = float((factor**2 * _variance(smoothed, seen, size)).sum()) / total**2
    return Rate(value, *_interval(value, near, variance), int(hits.sum()), _covered(cells))


def product_rate(first: Rate, second: Rate) -> Rate:
    """Return the chance of two independent things together, with the product of their limits, which is wide."""
    return Rate(
        first.value * second.value,
        first.low * second.low,
        first.high * second.high,
        first.n + second.n,
        min(first.covered, second.covered),
        PRODUCT,
    )


def weighted_rate(weights: Sequence[float], rates: Sequence[Rate]) -> Rate | None:
    """Return Σ w_i r_i of rates from separate samples; None for none.

    Limits are joined by MOVER (Zou and Donner 2008, Statistics in Medicine 27:1693): the distance to a limit is the
    root of the summed squares of the weighted distances of the parts. A negative weight swaps a part's limits.
    """
    if not rates:
        return None
    weight = np.array(weights, dtype=float)
    p, low, high = (np.array([getattr(rate, name) for rate in rates]) for name in ("value", "low", "high"))
    down = np.where(weight >= 0, p - low, high - p)
    up = np.where(weight >= 0, high - p, p - low)
    value = float(weight @ p)
    least, most = -float(weight[weight < 0].sum()), float(weight[weight > 0].sum())
    return Rate(
        value,
        max(-least, value - float(np.sqrt(((weight * down) ** 2).sum()))),
        min(most, value + float(np.sqrt(((weight * up) ** 2).sum()))),
        sum(rate.n for rate in rates),
        min(rate.covered for rate in rates),
        JOINED,
    )


def difference(first: Rate, second: Rate) -> Rate:
    """Return first − second of rates from separate samples. Where both rise and fall together, it is too wide."""
    found = weighted_rate([1.0, -1.0], [first, second])
    assert found is not None
    return found


def _known(cells: Sequence[Cell]) -> list[Cell]:
    for cell in cells:
        if not 0 <= cell.hits <= cell.seen <= cell.size:
            raise ValueError(f"{cell}: 0 <= hits <= seen <= size must hold")
    return [cell for cell in cells if cell.seen]


def _covered(cells: Sequence[Cell]) -> float:
    return sum(cell.size for cell in cells if cell.seen) / sum(cell.size for cell in cells)


def _columns(cells: Sequence[Cell]) -> tuple[Array, Array, Array]:
    table = np.array([(cell.size, cell.seen, cell.hits) for cell in cells], dtype=float).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _variance(p: Array, seen: Array, size: Array) -> Array:
    variance: Array = p * (1 - p) / seen * (1 - seen / size)
    return variance


def _interval(value: float, near: float, variance: float) -> tuple[float, float]:
    """Return Wilson's limits at n* = near (1 − near) / variance."""
    if variance == 0:
        return value, value
    return wilson_limits(value, near * (1 - near) / variance)


def wilson_limits(value: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % limits of a share of n observations; n may be an effective number, no whole one."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * n, n, alpha=1 - LEVEL, method="wilson")
    # Rounding may leave the limits of shares 0 and 1 some 1e-17 off the share itself.
    return min(float(low), value), max(float(high), value)
