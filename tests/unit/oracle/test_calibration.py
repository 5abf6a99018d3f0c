"""Scales from log-odds to probabilities: what they fit, what they refuse, and what their file holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from realigner.errors import OracleError
from realigner.oracle.calibration import Calibration, fit, log_loss


def drawn(slope: float, offset: float, count: int = 4000) -> tuple[list[float], list[bool]]:
    """Log-odds of a judge, and labels that follow the scale."""
    random = np.random.default_rng(0)
    odds = random.normal(0.0, 3.0, count)
    labels = random.random(count) < 1 / (1 + np.exp(-(slope * odds + offset)))
    return odds.tolist(), labels.tolist()


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.3, 1.5), (2.0, -1.0)])
def test_platt_finds_the_scale_that_the_labels_follow(slope: float, offset: float) -> None:
    found = fit(*drawn(slope, offset), "platt", "j")
    assert found.slope == pytest.approx(slope, rel=0.1)
    assert found.offset == pytest.approx(offset, abs=0.15)


def test_a_temperature_has_no_offset() -> None:
    found = fit(*drawn(0.5, 0.0), "temperature", "j")
    assert found.slope == pytest.approx(0.5, rel=0.1)
    assert found.offset == 0.0


def test_the_fit_is_the_minimum_of_its_own_loss() -> None:
    """The stationary point of Platt's smoothed likelihood, checked from its definition."""
    odds, labels = drawn(0.7, 0.4, 60)
    found = fit(odds, labels, "platt", "j")
    good, bad = sum(labels), len(labels) - sum(labels)
    targets = [(good + 1) / (good + 2) if label else 1 / (bad + 2) for label in labels]
    residuals = [found.probability(x) - t for x, t in zip(odds, targets, strict=True)]
    assert sum(residuals) == pytest.approx(0.0, abs=1e-5)
    assert sum(r * x for r, x in zip(residuals, odds, strict=True)) == pytest.approx(0.0, abs=1e-5)


def test_probabilities_are_closed_form_and_never_overflow() -> None:
    assert Calibration(2.0, -1.0).probability(1.5) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert [Calibration().probability(x) for x in (-1e4, 0.0, 1e4)] == [0.0, 0.5, 1.0]


def test_log_loss_by_hand() -> None:
    assert log_loss([0.5, 0.25], [True, False]) == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)


def test_calibration_helps_where_the_judge_is_sure_of_itself_and_wrong() -> None:
    found = fit(*drawn(0.1, 1.0), "platt", "j")
    assert found.log_loss_before is not None
    assert found.log_loss_after is not None
    assert found.log_loss_after < found.log_loss_before
    assert found.examples == 4000


def test_perfectly_separated_examples_do_not_give_certainty() -> None:
    odds = [-3.0] * 6 + [3.0] * 6
    found = fit(odds, [False] * 6 + [True] * 6, "platt", "j")
    assert 0.5 < found.probability(3.0) < 0.95


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, False] * 4, "4 compliant and 4 non_compliant examples: a calibration needs at least 10"),
        ([True] * 20 + [False], "20 compliant and 1 non_compliant examples: .* 2 of each label"),
    ],
)
def test_too_few_examples_are_refused(labels: list[bool], message: str) -> None:
    with pytest.raises(OracleError, match=message):
        fit([float(n) for n in range(len(labels))], labels, "platt", "j")


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_a_judge_that_knows_nothing_is_refused(method: str) -> None:
    odds, labels = drawn(1.0, 0.0, 200)
    with pytest.raises(OracleError, match="log-odds do not rise with compliance"):
        fit([-x for x in odds], labels, method, "j")  # type: ignore[arg-type]


def test_a_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    found = fit(*drawn(0.7, 0.4, 100), "platt", "judge")
    found.save(tmp_path / "new" / "c.json")
    assert Calibration.load(tmp_path / "new" / "c.json", "judge") == found
    assert found.identity == f"{found.slope!r},{found.offset!r}"


def test_a_file_of_another_judge_is_refused(tmp_path: Path) -> None:
    Calibration(judge="a").save(tmp_path / "c.json")
    with pytest.raises(OracleError, match=r"c\.json, fitted for a: the judge is b.*Fit it again: realigner calibrate"):
        Calibration.load(tmp_path / "c.json", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is no calibration of this version"),
        (json.dumps({"format": 2}), "it is no calibration of this version"),
        ("negative", "it is no calibration of this version"),
        (None, "it cannot be read"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "c.json"
    if content == "negative":
        Calibration(slope=-1.0).save(path)
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(OracleError, match=rf"{message}.*Make it with: realigner calibrate"):
        Calibration.load(path, "j")
