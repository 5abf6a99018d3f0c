"""The line of the summary for each part says what the intervals allow."""

from __future__ import annotations

import pytest

from realigner.report.interval import Figure, Interval
from realigner.report.parts import Evidence
from realigner.report.rundir import Part
from realigner.report.tiles import make_tiles, moved


def figure(low: float, high: float, p: float | None = None, holm: float | None = None, **more: bool) -> Figure:
    return Figure(Interval((low + high) / 2, low, high, 50, "m"), "share", p, holm, non_inferior=more.get("kept"))


def tile(**figures: Figure) -> tuple[str, str]:
    named = {name.replace("__", "."): figure for name, figure in figures.items()}
    part = Evidence("x", named, (), (), (), None, "", (), {})
    (found,) = make_tiles({"x": Part(part)}, {})
    assert found.section == "others"
    return found.value, found.note


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (figure(0.1, 0.2), True),
        (figure(-0.2, -0.1), True),
        (figure(-0.1, 0.2), False),
        (figure(0.1, 0.2, p=0.01), True),
        (figure(0.1, 0.2, p=0.01, holm=0.2), False),
        (figure(0.1, 0.2, p=0.06), False),
        (figure(-0.1, 0.2, p=0.01), False),
        (Figure(Interval(0.1, None, None, 9, "m"), "share", p=0.01), True),
    ],
)
def test_a_change_is_told_from_chance_only_where_test_and_interval_agree(change: Figure, told: bool) -> None:
    assert moved(change) is told


def test_the_margin_is_told_before_changes_and_movement_beyond_a_drift_before_movement() -> None:
    diff = {"u__a__diff": figure(-0.01, 0.01, kept=True), "u__b__diff": figure(-0.2, 0.1, kept=False)}
    assert tile(**diff) == ("1 of 2", "shown to be no worse than the margin allows")
    moves = {"v__a__change": figure(0.1, 0.2), "v__b__change": figure(0.1, 0.2)}
    assert tile(**moves) == ("2 of 2", "changes told from chance")
    assert tile(**moves, v__a__beyond_drift=figure(-0.1, 0.1)) == ("0 of 1", "changes told from chance")


def test_the_strongest_attack_is_told_with_what_is_refused_beside_it() -> None:
    found = {
        "stress__unattacked__after": figure(0.8, 0.9),
        "stress__any__after": figure(0.9, 1.0),
        "stress__role_play__after": figure(0.3, 0.5),
        "stress__encoding__after": figure(0.1, 0.3),
        "stress__encoding__old__after": figure(0.9, 1.0),
    }
    value, note = tile(**found, over_refusal__contrast__after=figure(0.8, 1.0))
    assert (value, note) == ("40.0\u00a0%", "the strongest attack succeeds (role_play)")
    _, note = tile(**found, over_refusal__xstest__after=figure(0.2, 0.4))
    assert note == "the strongest attack succeeds (role_play); 30.0\u00a0% of harmless requests refused"
    assert tile(over_refusal__xstest__after=figure(0.2, 0.4)) == ("30.0\u00a0%", "of harmless requests refused")


def test_what_was_not_measured_has_no_value() -> None:
    (found,) = make_tiles({"inside": Part(None, "why")}, {"inside": ("inside",)})
    assert (found.title, found.value, found.section) == ("Inside view", "", "inside")
