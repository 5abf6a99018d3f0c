from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from realigner.audit.estimate import (
    Cell,
    Rate,
    difference,
    mean_rate,
    product_rate,
    ratio_rate,
    weighted_rate,
    wilson,
)
from realigner.audit.sample import allocate


def test_wilson_is_the_textbooks_interval() -> None:
    # 81 of 263: the worked example of Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    rate = wilson(81, 263)
    assert rate is not None
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) is None


def test_one_cell_of_an_endless_population_gives_wilsons_interval() -> None:
    for hits in (0, 3, 20):
        rate, plain = mean_rate([Cell(10**12, 20, hits)]), wilson(hits, 20)
        assert rate is not None
        assert plain is not None
        assert (rate.value, rate.low, rate.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)


def test_a_population_that_was_looked_at_whole_has_no_interval() -> None:
    rate = mean_rate([Cell(10, 10, 4), Cell(30, 30, 30)])
    assert rate is not None
    assert (rate.low, rate.value, rate.high) == (0.85, 0.85, 0.85)


def test_the_stratified_mean_is_the_difference_estimator_where_cells_hold_one_verdict() -> None:
    rng = np.random.default_rng(0)
    sizes, judged = [400, 300, 200], [1, 0, 1]
    seen = [40, 30, 50]
    humans = [rng.random(n) < p for n, p in zip(seen, (0.8, 0.2, 0.6), strict=True)]
    total = sum(sizes)
    raw = sum(size for size, yes in zip(sizes, judged, strict=True) if yes) / total
    # Written out: the judge's rate over the population, and the weighted mean of human minus judge over the sample.
    correction = sum(
        (size / total) * sum(float(human) - yes for human in found) / len(found)
        for size, yes, found in zip(sizes, judged, humans, strict=True)
    )
    cells = [Cell(n, len(found), int(found.sum())) for n, found in zip(sizes, humans, strict=True)]
    rate = mean_rate(cells)
    assert rate is not None
    assert rate.value == pytest.approx(raw + correction)


def test_the_variance_is_the_stratified_one_where_cells_are_large() -> None:
    cells = [Cell(10_000, 900, 300), Cell(40_000, 1600, 400)]
    rate = mean_rate(cells)
    assert rate is not None
    p = 0.2 * (1 / 3) + 0.8 * 0.25
    variance = 0.2**2 * (1 / 3 * 2 / 3) / 900 * (1 - 0.09) + 0.8**2 * (0.25 * 0.75) / 1600 * (1 - 0.04)
    assert rate.value == pytest.approx(p)
    assert (rate.high - rate.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.01)


def test_cells_without_a_known_member_are_left_out_and_told() -> None:
    rate = mean_rate([Cell(75, 10, 5), Cell(25, 0, 0)])
    assert rate is not None
    assert (rate.value, rate.covered, rate.n) == (0.5, 0.75, 10)
    assert mean_rate([Cell(25, 0, 0)]) is None
    assert mean_rate([]) is None


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="0 <= hits <= seen <= size"):
        mean_rate([Cell(5, 6, 1)])


def test_recall_on_a_worked_table() -> None:
    # Of 1,000 called so 80 % are so; of 4,000 not called so 5 % are: 800 of 1,000 are found.
    rate = ratio_rate([Cell(1000, 50, 40), Cell(4000, 100, 5)], [True, False])
    assert rate is not None
    assert rate.value == pytest.approx(0.8)
    assert rate.low < 0.8 < rate.high
    assert ratio_rate([Cell(10, 5, 0)], [True]) is None
    all_found = ratio_rate([Cell(1000, 50, 40), Cell(4000, 100, 0)], [True, False])
    assert all_found is not None
    assert all_found.value == all_found.high == 1
    assert all_found.low < 0.97, "no miss among 100 does not mean no miss among 4,000"


def test_a_complement_swaps_the_limits() -> None:
    rate = Rate(0.2, 0.1, 0.4, 30)
    assert (rate.complement.value, rate.complement.low, rate.complement.high) == (0.8, 0.6, 0.9)


def test_products_and_sums_of_rates() -> None:
    first, second = Rate(0.5, 0.4, 0.6, 10), Rate(0.2, 0.1, 0.4, 30)
    both = product_rate(first, second)
    assert (both.value, both.low, both.high, both.n) == pytest.approx((0.1, 0.04, 0.24, 40))
    change = difference(first, second)
    assert change.value == pytest.approx(0.3)
    assert change.low == pytest.approx(0.3 - math.hypot(0.1, 0.2))
    assert change.high == pytest.approx(0.3 + math.hypot(0.1, 0.1))
    assert weighted_rate([], []) is None


def hold(truth: float, rates: Sequence[Rate | None]) -> float:
    """Return the share of intervals that hold the truth."""
    held = [rate is not None and rate.low - 1e-12 <= truth <= rate.high + 1e-12 for rate in rates]
    return sum(held) / len(held)


def drawn(rng: np.random.Generator, sizes: Sequence[int], hits: Sequence[int], seen: Sequence[int]) -> list[Cell]:
    return [
        Cell(size, n, int(rng.hypergeometric(hit, size - hit, n)))
        for size, hit, n in zip(sizes, hits, seen, strict=True)
    ]


def test_an_audit_of_500_covers_where_the_raw_judge_never_does() -> None:
    """2,250 responses of which people call 48.5 % compliant and the judge 61.6 %: by verdict, 1386 and 864."""
    rng = np.random.default_rng(1)
    sizes, hits = (1386, 864), (1000, 91)
    truth, raw = sum(hits) / 2250, 1386 / 2250
    assert (round(truth, 3), round(raw, 3)) == (0.485, 0.616)
    rates = [mean_rate(drawn(rng, sizes, hits, (300, 200))) for _ in range(1500)]
    assert hold(truth, rates) >= 0.93
    assert hold(raw, rates) == 0
    widths = [rate.high - rate.low for rate in rates if rate is not None]
    assert np.mean(widths) < 0.084, "no wider than the simple difference estimator"


@pytest.mark.parametrize(("n", "share"), [(500, 0.03), (500, 0.1), (500, 0.5), (150, 0.1), (150, 0.5)])
def test_rates_over_many_small_strata_are_covered(n: int, share: float) -> None:
    rng = np.random.default_rng(2)
    sizes = [50, 100, 200, 400, 800, 3000] * 4
    hits = [round(size * share) for size in sizes]
    seen = allocate(sizes, n)
    rates = [mean_rate(drawn(rng, sizes, hits, seen)) for _ in range(800)]
    assert hold(sum(hits) / sum(sizes), rates) >= 0.92


def test_a_judge_that_is_hardly_ever_wrong_is_not_called_perfect() -> None:
    """Errors so rare that most audits see none: the interval must not close at 100 %."""
    rng = np.random.default_rng(3)
    sizes = [50, 100, 200, 400, 800, 3000] * 4
    hits = [size - round(size * 0.01) for size in sizes]
    rates = [mean_rate(drawn(rng, sizes, hits, allocate(sizes, 150))) for _ in range(800)]
    assert hold(sum(hits) / sum(sizes), rates) >= 0.93


@pytest.mark.parametrize(
    ("sizes", "hits", "seen", "top"),
    [
        ((1386, 864), (1000, 91), (300, 200), (True, False)),
        ((5000, 300, 50), (100, 250, 50), (200, 60, 20), (False, True, True)),
        ([50, 100, 200, 400, 800, 3000] * 4, [2, 90, 10, 360, 40, 2700] * 4, [20] * 24, (False, True) * 12),
    ],
)
def test_recall_is_covered(sizes: Sequence[int], hits: Sequence[int], seen: Sequence[int], top: Sequence[bool]) -> None:
    rng = np.random.default_rng(4)
    truth = sum(hit for hit, flag in zip(hits, top, strict=True) if flag) / sum(hits)
    rates = [ratio_rate(drawn(rng, sizes, hits, seen), top) for _ in range(800)]
    assert hold(truth, rates) >= 0.93


@pytest.mark.parametrize(("prompts", "audited", "p", "right"), [(400, 150, 0.5, 0.9), (200, 60, 0.9, 0.95)])
def test_a_rate_beyond_the_drawn_prompts_is_covered_only_if_their_draw_counts(
    prompts: int, audited: int, p: float, right: float
) -> None:
    rng = np.random.default_rng(5)
    wide, narrow = [], []
    for _ in range(800):
        human = rng.random(prompts) < p
        judge = human ^ (rng.random(prompts) > right)
        cells = []
        for verdict in (True, False):
            group = np.flatnonzero(judge == verdict)
            n = max(1, round(audited * len(group) / prompts))
            cells.append(Cell(len(group), n, int(human[rng.choice(group, n, replace=False)].sum())))
        wide.append(mean_rate(cells, beyond=1))
        narrow.append(mean_rate(cells))
    assert hold(p, wide) >= 0.93
    assert hold(p, narrow) < 0.93


def test_differences_and_joined_rates_are_covered() -> None:
    rng = np.random.default_rng(6)
    changes, joined = [], []
    for _ in range(800):
        first = mean_rate(drawn(rng, (600, 400), (500, 40), (80, 60)))
        second = mean_rate(drawn(rng, (300, 700), (270, 70), (60, 80)))
        assert first is not None
        assert second is not None
        changes.append(difference(first, second))
        joined.append(weighted_rate([0.3, 0.7], [first, second]))
    assert hold(0.54 - 0.34, changes) >= 0.93
    assert hold(0.3 * 0.54 + 0.7 * 0.34, joined) >= 0.93


def test_products_are_covered_with_room_to_spare() -> None:
    rng = np.random.default_rng(7)
    products = []
    for _ in range(800):
        first, second = mean_rate(drawn(rng, (900,), (60,), (70,))), mean_rate(drawn(rng, (900,), (800,), (70,)))
        assert first is not None
        assert second is not None
        products.append(product_rate(first, second))
    assert hold(60 / 900 * 800 / 900, products) >= 0.95
