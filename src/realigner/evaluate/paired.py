"""Differences of the same items before and after, with intervals that stay honest for few items; by statsmodels.

Items are documents, statements, prompts. Where every item came out the same before and after, a bootstrap would
return an interval of no width, and ten documents would prove that nothing was lost. These do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from realigner.evaluate.evidence import Figure
from realigner.evaluate.statistics import ADJUSTED, Interval, adjusted_limits, proportion

T = "Student's t"


def score_level(values: Sequence[float], *, unit: str = "share") -> Figure | None:
    """Return the mean of scores in [0, 1]: with Wilson's interval where all are 0 or 1, else with Student's t.

    None for no items.
    """
    if values and all(value in (0.0, 1.0) for value in values):
        share = proportion(int(sum(values)), len(values))
        assert share is not None
        return _with(share, unit=unit)
    return mean_level(values, unit=unit)


def score_difference(before: Sequence[float], after: Sequence[float], margin: float) -> Figure | None:
    """Return the mean of after − before for scores in [0, 1], its 95 % interval, p, and whether it is non-inferior.

    The interval is that of Bonett and Price (2012, Journal of Educational and Behavioral Statistics 37:479) for paired
    proportions: Wald's, after one item gained and one lost were added. Scores between 0 and 1 vary less than these
    extremes, so it is on the safe side for them. p of 0/1 scores is McNemar's exact, else the paired t test's.

    Non-inferior: the lower end of the interval lies above −margin, a one-sided test at 2.5 %.

    Args:
        before: score of each item.
        after: of the same items, in the same order.
        margin: how much worse still counts as no worse, above 0.
    """
    from scipy.stats import binomtest

    differences = _differences(before, after)
    if len(differences) == 0:
        return None
    low, high = adjusted_limits(differences)
    value = float(differences.mean())
    gained, lost = int((differences == 1).sum()), int((differences == -1).sum())
    whole = gained + lost == int((differences != 0).sum())
    p = (binomtest(gained, gained + lost).pvalue if gained + lost else 1.0) if whole else _t_p(differences)
    return Figure(
        value=value,
        low=low,
        high=high,
        n=len(differences),
        method=ADJUSTED,
        unit="share",
        p=float(p),
        p_method="McNemar, exact" if whole else "paired t test",
        margin=margin,
        non_inferior=bool(low > -margin),
    )


def mean_level(values: Sequence[float], *, unit: str) -> Figure | None:
    """Return a mean with its 95 % t interval; None for no items. One item has no interval: it is its own value."""
    from statsmodels.stats.weightstats import DescrStatsW

    found = np.asarray(values, dtype=float)
    if len(found) == 0:
        return None
    value = float(found.mean())
    if len(found) == 1:
        return Figure(value=value, low=value, high=value, n=1, method="a single item: no interval", unit=unit)
    if np.ptp(found) == 0:
        return Figure(value=value, low=value, high=value, n=len(found), method="no variation", unit=unit)
    low, high = DescrStatsW(found).tconfint_mean()
    return Figure(value=value, low=float(low), high=float(high), n=len(found), method=T, unit=unit)


def mean_difference(before: Sequence[float], after: Sequence[float], *, unit: str) -> Figure | None:
    """Return the mean of after − before with its 95 % t interval and the paired t test's p; None for no items.

    A single item has neither p nor interval. Where all items changed by the same amount there is nothing for a t test
    to divide by: p is then the sign test's.
    """
    return mean_change(_differences(before, after), unit=unit)


def mean_change(differences: Any, *, unit: str) -> Figure | None:
    """Return what `mean_difference` does, of the differences themselves."""
    from scipy.stats import binomtest

    changes = np.asarray(differences, dtype=float)
    found = mean_level(changes.tolist(), unit=unit)
    if found is None or len(changes) == 1:
        return found
    if np.ptp(changes) > 0:
        found["p"], found["p_method"] = _t_p(changes), "paired t test"
    else:
        n = int((changes != 0).sum())
        found["p"], found["p_method"] = float(binomtest(n, n).pvalue) if n else 1.0, "sign test"
    return found


def with_holm(figures: Sequence[Figure | None]) -> None:
    """Put p corrected for their number beside the p of each figure that has one (Holm 1979)."""
    from realigner.evaluate.statistics import holm

    tested = [figure for figure in figures if figure is not None and "p" in figure]
    for figure, p in zip(tested, holm([figure["p"] for figure in tested]), strict=True):
        figure["p_holm"] = p


def _with(interval: Interval, *, unit: str) -> Figure:
    figure: Figure = {**interval, "unit": unit}  # type: ignore[typeddict-item]  # mypy wants the optional keys too
    return figure


def _differences(before: Sequence[float], after: Sequence[float]) -> Any:
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before, {len(after)} after")
    return np.asarray(after, dtype=float) - np.asarray(before, dtype=float)


def _t_p(differences: Any) -> float:
    from statsmodels.stats.weightstats import DescrStatsW

    return float(DescrStatsW(differences).ttest_mean(0.0)[1])
