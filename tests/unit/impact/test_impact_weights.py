"""From losses to coefficients, from scores to weights: worked numbers, diagnostics, warnings, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pairs import CONFLICTS, random_conflicts

from realigner.errors import WeightsError
from realigner.impact.weights import Scores, coefficients, normalise, uniform
from realigner.recipe import ImpactSettings, LossSettings
from realigner.records import Direction, Outcome, Weight

INVERT, PUNISH = Outcome.INVERT, Outcome.PUNISH


def scores_of(values: list[float], outcomes: list[Outcome] | None = None, tokens: list[int] | None = None) -> Scores:
    outcomes = outcomes or [INVERT] * len(values)
    ids = [f"p{i}" for i in range(len(values))]
    return Scores(ids, outcomes, np.array(values, dtype=float), np.array(tokens or range(1, len(values) + 1)))


def impact(**changes: Any) -> ImpactSettings:
    return ImpactSettings(**changes)


# -- coefficients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (Direction.REJECTED_OVER_CHOSEN, {"rejected": -0.2, "chosen": 0.2}),
        (Direction.CORRECTION_OVER_CHOSEN, {"correction": -0.2, "chosen": 0.2}),
        (Direction.CORRECTION_OVER_BOTH, {"correction": -0.2, "chosen": 0.1, "rejected": 0.1}),
        (Direction.SUPPRESS_BOTH, {"chosen": 0.2, "rejected": 0.2}),
    ],
)
def test_coefficients_are_minus_and_plus_half_beta_by_direction(
    direction: Direction, expected: dict[str, float]
) -> None:
    assert coefficients(direction, LossSettings(beta=0.4, imitate=0.0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        (LossSettings(invert="ipo", ipo_tau=0.25, imitate=0.0), 1 / 0.25),
        (LossSettings(invert="robust", beta=0.4, epsilon=0.1, imitate=0.0), 0.2 / 0.8),
    ],
    ids=["ipo", "robust"],
)
def test_coefficients_follow_the_form_of_the_invert_loss_and_of_no_other(loss: LossSettings, size: float) -> None:
    assert coefficients(Direction.REJECTED_OVER_CHOSEN, loss) == pytest.approx({"rejected": -size, "chosen": size})
    half = loss.beta / 2
    assert coefficients(Direction.SUPPRESS_BOTH, loss) == pytest.approx({"chosen": half, "rejected": half})


@pytest.mark.parametrize("direction", [Direction.RETAIN, Direction.NONE])
def test_what_is_no_conflict_has_no_coefficients(direction: Direction) -> None:
    with pytest.raises(RuntimeError):  # nothing to differentiate
        coefficients(direction, LossSettings())


# -- normalisation --------------------------------------------------------------------------------------------------

VALUES = [3.0, -1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [("mean", [3.0, 0.0, 1.0, 0.0]), ("sum", [0.75, 0.0, 0.25, 0.0]), ("none", [3.0, 0.0, 1.0, 0.0])],
)
def test_weights_by_worked_numbers(normalize: Any, expected: list[float]) -> None:
    assert normalise(scores_of(VALUES), impact(normalize=normalize)).values.tolist() == pytest.approx(expected)


def test_mean_counts_the_clamped_pairs_so_that_the_total_is_their_number() -> None:
    weights = normalise(scores_of([0.2, -5.0, 0.6, 0.0, -0.1]), impact())
    assert weights.values.tolist() == pytest.approx([1.25, 0.0, 3.75, 0.0, 0.0])
    assert weights.values.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [("mean", [0.5, 1.5, 0.0, 3.0, 0.0]), ("sum", [0.25, 0.75, 0.0, 1.0, 0.0]), ("none", [1.0, 3.0, 0.0, 100.0, 0.0])],
)
def test_per_class_each_class_is_scaled_by_itself(normalize: Any, expected: list[float]) -> None:
    outcomes = [INVERT, INVERT, PUNISH, PUNISH, PUNISH]
    given_scores = scores_of([1.0, 3.0, -50.0, 100.0, 0.0], outcomes)
    weights = normalise(given_scores, impact(normalize=normalize, per_class=True))
    assert weights.values.tolist() == pytest.approx(expected)
    together = normalise(given_scores, impact(normalize="mean"))
    assert together.values.tolist() == pytest.approx([5 / 104, 15 / 104, 0.0, 500 / 104, 0.0])


def test_a_class_without_a_positive_score_stays_at_zero_beside_another() -> None:
    weights = normalise(scores_of([2.0, -1.0, -2.0], [INVERT, PUNISH, PUNISH]), impact(per_class=True))
    assert weights.values.tolist() == [1.0, 0.0, 0.0]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=20).filter(lambda v: max(v) > 0),
    st.sampled_from(["mean", "sum"]),
    st.floats(1e-6, 1e6),
)
def test_a_common_factor_of_the_scores_such_as_beta_or_the_damping_cancels(
    values: list[float], normalize: Any, factor: float
) -> None:
    once = normalise(scores_of(values), impact(normalize=normalize)).values
    again = normalise(scores_of([factor * v for v in values]), impact(normalize=normalize)).values
    np.testing.assert_allclose(again, once, rtol=1e-9)
    assert once.min() >= 0
    assert once.sum() == pytest.approx(len(values) if normalize == "mean" else 1.0)


def test_rows_carry_score_weight_and_whether_it_was_clamped() -> None:
    rows = list(normalise(scores_of([3.0, -1.0, 0.0], [INVERT, PUNISH, PUNISH]), impact()).rows())
    assert rows == [
        Weight("p0", INVERT, 3.0, 3.0, False),
        Weight("p1", PUNISH, -1.0, 0.0, True),
        Weight("p2", PUNISH, 0.0, 0.0, True),
    ]


# -- errors and warnings --------------------------------------------------------------------------------------------


def test_all_scores_clamped_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        WeightsError, match="impact weights of all 3 conflicts: every score is zero or negative"
    ) as error:
        normalise(scores_of([-1.0, 0.0, -2.0]), impact())
    assert "impact.gold.kind: corrected or file" in error.value.remedy
    assert "impact.weighting: uniform" in error.value.remedy


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(WeightsError, match="impact scores of p1: they are not finite"):
        normalise(scores_of([1.0, bad, 2.0]), impact())


@pytest.mark.parametrize(("clamped", "warned"), [(1, False), (2, False), (3, True), (4, True)])
def test_a_class_that_loses_more_than_half_is_warned_of(clamped: int, warned: bool) -> None:
    values = [1.0] + [-1.0] * clamped + [1.0] * (4 - clamped)
    weights = normalise(scores_of(values, [INVERT] + [PUNISH] * 4), impact())
    assert bool(weights.warnings) is warned
    if warned:
        (warning,) = weights.warnings
        assert warning.startswith(f"PUNISH: {clamped * 25}% of its 4 pairs have no positive impact score")
        assert "NOT trained on" in warning
        assert "impact.gold.kind corrected or file" in warning
    assert weights.facts()["warnings"] == weights.warnings


# -- diagnostics ----------------------------------------------------------------------------------------------------


def test_diagnostics_by_worked_numbers() -> None:
    # INVERT: scores 4, 2, −1 over lengths 30, 10, 20; PUNISH: 2, 2 over 5, 5. Mean 1: factor 5/10.
    outcomes = [INVERT, INVERT, INVERT, PUNISH, PUNISH]
    found = normalise(scores_of([4.0, 2.0, -1.0, 2.0, 2.0], outcomes, [30, 10, 20, 5, 5]), impact()).classes
    invert, punish = found["INVERT"], found["PUNISH"]
    assert (invert.n, punish.n) == (3, 2)
    assert invert.clamped_share == pytest.approx(1 / 3)
    assert invert.mean == pytest.approx((2 + 1 + 0) / 3)
    assert invert.max == pytest.approx(2.0)
    assert invert.effective_sample_size == pytest.approx(9 / 5)  # (2 + 1)² / (2² + 1²)
    assert invert.length_correlation == pytest.approx(0.5)  # ranks 3, 2, 1 against 3, 1, 2: 1 − 6·2/24
    assert punish.clamped_share == 0.0
    assert punish.effective_sample_size == pytest.approx(2.0)
    assert punish.length_correlation is None


@pytest.mark.parametrize(("lengths", "expected"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0)])
def test_the_length_correlation_is_by_rank(lengths: list[int], expected: float) -> None:
    found = normalise(scores_of([0.1, 0.2, 0.3, 99.0], tokens=lengths), impact()).classes["INVERT"]
    assert found.length_correlation == pytest.approx(expected)


def test_a_class_of_one_and_a_class_at_zero_have_diagnostics_too() -> None:
    found = normalise(scores_of([1.0, -1.0], [INVERT, PUNISH]), impact()).classes
    assert found["INVERT"].effective_sample_size == pytest.approx(1.0)
    assert found["PUNISH"].effective_sample_size == 0.0
    assert found["PUNISH"].length_correlation is None


def test_facts_are_plain_data_for_the_run_directory() -> None:
    facts = normalise(scores_of([3.0, 1.0], [INVERT, PUNISH]), impact()).facts()
    assert set(facts["classes"]) == {"INVERT", "PUNISH"}
    assert set(facts["classes"]["INVERT"]) == {
        *("n", "clamped_share", "mean", "max", "effective_sample_size", "length_correlation")
    }


# -- the control ----------------------------------------------------------------------------------------------------


def test_uniform_weighs_every_conflict_one_and_counts_the_tokens_its_loss_reads() -> None:
    examples = random_conflicts(6)
    weights = uniform(iter(examples))
    assert weights.values.tolist() == [1.0] * 6
    assert [w.id for w in weights.rows()] == [e["id"] for e in examples]
    assert not any(w.clamped for w in weights.rows())
    assert weights.warnings == []
    first = examples[0]
    assert Direction(first["direction"]) == Direction.REJECTED_OVER_CHOSEN
    expected = sum(len(first[f"{name}_ids"]) - first[f"{name}_start"] for name in ("chosen", "rejected"))
    assert weights.scores.tokens[0] == expected
    counts = {str(o): sum(e["outcome"] == o for e in examples) for o in set(CONFLICTS.values())}
    assert {name: found.effective_sample_size for name, found in weights.classes.items()} == pytest.approx(counts)


# -- the default ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "weighting"),
    [
        ({}, "uniform"),
        ({"gold": {"size": 6}}, "impact"),
        ({"score": "cosine"}, "impact"),
        ({"weighting": "uniform", "gold": {"size": 6}}, "uniform"),
        ({"weighting": "impact"}, "impact"),
    ],
)
def test_weights_are_uniform_unless_something_is_said_of_how_to_weigh(said: dict[str, Any], weighting: str) -> None:
    found = ImpactSettings.model_validate(said)
    assert found.weighting == weighting
    assert ImpactSettings.model_validate(found.model_dump(mode="json")) == found
