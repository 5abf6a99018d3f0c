"""Intervals: worked numbers, coverage by simulation, and inputs that leave nothing to resample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from realigner.evaluate import statistics
from realigner.evaluate.statistics import (
    ADJUSTED,
    clustered_change,
    clustered_proportion,
    holm,
    mean_interval,
    paired_change,
    proportion,
    ratio_interval,
)

Z = 1.959963984540054
SIMULATIONS = 300
# Three standard errors of a share of 300 are 0.038; the percentile bootstrap undercovers a little at these sizes.
LEAST, MOST = 0.90, 0.985


# -- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_a_share_has_the_wilson_interval_of_newcombe_1998_table_1(
    successes: int, n: int, low: float, high: float
) -> None:
    found = proportion(successes, n)
    assert found is not None
    assert (found["value"], found["n"], found["method"]) == (successes / n, n, "Wilson")
    assert found["low"] == pytest.approx(low, abs=5e-5)
    assert found["high"] == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 100_000])
def test_wilson_is_the_closed_form_for_every_count(n: int) -> None:
    for successes in {0, 1, n // 3, n // 2, n}:
        share = successes / n
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        found = proportion(successes, n)
        assert found is not None
        assert found["low"] == pytest.approx(max(centre - half, 0), abs=1e-9)
        assert found["high"] == pytest.approx(min(centre + half, 1), abs=1e-9)
        assert 0 <= found["low"] <= share <= found["high"] <= 1


def test_a_share_of_nothing_is_none() -> None:
    assert proportion(0, 0) is None


# -- change on the same items ---------------------------------------------------------------------------------------


def flips(gained: int, lost: int, kept: int) -> tuple[list[bool], list[bool]]:
    return [False] * gained + [True] * (lost + kept), [True] * gained + [False] * lost + [True] * kept


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (9, 1, 22 / 1024),  # 2 · (1 + 10) / 2¹⁰
        (5, 0, 2 / 32),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_exact_and_counts_only_items_that_changed(gained: int, lost: int, p: float) -> None:
    found = paired_change(*flips(gained, lost, kept=30), seed=0)
    assert found is not None
    assert (found["gained"], found["lost"], found["n"]) == (gained, lost, gained + lost + 30)
    assert found["mcnemar_p"] == pytest.approx(p, rel=1e-12)
    assert found["value"] == pytest.approx((gained - lost) / (gained + lost + 30))


def test_the_change_turns_its_sign_with_its_sides() -> None:
    before, after = flips(9, 2, 20)
    there, back = paired_change(before, after, 0), paired_change(after, before, 0)
    assert there is not None
    assert back is not None
    assert there["value"] == -back["value"]
    assert there["mcnemar_p"] == back["mcnemar_p"]


def test_sides_of_unequal_length_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_change([True, False, True], [True], seed=0)


# -- coverage -------------------------------------------------------------------------------------------------------


def coverage(truth: float, draw: Callable[[np.random.Generator, int], Any]) -> float:
    hits = 0
    for seed in range(SIMULATIONS):
        found = draw(np.random.default_rng(seed), seed)
        hits += found["low"] <= truth <= found["high"]
    return hits / SIMULATIONS


def test_the_interval_of_a_change_covers_the_truth_about_95_times_in_100() -> None:
    def draw(random: np.random.Generator, seed: int) -> Any:
        kind = random.choice(3, size=80, p=[0.25, 0.10, 0.65])  # gained, lost, unchanged
        return paired_change([bool(k == 1) for k in kind], [bool(k == 0) for k in kind], seed)

    assert LEAST <= coverage(0.15, draw) <= MOST


def test_the_interval_of_a_mean_per_token_covers_where_rows_differ_in_length_and_level() -> None:
    # Long rows have a larger KL per token, so neither the mean of rows nor independent tokens would do.
    lengths, levels = np.array([5.0, 20.0, 80.0]), np.array([0.1, 0.2, 0.6])
    truth = float((lengths * levels).sum() / lengths.sum())

    def draw(random: np.random.Generator, seed: int) -> Any:
        kind = random.integers(0, 3, size=60)
        totals = lengths[kind] * levels[kind] * random.gamma(4.0, 0.25, size=60)
        return ratio_interval(totals, lengths[kind], seed)

    assert LEAST <= coverage(truth, draw) <= MOST


# -- means and ratios -----------------------------------------------------------------------------------------------


def test_a_ratio_is_of_sums_not_the_mean_of_ratios() -> None:
    found = ratio_interval([1.0, 9.0], [1.0, 3.0], seed=0)
    assert found is not None
    assert found["value"] == 2.5
    assert (found["low"], found["high"]) == (1.0, 3.0)  # with two items, resamples hold one, the other, or both


def test_a_transform_acts_on_the_value_and_on_both_ends() -> None:
    plain, changed = (ratio_interval([1.0, 9.0, 4.0], [1.0, 3.0, 2.0], 0, f) for f in (lambda x: x, np.exp))
    assert plain is not None
    assert changed is not None
    for end in ("value", "low", "high"):
        assert changed[end] == pytest.approx(math.exp(plain[end]))  # type: ignore[literal-required]


def test_a_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, 3) == mean_interval(values, 3)
    assert mean_interval(values, 3) != mean_interval(values, 4)
    assert "seed 3" in str(mean_interval(values, 3))


def test_intervals_need_no_more_memory_at_once_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=100)
    whole = mean_interval(values, 0)
    monkeypatch.setattr(statistics, "_INDICES", 1000)
    parts = mean_interval(values, 0)
    assert whole is not None
    assert parts is not None
    assert parts["low"] == pytest.approx(whole["low"], abs=0.05)
    assert parts["high"] == pytest.approx(whole["high"], abs=0.05)


# Warnings are errors in the whole suite, so these also say that nothing is warned of.
def test_no_items_have_no_figure() -> None:
    assert mean_interval([], 0) is None
    assert ratio_interval([], [], 0) is None
    assert paired_change([], [], 0) is None


@pytest.mark.parametrize("values", [[0.3], [0.3] * 50, [0.0] * 2])
def test_one_item_or_equal_items_have_an_interval_of_no_width(values: list[float]) -> None:
    found = mean_interval(values, 0)
    assert found is not None
    assert found["low"] == found["value"] == found["high"] == pytest.approx(values[0])
    assert (found["n"], found["method"]) == (len(values), "no variation")


def test_rows_without_any_kl_have_zero_and_no_nan_whatever_their_lengths() -> None:
    found = ratio_interval([0.0] * 5, [3.0, 4.0, 5.0, 6.0, 7.0], 0)
    assert found is not None
    assert (found["value"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("items", [1, 2, 40, 1000])
def test_items_that_never_change_do_not_prove_that_none_would(items: int) -> None:
    """Bonett and Price 2012 with none gained and none lost: z √(2 / ((n + 1) (n + 2)))."""
    found = paired_change([True] * items, [True] * items, 0)
    assert found is not None
    assert (found["value"], found["mcnemar_p"], found["method"]) == (0.0, 1.0, ADJUSTED)
    reach = min(Z * math.sqrt(2 / ((items + 1) * (items + 2))), 1)
    assert found["high"] == pytest.approx(reach)
    assert found["low"] == pytest.approx(-reach)
    several = clustered_change([True] * 2 * items, [True] * 2 * items, [i // 2 for i in range(2 * items)], 0)
    assert several is not None
    assert several["high"] == pytest.approx(found["high"]), "two answers to a prompt are no two prompts"


def test_items_that_all_change_do_not_prove_that_all_would() -> None:
    found = paired_change([False] * 10, [True] * 10, 0)
    assert found is not None
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert 0.4 < found["low"] < 0.6
    assert found["mcnemar_p"] == pytest.approx(2 / 1024)


@pytest.mark.parametrize(("gain", "loss", "n"), [(0.02, 0.02, 50), (0.05, 0.0, 30), (0.97, 0.0, 20)])
def test_a_change_is_covered_also_where_few_items_change_or_nearly_all(gain: float, loss: float, n: int) -> None:
    """One or two items decide here."""
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(100):
        kind = rng.choice([1, -1, 0], size=n, p=[gain, loss, 1 - gain - loss])
        found = paired_change([bool(k == -1) for k in kind], [bool(k == 1) for k in kind], seed)
        assert found is not None
        covered += found["low"] <= gain - loss <= found["high"]
    assert covered / 100 >= LEAST


# -- answers in clusters --------------------------------------------------------------------------------------------


def test_one_answer_a_cluster_gives_wilson() -> None:
    hits = [True] * 7 + [False] * 3
    assert clustered_proportion(hits, range(10)) == proportion(7, 10)
    assert clustered_proportion([], []) is None


def test_the_clustered_variance_is_the_textbooks() -> None:
    """Cameron and Miller 2015, eq. 10 with one regressor: G/(G−1) (N−1)/(N−1) Σ_g (Σ_i (y − p))² / N²."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, size=30))
    hits = rng.random(len(clusters)) < rng.random(30)[clusters]
    p, n, groups = hits.mean(), len(hits), 30
    sums = np.bincount(clusters, weights=hits - p)
    variance = groups / (groups - 1) * (sums**2).sum() / n**2
    found = clustered_proportion(hits.tolist(), clusters.tolist())
    assert found is not None
    assert (found["value"], found["n"], found["clusters"]) == (pytest.approx(p), n, 30)
    effective = p * (1 - p) / variance * (Z / stats.t.ppf(0.975, groups - 1)) ** 2
    middle = (p + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    assert (found["low"] + found["high"]) / 2 == pytest.approx(middle)


@pytest.mark.parametrize(("hits", "n"), [([True] * 12, 3), ([False] * 12, 3), ([True, False] * 6, 3)])
def test_clusters_that_are_all_alike_count_once(hits: list[bool], n: int) -> None:
    found = clustered_proportion(hits, [i // 4 for i in range(12)])
    plain = binomtest_limits(sum(hits) / 12, n)
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx(plain)


def binomtest_limits(share: float, n: int) -> tuple[float, float]:
    middle, half = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return (middle - half) / (1 + Z**2 / n), (middle + half) / (1 + Z**2 / n)


@pytest.mark.parametrize(
    ("prompts", "answers", "a", "b"), [(60, 4, 0.5, 0.5), (30, 4, 2, 0.3), (100, 3, 5, 0.2), (15, 8, 1, 1)]
)
def test_the_clustered_interval_covers_where_wilson_does_not(prompts: int, answers: int, a: float, b: float) -> None:
    rng = np.random.default_rng(1)
    truth, clusters = a / (a + b), [i // answers for i in range(prompts * answers)]
    held = naive = 0
    for _ in range(SIMULATIONS):
        hits = rng.random(prompts * answers) < np.repeat(rng.beta(a, b, prompts), answers)
        found = clustered_proportion(hits.tolist(), clusters)
        assert found is not None
        held += found["low"] <= truth <= found["high"]
        low, high = found["wilson"]
        naive += low <= truth <= high
    assert LEAST <= held / SIMULATIONS <= MOST
    assert naive < held


def test_a_clustered_change_covers_and_its_p_is_fair_without_one() -> None:
    rng = np.random.default_rng(2)
    clusters = [i // 3 for i in range(150)]
    held, small = 0, 0
    for trial in range(120):
        chance = np.repeat(rng.beta(1, 1, 50), 3)
        before, after = (rng.random(150) < chance).tolist(), (rng.random(150) < chance).tolist()
        found = clustered_change(before, after, clusters, trial)
        assert found is not None
        held += found["low"] <= 0 <= found["high"]
        small += found["p"] < 0.05
    assert held / 120 >= LEAST
    assert small / 120 <= 0.1


def test_a_clustered_change_of_nothing_has_p_1() -> None:
    found = clustered_change([True, False] * 4, [True, False] * 4, [0, 0, 1, 1, 2, 2, 3, 3], 0)
    assert found is not None
    assert (found["value"], found["p"]) == (0, 1)


def test_a_single_prompt_shows_no_change_however_often_it_is_answered() -> None:
    found = clustered_change([False] * 5, [True] * 5, [0] * 5, 0)
    assert found is not None
    assert (found["value"], found["p"], found["n"]) == (1, 1, 1)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
