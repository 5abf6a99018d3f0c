from __future__ import annotations

import numpy as np
import pytest

from realigner.audit.alpha import nominal_alpha


def test_alpha_of_krippendorffs_nominal_example() -> None:
    # Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, C: 4 observers, 12 units, α = 0.743.
    units = ["111.", "2223", "3333", "3333", "2222", "1234", "4444", "1112", "2222", ".555", "..11", ".3.."]
    counts = [[unit.count(value) for value in "12345"] for unit in units]
    found = nominal_alpha(counts, seed=0, resamples=50)
    assert found is not None
    assert round(found.value, 3) == 0.743
    assert found.items == 11, "the unit that one observer saw says nothing about agreement"
    assert found.low <= found.value <= found.high


def test_agreement_that_chance_gives_has_alpha_near_zero_however_high_it_is() -> None:
    rng = np.random.default_rng(0)
    votes = (rng.random((4000, 2)) < 0.9).sum(axis=1)
    found = nominal_alpha(np.stack([votes, 2 - votes], axis=1).tolist(), seed=0, resamples=50)
    assert found is not None
    assert found.raw == pytest.approx(0.82, abs=0.02)
    assert abs(found.value) < 0.05


@pytest.mark.parametrize("counts", [[], [[1, 0], [0, 1]], [[2, 0]], [[2, 0], [2, 0], [0, 1]], [[0, 0], [0, 0]]])
def test_where_alpha_is_not_defined_there_is_none(counts: list[list[int]]) -> None:
    assert nominal_alpha(counts, seed=0) is None


def test_resamples_without_variation_are_counted() -> None:
    found = nominal_alpha([[2, 0]] * 6 + [[0, 2]], seed=0, resamples=200)
    assert found is not None
    assert found.value == 1
    assert "without variation left out" in found.method


def test_the_interval_of_alpha_covers() -> None:
    """Items with a difficulty of their own, two annotators each; the truth is α of very many items."""
    rng = np.random.default_rng(1)

    def items(n: int) -> np.ndarray:
        chance = rng.beta(0.4, 0.4, size=n)
        yes = rng.binomial(2, chance)
        return np.stack([yes, 2 - yes], axis=1)

    whole = nominal_alpha(items(200_000).tolist(), seed=0, resamples=1)
    assert whole is not None
    held = 0
    for trial in range(120):
        found = nominal_alpha(items(120).tolist(), seed=trial, resamples=200)
        assert found is not None
        held += found.low <= whole.value <= found.high
    assert held / 120 >= 0.9
