"""Every figure with its interval, n and method. The arithmetic is scipy's and statsmodels'."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from realigner.audit.estimate import wilson_limits

RESAMPLES = 2000
_INDICES = 2_000_000
"""Resampled indices held in memory at a time."""


class Interval(TypedDict):
    """A figure: value, 95 % interval, number of observations, method."""

    value: float
    low: float
    high: float
    n: int
    method: str
    clusters: NotRequired[int]
    """Where observations come in clusters: how many there are."""
    wilson: NotRequired[list[float]]
    """Beside a clustered interval: the one that takes all observations for independent."""


def clustered_proportion(hits: Sequence[bool], clusters: Sequence[Hashable]) -> Interval | None:
    """Return a share whose 95 % interval allows for answers to one prompt being alike; None for n = 0.

    With one observation a cluster it is Wilson's. Otherwise the variance V of the mean is the cluster-robust one of
    statsmodels, and the interval is Wilson's at n* = p(1−p)/V · (z / t)², with z of the normal and t of Student's
    distribution for clusters − 1 (Korn and Graubard 1998, Survey Methodology 24:193). Where all observations are
    equal, n* is the number of clusters.

    Args:
        hits: whether each observation succeeded.
        clusters: what each observation belongs to, e.g. its prompt.
    """
    found = share_interval(hits, clusters)
    plain = proportion(sum(hits), len(hits))
    if found is None or plain is None or found["clusters"] == len(hits):
        return plain
    return Interval(**{**found, "wilson": [plain["low"], plain["high"]]})


def share_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval | None:
    """Return the mean of values in [0, 1] (a tie counts one half) with a 95 % interval; None for n = 0.

    It is Wilson's at the effective sample size of `clustered_proportion`, so that 20 wins of 20 are no certainty.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} observations have {len(clusters)} clusters")
    if not values:
        return None
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    found = np.array(values, dtype=float)
    n = _effective_n(found, np.array([number[name] for name in clusters]), len(number))
    mean = float(found.mean())
    low, high = wilson_limits(mean, n)
    return Interval(
        value=mean,
        low=low,
        high=high,
        n=len(values),
        method="cluster-robust, Wilson at the effective sample size",
        clusters=len(number),
    )


def _effective_n(values: Any, groups: Any, clusters: int) -> float:
    from scipy.stats import norm, t
    from statsmodels.regression.linear_model import OLS

    share = float(values.mean())
    if share in (0, 1) or clusters < 2:
        return float(clusters)
    fit = OLS(values, np.ones((len(values), 1))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    variance = float(fit.bse[0]) ** 2
    if variance < 1e-12:  # every cluster has the same share, but for rounding
        return float(clusters)
    small = float(norm.ppf(0.975) / t.ppf(0.975, clusters - 1)) ** 2
    return share * (1 - share) / variance * small


def proportion(successes: int, n: int) -> Interval | None:
    """Return a share with its 95 % Wilson score interval; None for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    found = binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(value=successes / n, low=float(found.low), high=float(found.high), n=n, method="Wilson")


def paired_change(before: Sequence[bool], after: Sequence[bool], seed: int) -> dict[str, Any] | None:
    """Return the change of a share on the same items, its 95 % bootstrap interval, and McNemar's exact p.

    Args:
        before: whether each item succeeded before.
        after: the same items after.
        seed: of the resampling.
    """
    from scipy.stats import binomtest

    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    change = _widened(mean_interval(differences, seed), differences)
    if change is None:
        return None
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return {
        **change,
        "gained": gained,
        "lost": lost,
        "p": float(p),
        "p_method": "McNemar, exact",
        "mcnemar_p": float(p),
    }


def clustered_change(
    before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable], seed: int
) -> dict[str, Any] | None:
    """Return the change of a share with its 95 % interval and p, answers to one prompt taken together.

    With one answer a prompt it is `paired_change`. Otherwise each cluster counts by its mean before and after: the
    bootstrap resamples clusters, and p is that of 9,999 seeded flips of the signs of their differences.

    Args:
        before: whether each observation succeeded before.
        after: the same after, in the same order of clusters.
        clusters: what each observation belongs to.
        seed: of the resampling.
    """
    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    if len(number) == len(before):
        return paired_change(before, after, seed)
    groups = np.array([number[name] for name in clusters])
    sizes = np.bincount(groups)
    differences = np.array(after, dtype=float) - np.array(before, dtype=float)
    sums = np.bincount(groups, weights=differences)
    change = _widened(ratio_interval(sums, sizes, seed), sums / sizes)
    assert change is not None
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    p = _sign_flip_p(sums, seed)
    return {**change, "gained": gained, "lost": lost, "p": p, "p_method": "sign flips of prompts", "mcnemar_p": None}


ADJUSTED = "adjusted Wald (one item gained and one lost added)"


def adjusted_limits(differences: Any) -> tuple[float, float]:
    """Return a 95 % interval for a mean change of shares, in [-1, 1], that has width for few items and equal ones too.

    Bonett and Price (2012, Journal of Educational and Behavioral Statistics 37:479): Wald's, after one item gained and
    one lost were added. Changes between −1 and 1 vary less than these, so it is on the safe side for them.

    Args:
        differences: after − before of each item.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    found = np.asarray(differences, dtype=float)
    value = float(found.mean())
    low, high = DescrStatsW(np.append(found, [1.0, -1.0])).zconfint_mean()
    return max(min(float(low), value), -1.0), min(max(float(high), value), 1.0)


def _widened(change: Interval | None, differences: Any) -> Interval | None:
    """Return a change with width where all items changed alike: a bootstrap sees no way that others might not."""
    if change is None or change["low"] < change["high"]:
        return change
    low, high = adjusted_limits(differences)
    return Interval(**{**change, "low": low, "high": high, "method": ADJUSTED})


def _sign_flip_p(sums: Any, seed: int) -> float:
    """Return how often flips of the signs give a sum at least this far from 0; 1 where there is nothing to flip."""
    from scipy.stats import permutation_test

    if len(sums) < 2 or not np.any(sums):
        return 1.0
    found = permutation_test(
        (sums,),
        lambda x, axis=-1: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=max(1, _INDICES // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def sign_p(signs: Sequence[float], clusters: Sequence[Hashable], seed: int) -> float:
    """Return the two-sided p of wins (above 0) against losses (below 0): exact where each cluster has one, else by
    seeded flips of the signs of clusters. Ties do not count.
    """
    from scipy.stats import binomtest

    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    if len(number) == len(signs):
        won, lost = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
        return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    groups = np.array([number[name] for name in clusters])
    return _sign_flip_p(np.bincount(groups, weights=np.array(signs, dtype=float)), seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979), in their order."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), method="holm")[1]] if p_values else []


def mean_interval(values: Any, seed: int) -> Interval | None:
    """Return a mean with its 95 % percentile bootstrap interval over the items; None for none."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return None
    return _bootstrap((values,), lambda x, axis=-1: np.mean(x, axis=axis), seed, n=len(values))


def ratio_interval(
    numerators: Any, denominators: Any, seed: int, transform: Callable[[Any], Any] = lambda x: x
) -> Interval | None:
    """Return transform(Σ numerators / Σ denominators) with a 95 % bootstrap interval; items are resampled whole.

    A mean per token is such a ratio: tokens of a response are not independent, responses are. `n` counts items.

    Args:
        numerators: one value for each item.
        denominators: of the same items, all positive.
        seed: of the resampling.
        transform: applied to the ratio, and to that of every resample.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if len(top) == 0:
        return None

    def statistic(t: Any, b: Any, axis: int = -1) -> Any:
        return transform(np.sum(t, axis=axis) / np.sum(b, axis=axis))

    return _bootstrap((top, bottom), statistic, seed, n=len(top))


def _bootstrap(data: tuple[Any, ...], statistic: Callable[..., Any], seed: int, *, n: int) -> Interval:
    from scipy.stats import bootstrap

    value = float(statistic(*data))
    method = f"percentile bootstrap, {RESAMPLES} resamples, seed {seed}"
    if n < 2 or all(np.ptp(d) == 0 for d in data):
        # One item, or all alike: there is nothing to resample, and scipy would return NaN.
        return Interval(value=value, low=value, high=value, n=n, method="no variation")
    found = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, _INDICES // n),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value=value, low=float(found.low), high=float(found.high), n=n, method=method)
