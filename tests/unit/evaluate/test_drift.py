"""Movement beyond the drift: worked numbers, scipy, and coverage for values of one key, of both, and of few items."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from realigner.evaluate.drift import Changes, beyond_drift, drift_of


def test_items_of_both_keys_take_drift_and_movement_apart() -> None:
    """Yes rose by 3 where it speaks for the value and by 1 where it speaks against: drift 2, movement 1."""
    value = Changes.of([1, 1, -1, -1], [2.9, 3.1, -0.8, -1.2])
    found, drift = beyond_drift(value, None), drift_of([value])
    assert found is not None and drift is not None
    assert found["value"] == pytest.approx(1.0) and drift.figure["value"] == pytest.approx(2.0)
    expected = ttest_ind([2.9, 3.1], [0.8, 1.2], equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((interval.low / 2, interval.high / 2))


def test_a_value_of_one_key_borrows_the_drift_of_the_others_with_its_error() -> None:
    others = [Changes.of([1, 1, -1, -1], [m + 0.1, m - 0.1, 0.1 - m, -m - 0.1]) for m in (1.8, 2.0, 2.2)]
    drift = drift_of(others)
    assert drift is not None and drift.figure["value"] == pytest.approx(2.0)
    assert drift.error == pytest.approx(0.2 / 3**0.5)
    found = beyond_drift(Changes.of([1] * 4, [2.4, 2.6, 2.5, 2.5]), drift)
    assert found is not None and found["value"] == pytest.approx(0.5)
    spread = np.hypot(np.std([2.4, 2.6, 2.5, 2.5], ddof=1) / 2, drift.error)
    assert found["high"] - found["value"] == pytest.approx(3.182446 * spread, rel=1e-5)  # t of 3 degrees


@pytest.mark.parametrize("against", [0, 1, 4])
def test_the_interval_covers_whatever_the_keys_and_the_drift(against: int) -> None:
    """250 draws: 8 items with sd 1, a drift of 3 nats, a movement of 0.4; twelve other values show the drift."""
    rng = np.random.default_rng(against)
    keys = np.array([-1] * against + [1] * (8 - against))
    balanced = np.array([-1] * 4 + [1] * 4)
    covered = 0
    for _ in range(250):
        others = [Changes.of(balanced, balanced * (3 + rng.normal(size=8))) for _ in range(12)]
        found = beyond_drift(Changes.of(keys, 0.4 + keys * (3 + rng.normal(size=8))), drift_of(others))
        assert found is not None
        covered += found["low"] <= 0.4 <= found["high"]
    assert 0.91 <= covered / 250 <= 0.99


def test_changes_that_do_not_vary_fall_back_to_the_sign_test() -> None:
    found = beyond_drift(Changes.of([1, 1, -1, -1], [2.0, 2.0, 2.0, 2.0]), None)
    assert found is not None and found["value"] == 2.0 and found["p"] == pytest.approx(2 / 2**4)
    still = beyond_drift(Changes.of([1, 1, -1, -1], [3.0, 3.0, -3.0, -3.0]), None)  # all of it drift
    assert still is not None and (still["value"], still["p"]) == (0.0, 1.0)
    drift = drift_of([Changes.of([1, 1, -1, -1], [3.0, 3.0, -3.0, -3.0])])
    assert drift is not None and (drift.figure["value"], drift.figure["method"]) == (3.0, "no variation")
