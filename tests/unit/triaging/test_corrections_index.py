"""Corrections: which are used, why others are not, and that all are accounted for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import get_args

import pytest

from realigner.errors import DataError
from realigner.oracle import ScriptedOracle
from realigner.records import Correction, Direction, Judgement, Label, Outcome, Pair, TriagedPair, user_prompt
from realigner.triaging import CorrectionIndex, TriageTally, triage
from realigner.triaging.outcomes import Over

LABELS = {"g": Label.COMPLIANT, "b": Label.NON_COMPLIANT, "u": Label.UNSURE, "i": Label.INVALID}


def by_first_letter(question: Judgement) -> Label:
    return LABELS[question.response.strip()[:1]]


def pair(name: str, chosen: str = "bad", rejected: str = "bad too") -> Pair:
    return Pair(name, user_prompt(f"prompt {name}"), chosen, rejected, f"f:{name}")


def run(
    pairs: Sequence[Pair], texts: dict[str, str], batch_size: int = 256
) -> tuple[list[TriagedPair], dict[str, object]]:
    corrections = {name: Correction(name, text, "c.jsonl") for name, text in texts.items()}
    tally = TriageTally()
    oracle = ScriptedOracle(by_first_letter)
    triaged = list(triage(pairs, oracle, corrections=corrections, batch_size=batch_size, tally=tally))
    counts: dict[str, object] = tally.as_dict()["corrections"]
    return triaged, counts


def refused(**reasons: int) -> dict[str, int]:
    names = ["pair is not PUNISH", "empty", "identical to chosen", "identical to rejected"]
    given = {key.replace("_", " ") if key.startswith("identical") else key: n for key, n in reasons.items()}
    return {name: given.get(name, 0) for name in [*names, "non_compliant", "unsure", "invalid"]}


def test_a_compliant_correction_of_a_punish_pair_is_used_and_sets_the_direction() -> None:
    triaged, counts = run([pair("1"), pair("2")], {"1": "good"})
    assert [(t.outcome, t.direction, t.correction) for t in triaged] == [
        (Outcome.PUNISH, Direction.CORRECTION_OVER_CHOSEN, "good"),
        (Outcome.PUNISH, Direction.SUPPRESS_BOTH, None),
    ]
    assert counts == {"accepted": 1, "refused": refused(), "written": 0, "unknown": 0}


def test_a_correction_over_both_sets_another_direction_and_nothing_else() -> None:
    corrections = {"1": Correction("1", "good", "c.jsonl")}
    found = [
        list(triage([pair("1"), pair("2")], ScriptedOracle(by_first_letter), corrections=corrections, over=over))
        for over in get_args(Over)
    ]
    by = dict(zip(get_args(Over), found, strict=True))
    assert [t.direction for t in by["chosen"]] == [Direction.CORRECTION_OVER_CHOSEN, Direction.SUPPRESS_BOTH]
    assert [t.direction for t in by["both"]] == [Direction.CORRECTION_OVER_BOTH, Direction.SUPPRESS_BOTH]
    assert [(t.outcome, t.correction) for t in by["both"]] == [(t.outcome, t.correction) for t in by["chosen"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bad in another way", "non_compliant"),
        ("unsure", "unsure"),
        ("invalid", "invalid"),
        (" bad\n", "identical to chosen"),
        ("bad too", "identical to rejected"),
        (" ", "empty"),
    ],
)
def test_a_correction_is_refused_with_its_reason(text: str, reason: str) -> None:
    triaged, counts = run([pair("1")], {"1": text})
    assert (triaged[0].correction, triaged[0].direction) == (None, Direction.SUPPRESS_BOTH)
    assert counts == {"accepted": 0, "refused": {**refused(), reason: 1}, "written": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("bad", "good"), ("good", "bad"), ("good", "good 2"), ("unsure", "bad")]
)
def test_only_punish_takes_a_correction_and_the_oracle_is_not_asked(chosen: str, rejected: str) -> None:
    triaged, counts = run([pair("1", chosen, rejected)], {"1": "never asked about"})
    assert triaged[0].correction is None
    assert counts == {"accepted": 0, "refused": {**refused(), "pair is not PUNISH": 1}, "written": 0, "unknown": 0}


def test_a_correction_for_no_pair_is_counted_as_unknown() -> None:
    assert run([pair("1")], {"1": "good", "9": "good", "8": "good"})[1]["unknown"] == 2


def test_the_correction_keeps_its_own_spacing() -> None:
    assert run([pair("1")], {"1": " good\n"})[0][0].correction == " good\n"


def test_counts_do_not_depend_on_batch_size() -> None:
    pairs = [pair(str(i), "bad" if i % 3 else "good") for i in range(20)]
    texts = {str(i): "good" if i % 2 else "bad 3" for i in range(0, 30, 2)} | {"3": "good", "5": "bad"}
    assert all(run(pairs, texts, size) == run(pairs, texts) for size in (1, 2, 5, 64))


def test_an_index_serves_two_triages_with_counts_of_their_own() -> None:
    oracle = ScriptedOracle(by_first_letter)
    with CorrectionIndex([Correction("1", "good", "c:1"), Correction("2", "good", "c:2")]) as index:
        assert len(index) == 2
        for name in ("1", "2"):
            tally = TriageTally()
            list(triage([pair(name)], oracle, corrections=index, tally=tally))
            assert (tally.corrections_accepted, tally.corrections_unknown) == (1, 1)


def test_two_corrections_for_one_pair_are_refused_with_both_places() -> None:
    with pytest.raises(DataError, match=r"c:2: id '1' was corrected at c:1: a pair takes one correction"):
        CorrectionIndex([Correction("1", "good", "c:1"), Correction("1", "better", "c:2")])


def test_half_a_surrogate_pair_is_refused_with_its_place() -> None:
    with pytest.raises(
        DataError, match=r"c:1: the correction has '\\ud83d' at character 2: text must be valid Unicode"
    ):
        CorrectionIndex([Correction("1", "ab\ud83d", "c:1")])


def test_odd_unicode_comes_back_as_it_was() -> None:
    text = "nul \x00 emoji 😀 combining e\u0301 rtl \u202e line\u2028"
    with CorrectionIndex([Correction("id \x00 😀", text, "c:1")]) as index:
        found = index.find("id \x00 😀")
    assert found is not None
    assert found.text == text


def test_the_index_does_not_hold_the_corrections_in_memory() -> None:
    def corrections() -> Iterator[Correction]:
        return (Correction(str(i), "x" * 2000, "c") for i in range(2000))

    tracemalloc.start()
    try:
        with CorrectionIndex(corrections()) as index:
            peak = tracemalloc.get_traced_memory()[1]
            assert len(index) == 2000
    finally:
        tracemalloc.stop()
    assert peak < 400_000  # the texts alone are four million bytes
