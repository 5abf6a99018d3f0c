"""A value's own movement, told apart from a drift towards yes.

A model that has come to say yes more often, whatever is asked, leans more towards every value whose statements are
agreed with. Statements keyed the other way show it: a drift moves the log-odds of yes alike on both kinds, a value
moves them apart. With d the change of the log-odds of the high answer (yes) on an item:

    movement = (mean d of items for the value − mean d of those against it) / 2
    drift    = (mean d of items for the value + mean d of those against it) / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realigner.evaluate.evidence import Figure
from realigner.evaluate.paired import mean_change, mean_level

ENOUGH = 2
"""Items of each key without which a value shows no drift."""


@dataclass(frozen=True)
class Changes:
    """How the log-odds of the high answer changed on the items of one value, in nats."""

    towards: np.ndarray
    """Items whose high answer speaks for the value."""
    against: np.ndarray
    """Items whose low answer does (reverse-keyed)."""

    @classmethod
    def of(cls, keys: Sequence[int], changes: Sequence[float]) -> Changes:
        """Take items apart by their key, 1 or -1; `changes` are of the lean towards the value."""
        key, keyed = np.asarray(keys), np.asarray(changes, dtype=float)
        return cls(keyed[key == 1], -keyed[key == -1])

    @property
    def separable(self) -> bool:
        """Whether drift and movement can be told apart by this value alone."""
        return min(len(self.towards), len(self.against)) >= ENOUGH

    @property
    def middle(self) -> float:
        """The drift that this value shows."""
        return float(self.towards.mean() + self.against.mean()) / 2

    def keyed(self, drift: float) -> np.ndarray:
        """Return the changes of the lean towards the value, without a drift."""
        return np.concatenate([self.towards - drift, drift - self.against])

    @property
    def one_sided(self) -> float:
        """How much of a drift the mean lean takes on: 1 where all items have one key, 0 where they are balanced."""
        return (len(self.towards) - len(self.against)) / (len(self.towards) + len(self.against))


@dataclass(frozen=True)
class Drift:
    """The drift of a set of items, and its standard error."""

    figure: Figure
    error: float


def drift_of(values: Sequence[Changes]) -> Drift | None:
    """Return the drift of a set, from its values that have items of both keys; None where none has.

    The mean over values with its t interval; with a single one Welch's interval over its items.
    """
    found = [value for value in values if value.separable]
    if not found:
        return None
    if len(found) == 1:
        figure = _welch(found[0].towards, -found[0].against)
        middle = found[0].middle
        error = float(np.sqrt(_variance(found[0].towards) + _variance(found[0].against))) / 2
        return Drift(figure or _fixed(middle, found[0]), error)
    middles = [value.middle for value in found]
    level = mean_level(middles, unit="nats")
    assert level is not None
    return Drift(level, float(np.std(middles, ddof=1)) / len(middles) ** 0.5)


def beyond_drift(value: Changes, drift: Drift | None) -> Figure | None:
    """Return a value's own movement with interval and p, in nats; None for no items.

    * Items of both keys, two or more each: half the difference of their means, Welch's t. Nothing is assumed of the
      drift.
    * Else, with a drift known from other values: the mean lean without it, Student's t on the items; the error of the
      drift is added as far as it does not cancel.
    * Else: the mean change as it is, and the method says so.
    """
    if value.separable:
        return _welch(value.towards, value.against) or mean_change(value.keyed(value.middle), unit="nats")
    if drift is None:
        plain = mean_change(value.keyed(0.0), unit="nats")
        return plain and _named(plain, f"{plain['method']}; drift not removed")
    keyed = value.keyed(drift.figure["value"])
    found = mean_change(keyed, unit="nats")
    if found is None or len(keyed) < 2:
        return found
    from scipy.stats import t

    error = float(np.hypot(np.sqrt(_variance(keyed)), value.one_sided * drift.error))
    if error == 0:
        return found
    low, high = t.interval(0.95, len(keyed) - 1, loc=found["value"], scale=error)
    p = 2 * t.sf(abs(found["value"]) / error, len(keyed) - 1)
    found["low"], found["high"], found["p"], found["p_method"] = float(low), float(high), float(p), "t test"
    return _named(found, "Student's t, without the drift of the set")


def _welch(first: np.ndarray, second: np.ndarray) -> Figure | None:
    """Return half the difference of two means with Welch's interval and p; None where neither varies."""
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return None
    means: Any = CompareMeans(DescrStatsW(first), DescrStatsW(second))
    low, high = means.tconfint_diff(usevar="unequal")
    return Figure(
        value=float(first.mean() - second.mean()) / 2,
        low=float(low) / 2,
        high=float(high) / 2,
        n=len(first) + len(second),
        method="Welch's t, items of either key",
        unit="nats",
        p=float(means.ttest_ind(usevar="unequal")[1]),
        p_method="Welch's t test",
    )


def _variance(values: np.ndarray) -> float:
    """Return the squared standard error of a mean."""
    return float(np.var(values, ddof=1)) / len(values)


def _fixed(value: float, changes: Changes) -> Figure:
    n = len(changes.towards) + len(changes.against)
    return Figure(value=value, low=value, high=value, n=n, method="no variation", unit="nats")


def _named(figure: Figure, method: str) -> Figure:
    figure["method"] = method
    return figure
