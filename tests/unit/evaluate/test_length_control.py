"""The win rate at equal length: against statsmodels' own formula, a judge that likes length, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from realigner.evaluate.length_control import length_controlled


def drawn(theta: float, phi: float, n: int, seed: int) -> tuple[list[float], list[float]]:
    """Draw wins of a judge with these coefficients, and differences of length."""
    rng = np.random.default_rng(seed)
    delta = rng.normal(50, 100, size=n)
    chance = expit(theta + phi * np.tanh(delta / np.sqrt(np.mean(delta**2))))
    return [float(x) for x in rng.random(n) < chance], list(delta)


def test_it_is_what_a_logit_of_statsmodels_says_at_equal_length() -> None:
    import statsmodels.api as sm

    scores, delta = drawn(0.4, 1.0, 200, 0)
    found, why = length_controlled(scores, delta, range(200))
    feature = np.tanh(np.array(delta) / math.sqrt(sum(d * d for d in delta) / 200))
    fit = sm.Logit(np.array(scores), sm.add_constant(feature)).fit(disp=0)
    assert found is not None and why == ""
    assert found["value"] == pytest.approx(float(fit.predict([[1.0, 0.0]])[0]), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]


def test_a_judge_that_only_likes_length_prefers_neither_at_equal_length() -> None:
    scores, delta = drawn(0.0, 2.5, 400, 1)
    found, _ = length_controlled(scores, delta, range(400))
    assert found is not None
    assert sum(scores) / 400 > 0.55, "the raw rate goes by length"
    assert found["low"] < 0.5 < found["high"]


def test_without_a_difference_of_length_it_is_the_win_rate() -> None:
    scores = [1.0, 0.5, 0.0, 1.0, 1.0, 1.0, 0.5, 0.0, 1.0, 1.0]
    found, _ = length_controlled(scores, [0] * 10, range(10))
    assert found is not None
    assert found["value"] == pytest.approx(0.7)


def test_changing_sides_gives_the_complement() -> None:
    scores, delta = drawn(0.4, 1.0, 100, 2)
    one, _ = length_controlled(scores, delta, range(100))
    other, _ = length_controlled([1 - s for s in scores], [-d for d in delta], range(100))
    assert one is not None and other is not None
    assert one["value"] == pytest.approx(1 - other["value"])
    assert (one["low"], one["high"]) == pytest.approx((1 - other["high"], 1 - other["low"]))


def test_repeating_every_comparison_of_a_prompt_leaves_the_interval_as_wide() -> None:
    scores, delta = drawn(0.4, 1.0, 60, 3)
    one, _ = length_controlled(scores, delta, range(60))
    three, _ = length_controlled(scores * 3, delta * 3, [*range(60)] * 3)
    assert one is not None and three is not None
    assert three["low"] == pytest.approx(one["low"], abs=0.005)
    assert (three["n"], three["clusters"]) == (180, 60)


@pytest.mark.parametrize(
    ("scores", "delta", "why"),
    [
        ([1.0] * 20, range(20), "every comparison came out the same"),
        ([1.0, 0.0] * 10, [7] * 20, "the differences of length are all the same"),
        ([float(d > 0) for d in range(-10, 11)], range(-10, 11), "wins and losses are separated by length"),
        ([1.0, 0.5, 0.5] * 7, [9, 0, -1] * 7, "wins and losses are separated by length"),
        ([0.0, 1.0, 0.5] * 7, [9, -5, 2] * 7, "wins and losses are separated by length"),
        ([1.0, 0.0], [1, 2], "2 prompts are too few"),
    ],
)
def test_where_there_is_no_estimate_it_says_why(scores: list[float], delta: list[float], why: str) -> None:
    found, said = length_controlled(scores, list(delta), range(len(scores)))
    assert found is None
    assert said.startswith(why)


def test_the_interval_covers_the_true_rate() -> None:
    """300 draws of 120 prompts: three standard errors of 95 % are 0.038."""
    covered = 0
    for seed in range(300):
        found, _ = length_controlled(*drawn(0.5, 1.0, 120, seed), range(120))
        covered += found is not None and found["low"] <= expit(0.5) <= found["high"]
    assert 0.91 <= covered / 300 <= 0.988
