"""Paired differences: worked numbers, statsmodels, coverage by simulation, and no proof from ten documents."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel

from realigner.evaluate.paired import mean_change, mean_difference, score_difference, score_level, with_holm
from realigner.evaluate.statistics import holm


def scores(both: int, gained: int, lost: int, neither: int) -> tuple[list[float], list[float]]:
    before = [1.0] * both + [0.0] * gained + [1.0] * lost + [0.0] * neither
    after = [1.0] * both + [1.0] * gained + [0.0] * lost + [0.0] * neither
    return before, after


def test_the_difference_of_shares_is_bonett_and_prices() -> None:
    before, after = scores(both=59, gained=6, lost=16, neither=80)
    found = score_difference(before, after, margin=0.05)
    assert found is not None
    n, gained, lost = 161, (6 + 1) / 163, (16 + 1) / 163
    half = norm.ppf(0.975) * math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    assert found["value"] == pytest.approx(-10 / 161)
    # statsmodels divides the variance by n + 1 where their formula has n + 2.
    assert found["low"] == pytest.approx(gained - lost - half, abs=2e-4)
    assert found["high"] == pytest.approx(gained - lost + half, abs=2e-4)
    assert found["p"] == pytest.approx(0.052479, abs=1e-6)  # exact McNemar of 6 against 16
    assert (found["n"], found["margin"], found["non_inferior"]) == (161, 0.05, False)


def test_ten_documents_that_did_not_change_prove_nothing() -> None:
    few = score_difference([1.0] * 10, [1.0] * 10, margin=0.01)
    many = score_difference([1.0] * 1000, [1.0] * 1000, margin=0.01)
    assert few is not None and many is not None
    assert few["value"] == many["value"] == 0.0
    assert few["low"] < -0.2 and not few["non_inferior"]
    assert many["low"] > -0.004 and many["non_inferior"]
    assert few["p"] == 1.0


def test_a_difference_never_leaves_its_range_nor_its_interval() -> None:
    for both, gained, lost, neither in ((0, 50, 0, 0), (0, 0, 50, 0), (0, 1, 0, 0), (3, 0, 0, 0), (0, 2, 3, 0)):
        found = score_difference(*scores(both, gained, lost, neither), margin=0.01)
        assert found is not None
        assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert score_difference([], [], margin=0.01) is None


def test_the_interval_of_a_difference_covers_as_stated() -> None:
    """Six designs, 400 draws each: discordant pairs from rare to common, 60 and 300 documents."""
    rng = np.random.default_rng(0)
    for n in (60, 300):
        for gain, loss in ((0.02, 0.02), (0.05, 0.15), (0.0, 0.03)):
            kinds = rng.choice(3, size=(400, n), p=(gain, loss, 1 - gain - loss))
            covered = 0
            for drawn in kinds:
                before, after = (drawn == 1).astype(float), (drawn == 0).astype(float)
                found = score_difference(before.tolist(), after.tolist(), margin=0.01)
                assert found is not None
                covered += found["low"] <= gain - loss <= found["high"]
            assert covered / 400 >= 0.93, (n, gain, loss, covered / 400)


def test_a_model_that_is_worse_by_the_margin_is_rarely_called_non_inferior() -> None:
    """One-sided error at the margin itself: nominal 2.5 %, 600 draws of 400 documents."""
    rng = np.random.default_rng(1)
    wrong = 0
    for drawn in rng.choice(3, size=(600, 400), p=(0.05, 0.08, 0.87)):
        found = score_difference((drawn == 1).astype(float).tolist(), (drawn == 0).astype(float).tolist(), margin=0.03)
        assert found is not None
        wrong += bool(found["non_inferior"])
    assert wrong / 600 <= 0.045


def test_means_and_their_differences_are_students() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=12), rng.normal(loc=0.4, size=12)
    found = mean_difference(before.tolist(), after.tolist(), unit="nats")
    assert found is not None
    expected = ttest_rel(after, before)
    interval = expected.confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["unit"], found["n"]) == ("nats", 12)


def test_the_t_interval_covers_for_as_few_as_three_items() -> None:
    """Value probes have values of three to five items: normal and skewed changes, 1,000 draws each."""
    rng = np.random.default_rng(3)
    for n in (3, 5):
        for draws, truth in ((rng.normal(0.3, 1.0, (1000, n)), 0.3), (rng.gamma(4.0, 0.5, (1000, n)), 2.0)):
            intervals = [mean_change(drawn, unit="nats") for drawn in draws]
            covered = np.mean([i is not None and i["low"] <= truth <= i["high"] for i in intervals])
            assert 0.92 <= covered <= 0.975


def test_items_that_cannot_be_tested_say_so() -> None:
    alone = mean_change([0.7], unit="nats")
    assert alone is not None and "p" not in alone and alone["method"] == "a single item: no interval"
    same = mean_change([0.0] * 4, unit="nats")
    assert same is not None and same["p"] == 1.0
    shifted = mean_change([-2.0] * 4, unit="nats")
    assert shifted is not None and shifted["p"] == pytest.approx(2 / 2**4) and shifted["value"] == -2.0
    assert mean_change([], unit="nats") is None


def test_levels_of_shares_are_wilsons_and_of_other_scores_students() -> None:
    share, mean = score_level([1.0, 0.0, 1.0, 1.0]), score_level([0.5, 0.25, 1.0])
    assert share is not None and share["method"] == "Wilson" and share["value"] == 0.75
    assert mean is not None and mean["method"] == "Student's t" and mean["value"] == pytest.approx(7 / 12)


def test_holm_counts_only_what_was_tested() -> None:
    rng = np.random.default_rng(4)
    figures = [mean_change(rng.normal(0.5, 1, 8), unit="nats"), mean_change([1.0], unit="nats"), None]
    figures.append(mean_change(rng.normal(0.0, 1, 8), unit="nats"))
    with_holm(figures)
    tested = [figure for figure in (figures[0], figures[3]) if figure is not None]
    assert [figure["p_holm"] for figure in tested] == holm([figure["p"] for figure in tested])
    assert figures[1] is not None and "p_holm" not in figures[1]
